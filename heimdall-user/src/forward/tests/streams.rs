//! Connections to upstreams.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt::Linger},
};

use super::*;
use crate::forward::{UpstreamAddress, UpstreamTransport};

/// What was read from a connection that was closed, or reset.
const CLOSED: &str = "it was closed";

/// An upstream over TCP, each of whose connections a function serves, which gets its number and the stream.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    pub(super) fn start(
        serve: impl Fn(usize, &mut TcpStream) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            thread::scope(|scope| {
                for (number, stream) in listener.incoming().enumerate() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    stream
                        .set_read_timeout(Some(Duration::from_secs(30)))
                        .unwrap();
                    let serve = &serve;
                    scope.spawn(move || serve(number, &mut stream));
                }
            });
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub(super) fn options(&self) -> ForwardOptions {
        ForwardOptions {
            upstreams: vec![over_tcp(self.address)],
            ..options(Vec::new())
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread. Those of connections end as the forwarder has closed them.
        drop(TcpStream::connect(self.address));
        let joined = self.thread.take().unwrap().join();
        assert!(joined.is_ok() || thread::panicking(), "the peer panicked");
    }
}

fn over_tcp(address: SocketAddr) -> UpstreamAddress {
    UpstreamAddress {
        address,
        transport: UpstreamTransport::Tcp,
    }
}

/// The next query; `None`: the forwarder has closed the connection.
pub(super) fn read(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut msg = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut msg).ok()?;
    Some(msg)
}

fn framed(msg: &[u8]) -> Vec<u8> {
    [&(msg.len() as u16).to_be_bytes()[..], msg].concat()
}

/// Answers everything.
pub(super) fn serve(stream: &mut (impl Read + Write)) -> Option<()> {
    loop {
        let msg = read(stream)?;
        stream.write_all(&framed(&response(&msg, 20))).ok()?;
    }
}

/// Asks for `count` names at once.
fn ask_at_once(bench: &mut Bench, count: u64) {
    for token in 0..count {
        let request = bench.request(&query(9, &format!("n{token}"), None), 0, token);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
}

fn ask(bench: &mut Bench, label: &str) -> bool {
    bench.submit(&query(9, label, None), 1);
    answered(&bench.outcome())
}

#[test]
fn one_connection_carries_all_truncated_answers() {
    let upstream = Upstream::keeping_connections(|seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => vec![response(&seen.msg, 2_000)],
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for number in 0..300 {
        assert!(ask(&mut bench, &format!("n{number}")));
    }
    let seen = upstream.seen();
    let ports: HashSet<_> = (seen.iter().filter(|seen| seen.tcp))
        .map(|seen| seen.from.port())
        .collect();
    assert_eq!(ports.len(), 1);
    let counts = ["sent_tcp", "connections_opened", "connections", "moved"];
    assert_eq!(counts.map(|name| bench.count(name)), [300, 1, 1, 0]);
    bench.finish();
}

#[test]
fn an_upstream_of_tcp_gets_no_datagram() {
    let upstream = Upstream::keeping_connections(|seen| vec![response(&seen.msg, 20)]);
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![over_tcp(upstream.address)],
        ..options(Vec::new())
    });
    for label in ["a", "b", "c"] {
        assert!(ask(&mut bench, label));
    }
    assert!(upstream.seen().iter().all(|seen| seen.tcp));
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (0, 3));
    bench.finish();
}

#[test]
fn responses_come_in_any_order_and_any_segments() {
    const QUERIES: usize = 20;
    for merged in [true, false] {
        let peer = Peer::start(move |_, stream| {
            let queries: Option<Vec<_>> = (0..QUERIES).map(|_| read(stream)).collect();
            let mut octets = Vec::new();
            for query in queries?.iter().rev() {
                octets.extend(framed(&response(query, 20)));
            }
            stream.set_nodelay(true).ok()?;
            match merged {
                true => stream.write_all(&octets).ok()?,
                false => {
                    for piece in octets.chunks(7) {
                        stream.write_all(piece).ok()?;
                        thread::sleep(Duration::from_micros(100));
                    }
                }
            }
            serve(stream)
        });
        let mut bench = Bench::new(peer.options());
        ask_at_once(&mut bench, QUERIES as u64);
        let outcomes = bench.outcomes(0, QUERIES);
        assert!(outcomes.iter().all(answered));
        assert_eq!(bench.count("connections_opened"), 1);
        assert!(ask(&mut bench, "later"));
        bench.finish();
    }
}

#[test]
fn queries_on_a_connection_that_breaks_are_sent_once_more() {
    for resets in [true, false] {
        let peer = Peer::start(move |number, stream| {
            if number > 0 {
                return serve(stream);
            }
            let queries: Option<Vec<_>> = (0..10).map(|_| read(stream)).collect();
            let queries = queries?;
            stream.write_all(&framed(&response(&queries[3], 20))).ok()?;
            // The second ends in the middle.
            let half = framed(&response(&queries[4], 20));
            stream.write_all(&half[..half.len() / 2]).ok()?;
            if resets {
                // What was sent is to arrive before.
                thread::sleep(Duration::from_millis(200));
                reset(stream);
            }
            None
        });
        let mut bench = Bench::new(peer.options());
        ask_at_once(&mut bench, 10);
        assert!(
            bench.outcomes(0, 10).iter().all(answered),
            "reset: {resets}"
        );
        let counts = ["moved", "connections", "upstream_errors", "timeouts"];
        assert_eq!(counts.map(|name| bench.count(name))[0], 9);
        assert_eq!(counts.map(|name| bench.count(name))[2..], [0, 0]);
        bench.finish();
    }
}

#[test]
fn a_query_whose_connections_both_break_goes_to_the_next_upstream() {
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let peer = Peer::start(move |_, stream| {
        let msg = read(stream)?;
        // Not a probe's.
        *counted.lock().unwrap() += u64::from(msg[12] > 0);
        None
    });
    let good = answers();
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![over_tcp(peer.address), good.address.into()],
        ..options(Vec::new())
    });
    for (label, queries) in [("a", 2), ("b", 4), ("c", 6)] {
        assert!(ask(&mut bench, label));
        assert_eq!(*asked.lock().unwrap(), queries);
        // After the third name there is a probe, too.
        assert!(bench.count("moved") >= queries / 2);
        assert_eq!(bench.count("upstream_errors"), queries / 2);
    }
    assert!(ask(&mut bench, "d"));
    assert_eq!(*asked.lock().unwrap(), 6, "it is set aside");
    bench.finish();
}

#[test]
fn a_query_that_breaks_connections_fails_alone() {
    let peer = Peer::start(|_, stream| {
        let mut queries = Vec::new();
        loop {
            queries.push(read(stream)?);
            let (short, long) = (Duration::from_millis(50), Duration::from_secs(30));
            stream.set_read_timeout(Some(short)).unwrap();
            let has_more = stream.peek(&mut [0]).is_ok_and(|len| len > 0);
            stream.set_read_timeout(Some(long)).unwrap();
            if has_more {
                continue;
            }
            let breaks = |msg: &Vec<u8>| msg.windows(6).any(|octets| octets == b"poison");
            if queries.iter().any(breaks) {
                return None;
            }
            for msg in queries.drain(..) {
                stream.write_all(&framed(&response(&msg, 20))).ok()?;
            }
        }
    });
    let good = answers();
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![over_tcp(peer.address), good.address.into()],
        ..options(Vec::new())
    });
    let request = bench.request(&query(9, "poison", None), 0, 99);
    bench.handle.submit(request).unwrap();
    ask_at_once(&mut bench, 20);
    assert!(bench.outcomes(0, 21).iter().all(answered));
    assert!(ask(&mut bench, "later"));
    assert_eq!(good.seen().len(), 1, "the one, and no other");
    assert_eq!(bench.count("upstream_errors"), 1);
    assert_eq!(bench.count("timeouts"), 0);
    bench.finish();
}

/// Closes the stream, once it is dropped, with a reset.
fn reset(stream: &TcpStream) {
    let linger = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream.as_fd(), Linger, &linger).unwrap();
}

#[test]
fn the_end_of_an_old_connection_ends_no_look_up() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (asked, is_asked) = (Mutex::new(asked), Mutex::new(is_asked));
    let peer = Peer::start(move |number, stream| {
        let msg = read(stream)?;
        if number == 0 {
            // Until the next attempt is on its way.
            is_asked.lock().unwrap().recv().ok()?;
            reset(stream);
            return None;
        }
        asked.lock().unwrap().send(()).ok()?;
        thread::sleep(Duration::from_millis(300));
        stream.write_all(&framed(&response(&msg, 20))).ok()?;
        serve(stream)
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(500),
        ..peer.options()
    });
    assert!(ask(&mut bench, "a"));
    assert_eq!(bench.count("upstream_errors"), 0);
    assert!(ask(&mut bench, "b"));
    bench.finish();
}

#[test]
fn queries_without_a_response_do_not_fill_the_connections() {
    // The first label's length is before it.
    let is_answered = |msg: &[u8]| msg[13] == b'a';
    let peer = Peer::start(move |_, stream| {
        loop {
            let msg = read(stream)?;
            if is_answered(&msg) {
                stream.write_all(&framed(&response(&msg, 20))).ok()?;
            }
        }
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(200),
        attempts: 1,
        ..peer.options()
    });
    for round in 0..6 {
        for number in 0..60 {
            let label = match number % 6 {
                5 => format!("a{round}x{number}"),
                _ => format!("s{round}x{number}"),
            };
            let request = bench.request(&query(9, &label, None), 0, number);
            bench.handle.submit(request).unwrap();
        }
        bench.handle.flush();
        let outcomes = bench.outcomes(0, 60);
        assert_eq!(outcomes.iter().filter(|it| answered(it)).count(), 10);
    }
    assert!(ask(&mut bench, "a"));
    // After 256 of them the first was replaced.
    let counts = ["connections_opened", "connections"];
    assert_eq!(counts.map(|name| bench.count(name)), [2, 1]);
    bench.finish();
}

#[test]
fn connections_that_are_silent_together_are_replaced_together() {
    let all_sent = Barrier::new(3);
    let peer = Peer::start(move |number, stream| {
        if number > 2 {
            return serve(stream);
        }
        let queries: Option<Vec<_>> = (0..[64, 64, 22][number]).map(|_| read(stream)).collect();
        all_sent.wait();
        for query in queries? {
            stream.write_all(&framed(&response(&query, 20))).ok()?;
        }
        while read(stream).is_some() {}
        None
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(500),
        attempts: 2,
        ..peer.options()
    });
    ask_at_once(&mut bench, 150);
    assert!(bench.outcomes(0, 150).iter().all(answered));
    assert_eq!(bench.count("connections_opened"), 3);
    assert!(ask(&mut bench, "later"));
    let counts = ["timeouts", "connections_opened"];
    assert_eq!(counts.map(|name| bench.count(name)), [1, 4]);
    bench.finish();
}

/// Answers one query, and closes the connection at the next.
fn answer_one(stream: &mut TcpStream) -> Option<()> {
    let msg = read(stream)?;
    stream.write_all(&framed(&response(&msg, 20))).ok()?;
    read(stream).map(drop)
}

#[test]
fn connections_are_short_after_two_alike_and_until_one_goes_on() {
    // Those that the peer closes, and the connections that names asked for one by one take.
    for (short, opened) in [(1, [1, 2, 2, 2]), (2, [1, 2, 3, 4])] {
        let peer = Peer::start(move |number, stream| match number < short {
            true => answer_one(stream),
            false => serve(stream),
        });
        let mut bench = Bench::new(peer.options());
        for (label, opened) in ["a", "b", "c", "d"].iter().zip(opened) {
            assert!(ask(&mut bench, label));
            assert_eq!(bench.count("connections_opened"), opened, "{label}");
        }
        thread::sleep(Duration::from_millis(1_100));
        for label in ["e", "f", "g"] {
            assert!(ask(&mut bench, label));
        }
        assert_eq!(bench.count("connections_opened"), opened[3]);
        assert_eq!(bench.count("upstream_errors"), 0);
        bench.finish();
    }
}

#[test]
fn an_upstream_that_closes_after_each_response_answers_many_at_once() {
    let upstream = answers();
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![over_tcp(upstream.address)],
        ..options(Vec::new())
    });
    for _ in 0..2 {
        ask_at_once(&mut bench, 100);
        assert!(bench.outcomes(0, 100).iter().all(answered));
    }
    bench.finish();
}

#[test]
fn a_connection_that_the_upstream_closed_unused_is_no_error() {
    let upstream = answers();
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![over_tcp(upstream.address)],
        ..options(Vec::new())
    });
    for label in ["a", "b", "c"] {
        assert!(ask(&mut bench, label));
        let deadline = Instant::now() + Duration::from_secs(30);
        while bench.count("connections") > 0 {
            assert!(Instant::now() < deadline, "it stays open");
            // The thread publishes that at its next turn.
            assert!(ask(&mut bench, label));
            thread::sleep(Duration::from_millis(1));
        }
    }
    let counts = ["moved", "upstream_errors", "timeouts"];
    assert_eq!(counts.map(|name| bench.count(name)), [0, 0, 0]);
    bench.finish();
}

/// The response to `query`, with an OPT record that says how long the connection is kept, in units of 100 ms.
fn with_keepalive(query: &[u8], units: u8) -> Vec<u8> {
    let mut msg = response(query, 20);
    msg[11] += 1;
    msg.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 11, 0, 2, 0, units]);
    msg
}

#[test]
fn an_unused_connection_is_closed_before_the_upstream_does() {
    for units in [0, 10] {
        let (closed, is_closed) = std::sync::mpsc::channel();
        let closed = Mutex::new(closed);
        let peer = Peer::start(move |_, stream| {
            while let Some(msg) = read(stream) {
                let asks = msg.windows(4).any(|octets| octets == [0, 11, 0, 0]);
                assert!(asks, "the option of RFC 7828");
                let msg = with_keepalive(&msg, units);
                stream.write_all(&framed(&msg)).ok()?;
            }
            closed.lock().unwrap().send(()).ok()
        });
        let mut bench = Bench::new(peer.options());
        assert!(ask(&mut bench, "a"));
        is_closed
            .recv_timeout(Duration::from_secs(30))
            .expect(CLOSED);
        assert!(ask(&mut bench, "b"));
        assert_eq!(bench.count("connections_opened"), 2);
        assert_eq!(bench.count("moved"), 0);
        bench.finish();
    }
}

#[test]
fn a_response_to_nothing_ends_the_connection() {
    let peer = Peer::start(|number, stream| {
        if number > 0 {
            return serve(stream);
        }
        let mut wrong = response(&read(stream)?, 20);
        wrong[1] ^= 1;
        stream.write_all(&framed(&wrong)).ok()?;
        read(stream).map(drop)
    });
    let mut bench = Bench::new(peer.options());
    assert!(ask(&mut bench, "a"));
    assert_eq!(bench.count("rejected_id"), 1);
    assert_eq!(bench.count("connections_opened"), 2);
    bench.finish();
}

#[test]
fn a_silent_connection_gets_no_more_queries_and_late_responses_are_taken() {
    let peer = Peer::start(|number, stream| {
        if number > 0 {
            return serve(stream);
        }
        while read(stream).is_some() {}
        None
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(150),
        ..peer.options()
    });
    assert!(ask(&mut bench, "a"));
    assert_eq!(bench.count("timeouts"), 1);
    assert!(ask(&mut bench, "b"));
    assert_eq!(bench.count("timeouts"), 1);
    assert_eq!(bench.count("connections_opened"), 2);
    bench.finish();

    let peer = Peer::start(|_, stream| {
        let first = read(stream)?;
        // The next attempt has begun.
        thread::sleep(Duration::from_millis(700));
        stream.write_all(&framed(&response(&first, 20))).ok()?;
        serve(stream)
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(250),
        attempts: 3,
        ..peer.options()
    });
    assert!(ask(&mut bench, "late"));
    assert_eq!(bench.count("timeouts"), 1);
    bench.finish();
}
