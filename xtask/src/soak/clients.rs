//! The clients: threads in the client's namespace that ask, and judge each reply.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use lab::message;
use nix::sys::socket::{setsockopt, sockopt};

use super::{
    answers::{Ledger, POPULAR, Question},
    check::{Sent, judge},
};
use crate::zipf::Zipf;

/// How long a client waits for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long one wait on a socket takes at most; queries that are due meanwhile go together.
const TICK: Duration = Duration::from_millis(2);
/// Octets that a client's socket holds.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Wrong replies that are kept to be shown.
const SHOWN: usize = 10;
/// Questions on one TCP connection.
const PER_CONNECTION: u16 = 100;

/// What is counted of one kind of clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    Asked,
    Right,
    /// Truncated, as it does not fit.
    Truncated,
    /// Right, but expired.
    Stale,
    /// No upstream gave an answer.
    Failed,
    Lost,
    Wrong,
}

/// The counts of one kind of clients, by [`Count`].
pub(super) type Tally = [u64; 7];

/// A query that got no right answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// Lost, failed or wrong.
    pub(super) count: Count,
    /// When it was sent, since the ledger's start.
    pub(super) sent: Duration,
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    /// Nobody asks any more; what is in flight is still waited for.
    pub(super) stop: AtomicBool,
    pub(super) flood: AtomicBool,
    /// The first wrong replies, in words.
    pub(super) wrong: Mutex<Vec<String>>,
    /// Queries without a right answer, except those that may get SERVFAIL at any time.
    pub(super) failures: Mutex<Vec<Failure>>,
    /// The longest that a reply took which came after [`TIMEOUT`], within twice that, in milliseconds.
    pub(super) latest: AtomicU64,
    /// Commands may fail at this moment.
    pub(super) disturbed: AtomicBool,
    /// By [`Kind`] and [`Count`].
    counts: [[AtomicU64; 7]; 5],
    popularity: Zipf,
}

impl World {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            popularity: Zipf::new(POPULAR),
            ledger,
            stop: AtomicBool::new(false),
            flood: AtomicBool::new(false),
            wrong: Mutex::default(),
            failures: Mutex::default(),
            latest: AtomicU64::new(0),
            disturbed: AtomicBool::new(false),
            counts: Default::default(),
        }
    }

    /// Counts what became of a query.
    fn add(&self, kind: Kind, count: Count, sent: Duration) {
        self.counts[kind as usize][count as usize].fetch_add(1, Relaxed);
        let is_failure = match count {
            Count::Lost | Count::Wrong => true,
            Count::Failed => !matches!(kind, Kind::Flaky | Kind::Flood),
            _ => false,
        };
        if is_failure {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.push(Failure { kind, count, sent });
        }
    }

    /// How many queries were sent so far.
    pub(super) fn asked(&self) -> u64 {
        let asked = |tally: &Tally| tally[Count::Asked as usize];
        self.tallies().iter().map(asked).sum()
    }

    /// The counts so far, by [`Kind`].
    pub(super) fn tallies(&self) -> [Tally; 5] {
        let load = |counts: &[AtomicU64; 7]| counts.each_ref().map(|count| count.load(Relaxed));
        self.counts.each_ref().map(load)
    }

    /// A popular name's rank: the first is asked twice as often as the second, and so on.
    pub(super) fn rank(&self, random: &mut Rng) -> usize {
        self.popularity.draw(random)
    }

    fn popular(&self, random: &mut Rng) -> Question {
        Question::new(popular_name(self.rank(random)))
    }

    /// Counts a question, and makes a query of it. Over UDP there is a bound on the reply's size.
    fn query(&self, kind: Kind, question: Question, random: &mut Rng, id: u16) -> Sent {
        let time = self.ledger.now();
        self.add(kind, Count::Asked, time);
        let edns = random.u8(..100) < 80;
        let size = [512, 1232, 1232, 1400, 4096][random.usize(..5)];
        let mut query = message::query(id, &question.name, question.qtype);
        query.edns = edns.then(|| message::edns(size));
        let mut message = message::octets(&query);
        // A length octet is at most 63, and so is no letter.
        for octet in &mut message[12..][..question.name.len() + 1] {
            if octet.is_ascii_alphabetic() && random.bool() {
                *octet ^= 0x20;
            }
        }
        let rank = question.rank();
        if rank.is_some() {
            self.ledger.sent.fetch_add(1, Relaxed);
        }
        Sent {
            message,
            limit: (kind != Kind::Tcp).then_some(if edns { size.into() } else { 512 }),
            edns,
            flushed: rank.map_or(Duration::ZERO, |rank| self.ledger.flushed(rank)),
            time,
            question,
        }
    }

    /// Judges and counts a reply.
    fn judge(&self, kind: Kind, sent: &Sent, reply: &[u8]) -> Count {
        let judged = judge(sent, reply, &self.ledger).unwrap_or_else(|error| {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if wrong.len() < SHOWN {
                let Question { name, qtype } = &sent.question;
                let time = sent.time.as_secs_f32();
                wrong.push(format!("at {time:.1} s, {kind:?}, {name} {qtype}: {error}"));
            }
            Count::Wrong
        });
        self.add(kind, judged, sent.time);
        judged
    }
}

/// The name of a rank.
pub(super) fn popular_name(rank: usize) -> String {
    format!("w{rank}.popular.soak.example")
}

/// What a client asks; all but the last over UDP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Popular,
    Tail,
    Flaky,
    Flood,
    /// Popular names, and what was truncated.
    Tcp,
}

impl Kind {
    /// Queries a second.
    fn rate(self) -> f64 {
        match self {
            Self::Popular => 1500.0,
            Self::Tail => 300.0,
            Self::Flaky => 10.0,
            Self::Flood => 3000.0,
            Self::Tcp => 100.0,
        }
    }

    fn question(self, world: &World, random: &mut Rng, number: u64) -> Question {
        match self {
            Self::Popular | Self::Tcp => world.popular(random),
            Self::Tail => Question::new(format!("t{number}.tail.soak.example")),
            Self::Flaky => Question::new(format!("f{}.flaky.soak.example", random.u8(..50))),
            Self::Flood => Question::new(format!("{:016x}.flood.soak.example", random.u64(..))),
        }
    }
}

/// A client that asks over UDP.
pub(super) struct Udp<'a> {
    pub(super) world: &'a World,
    pub(super) kind: Kind,
    pub(super) random: Rng,
    /// Takes the questions whose replies were truncated.
    pub(super) again: SyncSender<Question>,
}

impl Udp<'_> {
    /// Asks until it is time to stop, and waits for the last replies.
    pub(super) fn run(mut self, server: SocketAddr) -> Result<()> {
        let socket = match server {
            SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
        }?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(TICK))?;
        // What this thread reads late, as it had no processor, is not to count as lost.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        let mut waiting: HashMap<u16, Sent> = HashMap::new();
        // IDs of lost queries, whose replies may still come.
        let mut late: HashMap<u16, Duration> = HashMap::new();
        let mut buffer = vec![0; 65_536];
        let (mut owed, mut last, mut number) = (0.0, Instant::now(), 0);
        loop {
            let stop = self.world.stop.load(Relaxed);
            if stop && waiting.is_empty() {
                return Ok(());
            }
            let active = !stop && (self.kind != Kind::Flood || self.world.flood.load(Relaxed));
            let passed = last.elapsed();
            last += passed;
            // What is late by more than a few ticks is left out, not sent in a burst.
            owed += self.kind.rate() * passed.min(5 * TICK).as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                if active {
                    self.ask(&socket, &mut waiting, &late, number);
                    number += 1;
                }
            }
            while let Ok(len) = socket.recv(&mut buffer) {
                self.take(&buffer[..len], &mut waiting, &mut late);
                if last.elapsed() > TICK {
                    break;
                }
            }
            let now = self.world.ledger.now();
            late.retain(|_, lost| now - *lost < TIMEOUT);
            for (id, sent) in waiting.extract_if(|_, sent| now - sent.time >= TIMEOUT) {
                self.world.add(self.kind, Count::Lost, sent.time);
                late.insert(id, now);
            }
        }
    }

    fn ask(
        &mut self,
        socket: &UdpSocket,
        waiting: &mut HashMap<u16, Sent>,
        late: &HashMap<u16, Duration>,
        number: u64,
    ) {
        let mut id = self.random.u16(..);
        while waiting.contains_key(&id) || late.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let question = self.kind.question(self.world, &mut self.random, number);
        let sent = self.world.query(self.kind, question, &mut self.random, id);
        // The first error may be an earlier query's: no server had the port. What cannot be sent is lost.
        let send = || socket.send(&sent.message);
        let _ = send().or_else(|_| send());
        waiting.insert(id, sent);
    }

    fn take(
        &mut self,
        reply: &[u8],
        waiting: &mut HashMap<u16, Sent>,
        late: &mut HashMap<u16, Duration>,
    ) {
        let id = reply.first_chunk().map(|id| u16::from_be_bytes(*id));
        let Some(sent) = id.and_then(|id| waiting.remove(&id)) else {
            // It comes too late, and is counted as lost.
            if let Some(lost) = id.and_then(|id| late.remove(&id)) {
                let took = TIMEOUT + (self.world.ledger.now() - lost);
                let took = took.as_millis() as u64;
                self.world.latest.fetch_max(took, Relaxed);
            }
            return;
        };
        let judged = self.world.judge(self.kind, &sent, reply);
        if judged == Count::Truncated && self.kind != Kind::Flaky {
            // Only as many as the TCP client has time for.
            let _ = self.again.try_send(sent.question);
        }
    }
}

/// Asks over TCP: what was truncated, and popular names besides. A query for which there is no connection is lost.
pub(super) fn tcp(world: &World, server: SocketAddr, mut random: Rng, again: &Receiver<Question>) {
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    let mut connection = None;
    for id in (0..PER_CONNECTION).cycle() {
        if world.stop.load(Relaxed) {
            return;
        }
        let question = again.try_recv();
        let question = question.unwrap_or_else(|_| world.popular(&mut random));
        let sent = world.query(Kind::Tcp, question, &mut random, id);
        let open = connection.take().filter(|_| id > 0);
        let asked = open.map_or_else(connect, Ok).and_then(|mut stream| {
            let reply = message::exchange(&mut stream, &sent.message)?;
            Ok((stream, reply))
        });
        match asked {
            Ok((stream, reply)) => {
                world.judge(Kind::Tcp, &sent, &reply);
                connection = Some(stream);
            }
            Err(_) => world.add(Kind::Tcp, Count::Lost, sent.time),
        }
        thread::sleep(Duration::from_secs_f64(1.0 / Kind::Tcp.rate()));
    }
}
