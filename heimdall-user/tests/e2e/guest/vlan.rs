//! VLANs: their tags are checked, and left in replies.

use lab::{Lab, SERVER_V4, ScriptedUpstream, run};

use super::{client, server};
use crate::{
    lab,
    layers::{UPSTREAM, asks, port, serve, steered, wait_steered},
};

const VLAN: &str = "10.65.0.1";

/// VLAN 5 on the lab's link.
fn vlan(lab: &Lab) {
    let (below, above) = (&lab.server_if, &lab.client_if);
    server(
        lab,
        &[
            &format!("link add link {below} name v5 type vlan id 5"),
            "addr add 10.65.0.1/24 dev v5",
            "link set v5 up",
        ],
    );
    client(
        lab,
        &[
            &format!("link add link {above} name v5 type vlan id 5"),
            "addr add 10.65.0.2/24 dev v5",
            "link set v5 up",
        ],
    );
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn a_vlan_is_served_on_the_interface_below() {
    let Some(lab) = lab("a_vlan_is_served") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    vlan(&lab);
    let below = lab.server_if.as_str();
    let heimdall = serve(&lab, &["v5"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, VLAN, below);
    assert_eq!(
        port(&heimdall.stats().unwrap(), below).unwrap()["serves"][0],
        "v5"
    );
    // The address of the interface below, and the VLAN's by an untagged frame: the sockets serve both.
    let before = steered(&heimdall, below);
    assert!(asks(&lab, SERVER_V4));
    client(
        &lab,
        &[
            "link set v5 down",
            &format!("route add {VLAN} via {SERVER_V4}"),
        ],
    );
    assert!(asks(&lab, VLAN));
    assert_eq!(steered(&heimdall, below), before);
    client(&lab, &[&format!("route del {VLAN}"), "link set v5 up"]);
    wait_steered(&lab, &heimdall, VLAN, below);

    // Another number, while it runs.
    server(
        &lab,
        &[
            "link del v5",
            &format!("link add link {below} name v5 type vlan id 6"),
            "addr add 10.65.0.1/24 dev v5",
            "link set v5 up",
        ],
    );
    client(
        &lab,
        &[
            "link del v5",
            &format!("link add link {} name v5 type vlan id 6", lab.client_if),
            "addr add 10.65.0.2/24 dev v5",
            "link set v5 up",
        ],
    );
    wait_steered(&lab, &heimdall, VLAN, below);
    drop(heimdall);

    // Both on one port.
    let heimdall = serve(&lab, &[below, "v5"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, VLAN, below);
    wait_steered(&lab, &heimdall, SERVER_V4, below);
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn a_vlan_in_a_vlan_is_served() {
    let Some(lab) = lab("a_vlan_in_a_vlan") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let (below, above) = (&lab.server_if, &lab.client_if);
    for (ip, link, host) in [
        (&server as &dyn Fn(&Lab, &[&str]), below, 1),
        (&client, above, 2),
    ] {
        ip(
            &lab,
            &[
                &format!("link add link {link} name outer type vlan proto 802.1ad id 100"),
                "link set outer up",
                "link add link outer name inner type vlan id 6",
                &format!("addr add 10.66.0.{host}/24 dev inner"),
                "link set inner up",
            ],
        );
    }
    let heimdall = serve(&lab, &["inner"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, "10.66.0.1", below);
}

/// Sets the VLAN offload of both ends: with it a tag does not reach the program.
fn offload(lab: &Lab, state: &str) {
    let arguments = |name| ["-K", name, "rxvlan", state, "txvlan", state];
    run(lab
        .on_server("ethtool")
        .args(arguments(lab.server_if.as_str())))
    .unwrap();
    run(lab
        .on_client("ethtool")
        .args(arguments(lab.client_if.as_str())))
    .unwrap();
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn where_the_nic_strips_tags_the_sockets_serve_the_vlan() {
    let Some(lab) = lab("where_the_nic_strips_tags") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    vlan(&lab);
    offload(&lab, "on");
    let below = lab.server_if.as_str();
    for (interface, listen) in [
        ("v5", "0.0.0.0:53"),
        ("v5", "10.65.0.1:53"),
        (below, "0.0.0.0:53"),
        (below, "10.65.0.1:53"),
    ] {
        let heimdall = serve(&lab, &[interface], &[listen]);
        assert!(asks(&lab, VLAN), "{interface} {listen}");
        assert_eq!(steered(&heimdall, below), 0, "{interface} {listen}");
        let output = heimdall.process.output();
        let command = format!("run `ethtool -K {below} rxvlan off`");
        assert_eq!(output.matches(&command).count(), 1, "{output}");
    }
    // The command takes effect while it runs.
    let heimdall = serve(&lab, &["v5"], &["0.0.0.0:53"]);
    offload(&lab, "off");
    wait_steered(&lab, &heimdall, VLAN, below);
    offload(&lab, "on");
    assert!(asks(&lab, VLAN));
}
