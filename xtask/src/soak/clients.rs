//! The clients: threads in the client's namespace that ask, and judge each reply.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::{
    check::{Sent, Verdict, judge},
    upstream::{Ledger, POPULAR, Question, wire_name},
};
use crate::random::Random;

/// How long a reply is waited for: longer than the server's attempts to get an answer take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one wait on a socket takes at most; queries that are due meanwhile go together.
const TICK: Duration = Duration::from_millis(2);
/// Octets that a client's socket holds.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Wrong replies that are kept to be shown.
const SHOWN: usize = 10;
/// Questions on one TCP connection.
const PER_CONNECTION: usize = 100;

/// What one kind of clients counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) asked: AtomicU64,
    pub(super) right: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) wrong: AtomicU64,
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    /// Nobody asks any more; what is under way is still waited for.
    pub(super) stop: AtomicBool,
    pub(super) flood: AtomicBool,
    /// The first wrong replies, in words.
    pub(super) wrong: Mutex<Vec<String>>,
    zipf: Vec<f64>,
}

impl World {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let mut sum = 0.0;
        let sums = (1..=POPULAR).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            zipf: sums.collect(),
            ledger,
            stop: AtomicBool::new(false),
            flood: AtomicBool::new(false),
            wrong: Mutex::default(),
        }
    }

    /// A popular name's rank: the first is asked twice as often as the second, and so on.
    pub(super) fn rank(&self, random: &mut Random) -> usize {
        let all = self.zipf[POPULAR - 1];
        let point = all * (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        self.zipf.partition_point(|sum| *sum <= point)
    }

    fn popular(&self, random: &mut Random) -> Question {
        Question::new(popular_name(self.rank(random)))
    }

    /// Notes that a question is asked, and makes a query of it. Over UDP there is a bound on the
    /// reply's size.
    fn query(&self, question: Question, random: &mut Random, id: u16, over_tcp: bool) -> Sent {
        let edns = random.percent(80);
        let size = random.pick(&[512u16, 1232, 1232, 1400, 4096]);
        let mut message = id.to_be_bytes().to_vec();
        message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
        // A length octet is at most 63, and so is no letter.
        message.extend(wire_name(&question.name).iter().map(|octet| {
            let flip = octet.is_ascii_alphabetic() && random.percent(50);
            octet ^ (u8::from(flip) << 5)
        }));
        message.extend_from_slice(&question.qtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        if edns {
            message.extend_from_slice(&[0, 0, 41]);
            message.extend_from_slice(&size.to_be_bytes());
            message.extend_from_slice(&[0; 6]);
        }
        let rank = question.rank();
        if rank.is_some() {
            self.ledger.sent.fetch_add(1, Relaxed);
        }
        Sent {
            message,
            limit: (!over_tcp).then_some(if edns { size.into() } else { 512 }),
            edns,
            flushed: rank.map_or(Duration::ZERO, |rank| self.ledger.flushed(rank)),
            time: self.ledger.now(),
            question,
        }
    }

    fn judge(&self, sent: &Sent, reply: &[u8], tally: &Tally) -> Option<Verdict> {
        let verdict = judge(sent, reply, &self.ledger);
        let count = match &verdict {
            Ok(Verdict::Right) => &tally.right,
            Ok(Verdict::Cut) => &tally.cut,
            Ok(Verdict::Stale) => &tally.stale,
            Ok(Verdict::Failed) => &tally.failed,
            Err(_) => &tally.wrong,
        };
        count.fetch_add(1, Relaxed);
        if let Err(error) = &verdict {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if wrong.len() < SHOWN {
                let Question { name, qtype } = &sent.question;
                let way = if sent.limit.is_some() { "UDP" } else { "TCP" };
                wrong.push(format!(
                    "at {:.1} s, {way}, {name} TYPE{qtype}: {error}",
                    sent.time.as_secs_f32()
                ));
            }
        }
        verdict.ok()
    }
}

/// The name of a rank.
pub(super) fn popular_name(rank: usize) -> String {
    format!("w{rank}.popular.soak.example")
}

/// What a client asks over UDP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Popular,
    Tail,
    Flaky,
    Flood,
}

impl Kind {
    /// Queries a second.
    fn rate(self) -> f64 {
        match self {
            Self::Popular => 600.0,
            Self::Tail => 300.0,
            Self::Flaky => 10.0,
            Self::Flood => 3000.0,
        }
    }

    fn question(self, world: &World, random: &mut Random, number: u64) -> Question {
        match self {
            Self::Popular => world.popular(random),
            Self::Tail => Question::new(format!("t{number}.tail.soak.example")),
            Self::Flaky => Question::new(format!("f{}.flaky.soak.example", random.below(50))),
            Self::Flood => Question::new(format!("{:016x}.flood.soak.example", random.next())),
        }
    }
}

/// A client that asks over UDP.
pub(super) struct Udp<'a> {
    pub(super) world: &'a World,
    pub(super) kind: Kind,
    pub(super) tally: &'a Tally,
    pub(super) random: Random,
    /// Takes the questions whose replies were cut.
    pub(super) again: SyncSender<Question>,
}

impl Udp<'_> {
    /// Asks until it is time to stop, and waits for the last replies.
    pub(super) fn run(mut self, server: SocketAddr) -> Result<()> {
        let any: SocketAddr = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        }
        .parse()?;
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(TICK))?;
        // What this thread takes late, as it was kept from the core, is not to count as lost.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        let mut waiting: HashMap<u16, Sent> = HashMap::new();
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
            // Who was kept from the core for long does not make up for it at once.
            owed += self.kind.rate() * passed.min(5 * TICK).as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                if active {
                    self.ask(&socket, &mut waiting, number)?;
                    number += 1;
                }
            }
            while let Ok(len) = socket.recv(&mut buffer) {
                self.take(&buffer[..len], &mut waiting);
                if last.elapsed() > TICK {
                    break;
                }
            }
            let now = self.world.ledger.now();
            let before = waiting.len();
            waiting.retain(|_, sent| now - sent.time < PATIENCE);
            let lost = (before - waiting.len()) as u64;
            self.tally.lost.fetch_add(lost, Relaxed);
        }
    }

    fn ask(
        &mut self,
        socket: &UdpSocket,
        waiting: &mut HashMap<u16, Sent>,
        number: u64,
    ) -> Result<()> {
        let mut id = self.random.next() as u16;
        while waiting.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let question = self.kind.question(self.world, &mut self.random, number);
        let sent = self.world.query(question, &mut self.random, id, false);
        self.tally.asked.fetch_add(1, Relaxed);
        socket.send(&sent.message).context("cannot send a query")?;
        waiting.insert(id, sent);
        Ok(())
    }

    fn take(&mut self, reply: &[u8], waiting: &mut HashMap<u16, Sent>) {
        let id = reply.first_chunk().map(|id| u16::from_be_bytes(*id));
        let Some(sent) = id.and_then(|id| waiting.remove(&id)) else {
            // It comes too late, and is counted as lost.
            return;
        };
        let cut = self.world.judge(&sent, reply, self.tally) == Some(Verdict::Cut);
        if cut && self.kind != Kind::Flaky {
            // Only as many as the TCP client has time for.
            let _ = self.again.try_send(sent.question);
        }
    }
}

/// Asks over TCP: what was cut, and popular names besides.
pub(super) fn tcp(
    world: &World,
    server: SocketAddr,
    tally: &Tally,
    mut random: Random,
    again: &Receiver<Question>,
) -> Result<()> {
    while !world.stop.load(Relaxed) {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        for id in 0..PER_CONNECTION {
            if world.stop.load(Relaxed) {
                break;
            }
            let question = again.try_recv();
            let question = question.unwrap_or_else(|_| world.popular(&mut random));
            let sent = world.query(question, &mut random, id as u16, true);
            tally.asked.fetch_add(1, Relaxed);
            match exchange(&mut stream, &sent.message) {
                Ok(reply) => {
                    world.judge(&sent, &reply, tally);
                }
                Err(_) => {
                    tally.lost.fetch_add(1, Relaxed);
                    break;
                }
            }
            thread::sleep(5 * TICK);
        }
    }
    Ok(())
}

fn exchange(stream: &mut TcpStream, message: &[u8]) -> Result<Vec<u8>> {
    let len = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&len, message].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut reply)?;
    if reply.is_empty() {
        bail!("an empty reply");
    }
    Ok(reply)
}
