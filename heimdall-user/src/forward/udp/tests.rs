//! The pools against sockets on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::{HashMap, HashSet},
    net::UdpSocket as Peer,
    thread,
};

use mio::{Poll, Token};

use super::*;
use crate::forward::exchange::{Sent, Target};

/// A pool of sockets to one upstream.
struct Bench {
    poll: Poll,
    udp: Udp,
    batch: Batch,
    peer: Peer,
    now: Instant,
    serial: u64,
}

impl Bench {
    fn new() -> Self {
        let peer = Peer::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self {
            poll: Poll::new().unwrap(),
            udp: {
                let mut udp = Udp::new();
                udp.add_upstream(0);
                udp
            },
            batch: Batch::new(),
            peer,
            now: Instant::now(),
            serial: 0,
        }
    }

    fn choose(&mut self) -> usize {
        let to = Destination {
            registry: self.poll.registry(),
            token: Token,
            upstream: 0,
            address: self.peer.local_addr().unwrap(),
            now: self.now,
        };
        self.udp.choose(to).unwrap()
    }

    /// Queues a query.
    fn ask(&mut self) -> Exchange {
        self.ask_with(2)
    }

    /// Queues a query of `octets` octets.
    fn ask_with(&mut self, octets: usize) -> Exchange {
        let number = self.choose();
        self.serial += 1;
        let outstanding = self.udp.assign(number, 0, self.serial).unwrap();
        let mut query = vec![0; octets];
        query[..2].copy_from_slice(&outstanding.id.to_be_bytes());
        self.udp.queue(number, outstanding, &query);
        let target = Target {
            upstream: 0,
            plain: false,
            bare: false,
            tcp: false,
        };
        let sent = Sent {
            target,
            serial: self.serial,
            id: outstanding.id,
            at: self.now,
            waited: false,
            letters: None,
            cookie: None,
        };
        let transport = Transport::Udp(number);
        Exchange {
            sent,
            transport,
            rejected: 0,
            moved: false,
            sampled: false,
        }
    }

    /// Sends what is queued.
    fn send(&mut self) {
        assert_eq!(self.unsent(), []);
    }

    /// Sends what is queued. Returns what could not be sent.
    fn unsent(&mut self) -> Vec<Unsent> {
        let mut unsent = Vec::new();
        self.udp.send(&mut self.batch, &mut unsent);
        unsent
    }

    /// The ID of a query that has arrived.
    fn arrived(&self) -> u16 {
        let mut id = [0; 2];
        self.peer.recv(&mut id).unwrap();
        u16::from_be_bytes(id)
    }

    /// A socket that was replaced, on which a query is outstanding.
    fn replaced(&mut self) -> Exchange {
        let exchange = self.ask();
        self.drop_queue();
        self.udp.retire(number(&exchange));
        exchange
    }

    /// Ends the turn without sending, as if what is queued had been sent.
    fn drop_queue(&mut self) {
        self.udp.queue.queries.clear();
        self.udp.queue.octets.clear();
        self.udp.pools[0].chosen = None;
    }

    /// What the datagrams are that have arrived on a socket.
    fn received(&mut self, number: usize, count: usize) -> Vec<Match> {
        let mut all = Vec::new();
        while all.len() < count {
            let socket = self.udp.socket(number).unwrap();
            match self.batch.receive(socket) {
                Ok(received) => all.extend((0..received).map(|at| {
                    let datagram = self.batch.datagram(at).unwrap();
                    self.udp.socket(number).unwrap().find(&datagram)
                })),
                Err(error) => {
                    assert_eq!(error, Errno::EAGAIN);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        all
    }

    fn port(&mut self, number: usize) -> u16 {
        let socket = self.udp.socket(number).unwrap();
        socket.io().local_addr().unwrap().port()
    }
}

fn outstanding(exchange: &Exchange) -> Outstanding {
    Outstanding {
        id: exchange.sent.id,
        slot: 0,
        serial: exchange.sent.serial,
    }
}

fn number(exchange: &Exchange) -> usize {
    match exchange.transport {
        Transport::Udp(number) => number,
        Transport::Tcp(_) => unreachable!(),
    }
}

#[test]
fn ports_and_ids_are_random_and_ports_are_renewed() {
    ports_and_ids_are_random(1);
}

#[test]
fn ports_and_ids_of_long_turns_are_random_and_ports_are_renewed() {
    ports_and_ids_are_random(64);
}

/// With `turn` queries a turn.
fn ports_and_ids_are_random(turn: usize) {
    let mut bench = Bench::new();
    let mut uses = HashMap::new();
    let mut ports = HashMap::new();
    let mut order = Vec::new();
    let mut all_ids = HashSet::new();
    for query in 1..=64 * 1024 {
        let exchange = bench.ask();
        let number = number(&exchange);
        let ids: &mut HashSet<u16> = uses.entry(number).or_default();
        assert!(ids.insert(exchange.sent.id), "an ID twice on a socket");
        let port = bench.port(number);
        ports.insert(number, port);
        order.push(port);
        if query % turn == 0 {
            bench.drop_queue();
        }
        bench.udp.end(&exchange);
        assert!(bench.udp.sockets.len() <= POOL);
    }
    for (number, used) in &uses {
        let is_open = bench.udp.sockets.contains_key(number);
        assert!(used.len() <= usize::from(*QUERIES.end()));
        let min = usize::from(*QUERIES.start());
        assert!(is_open || used.len() >= min, "replaced too early");
        all_ids.extend(used.iter().copied());
    }
    // 65,536 draws leave a part of 1/e of the IDs out.
    assert!(
        (39_000..44_000).contains(&all_ids.len()),
        "{}",
        all_ids.len()
    );
    // A socket carries 640 queries on average.
    let opened: Vec<_> = ports.values().collect();
    assert!((80..200).contains(&opened.len()), "{}", opened.len());
    let different: HashSet<_> = opened.iter().collect();
    assert!(different.len() > opened.len() - 10, "ports come twice");
    let first_worn_out: HashSet<_> = uses.values().map(HashSet::len).collect();
    assert!(first_worn_out.len() > 40, "sockets last unequally long");
    // One turn in 16 uses the same socket as the one before.
    let order: Vec<_> = order.iter().step_by(turn).collect();
    let same = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let expected = order.len() / POOL;
    assert!((expected / 2..expected * 3 / 2).contains(&same), "{same}");
}

#[test]
fn old_sockets_are_replaced() {
    let mut bench = Bench::new();
    let ports = |bench: &mut Bench| {
        let numbers = (0..300).map(|_| {
            let number = bench.choose();
            bench.drop_queue();
            bench.port(number)
        });
        numbers.collect::<HashSet<_>>()
    };
    let first = ports(&mut bench);
    assert!((12..=POOL).contains(&first.len()));
    assert_eq!(ports(&mut bench), first);
    bench.now += Duration::from_millis(*AGE.end());
    let second = ports(&mut bench);
    assert!(first.intersection(&second).count() < 2);
}

#[test]
fn queries_of_a_turn_share_a_socket() {
    let mut bench = Bench::new();
    let sent: Vec<_> = (0..100).map(|_| bench.ask()).collect();
    bench.send();
    let sockets: HashSet<_> = sent.iter().map(number).collect();
    assert_eq!(sockets.len(), 1);
    let port = bench.port(number(&sent[0]));
    for exchange in &sent {
        let mut id = [0; 4];
        let (len, from) = bench.peer.recv_from(&mut id).unwrap();
        assert_eq!((len, from.port()), (2, port));
        assert_eq!(id[..2], exchange.sent.id.to_be_bytes());
        bench.peer.send_to(&id[..2], from).unwrap();
    }
    let matches = bench.received(number(&sent[0]), 100);
    for (exchange, found) in sent.iter().zip(matches) {
        assert_eq!(found, Match::Query(outstanding(exchange)));
    }
}

#[test]
fn a_replaced_socket_takes_late_responses_until_the_last_of_its_queries_ends() {
    let mut bench = Bench::new();
    let (first, second) = (bench.ask(), bench.ask());
    bench.send();
    let number = number(&first);
    let port = bench.port(number);
    bench.now += Duration::from_millis(*AGE.end());
    for _ in 0..300 {
        assert_ne!(bench.choose(), number, "it gets no more queries");
        bench.drop_queue();
    }
    assert!(bench.udp.socket(number).unwrap().is_retired());
    let id = second.sent.id.to_be_bytes();
    bench.peer.send_to(&id, ("127.0.0.1", port)).unwrap();
    let found = Match::Query(outstanding(&second));
    assert_eq!(bench.received(number, 1), [found]);
    bench.udp.end(&first);
    assert!(bench.udp.socket(number).is_some());
    bench.udp.end(&second);
    assert!(bench.udp.socket(number).is_none());
}

#[test]
fn datagrams_of_no_query_are_told_apart() {
    let mut bench = Bench::new();
    let exchange = bench.ask();
    bench.send();
    let number = number(&exchange);
    let to = ("127.0.0.1", bench.port(number));
    bench.udp.end(&exchange);
    let id = exchange.sent.id;
    let other = id.wrapping_add(1);
    bench.peer.send_to(&[7], to).unwrap();
    bench.peer.send_to(&other.to_be_bytes(), to).unwrap();
    bench.peer.send_to(&id.to_be_bytes(), to).unwrap();
    bench.peer.send_to(&id.to_be_bytes(), to).unwrap();
    // The kernel drops it.
    let stranger = Peer::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&id.to_be_bytes(), to).unwrap();
    bench.peer.send_to(&[], to).unwrap();
    let found = bench.received(number, 5);
    let late_once = [Match::TooShort, Match::WrongId, Match::Late, Match::WrongId];
    assert_eq!(
        found[..4],
        late_once,
        "one query can have one late response"
    );
    assert_eq!(found[4..], [Match::TooShort]);
    let datagram = Datagram {
        message: &id.to_be_bytes(),
        from_upstream: false,
    };
    let socket = bench.udp.socket(number).unwrap();
    assert_eq!(socket.find(&datagram), Match::WrongSource);
    for rejected in 1..MAX_REJECTED {
        assert!(!socket.reject(), "{rejected}");
    }
    assert!(socket.reject());
}

#[test]
fn an_error_ends_all_queries_of_its_socket_and_no_others() {
    let mut bench = Bench::new();
    let first: Vec<_> = (0..3).map(|_| bench.ask()).collect();
    bench.send();
    let mut second = bench.ask();
    while number(&second) == number(&first[0]) {
        bench.drop_queue();
        bench.udp.end(&second);
        second = bench.ask();
    }
    bench.drop_queue();
    let (failed, other) = (number(&first[0]), number(&second));
    // The peer's port is closed now.
    let peer = std::mem::replace(&mut bench.peer, Peer::bind("127.0.0.1:0").unwrap());
    drop(peer);
    let socket = bench.udp.socket(failed).unwrap();
    while socket.io().take_error().unwrap().is_none() {
        socket.io().send(&[0]).ok();
        thread::sleep(Duration::from_millis(1));
    }
    socket.io().send(&[0]).unwrap();
    thread::sleep(Duration::from_millis(20));
    let socket = bench.udp.socket(failed).unwrap();
    assert_eq!(bench.batch.receive(socket), Err(Errno::ECONNREFUSED));
    let ended = bench.udp.close(failed);
    let ended: HashSet<_> = ended.iter().map(|ended| ended.serial).collect();
    assert_eq!(ended, first.iter().map(|e| e.sent.serial).collect());
    assert!(bench.udp.socket(failed).is_none());
    assert!(bench.udp.socket(other).unwrap().is_outstanding());
}

#[test]
fn a_query_that_cannot_be_sent_does_not_fail_the_others() {
    let mut bench = Bench::new();
    // More than a datagram holds.
    let sent = [2, 70_000, 2, 70_000].map(|octets| bench.ask_with(octets));
    let lost = |exchange| Unsent::Query(outstanding(exchange), SendError::Address);
    assert_eq!(bench.unsent(), [lost(&sent[1]), lost(&sent[3])]);
    assert_eq!(bench.arrived(), sent[0].sent.id);
    assert_eq!(bench.arrived(), sent[2].sent.id);
    assert!(bench.udp.socket(number(&sent[0])).is_some());
    for (errno, error) in [
        (Errno::ENETUNREACH, SendError::Route),
        (Errno::EHOSTUNREACH, SendError::Upstream),
    ] {
        assert_eq!(error_of(errno), error);
    }
}

#[test]
fn an_error_that_is_found_when_sending_fails_the_socket() {
    let mut bench = Bench::new();
    let number = number(&bench.ask());
    let upstream = bench.peer.local_addr().unwrap();
    drop(std::mem::replace(
        &mut bench.peer,
        Peer::bind("127.0.0.1:0").unwrap(),
    ));
    let deadline = Instant::now() + Duration::from_secs(10);
    // The first datagram brings the ICMP error about, the next one gets it.
    bench.udp.socket(number).unwrap().io().send(&[0]).unwrap();
    while bench.unsent() != [Unsent::Socket(number)] {
        assert!(Instant::now() < deadline, "no error from {upstream}");
        thread::sleep(Duration::from_millis(1));
        let serial = bench.serial;
        let outstanding = bench.udp.assign(number, 0, serial).unwrap();
        bench.udp.queue(number, outstanding, &[0; 2]);
    }
}

#[test]
fn queries_of_a_closed_socket_are_not_taken_for_sent() {
    let mut bench = Bench::new();
    let exchange = bench.ask();
    bench.udp.retire(number(&exchange));
    assert!(bench.udp.close_oldest());
    assert!(!bench.udp.close_oldest());
    let lost = Unsent::Query(outstanding(&exchange), SendError::Resources);
    assert_eq!(bench.unsent(), [lost]);
}

#[test]
fn the_oldest_socket_without_queries_to_send_is_closed_first() {
    let mut bench = Bench::new();
    let queued = bench.ask();
    bench.udp.retire(number(&queued));
    let [second, third] = [(); 2].map(|()| {
        let number = bench.choose();
        bench.udp.assign(number, 0, 0).unwrap();
        bench.udp.retire(number);
        number
    });
    assert!(bench.udp.close_oldest());
    assert!(bench.udp.socket(second).is_none());
    assert!(bench.udp.socket(third).is_some());
    bench.send();
    assert_eq!(bench.arrived(), queued.sent.id);
}

#[test]
fn room_is_made_with_one_socket() {
    let mut bench = Bench::new();
    let (first, second) = (bench.replaced(), bench.replaced());
    let worn_out = bench.choose();
    bench.now += Duration::from_millis(*AGE.end());
    bench.udp.make_room(0, bench.now);
    assert!(bench.udp.socket(worn_out).is_none());
    assert!(bench.udp.socket(number(&first)).is_some());
    bench.udp.make_room(0, bench.now);
    assert!(bench.udp.socket(number(&first)).is_none(), "the oldest");
    assert!(bench.udp.socket(number(&second)).is_some());
}

#[test]
fn few_replaced_sockets_stay_open() {
    let mut bench = Bench::new();
    let mut sent = Vec::new();
    for _ in 0..MAX_RETIRED + 4 * POOL {
        let exchange = bench.ask();
        bench.drop_queue();
        bench.now += Duration::from_millis(*AGE.end());
        sent.push(exchange);
    }
    assert!(bench.udp.sockets.len() <= max_files(1));
    assert!(bench.udp.socket(number(&sent[0])).is_none(), "the oldest");
    assert!(bench.udp.socket(number(sent.last().unwrap())).is_some());
    for exchange in &sent {
        bench.udp.end(exchange);
    }
    assert!(bench.udp.sockets.len() <= POOL);
}

#[test]
fn a_response_that_does_not_fit_is_truncated() {
    let mut bench = Bench::new();
    let exchange = bench.ask();
    bench.send();
    let number = number(&exchange);
    let to = ("127.0.0.1", bench.port(number));
    let mut response = vec![0; 8_000];
    response[..2].copy_from_slice(&exchange.sent.id.to_be_bytes());
    bench.peer.send_to(&response, to).unwrap();
    assert!(matches!(bench.received(number, 1)[..], [Match::Query(_)]));
    let datagram = bench.batch.datagram(0).unwrap();
    assert_eq!(datagram.message[2], 2, "TC");
    assert!(datagram.message.len() > 4_000);
}
