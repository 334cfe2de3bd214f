//! VRFs, and addresses on a dummy.

use lab::{SERVER_V4, ScriptedUpstream};

use super::{client, put_into_vrf, server};
use crate::{
    errors::error_line,
    lab,
    layers::{UPSTREAM, serve, wait_steered},
    program,
};

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn an_interface_in_a_vrf_is_served() {
    let Some(lab) = lab("an_interface_in_a_vrf") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let name = lab.server_if.as_str();
    put_into_vrf(&lab, name);
    let heimdall = serve(&lab, &[name], &["0.0.0.0:53"]);
    wait_steered(&lab, &heimdall, SERVER_V4, name);
    let mut command = lab.on_server(program());
    command
        .args(["check", "--backend", "xdp", "--interface", "red"])
        .args(["--upstream", UPSTREAM]);
    let error = error_line(command);
    let expected = format!("use --interface {name}, and name the addresses of red with --listen");
    assert!(error.contains(&expected), "{error}");
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn an_address_on_a_dummy_is_served_where_it_arrives_if_it_is_named() {
    let Some(lab) = lab("an_address_on_a_dummy") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    server(
        &lab,
        &[
            "link add anycast0 type dummy",
            "addr add 203.0.113.53/32 dev anycast0",
            "link set anycast0 up",
        ],
    );
    client(&lab, &[&format!("route add 203.0.113.53 via {SERVER_V4}")]);
    let heimdall = serve(&lab, &[&lab.server_if], &["203.0.113.53:53"]);
    wait_steered(&lab, &heimdall, "203.0.113.53", &lab.server_if);
}
