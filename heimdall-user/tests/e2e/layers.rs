//! Interfaces on top of others, and members of others: macvlan, bridge, vxlan. What needs other kernel modules is in
//! `guest`.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{Frames, Heimdall, Kdig, Lab, QueryFrame, SERVER_V4, ScriptedUpstream};
use serde_json::Value;

use crate::{errors::error_line, lab, program, recover::wait_for};

pub(crate) const UPSTREAM: &str = "127.0.0.1:5306";

/// How long anything may take: a guest's processor is emulated.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A server with these interfaces and listen addresses, on AF_XDP. The hot tier is off.
pub(crate) fn serve(lab: &Lab, interfaces: &[&str], listen: &[&str]) -> Heimdall {
    serve_with(lab, interfaces, listen, &[])
}

/// The same with more arguments.
pub(crate) fn serve_with(
    lab: &Lab,
    interfaces: &[&str],
    listen: &[&str],
    more: &[&str],
) -> Heimdall {
    let interfaces = interfaces.iter().flat_map(|name| ["--interface", *name]);
    let listen = listen.iter().flat_map(|address| ["--listen", *address]);
    let fixed = [
        ["--backend", "xdp"],
        ["--tier", "off"],
        ["--cache-size", "16M"],
        ["--upstream", UPSTREAM],
    ];
    let fixed = fixed.concat();
    let arguments = fixed.into_iter().chain(interfaces).chain(listen);
    let arguments: Vec<&str> = arguments.chain(more.iter().copied()).collect();
    Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap()
}

/// What the statistics say of a port.
pub(crate) fn port<'a>(stats: &'a Value, name: &str) -> Option<&'a Value> {
    let mut ports = stats["interfaces"].as_array()?.iter();
    ports.find(|port| port["name"] == name)
}

/// Packets that were steered on a port.
pub(crate) fn steered(heimdall: &Heimdall, name: &str) -> u64 {
    let stats = heimdall.stats().unwrap();
    port(&stats, name).map_or(0, |port| port["verdicts"]["steered"].as_u64().unwrap())
}

/// Whether one query gets its answer.
pub(crate) fn asks(lab: &Lab, server: &str) -> bool {
    let server = format!("@{server}");
    let arguments = [&server, "plain.example", "+timeout=1", "+retry=0"];
    Kdig::ask(lab, &arguments).is_ok_and(|reply| reply.status == "NOERROR")
}

/// Asks until a query that was steered on the port gets its answer.
pub(crate) fn wait_steered(lab: &Lab, heimdall: &Heimdall, server: &str, port: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let before = steered(heimdall, port);
        if asks(lab, server) && steered(heimdall, port) > before {
            return;
        }
        if Instant::now() >= end {
            let (stats, output) = (heimdall.stats().unwrap(), heimdall.process.output());
            panic!("{server} on {port}: {:#}\n{output}", stats["interfaces"]);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_macvlan_is_served_on_the_interface_below() {
    let Some(lab) = lab("a_macvlan_is_served") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let below = lab.server_if.as_str();
    lab.server_ip(&format!(
        "link add mv0 link {below} type macvlan mode bridge"
    ))
    .unwrap();
    lab.server_ip("addr add 10.60.0.1/24 dev mv0").unwrap();
    lab.server_ip("link set mv0 up").unwrap();
    lab.client_ip(&format!("addr add 10.60.0.2/24 dev {}", lab.client_if))
        .unwrap();
    let heimdall = serve(&lab, &["mv0"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, "10.60.0.1", below);
    let stats = heimdall.stats().unwrap();
    assert_eq!(
        port(&stats, below).unwrap()["serves"][0],
        "mv0",
        "{stats:#}"
    );
    assert!(lab.has_xdp().unwrap());

    // The address of the interface below is not the macvlan's: the sockets serve it.
    let before = steered(&heimdall, below);
    assert!(asks(&lab, SERVER_V4));
    assert_eq!(steered(&heimdall, below), before);
    // Both, on one port.
    drop(heimdall);
    let heimdall = serve(&lab, &[below, "mv0"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, SERVER_V4, below);
    wait_steered(&lab, &heimdall, "10.60.0.1", below);
    let stats = heimdall.stats().unwrap();
    assert_eq!(
        stats["interfaces"].as_array().map(Vec::len),
        Some(1),
        "{stats:#}"
    );

    // Deleted, it is a configured interface without a port.
    lab.server_ip("link del mv0").unwrap();
    let stats = wait_for(&heimdall, "gone", |stats| {
        port(stats, "mv0").is_some_and(|port| port["state"] == "gone")
    });
    assert_eq!(
        port(&stats, below).unwrap()["serves"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    wait_steered(&lab, &heimdall, SERVER_V4, below);
}

#[test]
fn a_macvlan_that_is_down_gets_nothing() {
    let Some(lab) = lab("a_macvlan_that_is_down") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let below = lab.server_if.as_str();
    lab.server_ip(&format!(
        "link add mv0 link {below} type macvlan mode bridge"
    ))
    .unwrap();
    lab.server_ip("addr add 10.60.0.1/24 dev mv0").unwrap();
    lab.client_ip(&format!("addr add 10.60.0.2/24 dev {}", lab.client_if))
        .unwrap();
    let heimdall = serve(&lab, &["mv0"], &["0.0.0.0:53"]);
    let standby = |stats: &Value| {
        let port = port(stats, below).unwrap();
        port["state"] == "standby" && port["reason"] == "mv0 is down"
    };
    wait_for(&heimdall, "standby", standby);
    lab.server_ip("link set mv0 up").unwrap();
    wait_steered(&lab, &heimdall, "10.60.0.1", below);
    lab.server_ip("link set mv0 down").unwrap();
    wait_for(&heimdall, "standby again", standby);
    assert!(!asks(&lab, "10.60.0.1"));
}

/// A bridge with the server's interface as its port, and the server's address, with a MAC address of its own.
fn bridge(lab: &Lab) {
    let port = lab.server_if.as_str();
    for arguments in [
        "link add br0 type bridge".to_owned(),
        "link set br0 address 02:00:00:00:00:b0".to_owned(),
        format!("addr del {SERVER_V4}/24 dev {port}"),
        format!("link set {port} master br0"),
        "link set br0 up".to_owned(),
        format!("addr add {SERVER_V4}/24 dev br0"),
    ] {
        lab.server_ip(&arguments).unwrap();
    }
}

#[test]
fn a_bridges_port_is_served_with_the_bridges_address() {
    let Some(lab) = lab("a_bridges_port") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    bridge(&lab);
    let name = lab.server_if.as_str();
    let heimdall = serve(&lab, &[name], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, SERVER_V4, name);
    // The port's own MAC address is the bridge's, too.
    let frames = Frames::open(&lab).unwrap();
    let before = steered(&heimdall, name);
    let query = QueryFrame::new(frames.macs, "plain.example", 1);
    assert!(frames.exchange(&query).unwrap().is_some());
    assert_eq!(steered(&heimdall, name), before + 1);

    // While the spanning tree does not forward, the kernel takes nothing, and so does Heimdall.
    let restart = |stp: u8| {
        for arguments in [
            format!("link set dev br0 type bridge stp_state {stp} forward_delay 3000"),
            format!("link set dev {name} down"),
            format!("link set dev {name} up"),
        ] {
            lab.server_ip(&arguments).unwrap();
        }
    };
    restart(1);
    wait_for(&heimdall, "standby", |stats| {
        port(stats, name).is_some_and(|port| port["state"] == "standby")
    });
    assert!(!asks(&lab, SERVER_V4));
    restart(0);
    wait_steered(&lab, &heimdall, SERVER_V4, name);

    // Out of the bridge again, it is a NIC without an address.
    lab.server_ip(&format!("link set {name} nomaster")).unwrap();
    lab.server_ip("link del br0").unwrap();
    lab.server_ip(&format!("addr add {SERVER_V4}/24 dev {name}"))
        .unwrap();
    // The client knows the bridge's MAC address.
    lab.client_ip(&format!("neigh flush dev {}", lab.client_if))
        .unwrap();
    wait_steered(&lab, &heimdall, SERVER_V4, name);
}

#[test]
fn what_has_no_port_is_refused_with_what_to_give_instead() {
    let Some(lab) = lab("what_has_no_port") else {
        return;
    };
    bridge(&lab);
    let name = lab.server_if.as_str();
    lab.server_ip("link add vx0 type vxlan id 5 dstport 4789 dev br0")
        .unwrap();
    for (interface, expected) in [
        (
            "br0",
            format!("packets arrive on the ports of the bridge; use --interface {name}"),
        ),
        (
            "vx0",
            "its packets arrive inside of others (vxlan)".to_owned(),
        ),
        ("lo", "no packet of another host arrives on it".to_owned()),
    ] {
        for subcommand in ["check", "run"] {
            let mut command = lab.on_server(program());
            command
                .args([subcommand, "--backend", "xdp", "--interface", interface])
                .args(["--upstream", UPSTREAM]);
            let error = error_line(command);
            let what = format!("AF_XDP cannot serve {interface}: ");
            assert!(
                error.contains(&what) && error.contains(&expected),
                "{error}"
            );
        }
    }
}
