//! Bonds: which members are steered, failover, members that join and leave, VLANs on top.

use lab::{Heimdall, Lab, ScriptedUpstream};

use super::{client, pair, server};
use crate::{
    lab,
    layers::{LIMIT, UPSTREAM, asks, port, serve, steered, wait_steered},
    recover::wait_for,
};

const BOND: &str = "10.61.0.1";

/// A bond of s0 and s1 on the server, and a switch on the client, to which both lead.
fn bond(lab: &Lab, options: &str) {
    client(
        lab,
        &[
            "link add switch type bridge",
            "addr add 10.61.0.2/24 dev switch",
            "link set switch up",
        ],
    );
    server(
        lab,
        &[
            &format!("link add bond0 type bond miimon 50 {options}"),
            "addr add 10.61.0.1/24 dev bond0",
        ],
    );
    for number in [0, 1] {
        join(lab, number);
    }
    server(lab, &["link set bond0 up"]);
}

/// A member of the bond, connected to the switch.
fn join(lab: &Lab, number: u8) {
    pair(lab, number);
    client(lab, &[&format!("link set p{number} master switch")]);
    let name = format!("s{number}");
    server(
        lab,
        &[
            &format!("link set {name} down"),
            &format!("link set {name} master bond0"),
            &format!("link set {name} up"),
        ],
    );
}

fn state(heimdall: &Heimdall, name: &str, state: &str) {
    wait_for(heimdall, state, |stats| {
        port(stats, name).is_some_and(|port| port["state"] == state)
    });
}

fn has_program(lab: &Lab, name: &str) -> bool {
    let shown = lab.server_ip(&format!("-details link show dev {name}"));
    shown.unwrap().contains("xdp")
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn the_active_member_of_a_bond_is_steered() {
    let Some(lab) = lab("the_active_member_of_a_bond") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    bond(&lab, "mode active-backup");
    let active = |name: &str| {
        let line = format!("link set bond0 type bond active_slave {name}");
        lab.server_ip(&line).unwrap();
    };
    active("s0");
    let heimdall = serve(&lab, &["bond0"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, BOND, "s0");
    state(&heimdall, "s0", "up");
    state(&heimdall, "s1", "standby");
    assert!(has_program(&lab, "s0") && has_program(&lab, "s1"));
    assert_eq!(steered(&heimdall, "s1"), 0);
    assert!(port(&heimdall.stats().unwrap(), "bond0").is_none());

    // By the administrator, and because a cable is pulled.
    active("s1");
    state(&heimdall, "s0", "standby");
    wait_steered(&lab, &heimdall, BOND, "s1");
    client(&lab, &["link set p1 down"]);
    state(&heimdall, "s1", "standby");
    wait_steered(&lab, &heimdall, BOND, "s0");
    client(&lab, &["link set p1 up"]);

    // A third one joins.
    join(&lab, 2);
    state(&heimdall, "s2", "standby");
    active("s2");
    wait_steered(&lab, &heimdall, BOND, "s2");

    // It leaves, and is left alone.
    server(&lab, &["link set s2 nomaster"]);
    wait_for(&heimdall, "without s2", |stats| port(stats, "s2").is_none());
    assert!(!has_program(&lab, "s2"));
    active("s0");
    wait_steered(&lab, &heimdall, BOND, "s0");

    // Without members the bond waits for some.
    server(&lab, &["link set s0 nomaster", "link set s1 nomaster"]);
    state(&heimdall, "bond0", "failed");
    server(
        &lab,
        &[
            "link set s1 down",
            "link set s1 master bond0",
            "link set s1 up",
        ],
    );
    wait_steered(&lab, &heimdall, BOND, "s1");
    assert!(port(&heimdall.stats().unwrap(), "bond0").is_none());
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn a_bond_is_served_however_it_balances() {
    let Some(lab) = lab("a_bond_is_served_however") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    // The client's end is a bond, too.
    for number in [0, 1] {
        pair(&lab, number);
    }
    let ends = [("s", "10.61.0.1/24"), ("p", "10.61.0.2/24")];
    let on = |end: &str, line: &str| match end {
        "s" => lab.server_ip(line).unwrap(),
        _ => lab.client_ip(line).unwrap(),
    };
    for options in ["mode balance-rr", "mode 802.3ad lacp_rate fast"] {
        for (prefix, address) in ends {
            let ip = |line: &str| on(prefix, line);
            ip(&format!("link add bond0 type bond miimon 50 {options}"));
            for number in [0, 1] {
                let name = format!("{prefix}{number}");
                ip(&format!("link set {name} down"));
                ip(&format!("link set {name} master bond0"));
                ip(&format!("link set {name} up"));
            }
            ip(&format!("addr add {address} dev bond0"));
            ip("link set bond0 up");
        }
        let heimdall = serve(&lab, &["bond0"], &["0.0.0.0:53"]);
        let all = || steered(&heimdall, "s0") + steered(&heimdall, "s1");
        let end = std::time::Instant::now() + LIMIT;
        loop {
            let before = all();
            if asks(&lab, BOND) && all() > before {
                break;
            }
            assert!(std::time::Instant::now() < end, "{options}");
        }
        drop(heimdall);
        for (end, _) in ends {
            on(end, "link del bond0");
        }
    }
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn a_vlan_on_a_bond_is_served_on_the_active_member() {
    let Some(lab) = lab("a_vlan_on_a_bond") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    bond(&lab, "mode active-backup");
    server(
        &lab,
        &[
            "link add link bond0 name bond0.9 type vlan id 9",
            "addr add 10.69.0.1/24 dev bond0.9",
            "link set bond0.9 up",
            "link set bond0 type bond active_slave s0",
        ],
    );
    client(
        &lab,
        &[
            "link add link switch name switch.9 type vlan id 9",
            "addr add 10.69.0.2/24 dev switch.9",
            "link set switch.9 up",
        ],
    );
    let heimdall = serve(&lab, &["bond0.9"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, "10.69.0.1", "s0");
    // The bond's own address is not the VLAN's: the sockets serve it.
    let before = steered(&heimdall, "s0");
    assert!(asks(&lab, BOND));
    assert_eq!(steered(&heimdall, "s0"), before);
    client(&lab, &["link set p0 down"]);
    wait_steered(&lab, &heimdall, "10.69.0.1", "s1");
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn a_member_stands_for_its_bond() {
    let Some(lab) = lab("a_member_stands_for_its_bond") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    bond(&lab, "mode active-backup");
    server(&lab, &["link set bond0 type bond active_slave s0"]);
    let heimdall = serve(&lab, &["s0", "s1"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, BOND, "s0");
    client(&lab, &["link set p0 down"]);
    wait_steered(&lab, &heimdall, BOND, "s1");
}
