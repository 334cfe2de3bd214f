//! Faults of the network and restarts: upstreams that cannot be reached, and what happens when they can again.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::ScriptedUpstream;

use super::{
    ALL,
    After::{AtOnce, Seconds},
    Case,
    How::Own,
    Sees::{Answer, Servfail, Text},
    UDP,
    rig::{Rig, Server, is},
    script::good,
};

/// Within this time of its end, a fault's effects are over.
const RECOVERY: u32 = 5;

/// Until the query that finds out is answered, on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// Each is run over each of its transports.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "nothing_listens",
        fault: "Nothing listens at the upstream's port (ICMP port unreachable, or a reset)",
        over: ALL,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| rig.ask_server_of(rig.setting(&rig.address(1)), false)),
    },
    Case {
        name: "nothing_listens_with_another",
        fault: "The same; there is another upstream",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| rig.ask_server_of(rig.setting(&rig.address(1)), true)),
    },
    Case {
        name: "no_route",
        fault: "There is no route to the upstream",
        over: ALL,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| rig.ask_server_of(rig.setting("198.51.100.53:53"), false)),
    },
    Case {
        name: "no_route_with_another",
        fault: "The same; there is another upstream",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| rig.ask_server_of(rig.setting("198.51.100.53:53"), true)),
    },
    Case {
        name: "host_unreachable",
        fault: "A router says that the upstream's host is unreachable; there is another upstream",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(host_unreachable),
    },
    Case {
        name: "route_appears",
        fault: "The route to the upstream appears later",
        over: UDP,
        sees: Text("SERVFAIL, then the answer"),
        after: Seconds(RECOVERY),
        how: Own(route_appears),
    },
    Case {
        name: "restart",
        fault: "The upstream is stopped, and started again after a while",
        over: ALL,
        sees: Text("SERVFAIL, then the answer"),
        after: Seconds(RECOVERY),
        how: Own(restart),
    },
    Case {
        name: "silent_for_a_while",
        fault: "The upstream responds to nothing for a while",
        over: ALL,
        sees: Text("SERVFAIL, then the answer"),
        after: Seconds(RECOVERY),
        how: Own(silent_for_a_while),
    },
    Case {
        name: "interface_down_and_up",
        fault: "The interface to the upstream goes down and comes up again",
        over: UDP,
        sees: Text("SERVFAIL, then the answer"),
        after: Seconds(RECOVERY),
        how: Own(interface_down_and_up),
    },
];

/// Asks for names, one of them again, while an upstream does not work.
fn fail(rig: &Rig<'_>, server: &Server) {
    let fails = |name: &str| {
        let (reply, _) = rig.ask(server, name, "");
        assert!(reply.starts_with("SERVFAIL qr rd ra"), "{reply}");
    };
    thread::scope(|scope| {
        for name in ["again.example", "once0.example", "once1.example"] {
            scope.spawn(move || fails(name));
        }
    });
    thread::sleep(Duration::from_secs(1));
    fails("again.example");
}

/// The fault is over: names that failed are answered soon, as are others.
fn recover(rig: &Rig<'_>, server: &Server) {
    let begin = Instant::now();
    for name in ["again.example", "once0.example", "new.example"] {
        loop {
            let (reply, _) = rig.ask(server, name, "");
            if is(&reply, name, Answer) {
                break;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(RECOVERY.into()) + SLACK,
                "{name}: {reply}\n{}",
                server.heimdall.process.output()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn host_unreachable(rig: &Rig<'_>) {
    // An address for each transport, as all cases share the namespace.
    let address = format!("198.51.101.{}", rig.port(0) % 250);
    let route = format!("route replace unreachable {address}/32");
    rig.lab.server_ip(&route).unwrap();
    rig.ask_server_of(rig.setting(&format!("{address}:53")), true);
}

fn route_appears(rig: &Rig<'_>) {
    let address = "198.51.102.53:53";
    let server = rig.server(&[rig.setting(address)]);
    fail(rig, &server);
    rig.lab
        .server_ip("addr add 198.51.102.53/32 dev lo")
        .unwrap();
    let _upstream = rig.upstream_at(address, |query| vec![good(query)]);
    recover(rig, &server);
}

fn restart(rig: &Rig<'_>) {
    let upstream = rig.upstream(|query| vec![good(query)]);
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    rig.expect_answer(&server, "before.example");
    drop(upstream);
    fail(rig, &server);
    let _upstream = rig.upstream(|query| vec![good(query)]);
    recover(rig, &server);
}

fn silent_for_a_while(rig: &Rig<'_>) {
    let upstream = rig.upstream(|query| vec![good(query)]);
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    rig.expect_answer(&server, "before.example");
    upstream.set_script(|_| -> Vec<Vec<u8>> { vec![] });
    fail(rig, &server);
    upstream.set_script(rig.steps(|query| vec![good(query)]));
    recover(rig, &server);
}

fn interface_down_and_up(rig: &Rig<'_>) {
    // A second link between the namespaces.
    let client = &rig.lab.client;
    let ip = |arguments: &str| rig.lab.server_ip(arguments).unwrap();
    ip(&format!(
        "link add uplink type veth peer name uplink netns {client}"
    ));
    ip("addr add 10.55.0.1/24 dev uplink");
    ip("link set uplink up");
    rig.lab
        .client_ip("addr add 10.55.0.2/24 dev uplink")
        .unwrap();
    rig.lab.client_ip("link set uplink up").unwrap();
    let address = "10.55.0.2:5301";
    let steps = rig.steps(|query| vec![good(query)]);
    let _upstream = ScriptedUpstream::in_client_with_script(rig.lab, address, steps).unwrap();
    let server = rig.server(&[rig.setting(address)]);
    rig.expect_answer(&server, "before.example");
    ip("link set uplink down");
    fail(rig, &server);
    ip("link set uplink up");
    recover(rig, &server);
    ip("link del uplink");
}
