//! The first seconds of a server: it answers at once, and while it populates its caches.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use lab::{CLIENT_V4, Heimdall, Lab, SERVER_V4, UPSTREAM, available};

use crate::{client::query, program};

/// How long queries are sent for.
const FOR: Duration = Duration::from_secs(5);

/// The time between two queries.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long a reply to the last query is waited for.
const LAST: Duration = Duration::from_secs(2);

/// Bound on the first answer and on each wait, beside what the machine itself delays the client. Measured on an idle one they are
/// tens of milliseconds at most.
const BOUND: Duration = Duration::from_millis(1000);

/// Bound on 99 % of the waits, which are below 35 ms on an idle machine even while its hypervisor supplies
/// the memory.
const BOUND_OF_MOST: Duration = Duration::from_millis(400);

/// What a client saw that asked from the process's start on.
struct FirstSeconds {
    /// From the start to the first reply.
    first: Duration,
    /// From each answered query to its reply.
    waits: Vec<Duration>,
    /// When the queries after the first reply that got none were sent, after the start.
    unanswered: Vec<Duration>,
    /// How late the client sent a query, at most: a thread that only sleeps, on a machine that others keep busy.
    late: Duration,
}

impl FirstSeconds {
    /// Starts a server, which `start` is to do, and asks it meanwhile.
    fn of(lab: &Lab, start: impl FnOnce() -> Heimdall) -> Self {
        let socket = lab.in_client(|| UdpSocket::bind((CLIENT_V4, 0)).unwrap());
        let socket = socket.unwrap();
        socket.connect((SERVER_V4, 53)).unwrap();
        socket.set_read_timeout(Some(LAST)).unwrap();
        let begin = Instant::now();
        let ((sent, late), received) = thread::scope(|scope| {
            let received = scope.spawn(|| receive(&socket, begin + FOR + LAST));
            let sent = scope.spawn(|| send(&socket, begin));
            let _server = start();
            (sent.join().unwrap(), received.join().unwrap())
        });
        let mut first = None;
        let mut replies = vec![None; sent.len()];
        for (id, at) in received {
            first.get_or_insert(at);
            replies[usize::from(id)].get_or_insert(at);
        }
        let first = first.expect("no reply");
        let both = || sent.iter().zip(&replies);
        Self {
            first: first - begin,
            waits: both()
                .filter_map(|(sent, reply)| Some((*reply)? - *sent))
                .collect(),
            unanswered: both()
                .filter(|(sent, reply)| **sent > first && reply.is_none())
                .map(|(sent, _)| *sent - begin)
                .collect(),
            late,
        }
    }
}

/// Sends queries, which have their positions as IDs, each for another name that needs no upstream, so
/// that each takes room in the cache. Returns when it sent them, and how late at most.
fn send(socket: &UdpSocket, begin: Instant) -> (Vec<Instant>, Duration) {
    let mut late = Duration::ZERO;
    let times = (0..).map(|i| begin + INTERVAL * i);
    let times = times.take_while(|time| *time < begin + FOR);
    let send = |(id, time): (u16, Instant)| {
        thread::sleep(time.saturating_duration_since(Instant::now()));
        let query = query(id, &format!("n{id}.localhost"));
        let sent = Instant::now();
        late = late.max(sent.saturating_duration_since(time));
        // ECONNREFUSED, which sends nothing: an earlier one was, as the port was not open yet.
        let _ = socket.send(&query).or_else(|_| socket.send(&query));
        sent
    };
    let sent = (0..).zip(times).map(send).collect();
    (sent, late)
}

/// The IDs of the replies until `end`, and when each came.
fn receive(socket: &UdpSocket, end: Instant) -> Vec<(u16, Instant)> {
    let mut replies = Vec::new();
    let mut buf = [0; 512];
    while Instant::now() < end {
        match socket.recv(&mut buf) {
            Ok(_) => replies.push((u16::from_be_bytes([buf[0], buf[1]]), Instant::now())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            // None comes any more.
            Err(_) if replies.is_empty() => {}
            Err(_) => break,
        }
    }
    replies
}

/// Checks the first seconds of servers with caches of these sizes, on sockets and on AF_XDP, and prints
/// them.
fn check(lab: &Lab, sizes: &[Option<&str>]) {
    for backend in ["socket", "xdp"] {
        for size in sizes {
            let size_flag = size.map(|size| ["--cache-size", size]);
            let upstream = ["--upstream", UPSTREAM];
            let arguments: Vec<_> = upstream
                .into_iter()
                .chain(size_flag.into_iter().flatten())
                .collect();
            let FirstSeconds {
                first,
                mut waits,
                unanswered,
                late,
            } = FirstSeconds::of(lab, || {
                let start = match backend {
                    "socket" => Heimdall::on_sockets,
                    _ => Heimdall::on_xdp,
                };
                start(lab, program(), &arguments).unwrap()
            });
            waits.sort_unstable();
            let longest = *waits.last().unwrap();
            let most = waits[waits.len() * 99 / 100];
            let case = format!(
                "{backend}, {}: first answer after {first:.1?}, waits {:.2?} (median), {most:.1?} (99 %), {longest:.1?} (longest)",
                size.unwrap_or("default size"),
                waits[waits.len() / 2],
            );
            println!("{case}");
            // The server has several threads, and each of them may have to wait so long.
            let late = 4 * late;
            let bound = BOUND + late;
            assert!(first < bound && longest < bound, "{case}, {late:?}");
            assert!(most < BOUND_OF_MOST + late, "{case}, {late:?}");
            assert!(unanswered.is_empty(), "{case}, lost: {unanswered:.1?}");
        }
    }
}

#[test]
fn queries_are_answered_at_once_while_large_caches_are_populated() {
    if !available("queries_are_answered_at_once") {
        return;
    }
    check(&Lab::new().unwrap(), &[None, Some("512M")]);
}

/// The measurement in docs/benchmarks.md.
#[test]
#[ignore = "takes 6 GiB of memory and an idle machine"]
fn first_seconds_on_an_idle_machine() {
    let sizes = [None, Some("512M"), Some("2G")];
    check(&Lab::new().unwrap(), &sizes);
}
