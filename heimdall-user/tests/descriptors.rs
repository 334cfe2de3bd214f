//! The forwarder in a process that may open few files. A process of its own, as the limit is one of
//! the process.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use heimdall_user::{
    dns::{DnsPacketView, NameHasher, Query, header::rcode},
    forward::{ForwardOptions, Forwarder, ForwarderBuilder, Handle, Mailbox, Outcome, Request},
};
use nix::sys::resource::{Resource, setrlimit};

/// A query for `NAME.dead.example` or `NAME.good.example`, type A.
fn query(name: &str, zone: &str) -> Vec<u8> {
    let mut msg = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name, zone, "example"] {
        msg.push(label.len() as u8);
        msg.extend_from_slice(label.as_bytes());
    }
    msg.extend_from_slice(&[0, 0, 1, 0, 1]);
    msg
}

/// An upstream that answers with an address, and below dead.example that TCP has the answer.
fn serve(socket: &UdpSocket) {
    let mut buf = [0; 512];
    loop {
        let (len, from) = socket.recv_from(&mut buf).unwrap();
        let Some(msg) = buf.get(..len) else { continue };
        // Without the OPT record: the root's name and the type.
        let opt = msg.windows(3).position(|octets| octets == [0, 0, 41]);
        let mut reply = msg.get(..opt.unwrap()).unwrap().to_vec();
        if msg.windows(5).any(|octets| octets == b"\x04dead") {
            reply.splice(2..4, [0x83, 0x80]);
            reply.splice(6..12, [0; 6]);
            socket.send_to(&reply, from).unwrap();
            continue;
        }
        reply.splice(2..4, [0x81, 0x80]);
        reply.splice(6..12, [0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]);
        socket.send_to(&reply, from).unwrap();
    }
}

struct Front {
    forwarder: Forwarder,
    handle: Handle,
    mailbox: Arc<Mailbox>,
    hasher: NameHasher,
}

impl Front {
    fn ask(&mut self, client: [u8; 4], msg: &[u8], token: u64) {
        let query = Query::new(&DnsPacketView::parse(msg).unwrap(), &self.hasher);
        let request = Request::new(&query, msg, IpAddr::from(client), 0, token).unwrap();
        self.handle.submit(request).unwrap();
        self.handle.flush();
    }

    fn outcome_of(&self, token: u64) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.mailbox.take() {
                Some(outcome) if outcome.token == token => return outcome,
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(1)),
            }
            assert!(Instant::now() < deadline, "no outcome of {token}");
        }
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.forwarder.counters();
        let mut counts = counters.iter().flat_map(|thread| thread.list());
        counts.find(|(other, _)| *other == name).unwrap().1
    }
}

#[test]
fn look_ups_share_few_descriptors() {
    const FILES: u64 = 64;
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).unwrap();
    // Connections are established by the kernel, and nobody accepts them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = UdpSocket::bind(silent.local_addr().unwrap()).unwrap();
    let settings = ForwardOptions {
        upstreams: vec![upstream.local_addr().unwrap().into()],
        attempt_timeout: Duration::from_secs(30),
        cache_bytes: 1 << 20,
        ..ForwardOptions::default()
    };
    thread::spawn(move || serve(&upstream));
    let mailbox = Arc::new(Mailbox::new(4096).unwrap());
    let hasher = NameHasher::default();
    let builder = ForwarderBuilder::new(&settings, vec![mailbox.clone()], hasher.clone()).unwrap();
    let forwarder = builder.start().unwrap();
    let mut front = Front {
        handle: forwarder.handle(),
        forwarder,
        mailbox,
        hasher,
    };
    for round in 0..20 {
        for i in 0..50 {
            front.ask([192, 0, 2, 1], &query(&format!("r{round}-{i}"), "dead"), 0);
        }
        front.ask([198, 51, 100, 7], &query(&format!("n{round}"), "good"), 1);
        let outcome = front.outcome_of(1);
        let code = outcome.answer.as_ref().as_ref().rcode();
        assert_eq!(code, rcode::NOERROR, "round {round}");
    }
    assert!(front.count("in_flight") > FILES, "more look-ups than files");
    assert!(front.count("connections") <= 16);
    assert_eq!(front.count("shed_client"), 0);
    drop(front.forwarder);
}
