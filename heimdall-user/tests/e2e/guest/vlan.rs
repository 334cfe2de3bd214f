//! VLANs: their tags are checked, and left in replies.

use lab::{Lab, SERVER_V4, ScriptedUpstream, run, vlan_offload};

use super::{client, server};
use crate::{
    lab,
    layers::{UPSTREAM, asks, port, serve, steered, wait_steered},
};

/// The server's address in [`vlan`].
pub(super) const VLAN: &str = "10.65.0.1";

/// The server's address in [`nested`] VLANs.
const NESTED: &str = "10.66.0.1";

/// VLAN 5 on the lab's link.
pub(super) fn vlan(lab: &Lab) {
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

/// VLAN 6 in a VLAN of 802.1ad on the lab's link: `inner`.
fn nested(lab: &Lab) {
    let (below, above) = (&lab.server_if, &lab.client_if);
    for (ip, link, host) in [
        (&server as &dyn Fn(&Lab, &[&str]), below, 1),
        (&client, above, 2),
    ] {
        ip(
            lab,
            &[
                &format!("link add link {link} name outer type vlan proto 802.1ad id 100"),
                "link set outer up",
                "link add link outer name inner type vlan id 6",
                &format!("addr add 10.66.0.{host}/24 dev inner"),
                "link set inner up",
            ],
        );
    }
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
    nested(&lab);
    let heimdall = serve(&lab, &["inner"], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, NESTED, &lab.server_if);
}

/// Sets the VLAN offload of both ends: with it a tag does not reach the program.
fn offload(lab: &Lab, state: &str) {
    for (mut ethtool, name) in [
        (lab.on_server("ethtool"), &lab.server_if),
        (lab.on_client("ethtool"), &lab.client_if),
    ] {
        run(ethtool.args(["-K", name]).args(vlan_offload(state))).unwrap();
    }
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

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn where_the_nic_strips_the_outer_tag_the_sockets_serve_the_vlan_in_a_vlan() {
    let Some(lab) = lab("where_the_nic_strips_the_outer_tag") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    vlan(&lab);
    nested(&lab);
    let below = lab.server_if.as_str();
    let offload = |state| {
        let stag = |name, feature| ["-K", name, feature, state];
        let server = stag(below, "rx-vlan-stag-hw-parse");
        run(lab.on_server("ethtool").args(server)).unwrap();
        let client = stag(&lab.client_if, "tx-vlan-stag-hw-insert");
        run(lab.on_client("ethtool").args(client)).unwrap();
    };
    offload("on");
    let heimdall = serve(&lab, &["inner", "v5"], &["0.0.0.0:53"]);
    // Tags of 802.1Q stay.
    wait_steered(&lab, &heimdall, VLAN, below);
    let before = steered(&heimdall, below);
    assert!(asks(&lab, NESTED));
    assert_eq!(steered(&heimdall, below), before);
    let output = heimdall.process.output();
    let command = format!("run `ethtool -K {below} rx-vlan-stag-hw-parse off`");
    assert_eq!(output.matches(&command).count(), 1, "{output}");
    // The command takes effect while it runs.
    offload("off");
    wait_steered(&lab, &heimdall, NESTED, below);
}
