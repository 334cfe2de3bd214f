//! The socket front over loopback, with a real forwarder and a scripted upstream.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod handover;
mod tls;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::op::Message;

use super::*;
use crate::{
    answer::{Core, policy::Policy},
    cache::Cache,
    clock::Clock,
    dns::{NameHasher, reply::ReplySettings},
    exit::OnExit,
    forward::{
        ForwardOptions, Forwarder, ForwarderBuilder, Handle, Mailbox,
        testing::{Seen, Upstream, bare, closed_address, query, response},
    },
    front::{Engine, Resources},
    maintenance::Maintenance,
    stats::{AnswerCounters, DropCounters},
    tap::Tap,
};

const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A forwarder for one front.
fn forward(settings: &ForwardOptions, mailbox: &Arc<Mailbox>) -> Forwarder {
    let mailboxes = vec![Arc::clone(mailbox)];
    let prepared = ForwarderBuilder::new(settings, mailboxes, NameHasher::default()).unwrap();
    prepared.start().unwrap()
}

/// The resources of a front's engine.
fn resources(core: Core, forwarder: Handle, mailbox: Arc<Mailbox>) -> Resources {
    let ring = Arc::clone(&mailbox);
    Resources {
        core,
        maintenance: Maintenance::new(move || ring.wake()),
        forwarder,
        mailbox,
        front: 0,
        clock: Clock::start(),
        latency: Arc::default(),
        tap: Tap::default(),
    }
}

/// A server: socket front and forwarder.
struct Bench {
    front: SocketFront,
    forwarder: Forwarder,
    addresses: Vec<SocketAddr>,
    answers: Arc<AnswerCounters>,
    drops: Arc<DropCounters>,
}

impl Bench {
    fn new(listen: &[&str], upstreams: Vec<SocketAddr>, max_pending: usize) -> Self {
        let listen: Vec<_> = listen
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        Self::with(
            Listeners::bind(&listen, &mut Vec::new()).unwrap(),
            upstreams,
            max_pending,
        )
    }

    fn with(listeners: Listeners, upstreams: Vec<SocketAddr>, max_pending: usize) -> Self {
        let addresses = listeners.local_addresses();
        let answers = Arc::<AnswerCounters>::default();
        let drops = Arc::<DropCounters>::default();
        let core = Core::new(
            Cache::new(0).unwrap(),
            NameHasher::default(),
            ReplySettings::new(1232, false),
            Arc::default(),
            answers.clone(),
            drops.clone(),
        );
        let mailbox = Arc::new(Mailbox::new(max_pending).unwrap());
        let settings = ForwardOptions {
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            attempt_timeout: Duration::from_secs(5),
            // Nobody is answered sooner because a test had to wait for a processor.
            client_response_timeout: Duration::from_secs(30),
            ..ForwardOptions::default()
        };
        let forwarder = forward(&settings, &mailbox);
        let handle = forwarder.handle();
        let resources = resources(core, handle, mailbox);
        let front = SocketFront::start("sockets", listeners, resources, OnExit::default()).unwrap();
        Self {
            front,
            forwarder,
            addresses,
            answers,
            drops,
        }
    }

    fn count(&self, name: &str) -> u64 {
        let list = self.front.counters().list();
        list.iter().find(|(n, _)| *n == name).unwrap().1
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[0]).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream
    }

    fn finish(self) {
        drop(self.front);
        drop(self.forwarder);
    }
}

/// A client's UDP socket, connected: it receives replies only from the address that it sends to.
fn client(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, msg: &[u8]) -> Vec<u8> {
    socket.send(msg).unwrap();
    let mut buf = vec![0; 65_535];
    let len = socket.recv(&mut buf).unwrap();
    buf.truncate(len);
    buf
}

fn frame(msg: &[u8]) -> Vec<u8> {
    [&(msg.len() as u16).to_be_bytes()[..], msg].concat()
}

fn read_frame(stream: &mut impl Read) -> Vec<u8> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut msg = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut msg).unwrap();
    msg
}

fn ask_tcp(stream: &mut (impl Read + Write), msg: &[u8]) -> Vec<u8> {
    stream.write_all(&frame(msg)).unwrap();
    read_frame(stream)
}

/// The stream was closed by the server: an end, or a reset if it had not read all.
fn is_closed(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Whether `reply` is a well-formed answer to `query` with one record.
fn assert_answers(query: &[u8], reply: &[u8]) {
    let asked = Message::from_vec(query).unwrap();
    let message = Message::from_vec(reply).unwrap();
    assert_eq!(message.id, asked.id);
    assert_eq!(message.queries, asked.queries);
    assert_eq!(message.answers.len(), 1);
    assert!(!message.truncation);
    assert_eq!(message.edns.is_some(), asked.edns.is_some());
}

fn rcode(reply: &[u8]) -> u8 {
    reply[3] & 0xf
}

fn answers() -> Upstream {
    Upstream::start(|seen| vec![response(&seen.msg, 20)])
}

#[test]
fn cold_and_warm_over_udp_and_tcp() {
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0", "[::1]:0"], vec![upstream.address], 64);
    for &address in &bench.addresses {
        let socket = client(address);
        for id in [1, 2] {
            let msg = query(id, "udp", Some(1232));
            assert_answers(&msg, &ask(&socket, &msg));
        }
        let mut stream = TcpStream::connect(address).unwrap();
        for id in [3, 4] {
            let msg = query(id, "tcp", None);
            assert_answers(&msg, &ask_tcp(&mut stream, &msg));
        }
    }
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(
        (bench.answers.hits.get(), bench.answers.misses.get()),
        (6, 2)
    );
    assert_eq!(bench.count("udp_received"), 4);
    assert_eq!(bench.count("tcp_received"), 4);
    bench.finish();
}

#[test]
fn wildcards_reply_from_the_address_that_was_asked() {
    let upstream = answers();
    let bench = Bench::new(&["0.0.0.0:0", "[::]:0"], vec![upstream.address], 64);
    let [v4, v6] = bench.addresses[..] else {
        panic!()
    };
    for server in ["127.0.0.1", "127.0.0.5", "127.9.8.7", "::1"] {
        let ip: IpAddr = server.parse().unwrap();
        let port = if ip.is_ipv4() { v4.port() } else { v6.port() };
        let socket = client(SocketAddr::new(ip, port));
        // A miss and a hit.
        for id in [1, 2] {
            let msg = query(id, &server.replace(['.', ':'], "-"), None);
            assert_answers(&msg, &ask(&socket, &msg));
        }
    }
    bench.finish();
}

#[test]
fn large_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let upstream = Upstream::start(|seen: &Seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => vec![response(&seen.msg, 20_000)],
    });
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    let socket = client(bench.addresses[0]);
    for id in [1, 2] {
        let msg = query(id, "large", Some(4096));
        let reply = Message::from_vec(&ask(&socket, &msg)).unwrap();
        assert!(reply.truncation && reply.answers.is_empty());
    }
    let msg = query(3, "large", None);
    let reply = ask_tcp(&mut bench.tcp(), &msg);
    assert!(reply.len() > 20_000);
    assert_answers(&msg, &reply);
    assert_eq!(
        upstream.seen().len(),
        2,
        "one look-up, over UDP and then TCP"
    );
    bench.finish();
}

#[test]
fn tcp_queries_are_pipelined() {
    let upstream = Upstream::start(|seen| {
        if seen.msg[13] == b's' {
            thread::sleep(Duration::from_millis(200));
        }
        vec![response(&seen.msg, 20)]
    });
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 4096);
    let mut stream = bench.tcp();
    let warm = query(1, "warm", None);
    ask_tcp(&mut stream, &warm);
    // More than may wait for the forwarder at a time.
    let queries: Vec<_> = (0..300)
        .map(|id| match id {
            0 => query(id, "slow", None),
            id if id % 2 == 0 => query(id, "warm", None),
            id => query(id, &format!("n{id}"), None),
        })
        .collect();
    let frames: Vec<u8> = queries.iter().flat_map(|msg| frame(msg)).collect();
    stream.write_all(&frames).unwrap();
    // The client is done with sending, and gets all its replies nevertheless.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut seen = vec![false; queries.len()];
    for place in 0..queries.len() {
        let reply = read_frame(&mut stream);
        let id = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
        assert_answers(&queries[id], &reply);
        assert!(!std::mem::replace(&mut seen[id], true));
        assert!(place > 0 || id != 0, "a slow answer holds up no others");
    }
    assert!(is_closed(&mut stream));
    bench.finish();
}

#[test]
fn the_end_of_a_stream_is_found_behind_a_query() {
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    let msg = query(1, "name", None);
    // Nearly always epoll reports both at once.
    for _ in 0..20 {
        let mut stream = bench.tcp();
        stream.write_all(&frame(&msg)).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_answers(&msg, &read_frame(&mut stream));
        assert!(is_closed(&mut stream));
        assert_eq!(bench.count("tcp_closed_idle"), 0);
    }
    bench.finish();
}

#[test]
fn tcp_octet_by_octet_and_a_reader_that_does_not_read() {
    let upstream = Upstream::start(|seen: &Seen| match (seen.tcp, seen.msg[12]) {
        (false, 5) => vec![bare(&seen.msg, 0x200)],
        (true, _) => vec![response(&seen.msg, 50_000)],
        _ => vec![response(&seen.msg, 20)],
    });
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    // 400 × 50 kB: more than the kernel's buffers take.
    let mut lazy = bench.tcp();
    let large = query(7, "large", None);
    ask_tcp(&mut lazy, &large);
    let mut writer = lazy.try_clone().unwrap();
    let frames = frame(&large).repeat(400);
    let writing = thread::spawn(move || writer.write_all(&frames).unwrap());

    let mut stream = bench.tcp();
    stream.set_nodelay(true).unwrap();
    let msg = query(8, "bits", None);
    for octet in frame(&msg) {
        stream.write_all(&[octet]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_answers(&msg, &read_frame(&mut stream));

    for _ in 0..400 {
        assert_answers(&large, &read_frame(&mut lazy));
    }
    writing.join().unwrap();
    bench.finish();
}

#[test]
fn a_client_that_leaves_too_much_unread_is_closed() {
    const QUERIES: u16 = 128;
    let upstream = Upstream::start(|seen: &Seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => {
            thread::sleep(Duration::from_millis(300));
            vec![response(&seen.msg, 60_000)]
        }
    });
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 4096);
    // All are with the forwarder when the first is answered, and make 7.7 MB of replies: more than
    // the kernel's buffers take.
    let mut lazy = bench.tcp();
    let queries = (0..QUERIES).flat_map(|id| frame(&query(id, "large", None)));
    lazy.write_all(&queries.collect::<Vec<_>>()).unwrap();
    let end = Instant::now() + READ_TIMEOUT;
    while bench.count("tcp_answered") == 0 || bench.count("pending") > 0 {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(bench.count("tcp_answered") < u64::from(QUERIES));
    // Replies that the kernel took may still arrive, and then the end.
    if let Err(error) = io::copy(&mut lazy, &mut io::sink()) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    // Others are answered.
    let msg = query(1, "large", None);
    assert_answers(&msg, &ask_tcp(&mut bench.tcp(), &msg));
    bench.finish();
}

#[test]
fn bad_messages() {
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    let socket = client(bench.addresses[0]);
    let good = query(1, "name", None);
    let mut two_questions = good.clone();
    two_questions[5] = 2;
    assert_eq!(rcode(&ask(&socket, &two_questions)), 1, "FORMERR");
    let mut update = good.clone();
    update[2] = 5 << 3;
    assert_eq!(rcode(&ask(&socket, &update)), 4, "NOTIMP");
    assert_eq!(rcode(&ask(&socket, &good[..20])), 1, "FORMERR");
    // No reply to these: the next one belongs to the good query.
    let mut response = good.clone();
    response[2] |= 0x80;
    socket.send(&response).unwrap();
    socket.send(&good[..11]).unwrap();
    socket.send(&[]).unwrap();
    assert_answers(&good, &ask(&socket, &good));
    assert_eq!(bench.drops.response.get(), 1);
    assert_eq!(bench.drops.runt.get(), 2);

    let mut stream = bench.tcp();
    assert_eq!(rcode(&ask_tcp(&mut stream, &two_questions)), 1, "FORMERR");
    assert_eq!(rcode(&ask_tcp(&mut stream, &update)), 4, "NOTIMP");
    assert_answers(&good, &ask_tcp(&mut stream, &good));
    stream.write_all(&[0, 0]).unwrap();
    assert!(is_closed(&mut stream), "an empty message");
    let mut stream = bench.tcp();
    stream.write_all(&frame(&response)).unwrap();
    assert!(is_closed(&mut stream), "a response");
    let mut stream = bench.tcp();
    stream.write_all(&frame(&good)[..9]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(&mut stream), "half a message");
    bench.finish();
}

#[test]
fn servfail_when_the_upstream_is_dead_or_too_many_wait() {
    let bench = Bench::new(&["127.0.0.1:0"], vec![closed_address()], 64);
    let socket = client(bench.addresses[0]);
    assert_eq!(rcode(&ask(&socket, &query(1, "name", None))), 2);
    assert_eq!(
        rcode(&ask_tcp(&mut bench.tcp(), &query(1, "name", None))),
        2
    );
    bench.finish();

    let silent = Upstream::start(|_| Vec::new());
    let bench = Bench::new(&["127.0.0.1:0"], vec![silent.address], 2);
    let socket = client(bench.addresses[0]);
    socket.send(&query(1, "one", None)).unwrap();
    socket.send(&query(2, "two", None)).unwrap();
    let reply = ask(&socket, &query(3, "three", None));
    assert_eq!((reply[1], rcode(&reply)), (3, 2));
    assert_eq!(bench.count("overflow"), 1);
    // The first two get SERVFAIL, and the forwarder takes no more.
    drop(bench.forwarder);
    for id in [1, 2] {
        let mut reply = [0; 64];
        socket.recv(&mut reply).unwrap();
        assert_eq!((reply[1], rcode(&reply)), (id, 2));
    }
    let reply = ask(&socket, &query(4, "four", None));
    assert_eq!((reply[1], rcode(&reply)), (4, 2));
    let list = bench.front.counters();
    assert_eq!(list.overflow.get(), 2, "the queue is closed");
}

#[test]
fn a_client_that_is_gone_harms_nobody() {
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    for id in 0..20 {
        // Its port is closed when the reply comes: an ICMP error returns.
        let socket = client(bench.addresses[0]);
        socket.send(&query(id, &format!("n{id}"), None)).unwrap();
        drop(socket);
        let mut stream = bench.tcp();
        stream
            .write_all(&frame(&query(id, &format!("t{id}"), None)))
            .unwrap();
    }
    let msg = query(9, "name", None);
    assert_answers(&msg, &ask(&client(bench.addresses[0]), &msg));
    assert_answers(&msg, &ask_tcp(&mut bench.tcp(), &msg));
    bench.finish();
}

/// A front whose loop is not run: the test sets the time.
fn stopped(
    listeners: Listeners,
    upstream: SocketAddr,
) -> (front::Loop, Arc<SocketCounters>, Forwarder) {
    stopped_with(listeners, upstream, Policy::default())
}

fn stopped_with(
    listeners: Listeners,
    upstream: SocketAddr,
    policy: Policy,
) -> (front::Loop, Arc<SocketCounters>, Forwarder) {
    stopped_waiting(listeners, upstream, policy, 4)
}

fn stopped_waiting(
    listeners: Listeners,
    upstream: SocketAddr,
    policy: Policy,
    max_pending: usize,
) -> (front::Loop, Arc<SocketCounters>, Forwarder) {
    let mailbox = Arc::new(Mailbox::new(max_pending).unwrap());
    let settings = ForwardOptions {
        upstreams: vec![upstream.into()],
        ..ForwardOptions::default()
    };
    let forwarder = forward(&settings, &mailbox);
    let counters = Arc::<SocketCounters>::default();
    let core = Core::new(
        Cache::new(0).unwrap(),
        NameHasher::default(),
        ReplySettings::new(1232, false),
        Arc::new(Arc::new(policy).into()),
        Arc::default(),
        Arc::default(),
    );
    let engine = Engine::new(resources(core, forwarder.handle(), mailbox));
    let poll = mio::Poll::new().unwrap();
    let turn = front::Loop::new(listeners, engine, poll, counters.clone()).unwrap();
    (turn, counters, forwarder)
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let silent = Upstream::start(|_| Vec::new());
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &mut Vec::new()).unwrap();
    let address = listeners.local_addresses()[0];
    let (mut turn, counters, forwarder) = stopped(listeners, silent.address);
    let now = turn.sockets.now;
    let [mut silent, mut used, mut busy] = [(); 3].map(|()| TcpStream::connect(address).unwrap());
    // NOTIMP, at once; the other waits for the upstream.
    let mut update = query(1, "name", None);
    update[2] = 5 << 3;
    used.write_all(&frame(&update)).unwrap();
    // Half a query is none.
    silent.write_all(&frame(&update)[..9]).unwrap();
    busy.write_all(&frame(&query(1, "name", None))).unwrap();
    while turn.sockets.connections.len() < 3 {
        turn.sockets.accept(0, &turn.engine);
    }
    while counters.tcp_received.get() < 2 {
        (0..3).for_each(|connection| turn.serve(connection));
    }
    for (seconds, left) in [(3, 3), (5, 2), (9, 2), (11, 1)] {
        turn.sockets.now = now + Duration::from_secs(seconds);
        turn.sockets.sweep(&turn.engine);
        assert_eq!(turn.sockets.connections.len(), left, "after {seconds} s");
    }
    assert!(is_closed(&mut silent));
    read_frame(&mut used);
    assert!(is_closed(&mut used), "and the other query is under way");
    assert_eq!(counters.tcp_closed_idle.get(), 2);
    drop(forwarder);
}

#[test]
fn what_is_read_of_a_client_that_pipelines_without_end_is_bounded() {
    let silent = Upstream::start(|_| Vec::new());
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &mut Vec::new()).unwrap();
    let address = listeners.local_addresses()[0];
    let (mut turn, counters, forwarder) =
        stopped_waiting(listeners, silent.address, Policy::default(), 256);
    let client = TcpStream::connect(address).unwrap();
    let writer = {
        let mut client = client.try_clone().unwrap();
        thread::spawn(move || {
            for id in 0..=u16::MAX {
                if client
                    .write_all(&frame(&query(id, &format!("n{id}"), None)))
                    .is_err()
                {
                    return;
                }
            }
        })
    };
    while turn.sockets.connections.len() == 0 {
        turn.sockets.accept(0, &turn.engine);
    }
    for served in 1..=100 {
        // As if one of many were completed.
        turn.sockets.connections.open[0].pending = 127;
        while counters.tcp_received.get() < served {
            turn.serve(0);
        }
        assert_eq!(counters.tcp_received.get(), served);
    }
    let (stream, input) = turn.sockets.connections.remove(0).unwrap();
    // What is read at once, the start of a message before it, and a buffer.
    assert!(
        input.len() <= (64 + 64 + 16) << 10,
        "{} octets",
        input.len()
    );
    drop((stream, client));
    writer.join().unwrap();
    drop(forwarder);
}

/// A connection from the loopback address `source`.
fn tcp_from(source: &str, server: SocketAddr) -> TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    let source = SocketAddr::new(source.parse().unwrap(), 0);
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server)).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    stream
}

/// Whether the limit on open files is too low for a full table of connections; reports that.
fn lacks_descriptors() -> bool {
    use nix::sys::resource::{Resource, getrlimit};
    let lacks = getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 < 4096;
    if lacks {
        eprintln!("skipped: too few file descriptors");
    }
    lacks
}

/// Fills the table with connections from the addresses that `flood` returns; `others` keep theirs.
fn flooded(flood: impl Fn(usize) -> String, others: &[&str]) {
    const FLOOD: usize = 1200;
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    if lacks_descriptors() {
        return bench.finish();
    }
    let msg = query(9, "name", None);
    let server = bench.addresses[0];
    let mut first: Vec<TcpStream> = others.iter().map(|one| tcp_from(one, server)).collect();
    for stream in &mut first {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let held: Vec<TcpStream> = (0..FLOOD).map(|i| tcp_from(&flood(i), server)).collect();
    for (other, first) in others.iter().zip(&mut first) {
        let mut new = tcp_from(other, server);
        assert_answers(&msg, &ask_tcp(&mut new, &msg));
        assert_answers(&msg, &ask_tcp(first, &msg));
    }
    assert!(bench.count("tcp_closed_full") >= (FLOOD - 1024) as u64);
    drop(held);
    bench.finish();
}

#[test]
fn a_full_table_closes_a_connection_of_the_largest_holder() {
    let one_address = |_| "127.66.0.1".to_owned();
    // Far away, and a neighbour.
    flooded(one_address, &["127.1.0.1", "127.2.0.1", "127.66.0.2"]);
    let one_network = |i| format!("127.66.0.{}", i % 250 + 1);
    flooded(one_network, &["127.1.0.1", "127.66.1.1"]);
}

#[test]
fn a_new_client_gets_in_when_no_address_holds_more_than_one_connection() {
    let each_its_own = |i: usize| format!("127.{}.{}.1", 100 + i / 250, i % 250);
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    if lacks_descriptors() {
        return bench.finish();
    }
    let server = bench.addresses[0];
    let mut oldest = tcp_from("127.9.9.9", server);
    let msg = query(9, "name", None);
    assert_answers(&msg, &ask_tcp(&mut oldest, &msg));
    let held: Vec<TcpStream> = (0..1024)
        .map(|i| tcp_from(&each_its_own(i), server))
        .collect();
    let mut new = tcp_from("127.8.8.8", server);
    assert_answers(&msg, &ask_tcp(&mut new, &msg));
    assert!(is_closed(&mut oldest), "the one that was idle longest");
    drop(held);
    bench.finish();
}

#[test]
fn busy_connections_of_the_largest_holder_make_room_too() {
    let silent = Upstream::start(|seen: &Seen| match seen.msg[12] {
        4 => vec![response(&seen.msg, 20)],
        _ => Vec::new(),
    });
    let bench = Bench::new(&["127.0.0.1:0"], vec![silent.address], 4096);
    if lacks_descriptors() {
        return bench.finish();
    }
    let server = bench.addresses[0];
    let unanswered = frame(&query(1, "silent", None));
    let held: Vec<TcpStream> = (0..1100)
        .map(|_| {
            let mut stream = tcp_from("127.66.0.1", server);
            stream.write_all(&unanswered).unwrap();
            stream
        })
        .collect();
    let msg = query(9, "name", None);
    let mut other = tcp_from("127.1.0.1", server);
    assert_answers(&msg, &ask_tcp(&mut other, &msg));
    assert!(bench.count("tcp_closed_full") >= 76);
    drop(held);
    bench.finish();
}

#[test]
fn a_port_that_is_taken_is_named_in_one_line() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let error = Listeners::bind(&[address], &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!(
            "UDP {address} is taken by another program; `ss -lnptu sport = :{}` shows which, \
             stop it or listen elsewhere",
            address.port()
        )
    );
    let held = Listeners::bind(&["0.0.0.0:0".parse().unwrap()], &mut Vec::new()).unwrap();
    let again = Listeners::bind(&held.local_addresses(), &mut Vec::new());
    assert!(
        matches!(again, Err(SocketError::Taken { .. })),
        "not shared with ourselves"
    );
}

#[test]
fn a_front_that_is_dropped_has_closed_its_sockets() {
    let upstream = answers();
    let bench = Bench::new(&["127.0.0.1:0"], vec![upstream.address], 64);
    let mut stream = bench.tcp();
    let msg = query(1, "name", None);
    assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    drop(bench.front);
    assert!(is_closed(&mut stream));
    Listeners::bind(&bench.addresses, &mut Vec::new()).unwrap();
    drop(bench.forwarder);
}
