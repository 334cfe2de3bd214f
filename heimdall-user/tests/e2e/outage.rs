//! Outages of upstreams and of the network: failures end within five seconds of the end of their cause, whether clients
//! ask meanwhile or not.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use lab::{CLIENT_V4, Heimdall, Lab, ScriptedUpstream};
use serde_json::Value;

use crate::{
    client::{DnsClient, query},
    lab, program,
    recover::wait_for,
};

/// The upstream is in the client's namespace, behind the network.
const PORT: u16 = 5301;

/// The longest time from the end of an outage until all is answered.
const RECOVERY: Duration = Duration::from_secs(5);

/// Names that are asked for.
const NAMES: usize = 20;

/// Waits until the first upstream works: where the machine is busy, for longer than [`RECOVERY`].
fn wait_until_up(heimdall: &Heimdall) {
    wait_for(heimdall, "up", |stats| {
        stats["upstreams"][0]["state"] == "up"
    });
}

/// A lab, an upstream in the client's namespace, and a server that asks it. Clients ask from the server's own
/// namespace, as the network between them may be down.
struct Outage {
    lab: Lab,
    upstream: Option<ScriptedUpstream>,
    heimdall: Heimdall,
    client: UdpSocket,
    asked: usize,
}

impl Outage {
    /// With the upstream at an address of the client's namespace.
    fn new(lab: Lab, upstream: &str) -> Self {
        let address = format!("{upstream}:{PORT}");
        let upstream = ScriptedUpstream::in_client(&lab, &address).unwrap();
        let listen = ["--backend", "socket", "--listen", "127.0.0.1:53"];
        let arguments = [&listen[..], &["--upstream", &address]].concat();
        let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
        let connect = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect("127.0.0.1:53").unwrap();
            socket
        };
        let client = lab.in_server(connect).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut outage = Self {
            lab,
            upstream: Some(upstream),
            heimdall,
            client,
            asked: 0,
        };
        outage.ask_all("before");
        outage
    }

    /// Asks for a name. The response code, if there is a reply.
    fn ask(&mut self, name: &str) -> Option<u8> {
        let mut reply = [0; 1500];
        // Those to earlier queries may have filled the socket's buffer.
        self.client.set_nonblocking(true).unwrap();
        while self.client.recv(&mut reply).is_ok() {}
        self.client.set_nonblocking(false).unwrap();
        let id = self.send(name);
        loop {
            let len = self.client.recv(&mut reply).ok()?;
            if len >= 12 && reply[..2] == id.to_be_bytes() {
                return Some(reply[3] & 15);
            }
        }
    }

    fn send(&mut self, name: &str) -> u16 {
        self.asked += 1;
        let id = self.asked as u16;
        self.client.send(&query(id, name)).unwrap();
        id
    }

    /// Asks for names below one, which are all answered.
    fn ask_all(&mut self, zone: &str) {
        for number in 0..NAMES {
            let name = format!("n{number}.{zone}.example");
            let code = self.ask(&name);
            let stats = self.heimdall.stats().unwrap();
            let log = self.heimdall.process.output();
            assert_eq!(code, Some(0), "{name}: {:#}\n{log}", stats["forwarder"]);
        }
    }

    /// Sends queries for the same names, and does not wait for replies.
    fn ask_in_vain(&mut self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let number = self.asked % NAMES;
            self.send(&format!("n{number}.after.example"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn upstream_stats(&self) -> Value {
        self.heimdall.stats().unwrap()["upstreams"][0].clone()
    }

    /// Goes through an outage, with or without queries of clients meanwhile.
    fn pass(&mut self, with_clients: bool, begin: impl Fn(&mut Self), end: impl Fn(&mut Self)) {
        begin(self);
        // So that the server knows, and has failures in its caches.
        self.ask_in_vain(5);
        if with_clients {
            self.ask_in_vain(5);
        } else {
            thread::sleep(Duration::from_secs(5));
        }
        let failed = self.upstream_stats();
        assert_eq!(failed["state"], "failed", "{failed:#}");
        assert!(failed["problem"].is_string(), "{failed:#}");
        let probes = failed["probes"].as_u64().unwrap();
        assert!(probes < 20, "no storm: {failed:#}");
        end(self);
        if with_clients {
            self.ask_in_vain(RECOVERY.as_secs());
        } else {
            thread::sleep(RECOVERY);
        }
        wait_until_up(&self.heimdall);
        // Also those that failed before.
        self.ask_all("after");
        self.ask_all("new");
        let probes = self.upstream_stats()["probes"].clone();
        thread::sleep(Duration::from_secs(2));
        assert_eq!(self.upstream_stats()["probes"], probes, "it works");
    }

    /// One line when it is set aside, one when it works again.
    fn check_log(&self, outages: usize) {
        let log = self.heimdall.process.output();
        for line in ["is set aside: ", "works again, after "] {
            let count = log.lines().filter(|logged| logged.contains(line)).count();
            assert_eq!(count, outages, "{line:?} in {log}");
        }
    }
}

#[test]
fn a_link_that_goes_down_and_up() {
    for with_clients in [false, true] {
        let Some(lab) = lab("a_link_that_goes_down_and_up") else {
            return;
        };
        let mut outage = Outage::new(lab, CLIENT_V4);
        let link = |state: &'static str| {
            move |outage: &mut Outage| {
                let command = format!("link set {} {state}", outage.lab.server_if);
                outage.lab.server_ip(&command).unwrap();
            }
        };
        outage.pass(with_clients, link("down"), link("up"));
        outage.check_log(1);
    }
}

/// Packets are lost, and nothing says so.
#[test]
fn a_network_that_drops_everything() {
    for with_clients in [false, true] {
        let Some(lab) = lab("a_network_that_drops_everything") else {
            return;
        };
        let mut outage = Outage::new(lab, CLIENT_V4);
        let hole = |change: &'static str| {
            move |outage: &mut Outage| {
                let route = format!("route {change} blackhole 10.53.0.1/32 table local");
                outage.lab.client_ip(&route).unwrap();
            }
        };
        // The upstream's replies go nowhere.
        outage.pass(with_clients, hole("add"), hole("del"));
        let log = outage.heimdall.process.output();
        assert!(log.contains("is set aside: it does not respond"), "{log}");
        outage.check_log(1);
    }
}

#[test]
fn an_upstream_that_restarts() {
    for with_clients in [false, true] {
        let Some(lab) = lab("an_upstream_that_restarts") else {
            return;
        };
        let mut outage = Outage::new(lab, CLIENT_V4);
        let begin = |outage: &mut Outage| outage.upstream = None;
        let end = |outage: &mut Outage| {
            let address = format!("{CLIENT_V4}:{PORT}");
            outage.upstream = Some(ScriptedUpstream::in_client(&outage.lab, &address).unwrap());
        };
        outage.pass(with_clients, begin, end);
        outage.check_log(1);
    }
}

/// The upstream is elsewhere, as most are, and this host loses the route to it.
#[test]
fn a_route_that_is_removed_and_added() {
    const ELSEWHERE: &str = "10.99.0.1";
    for with_clients in [false, true] {
        let Some(lab) = lab("a_route_that_is_removed_and_added") else {
            return;
        };
        let route = |change: &'static str| format!("route {change} {ELSEWHERE} via {CLIENT_V4}");
        lab.client_ip(&format!("addr add {ELSEWHERE}/32 dev lo"))
            .unwrap();
        lab.server_ip(&route("add")).unwrap();
        let mut outage = Outage::new(lab, ELSEWHERE);
        let changed = |change: &'static str| {
            move |outage: &mut Outage| drop(outage.lab.server_ip(&route(change)).unwrap())
        };
        outage.pass(with_clients, changed("del"), changed("add"));
        let log = outage.heimdall.process.output();
        assert!(log.contains("this host has no route to it"), "{log}");
        outage.check_log(1);
        // That was no failure of the questions.
        let stats = outage.heimdall.stats().unwrap();
        assert_eq!(stats["forwarder"]["failure_hits"], 0);
    }
}

/// With a second upstream nobody notices.
#[test]
fn a_second_upstream_answers_during_the_outage_of_the_first() {
    let Some(lab) = lab("a_second_upstream_answers") else {
        return;
    };
    let (first, second) = ("127.0.0.1:5301", "127.0.0.1:5302");
    let preferred = ScriptedUpstream::start(&lab, first).unwrap();
    let other = ScriptedUpstream::start(&lab, second).unwrap();
    let arguments = ["--upstream", first, "--upstream", second];
    let heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
    let client = DnsClient::v4(&lab);
    let ask = |name: &str| {
        let reply = client.udp(&format!("{name}.example A rd edns"));
        assert!(reply.starts_with("NOERROR"), "{name}: {reply}");
    };
    ask("a");
    assert!(other.received().is_empty());
    drop(preferred);
    for number in 0..NAMES {
        ask(&format!("b{number}"));
    }
    let upstream = || heimdall.stats().unwrap()["upstreams"][0].clone();
    let failed = upstream();
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert_eq!(failed["problem"], "its port is closed");
    // Only probes ask it again.
    let [errors, probes] = ["/error_kinds/unreachable", "/probes"]
        .map(|count| failed.pointer(count).unwrap().as_u64().unwrap());
    assert!((1..=1 + probes).contains(&errors), "{failed:#}");
    let preferred = ScriptedUpstream::start(&lab, first).unwrap();
    wait_until_up(&heimdall);
    let asked = other.received().len();
    ask("c");
    assert_eq!(other.received().len(), asked);
    assert_eq!(preferred.queries("c.example"), 1);
    assert_eq!(heimdall.stats().unwrap()["forwarder"]["servfail"], 0);
}
