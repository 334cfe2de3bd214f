//! Interfaces that change while they are served: AF_XDP serves them again.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use lab::{CLIENT_V4, Heimdall, Knot, Lab, SERVER_V4, UPSTREAM, run, sum};

use crate::{client::query, heimdall_without_tier, lab, program, steady};

/// For what happens soon if it happens. How soon is printed.
const TIMEOUT: Duration = Duration::from_secs(20);

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

/// Waits until a worker answers a query to this address, and prints how long that took since then.
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
            since.elapsed() < TIMEOUT,
            "{what}: not served by AF_XDP\n{:#}\n{}",
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

/// Sets the client's interface up or down.
fn client_link(lab: &Lab, state: &str) {
    let command = format!("link set {} {state}", lab.client_if);
    lab.client_ip(&command).unwrap();
}

/// Waits until something is so.
fn wait_until(heimdall: &Heimdall, what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_so() {
        let log = heimdall.process.output();
        assert!(Instant::now() < end, "not {what}: {log}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How a change is seen to have been noticed.
enum Seen {
    /// A line with this text is logged.
    Log(&'static str),
    /// The address is not answered.
    Unanswered,
    /// AF_XDP serves the interface.
    Served,
    /// A line with this text is logged, and AF_XDP serves the interface.
    Again(&'static str),
}

#[test]
fn whatever_changes_on_an_interface_af_xdp_serves_it_again_soon() {
    type Change = fn(&Lab);
    const CHANGES: [(&str, Change, Seen); 15] = [
        (
            "down",
            |lab| server_ip(lab, "link set INTERFACE down"),
            Seen::Log("is down: no queries arrive on it"),
        ),
        (
            "up",
            |lab| server_ip(lab, "link set INTERFACE up"),
            Seen::Again("is up"),
        ),
        (
            "no carrier",
            |lab| client_link(lab, "down"),
            Seen::Unanswered,
        ),
        (
            "a carrier again",
            |lab| client_link(lab, "up"),
            Seen::Served,
        ),
        (
            "a larger MTU",
            |lab| server_ip(lab, "link set INTERFACE mtu 9000"),
            Seen::Again("frames of 4096 octets"),
        ),
        (
            "the usual MTU",
            |lab| server_ip(lab, "link set INTERFACE mtu 1500"),
            Seen::Again("frames of 2048 octets"),
        ),
        (
            "another MAC address",
            |lab| {
                server_ip(lab, "link set INTERFACE address 02:00:00:00:00:77");
                // Nothing tells the client, unless `arp_notify` is set.
                lab.client_ip("neigh flush all").unwrap();
            },
            Seen::Served,
        ),
        (
            "its address removed",
            |lab| server_ip(lab, &format!("addr del {SERVER_V4}/24 dev INTERFACE")),
            Seen::Unanswered,
        ),
        (
            "its address added",
            |lab| server_ip(lab, &format!("addr add {SERVER_V4}/24 dev INTERFACE")),
            Seen::Served,
        ),
        (
            "renamed",
            |lab| {
                server_ip(lab, "link set INTERFACE down");
                server_ip(lab, "link set INTERFACE name other");
            },
            Seen::Log("is other now, and not served under that name"),
        ),
        (
            "renamed back",
            |lab| {
                server_ip(lab, "link set other name INTERFACE");
                server_ip(lab, "link set INTERFACE up");
            },
            Seen::Again("is back: XDP program attached"),
        ),
        (
            "deleted",
            |lab| server_ip(lab, "link del INTERFACE"),
            Seen::Log("is gone, and its queues with it"),
        ),
        (
            "created again",
            |lab| lab.connect(1).unwrap(),
            Seen::Again("is back: XDP program attached"),
        ),
        (
            "moved to another namespace",
            |lab| server_ip(lab, &format!("link set INTERFACE netns {}", lab.client)),
            Seen::Log("is gone, and its queues with it"),
        ),
        (
            "moved back",
            |lab| {
                let interface = &lab.server_if;
                lab.client_ip(&format!("link set {interface} netns {}", lab.server))
                    .unwrap();
                server_ip(lab, &format!("addr add {SERVER_V4}/24 dev INTERFACE"));
                server_ip(lab, "link set INTERFACE up");
            },
            Seen::Again("is back: XDP program attached"),
        ),
    ];
    let Some(lab) = lab("whatever_changes_on_an_interface") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    served_soon(&lab, &heimdall, SERVER_V4, "the start", Instant::now());
    for (what, change, seen) in CHANGES {
        let count = |line| heimdall.process.output().matches(line).count();
        let (line, is_served) = match seen {
            Seen::Log(line) => (Some(line), false),
            Seen::Again(line) => (Some(line), true),
            Seen::Served => (None, true),
            Seen::Unanswered => (None, false),
        };
        let before = line.map(count);
        change(&lab);
        let since = Instant::now();
        if let Some(line) = line {
            wait_until(&heimdall, what, || Some(count(line)) > before);
        }
        if is_served {
            served_soon(&lab, &heimdall, SERVER_V4, what, since);
        } else {
            wait_until(&heimdall, what, || !is_answered(&lab, SERVER_V4));
        }
    }
    let log = heimdall.process.output();
    for text in ["panicked", "Device or resource busy"] {
        assert!(!log.contains(text), "{text}: {log}");
    }
}

#[test]
fn an_interface_that_comes_after_the_start_is_served_over_a_reload_too() {
    let Some(lab) = lab("an_interface_that_comes_after_the_start") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    server_ip(&lab, "link set INTERFACE down");
    server_ip(&lab, "link set INTERFACE name other");
    server_ip(&lab, "link set other up");
    let listen = format!("{SERVER_V4}:53");
    let interface = lab.server_if.as_str();
    let common = ["--interface", interface, "--listen", &listen];
    let arguments = [&common[..], &["--upstream", UPSTREAM]].concat();
    let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    let log = heimdall.process.output();
    assert!(log.contains("AF_XDP is not in use now"), "{log}");
    wait_until(&heimdall, "answered by the sockets", || {
        is_answered(&lab, SERVER_V4)
    });
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["backend"], "socket");
    assert_eq!(stats["interfaces"][0]["state"], "gone");
    assert_eq!(stats["workers"].as_array().map(Vec::len), Some(0));
    for command in ["stats", "ready", "reload"] {
        let output = heimdall.command(&[command]).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
    server_ip(&lab, "link set other down");
    server_ip(&lab, "link set other name INTERFACE");
    server_ip(&lab, "link set INTERFACE up");
    let since = Instant::now();
    served_soon(&lab, &heimdall, SERVER_V4, "the interface", since);
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["backend"], "xdp");
    // What the supervisor serves is nothing that a reload could gain.
    let reload = heimdall.reload().unwrap();
    let said = String::from_utf8_lossy(&reload.stdout);
    assert!(
        reload.status.success() && said.contains("nothing has changed"),
        "{reload:?}"
    );
    served_soon(&lab, &heimdall, SERVER_V4, "a reload", Instant::now());
    let log = heimdall.process.output();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn frames_of_another_size_for_many_queues_leave_no_queue_busy() {
    const QUEUES: u32 = 16;
    if !lab::available("frames_of_another_size_for_many_queues") {
        return;
    }
    let lab = Lab::with_queues(QUEUES).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let count = |line: &str| heimdall.process.output().matches(line).count();
    for (round, mtu, octets) in [(1, 9000, 4096), (2, 1500, 2048), (3, 9000, 4096)] {
        server_ip(&lab, &format!("link set INTERFACE mtu {mtu}"));
        wait_until(&heimdall, "all served", || {
            count("queues 0-15 are served") == round
        });
        let line = format!("queues 0-15: frames of {octets} octets");
        assert!(count(&line) > 0, "{line}");
    }
    wait_until(&heimdall, "all running", || {
        let stats = heimdall.stats().unwrap();
        let workers = stats["workers"].as_array().unwrap().iter();
        let mut queues = workers.flat_map(|worker| worker["queues"].as_array().unwrap());
        queues.all(|queue| queue["state"] == "running")
    });
    let log = heimdall.process.output();
    assert!(!log.contains("failed:"), "{log}");
}

#[test]
fn an_interface_without_a_carrier_at_the_start_is_served_once_it_has_one() {
    let Some(lab) = lab("an_interface_without_a_carrier") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    client_link(&lab, "down");
    let heimdall = heimdall_without_tier(&lab);
    let log = heimdall.process.output();
    assert!(!log.contains("no carrier since"), "{log}");
    client_link(&lab, "up");
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
