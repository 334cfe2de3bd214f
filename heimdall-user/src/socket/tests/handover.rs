//! Hand-over between fronts, and a front's end without a successor.

use std::{
    collections::HashMap,
    net::Shutdown,
    slice,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use proptest::{
    collection::vec,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::{handover::Connection, socket::inherited::describe};

/// Far longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(20);

/// An upstream that answers some names late.
fn upstream() -> Upstream {
    Upstream::start(|seen| {
        if seen.msg[13] == b's' {
            thread::sleep(Duration::from_millis(2));
        }
        vec![response(&seen.msg, 20)]
    })
}

fn start(upstream: &Upstream) -> Bench {
    Bench::new(&["127.0.0.1:0"], vec![upstream.address], 4096)
}

/// A server on the sockets of another one.
fn successor(of: &Bench, upstream: &Upstream) -> Bench {
    let mut inherited = of.front.listeners().unwrap();
    let listeners = Listeners::bind(&of.addresses, &mut inherited).unwrap();
    assert_eq!(inherited.len(), 0);
    Bench::with(listeners, vec![upstream.address], 4096)
}

fn retire(bench: &Bench, how: Ending, limit: Duration, mut sink: impl FnMut(Connection)) {
    SocketFront::retire(slice::from_ref(&bench.front), how, limit, &mut sink).unwrap();
}

fn adopt(bench: &Bench, connection: Connection) {
    SocketFront::adopt(slice::from_ref(&bench.front), connection);
}

fn hand_over(from: &Bench, to: &Bench) {
    retire(from, Ending::HandOver, LIMIT, |given| adopt(to, given));
    wait_for(from, "tcp_open", 0);
    assert_eq!(from.count("tcp_drained_late"), 0);
}

/// Waits until a counter has this value.
fn wait_for(bench: &Bench, name: &str, value: u64) {
    let end = Instant::now() + READ_TIMEOUT;
    while bench.count(name) != value {
        assert!(Instant::now() < end, "{name} is {}", bench.count(name));
        thread::sleep(Duration::from_millis(5));
    }
}

/// Some name: one that is in every cache soon, or a new one, which may be slow.
fn name(random: &mut fastrand::Rng) -> String {
    match random.u8(..8) {
        0 => format!("s{}", random.u32(..)),
        1 | 2 => format!("n{}", random.u32(..)),
        _ => format!("warm{}", random.u8(..20)),
    }
}

/// Queries that were sent, and not answered yet.
type Open = Mutex<HashMap<u16, Vec<u8>>>;

/// Sends queries that are cut at any octets, until `stop`. Every one gets its reply, once, and nothing else comes.
fn pipeline(address: SocketAddr, seed: u64, stop: &AtomicBool) {
    // No more than the upstream, which answers one after the other, can have in its socket.
    const MOST_OPEN: usize = 30;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let open = Open::default();
    thread::scope(|scope| {
        let replies = scope.spawn(|| {
            let mut len = [0; 2];
            loop {
                match reader.read(&mut len[..1]).unwrap() {
                    0 => return,
                    _ => reader.read_exact(&mut len[1..]).unwrap(),
                }
                let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
                reader.read_exact(&mut reply).unwrap();
                let id = u16::from_be_bytes([reply[0], reply[1]]);
                let asked = open.lock().unwrap().remove(&id);
                assert_answers(&asked.expect("one reply for each query"), &reply);
            }
        });
        let mut octets = Vec::new();
        let mut id = 0;
        while !stop.load(Ordering::Relaxed) || !octets.is_empty() {
            while octets.len() < 2000
                && !stop.load(Ordering::Relaxed)
                && open.lock().unwrap().len() < MOST_OPEN
            {
                let msg = query(id, &name(&mut random), Some(1232));
                octets.extend(frame(&msg));
                let earlier = open.lock().unwrap().insert(id, msg);
                assert_eq!(earlier, None);
                id = id.wrapping_add(1);
            }
            let cut = random.usize(..=octets.len().min(120));
            stream.write_all(&octets[..cut]).unwrap();
            octets.drain(..cut);
            if random.u8(..8) == 0 || octets.is_empty() {
                thread::sleep(Duration::from_micros(random.u64(..2000)));
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
        replies.join().unwrap();
    });
    assert!(open.into_inner().unwrap().is_empty());
}

/// Asks again and again over UDP until `stop`. How many queries.
fn datagrams(address: SocketAddr, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let socket = client(address);
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let msg = query(asked as u16, &name(&mut random), None);
        // Not one is lost.
        assert_answers(&msg, &ask(&socket, &msg));
        asked += 1;
    }
    asked
}

/// New connections all the time, with a query each. How many.
fn connects(address: SocketAddr, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        let msg = query(asked as u16, &name(&mut random), None);
        assert_answers(&msg, &ask_tcp(&mut stream, &msg));
        asked += 1;
    }
    asked
}

#[test]
fn every_query_gets_one_reply_through_ten_hand_overs() {
    const HAND_OVERS: u64 = 10;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let upstream = upstream();
    let mut bench = start(&upstream);
    let address = bench.addresses[0];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        for of in 0..4 {
            scope.spawn(move || pipeline(address, seed ^ of, stop));
        }
        wait_for(&bench, "tcp_open", 4);
        let clients = [
            scope.spawn(move || datagrams(address, seed ^ 8, stop)),
            scope.spawn(move || connects(address, seed ^ 9, stop)),
        ];
        let mut handed_over = 0;
        for _ in 0..HAND_OVERS {
            thread::sleep(Duration::from_millis(random.u64(..40)));
            let next = successor(&bench, &upstream);
            hand_over(&bench, &next);
            let given = bench.count("tcp_handed_over");
            wait_for(&next, "tcp_adopted", given);
            handed_over += given;
            std::mem::replace(&mut bench, next).finish();
        }
        // And one that is taken back.
        let mut given = Vec::new();
        retire(&bench, Ending::HandOver, LIMIT, |connection| {
            given.push(connection)
        });
        bench.front.resume();
        for connection in given {
            adopt(&bench, connection);
        }
        thread::sleep(Duration::from_millis(20));
        stop.store(true, Ordering::Relaxed);
        assert!(handed_over >= 4 * HAND_OVERS, "the pipelines");
        assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
    });
    bench.finish();
}

#[test]
fn a_connection_moves_when_its_queries_are_answered_and_its_replies_sent() {
    // More than the kernel's buffers take.
    const LARGE: usize = 400;
    let (let_go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let upstream = Upstream::start(move |seen: &Seen| {
        if seen.msg[13] == b'h' {
            let _ = held.lock().unwrap().recv_timeout(READ_TIMEOUT);
        }
        match (seen.msg[13], seen.tcp) {
            (b'l', false) => vec![bare(&seen.msg, 0x200)],
            (b'l', true) => vec![response(&seen.msg, 50_000)],
            _ => vec![response(&seen.msg, 20)],
        }
    });
    let old = start(&upstream);
    let [mut idle, mut waits, mut slow] = [(); 3].map(|()| old.tcp());
    let msg = query(1, "name", None);
    let large = query(2, "large", None);
    assert_answers(&msg, &ask_tcp(&mut idle, &msg));
    assert_answers(&large, &ask_tcp(&mut slow, &large));
    // Its client does not read.
    slow.write_all(&frame(&large).repeat(LARGE)).unwrap();
    let end = Instant::now() + READ_TIMEOUT;
    let mut answered = 0;
    while answered < 10 || old.count("tcp_answered") > answered {
        assert!(Instant::now() < end);
        answered = old.count("tcp_answered");
        thread::sleep(Duration::from_millis(50));
    }
    let held_query = query(3, "held", None);
    waits.write_all(&frame(&held_query)).unwrap();
    // And the beginning of another.
    waits.write_all(&frame(&msg)[..9]).unwrap();
    wait_for(&old, "pending", 1);

    let other = answers();
    let new = successor(&old, &other);
    thread::scope(|scope| {
        let moving = scope.spawn(|| hand_over(&old, &new));
        wait_for(&new, "tcp_adopted", 1);
        assert_answers(&msg, &ask_tcp(&mut idle, &msg));
        assert_eq!(new.count("tcp_answered"), 1);
        let_go.send(()).unwrap();
        assert_answers(&held_query, &read_frame(&mut waits));
        wait_for(&new, "tcp_adopted", 2);
        waits.write_all(&frame(&msg)[9..]).unwrap();
        assert_answers(&msg, &read_frame(&mut waits));
        assert_eq!(old.count("tcp_handed_over"), 2);
        for _ in 0..LARGE {
            assert_answers(&large, &read_frame(&mut slow));
        }
        assert_answers(&msg, &ask_tcp(&mut slow, &msg));
        moving.join().unwrap();
    });
    assert_eq!(old.count("tcp_handed_over"), 3);
    old.finish();
    new.finish();
}

#[test]
fn what_is_left_at_the_limit_is_closed() {
    let silent = Upstream::start(|_| Vec::new());
    for how in [Ending::HandOver, Ending::Drain] {
        let bench = start(&silent);
        let mut stream = bench.tcp();
        stream.write_all(&frame(&query(1, "name", None))).unwrap();
        wait_for(&bench, "pending", 1);
        retire(&bench, how, Duration::from_millis(100), |_| {
            panic!("its query waits")
        });
        assert!(is_closed(&mut stream), "{how:?}");
        assert_eq!(bench.count("tcp_drained_late"), 1);
        bench.finish();
    }
}

#[test]
fn a_front_that_drains_answers_what_has_arrived_and_ends_in_order() {
    const QUERIES: u16 = 100;
    let upstream = upstream();
    let bench = start(&upstream);
    let address = bench.addresses[0];
    let mut stream = bench.tcp();
    let warm = query(1, "warm", None);
    assert_answers(&warm, &ask_tcp(&mut stream, &warm));
    let mut idle = bench.tcp();
    assert_answers(&warm, &ask_tcp(&mut idle, &warm));
    // It never asks, and never closes.
    let mut silent = bench.tcp();
    let asking = client(address);
    let queries: Vec<_> = (0..QUERIES)
        .map(|id| query(id, &format!("s{id}"), None))
        .collect();
    for msg in &queries {
        asking.send(msg).unwrap();
    }
    let frames: Vec<u8> = queries.iter().flat_map(|msg| frame(msg)).collect();
    stream.write_all(&frames).unwrap();
    let new = thread::scope(|scope| {
        let drain =
            scope.spawn(|| retire(&bench, Ending::Drain, LIMIT, |_| panic!("no successor")));
        let mut seen = vec![false; queries.len()];
        for _ in 0..QUERIES {
            let reply = read_frame(&mut stream);
            let id = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            assert_answers(&queries[id], &reply);
            assert!(!std::mem::replace(&mut seen[id], true));
        }
        // An end, and no reset although it goes on asking. That may be answered, if it is quick.
        stream.write_all(&frame(&warm)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        if let [_, _, reply @ ..] = &rest[..] {
            assert_answers(&warm, reply);
        }
        assert_eq!(idle.read(&mut [0; 9]).unwrap(), 0);
        drop((stream, idle));
        assert_eq!(silent.read(&mut [0; 9]).unwrap(), 0);
        let mut buf = [0; 600];
        for _ in 0..QUERIES {
            let len = asking.recv(&mut buf).unwrap();
            let id = usize::from(u16::from_be_bytes([buf[0], buf[1]]));
            assert_answers(&queries[id], &buf[..len]);
        }
        drain.join().unwrap();
        // It has nothing any more, though its thread is there.
        assert!(bench.front.listeners().unwrap().is_empty());
        start_on(&bench.addresses, &upstream)
    });
    assert_eq!(bench.count("tcp_drained"), 3);
    assert_eq!(bench.count("tcp_drained_late"), 0);
    bench.finish();
    assert_answers(&warm, &ask_tcp(&mut new.tcp(), &warm));
    new.finish();
}

fn start_on(addresses: &[SocketAddr], upstream: &Upstream) -> Bench {
    let listeners = Listeners::bind(addresses, &mut Vec::new()).unwrap();
    Bench::with(listeners, vec![upstream.address], 64)
}

#[test]
fn connections_without_room_are_closed_in_order() {
    let upstream = upstream();
    let old = start(&upstream);
    let msg = query(1, "name", None);
    let mut streams = [(); 3].map(|()| old.tcp());
    for stream in &mut streams {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let mut inherited = old.front.listeners().unwrap();
    let listeners = Listeners::bind(&old.addresses, &mut inherited).unwrap();
    let listeners = listeners.split(1, 2).unwrap().remove(0);
    let new = Bench::with(listeners, vec![upstream.address], 64);
    hand_over(&old, &new);
    wait_for(&new, "tcp_adopted_closed", 1);
    assert_eq!(new.count("tcp_adopted"), 2);
    let mut closed = 0;
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0; 2]) {
            Ok(0) => closed += 1,
            other => {
                assert_eq!(other.unwrap_err().kind(), io::ErrorKind::WouldBlock);
                stream.set_nonblocking(false).unwrap();
                assert_answers(&msg, &ask_tcp(stream, &msg));
            }
        }
    }
    assert_eq!(closed, 1);
    old.finish();
    new.finish();
}

#[test]
fn connections_are_spread_over_the_threads() {
    let upstream = answers();
    let old = start(&upstream);
    let msg = query(1, "name", None);
    let mut streams = [(); 9].map(|()| old.tcp());
    for stream in &mut streams {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let mut inherited = old.front.listeners().unwrap();
    let listeners = Listeners::bind(&old.addresses, &mut inherited).unwrap();
    let listeners = listeners.split(3, 100).unwrap().into_iter();
    let (fronts, forwarders): (Vec<_>, Vec<_>) = listeners
        .map(|listeners| Bench::with(listeners, vec![upstream.address], 64))
        .map(|bench| (bench.front, bench.forwarder))
        .unzip();
    retire(&old, Ending::HandOver, LIMIT, |given| {
        SocketFront::adopt(&fronts, given)
    });
    for stream in &mut streams {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let adopted = fronts
        .iter()
        .map(|front| front.counters().tcp_adopted.get());
    let adopted: Vec<u64> = adopted.collect();
    assert!(adopted.iter().all(|count| *count > 0), "{adopted:?}");
    assert_eq!(adopted.iter().sum::<u64>(), 9);
    old.finish();
    drop((fronts, forwarders));
}

#[test]
fn an_address_that_the_successor_does_not_have_is_read_to_its_end() {
    const QUERIES: u16 = 200;
    let upstream = upstream();
    let old = Bench::new(
        &["127.0.0.1:0", "127.0.0.2:0"],
        vec![upstream.address],
        4096,
    );
    let msg = query(1, "name", None);
    let asking = client(old.addresses[1]);
    let mut connected = TcpStream::connect(old.addresses[1]).unwrap();
    connected.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    let mut inherited = old.front.listeners().unwrap();
    let listeners = Listeners::bind(&old.addresses[..1], &mut inherited).unwrap();
    let rest: Vec<String> = inherited.iter().map(describe).collect();
    let gone = old.addresses[1];
    assert_eq!(rest, [format!("UDP {gone}"), format!("TCP {gone}")]);
    drop(inherited);
    let new = Bench::with(listeners, vec![upstream.address], 64);
    for id in 0..QUERIES {
        asking.send(&query(id, "name", None)).unwrap();
    }
    hand_over(&old, &new);
    let mut buf = [0; 600];
    for _ in 0..QUERIES {
        asking.recv(&mut buf).unwrap();
    }
    // A connection of that address goes on.
    assert_answers(&msg, &ask_tcp(&mut connected, &msg));
    assert_eq!(new.count("tcp_answered"), 1);
    old.finish();
    asking.send(&msg).unwrap();
    let error = asking.recv(&mut buf).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    new.finish();
}

#[test]
fn a_burst_that_is_queued_when_a_front_retires_gets_answers() {
    // More than can wait, and no more than a socket's queue holds.
    const QUERIES: u16 = 250;
    let upstream = answers();
    for how in [Ending::HandOver, Ending::Drain] {
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &mut Vec::new());
        let listeners = listeners.unwrap();
        let asking = client(listeners.local_addresses()[0]);
        let policy = Policy::default();
        let (mut front, counters, forwarder) =
            stopped_waiting(listeners, upstream.address, policy, 100);
        let queries: Vec<_> = (0..QUERIES)
            .map(|id| query(id, &format!("n{id}"), None))
            .collect();
        for msg in &queries {
            asking.send(msg).unwrap();
        }
        let (to, connections) = mpsc::channel();
        front.engine.begin();
        front.retire(how, Instant::now() + LIMIT, to);
        front.engine.end();
        // Its drop tells that the retirement is over.
        while matches!(connections.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            thread::sleep(Duration::from_millis(1));
            front.sockets.now = Instant::now();
            front.engine.begin();
            front.complete();
            front.continue_retirement();
            front.engine.end();
        }
        let mut buf = [0; 600];
        for _ in 0..QUERIES {
            let len = asking.recv(&mut buf).unwrap();
            let id = usize::from(u16::from_be_bytes([buf[0], buf[1]]));
            assert_answers(&queries[id], &buf[..len]);
        }
        assert_eq!(counters.overflow.get(), 0, "{how:?}");
        drop((front, forwarder));
    }
}

/// Has a front hand its connections over to the other one. Which has them then.
fn move_all(fronts: &mut [front::Loop; 2], from: usize) -> usize {
    let (to, connections) = mpsc::channel();
    let until = fronts[from].sockets.now + LIMIT;
    fronts[from].retire(Ending::HandOver, until, to);
    fronts[from].continue_retirement();
    for connection in connections {
        fronts[1 - from].adopt(connection);
    }
    fronts[from].resume();
    1 - from
}

/// Sends a query of each length, in pieces of these lengths; after those with `true`, the connection moves. The replies come in
/// the order of the queries.
fn exchange(
    fronts: &mut [front::Loop; 2],
    address: SocketAddr,
    labels: &[usize],
    cuts: &[(usize, bool)],
) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    while fronts[0].sockets.connections.len() == 0 {
        let front::Loop {
            sockets, engine, ..
        } = &mut fronts[0];
        sockets.accept(0, engine);
    }
    let mut octets = Vec::new();
    for (id, label) in (0..).zip(labels) {
        let mut update = query(id, &"x".repeat(*label), None);
        // NOTIMP, at once.
        update[2] = 5 << 3;
        octets.extend(frame(&update));
    }
    let (mut left, mut at) = (&octets[..], 0);
    for (len, moves) in cuts {
        let (piece, rest) = left.split_at((*len).min(left.len()));
        client.write_all(piece).unwrap();
        left = rest;
        fronts[at].serve(0);
        if *moves {
            at = move_all(fronts, at);
        }
    }
    client.write_all(left).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    while fronts[at].sockets.connections.len() > 0 {
        fronts[at].sockets.connections.note_closing(0);
        fronts[at].serve(0);
    }
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).unwrap();
    let mut replies = &replies[..];
    for id in 0..labels.len() as u16 {
        let reply = read_frame(&mut replies);
        assert_eq!((&reply[..2], rcode(&reply)), (&id.to_be_bytes()[..], 4));
    }
    assert!(replies.is_empty());
}

#[test]
fn a_stream_that_is_cut_and_moved_anywhere_gets_the_same_replies() {
    let upstream = answers();
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &mut Vec::new()).unwrap();
    let address = listeners.local_addresses();
    let (one, _, first) = stopped(listeners, upstream.address);
    let mut inherited = one.sockets.duplicates().unwrap();
    let listeners = Listeners::bind(&address, &mut inherited).unwrap();
    let (other, _, second) = stopped(listeners, upstream.address);
    let fronts = std::cell::RefCell::new([one, other]);
    let labels = vec(1..60usize, 1..20);
    let cuts = vec((0..80usize, proptest::bool::ANY), 0..40);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(200)
    };
    TestRunner::new(config)
        .run(&(labels, cuts), |(labels, cuts)| {
            exchange(&mut fronts.borrow_mut(), address[0], &labels, &cuts);
            Ok(())
        })
        .unwrap();
    let [one, other] = &*fronts.borrow();
    let counters = [&one.sockets.counters, &other.sockets.counters];
    let [given, taken] = [
        counters[0].tcp_handed_over.get(),
        counters[1].tcp_adopted.get(),
    ];
    assert!(given > 100 && given == taken, "{given} {taken}");
    drop((first, second));
}
