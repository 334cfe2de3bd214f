//! Interfaces that change while they are served: AF_XDP serves them again.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use lab::{CLIENT_V4, Heimdall, Knot, Lab, SERVER_V4, UPSTREAM, run, sum};

use crate::{client::query, heimdall_without_tier, lab, program, steady};

/// Within this time after a change AF_XDP serves the interface again. Two seconds are enough on an idle machine; it is less than an
/// attempt takes that waits for those before it (1, 2, 4 and 8 s).
const SOON: Duration = Duration::from_secs(10);

/// Queries that the workers have answered.
fn by_workers(heimdall: &Heimdall) -> u64 {
    sum(&heimdall.stats().unwrap(), "answered")
}

/// Whether a query to this address is answered within 200 ms, from a new port.
fn is_answered(lab: &Lab, server: &str) -> bool {
    let ask = || {
        // The client's address may have gone with its interface.
        let socket = UdpSocket::bind((CLIENT_V4, 0)).ok()?;
        let timeout = Some(Duration::from_millis(200));
        socket.set_read_timeout(timeout).unwrap();
        socket
            .send_to(&query(7, "n1.example.com"), (server, 53))
            .ok()?;
        socket.recv(&mut [0; 512]).ok()
    };
    lab.in_client(ask).unwrap().is_some()
}

/// Waits until a worker answers a query to this address, and requires that it does so soon after `since`.
fn served_soon(lab: &Lab, heimdall: &Heimdall, server: &str, what: &str, since: Instant) {
    loop {
        let before = by_workers(heimdall);
        if is_answered(lab, server) && by_workers(heimdall) > before {
            println!(
                "{what}: served again after {} ms",
                since.elapsed().as_millis()
            );
            return;
        }
        assert!(
            since.elapsed() < SOON,
            "{what}: not served by AF_XDP after {SOON:?}\n{:#}\n{}",
            heimdall.stats().unwrap(),
            heimdall.process.output()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// `ip` in the server's namespace: INTERFACE stands for the server's.
fn server_ip(lab: &Lab, arguments: &str) {
    let arguments = arguments.replace("INTERFACE", &lab.server_if);
    lab.server_ip(&arguments).unwrap();
}

#[test]
fn whatever_changes_on_an_interface_af_xdp_serves_it_again_soon() {
    type Change = fn(&Lab);
    const CHANGES: [(&str, Change); 9] = [
        ("down and up", |lab| {
            server_ip(lab, "link set INTERFACE down");
            server_ip(lab, "link set INTERFACE up");
        }),
        ("no carrier, and one again", |lab| {
            for state in ["down", "up"] {
                let command = format!("link set {} {state}", lab.client_if);
                lab.client_ip(&command).unwrap();
            }
        }),
        ("a larger MTU", |lab| {
            server_ip(lab, "link set INTERFACE mtu 9000")
        }),
        ("the usual MTU", |lab| {
            server_ip(lab, "link set INTERFACE mtu 1500")
        }),
        ("another MAC address", |lab| {
            server_ip(lab, "link set INTERFACE address 02:00:00:00:00:77");
            // Nothing tells the client, unless `arp_notify` is set.
            lab.client_ip("neigh flush all").unwrap();
        }),
        ("its address removed and added", |lab| {
            for change in ["del", "add"] {
                server_ip(lab, &format!("addr {change} {SERVER_V4}/24 dev INTERFACE"));
            }
        }),
        ("renamed and renamed back", |lab| {
            server_ip(lab, "link set INTERFACE down");
            server_ip(lab, "link set INTERFACE name other");
            server_ip(lab, "link set other name INTERFACE");
            server_ip(lab, "link set INTERFACE up");
        }),
        ("deleted and created again", |lab| {
            server_ip(lab, "link del INTERFACE");
            lab.connect(1).unwrap();
        }),
        ("moved to another namespace and back", |lab| {
            let Lab { server, client, .. } = lab;
            server_ip(lab, &format!("link set INTERFACE netns {client}"));
            let interface = &lab.server_if;
            lab.client_ip(&format!("link set {interface} netns {server}"))
                .unwrap();
            server_ip(lab, &format!("addr add {SERVER_V4}/24 dev INTERFACE"));
            server_ip(lab, "link set INTERFACE up");
        }),
    ];
    let Some(lab) = lab("whatever_changes_on_an_interface") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    served_soon(&lab, &heimdall, SERVER_V4, "the start", Instant::now());
    for (what, change) in CHANGES {
        change(&lab);
        let since = Instant::now();
        served_soon(&lab, &heimdall, SERVER_V4, what, since);
    }
    let log = heimdall.process.output();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn an_interface_without_a_carrier_at_the_start_is_served_once_it_has_one() {
    let Some(lab) = lab("an_interface_without_a_carrier") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let client = |state: &str| {
        let command = format!("link set {} {state}", lab.client_if);
        lab.client_ip(&command).unwrap();
    };
    client("down");
    let heimdall = heimdall_without_tier(&lab);
    let log = heimdall.process.output();
    assert!(!log.contains("no carrier since"), "{log}");
    client("up");
    let since = Instant::now();
    served_soon(&lab, &heimdall, SERVER_V4, "a carrier", since);
}

#[test]
fn an_address_that_moves_between_hosts_is_followed_under_load() {
    const VIRTUAL: &str = "10.53.0.50";
    let Some(lab) = lab("an_address_that_moves_between_hosts") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let arguments = ["--upstream", UPSTREAM, "--tier", "off"];
    let heimdall = Heimdall::on_xdp_at(&lab, program(), &["0.0.0.0:53"], &arguments).unwrap();
    let ((), counted) = steady::under_load(&lab, "an address that moves", steady::popular, || {
        for _ in 0..3 {
            assert!(!is_answered(&lab, VIRTUAL), "it is not here");
            // As by the gratuitous ARP of a host that takes it over.
            lab.client_ip(&format!("neigh flush to {VIRTUAL}")).unwrap();
            server_ip(&lab, &format!("addr add {VIRTUAL}/32 dev INTERFACE"));
            let since = Instant::now();
            served_soon(&lab, &heimdall, VIRTUAL, "the address came", since);
            server_ip(&lab, &format!("addr del {VIRTUAL}/32 dev INTERFACE"));
            lab.client_ip(&format!("neigh flush to {VIRTUAL}")).unwrap();
        }
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
}

#[test]
fn the_kernel_refuses_to_take_queues_away_that_are_served() {
    if !lab::available("the_kernel_refuses_to_take_queues_away") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let channels = ["-L", &lab.server_if, "rx", "1", "tx", "1"];
    let refused = run(lab.on_server("ethtool").args(channels)).unwrap_err();
    assert!(format!("{refused:#}").contains("AF_XDP"), "{refused:#}");
    served_soon(&lab, &heimdall, SERVER_V4, "the refusal", Instant::now());
}
