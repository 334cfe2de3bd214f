//! Replies by the kernel's routes (`xdp.route-check`) out of VLANs and VRFs, and behind a load balancer with direct return.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lab::{CLIENT_V4, Heimdall, Lab, Namespace, SERVER_V4, ScriptedUpstream, run};

use super::{
    client, put_into_vrf, server,
    vlan::{VLAN, vlan},
};
use crate::{
    lab,
    layers::{LIMIT, UPSTREAM, asks, port, serve, serve_with, steered, wait_steered},
};

const ROUTE_CHECK: &[&str] = &["--route-check", "on"];

/// Sets a parameter of the server's kernel below net.ipv4.
fn set(lab: &Lab, key: &str, value: u8) {
    let key = format!("net.ipv4.{key}={value}");
    run(lab.on_server("sysctl").args(["-q", "-w", &key])).unwrap();
}

/// Has the server's kernel let programs look up routes of packets that enter by `name`.
fn enable_forwarding(lab: &Lab, name: &str) {
    set(lab, &format!("conf.{name}.forwarding"), 1);
}

fn other_route(heimdall: &Heimdall, name: &str) -> u64 {
    let stats = heimdall.stats().unwrap();
    port(&stats, name).unwrap()["verdicts"]["other_route"]
        .as_u64()
        .unwrap()
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn replies_leave_by_the_vlan_that_the_route_leads_out_of() {
    let Some(lab) = lab("replies_leave_by_the_vlan") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    vlan(&lab);
    enable_forwarding(&lab, "lo");
    for name in ["all", &lab.server_if, "v5"] {
        set(&lab, &format!("conf.{name}.rp_filter"), 0);
    }
    let below = lab.server_if.as_str();
    let listen = [&format!("{VLAN}:53")[..], &format!("{SERVER_V4}:53")[..]];
    let heimdall = serve_with(&lab, &[below], &listen, ROUTE_CHECK);
    wait_steered(&lab, &heimdall, VLAN, below);
    wait_steered(&lab, &heimdall, SERVER_V4, below);
    // Untagged, by the interface below: the sockets answer what has come in the VLAN.
    let route = format!("10.65.0.2 via {CLIENT_V4} dev {below}");
    server(&lab, &[&format!("route add {route}")]);
    let end = Instant::now() + LIMIT;
    loop {
        let before = (steered(&heimdall, below), other_route(&heimdall, below));
        let answered = asks(&lab, VLAN);
        let after = (steered(&heimdall, below), other_route(&heimdall, below));
        if answered && after == (before.0, before.1 + 1) {
            break;
        }
        assert!(Instant::now() < end, "{answered}: {before:?}, {after:?}");
        thread::sleep(Duration::from_millis(50));
    }
    server(&lab, &[&format!("route del {route}")]);
    wait_steered(&lab, &heimdall, VLAN, below);
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn replies_follow_the_routes_of_the_vrf() {
    let Some(lab) = lab("replies_follow_the_routes_of_the_vrf") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let name = lab.server_if.as_str();
    put_into_vrf(&lab, name);
    // Sockets without a VRF serve those, too.
    set(&lab, "udp_l3mdev_accept", 1);
    enable_forwarding(&lab, "lo");
    let heimdall = serve_with(&lab, &[name], &["0.0.0.0:53"], ROUTE_CHECK);
    let said = "run `sysctl -w net.ipv4.conf.red.forwarding=1`";
    let output = heimdall.process.output();
    assert!(output.contains(said), "{output}");
    enable_forwarding(&lab, "red");
    wait_steered(&lab, &heimdall, SERVER_V4, name);
    // Only the VRF's routes count.
    server(&lab, &[&format!("route add blackhole {CLIENT_V4}")]);
    thread::sleep(Duration::from_secs(2));
    wait_steered(&lab, &heimdall, SERVER_V4, name);
    server(
        &lab,
        &[&format!("route add blackhole {CLIENT_V4} table 100")],
    );
    let end = Instant::now() + LIMIT;
    let mut before = other_route(&heimdall, name);
    loop {
        asks(&lab, SERVER_V4);
        let now = other_route(&heimdall, name);
        if now > before {
            break;
        }
        before = now;
        assert!(Instant::now() < end, "{:#}", heimdall.stats().unwrap());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The service address behind the load balancer.
const SERVICE: &str = "203.0.113.53";

/// A load balancer of the kernel (IPVS) on the client's network, which passes queries for the service address on to the server and
/// leaves replies to it.
fn load_balancer(lab: &Lab) -> Namespace {
    run(Command::new("modprobe").args(["--all", "ip_vs", "ip_vs_rr"])).unwrap();
    let (name, network) = (&lab.client_if, &lab.client);
    let balancer = Namespace::new("balancer").unwrap();
    balancer
        .ip(&format!(
            "link add eth0 type veth peer name balancer netns {network}"
        ))
        .unwrap();
    client(
        lab,
        &[
            "link add switch type bridge",
            &format!("addr del {CLIENT_V4}/24 dev {name}"),
            &format!("addr add {CLIENT_V4}/24 dev switch"),
            &format!("link set {name} master switch"),
            "link set balancer master switch up",
            "link set switch up",
            &format!("route add {SERVICE} via 10.53.0.3"),
        ],
    );
    for line in [
        "addr add 10.53.0.3/24 dev eth0",
        "link set eth0 up",
        &format!("addr add {SERVICE}/32 dev lo"),
    ] {
        balancer.ip(line).unwrap();
    }
    balancer.sysctl("net/ipv4/ip_forward", "1").unwrap();
    let service = format!("{SERVICE}:53");
    let real = format!("{SERVER_V4}:53");
    for arguments in [
        &["-A", "-u", &service, "-s", "rr"][..],
        &["-a", "-u", &service, "-r", &real, "-g"][..],
    ] {
        run(balancer.command("ipvsadm").args(arguments)).unwrap();
    }
    balancer
}

#[test]
#[ignore = "needs a kernel with bonding, 8021q, vrf: cargo xtask vm"]
fn replies_behind_a_load_balancer_leave_by_the_servers_own_route() {
    let Some(lab) = lab("replies_behind_a_load_balancer") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let _balancer = load_balancer(&lab);
    server(
        &lab,
        &[
            "link add anycast0 type dummy",
            &format!("addr add {SERVICE}/32 dev anycast0"),
            "link set anycast0 up",
        ],
    );
    let (name, listen) = (lab.server_if.as_str(), format!("{SERVICE}:53"));
    // To the MAC address of the load balancer, which drops what comes from its own address.
    let heimdall = serve(&lab, &[name], &[&listen]);
    let end = Instant::now() + LIMIT;
    while steered(&heimdall, name) == 0 {
        asks(&lab, SERVICE);
        assert!(Instant::now() < end, "nothing is steered");
    }
    assert!(!asks(&lab, SERVICE));
    drop(heimdall);
    enable_forwarding(&lab, "lo");
    let heimdall = serve_with(&lab, &[name], &[&listen], ROUTE_CHECK);
    wait_steered(&lab, &heimdall, SERVICE, name);
}
