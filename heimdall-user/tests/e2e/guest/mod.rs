//! Layers of interfaces that need kernel modules which not every machine has: bonding, 8021q, dummy, vrf. `cargo xtask vm`
//! runs these tests in a guest.

mod bond;
mod route;
mod vlan;
mod vrf;

use lab::{Lab, vlan_offload};

/// Runs `ip` on the server with each of these lines.
fn server(lab: &Lab, lines: &[&str]) {
    for line in lines {
        lab.server_ip(line).unwrap();
    }
}

/// Makes the VRF red, with the table 100, and puts an interface of the server into it.
fn put_into_vrf(lab: &Lab, interface: &str) {
    server(
        lab,
        &[
            "link add red type vrf table 100",
            "link set red up",
            &format!("link set {interface} master red"),
        ],
    );
}

/// The same on the client.
fn client(lab: &Lab, lines: &[&str]) {
    for line in lines {
        lab.client_ip(line).unwrap();
    }
}

/// Another veth pair between the two: `s0` and `p0` for number 0, both up.
fn pair(lab: &Lab, number: u8) {
    let (s, p) = (format!("s{number}"), format!("p{number}"));
    let client_namespace = &lab.client;
    lab.server_ip(&format!(
        "link add {s} type veth peer name {p} netns {client_namespace}"
    ))
    .unwrap();
    for (mut ethtool, name) in [
        (lab.on_server("ethtool"), &s),
        (lab.on_client("ethtool"), &p),
    ] {
        ethtool.args(["-K", name]).args(vlan_offload("off"));
        lab::run(&mut ethtool).unwrap();
    }
    lab.server_ip(&format!("link set {s} up")).unwrap();
    lab.client_ip(&format!("link set {p} up")).unwrap();
}
