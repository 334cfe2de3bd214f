//! The clients: open loops over many UDP sockets, so many flows. The fate of each query is known.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use fastrand::Rng;
use lab::HOSTS;

use super::NODES;
use crate::zipf::Zipf;

/// Sockets of a thread.
const FLOWS: usize = 96;
/// Queries of a socket that are remembered, a power of two: more than it asks within [`TIMEOUT`], at 100,000 a second from two
/// threads 2,605.
const REMEMBERED: usize = 4096;
/// A reply that comes later is of no use to clients: a stub resolver waits for five seconds (resolv.conf(5)).
const TIMEOUT: Duration = Duration::from_secs(5);
/// The load grows for so long: at first all names are new to all caches.
pub(super) const GROWTH: Duration = Duration::from_secs(5);
/// Every so many queries one is for a name that nobody has asked for, which no cache has.
const NEW_EVERY: u64 = 100;
/// Length of an interval that is counted for itself.
pub(super) const BIN: Duration = Duration::from_millis(100);

/// The queries that were sent in an interval, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bin {
    pub(super) sent: u64,
    /// Right answers, by the node that gave them.
    pub(super) answered: [u64; NODES],
    /// SERVFAIL: a node had no answer.
    pub(super) failed: u64,
    pub(super) wrong: u64,
}

impl Bin {
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.wrong += other.wrong;
        for (sum, count) in self.answered.iter_mut().zip(other.answered) {
            *sum += count;
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.sent - self.answered.iter().sum::<u64>() - self.failed - self.wrong
    }
}

/// What clients saw: a bin for each [`BIN`] since the start, and when each lost query was sent.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) bins: Vec<Bin>,
    pub(super) lost: Vec<Duration>,
}

impl Record {
    pub(super) fn add(&mut self, other: Self) {
        let len = self.bins.len().max(other.bins.len());
        self.bins.resize(len, Bin::default());
        for (sum, bin) in self.bins.iter_mut().zip(&other.bins) {
            sum.add(bin);
        }
        self.lost.extend(other.lost);
    }

    fn bin(&mut self, sent: Duration) -> &mut Bin {
        let index = (sent.as_nanos() / BIN.as_nanos()) as usize;
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }
}

/// A name of the upstream's zone, and its address.
#[derive(Clone, Copy, Debug)]
enum Name {
    Host(usize),
    New(u64),
}

impl Name {
    fn label(self) -> String {
        match self {
            Self::Host(number) => format!("n{number}"),
            Self::New(number) => format!("u{number}"),
        }
    }

    /// A query with RD and an OPT record that asks for the NSID (RFC 5001).
    fn query(self, id: u16) -> Vec<u8> {
        let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query[..2].copy_from_slice(&id.to_be_bytes());
        let wild = matches!(self, Self::New(_)).then_some("wild");
        let label = self.label();
        for label in [label.as_str()]
            .into_iter()
            .chain(wild)
            .chain(["example", "com"])
        {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        query.extend(OPT);
        query
    }

    fn address(self) -> [u8; 4] {
        match self {
            Self::Host(number) => [10, 0, (number / 256) as u8, (number % 256) as u8],
            Self::New(_) => [192, 0, 2, 4],
        }
    }
}

/// Root, OPT, 1232 octets, no flags, 4 octets: option 3, empty.
const OPT: [u8; 15] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0];

#[derive(Debug, PartialEq)]
enum Verdict {
    Right(usize),
    Failed,
    Wrong,
}

fn judge(name: Name, reply: &[u8]) -> Verdict {
    let query = name.query(0);
    let question = &query[12..query.len() - OPT.len()];
    let end = 12 + question.len();
    if reply.get(12..end) != Some(question) || reply[2] & 0x80 == 0 {
        return Verdict::Wrong;
    }
    match reply[3] & 15 {
        2 => Verdict::Failed,
        // A compressed owner, type, class, TTL and length take 12 octets.
        0 if reply[6..8] == [0, 1] && reply.get(end + 12..end + 16) == Some(&name.address()) => {
            // The NSID: node1, node2 ...
            let mark = reply
                .windows(5)
                .rposition(|octets| octets.starts_with(b"node"));
            let node = mark.map(|at| reply[at + 4].wrapping_sub(b'1').into());
            node.filter(|node| *node < NODES)
                .map_or(Verdict::Wrong, Verdict::Right)
        }
        _ => Verdict::Wrong,
    }
}

/// A socket, and its last queries by their IDs.
struct Flow {
    socket: UdpSocket,
    next: u16,
    waiting: Vec<Option<(u16, Name, Duration)>>,
}

impl Flow {
    fn open(server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            next: 0,
            waiting: vec![None; REMEMBERED],
        })
    }

    fn ask(&mut self, name: Name, now: Duration, record: &mut Record) {
        let id = self.next;
        self.next = id.wrapping_add(1);
        let slot = &mut self.waiting[usize::from(id) % REMEMBERED];
        if let Some((_, _, sent)) = slot.replace((id, name, now)) {
            record.lost.push(sent);
        }
        record.bin(now).sent += 1;
        let query = name.query(id);
        // The first error may be an earlier query's (ICMP). What cannot be sent is lost.
        let _ = self
            .socket
            .send(&query)
            .or_else(|_| self.socket.send(&query));
    }

    fn receive(&mut self, start: Instant, record: &mut Record) {
        let mut buffer = [0; 1500];
        // An error may be a query's; then there may be more.
        for _ in 0..REMEMBERED {
            let len = match self.socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let reply = &buffer[..len];
            let Some(id) = reply.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
                continue;
            };
            let slot = &mut self.waiting[usize::from(id) % REMEMBERED];
            let in_time = |(asked, _, sent): &mut (u16, Name, Duration)| {
                *asked == id && start.elapsed() < *sent + TIMEOUT
            };
            let Some((_, name, sent)) = slot.take_if(in_time) else {
                continue;
            };
            let bin = record.bin(sent);
            match judge(name, reply) {
                Verdict::Right(node) => bin.answered[node] += 1,
                Verdict::Failed => bin.failed += 1,
                Verdict::Wrong => bin.wrong += 1,
            }
        }
    }
}

/// Asks `server` until an answer comes: all hosts on the way know their neighbours then.
pub(super) fn wait_for_answer(server: SocketAddr) -> Result<()> {
    let flow = Flow::open(server)?;
    flow.socket.set_nonblocking(false)?;
    flow.socket
        .set_read_timeout(Some(Duration::from_millis(200)))?;
    let name = Name::Host(0);
    for _ in 0..100 {
        flow.socket.send(&name.query(0))?;
        let mut reply = [0; 1500];
        if let Ok(len) = flow.socket.recv(&mut reply)
            && matches!(judge(name, &reply[..len]), Verdict::Right(_))
        {
            return Ok(());
        }
    }
    bail!("{server} does not answer")
}

/// Asks `server` at a rate, which is reached after [`GROWTH`], until `stop`, then waits for the last replies. Times are since
/// `start`.
pub(super) fn ask(
    server: SocketAddr,
    rate: f64,
    mut random: Rng,
    start: Instant,
    stop: &AtomicBool,
) -> Result<Record> {
    let mut record = Record::default();
    let flows: Result<Vec<Flow>> = (0..FLOWS).map(|_| Flow::open(server)).collect();
    let mut flows = flows?;
    let popularity = Zipf::new(HOSTS);
    let (mut owed, mut last, mut number) = (0.0, start.elapsed(), 0_u64);
    let mut stopped = None;
    let family = if server.is_ipv4() { 4 } else { 6 };
    while stopped.is_none_or(|at| start.elapsed() < at + TIMEOUT) {
        let now = start.elapsed();
        if stopped.is_none() && stop.load(Relaxed) {
            stopped = Some(now);
        }
        // What is late by more than that is left out, not sent in a burst.
        let grown = now.div_duration_f64(GROWTH).min(1.0);
        owed += grown * rate * (now - last).min(Duration::from_millis(20)).as_secs_f64();
        last = now;
        while owed >= 1.0 && stopped.is_none() {
            owed -= 1.0;
            number += 1;
            let name = match number % NEW_EVERY {
                0 => Name::New(number * 10 + family),
                _ => Name::Host(popularity.draw(&mut random)),
            };
            let flow = random.usize(..FLOWS);
            flows[flow].ask(name, start.elapsed(), &mut record);
        }
        for flow in &mut flows {
            flow.receive(start, &mut record);
        }
        thread::sleep(Duration::from_millis(1));
    }
    for flow in &flows {
        let left = flow.waiting.iter().flatten();
        record.lost.extend(left.map(|(_, _, sent)| *sent));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_right_failed_or_wrong() {
        let name = Name::Host(258);
        let query = name.query(7);
        let reply = |rcode: u8, address: [u8; 4], nsid: &[u8]| {
            let mut reply = query[..query.len() - OPT.len()].to_vec();
            (reply[2], reply[3], reply[7]) = (0x81, 0x80 | rcode, 1);
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4]);
            reply.extend(address);
            reply.extend(nsid);
            reply
        };
        let right = reply(0, [10, 0, 1, 2], b"node2");
        assert_eq!(judge(name, &right), Verdict::Right(1));
        assert_eq!(judge(Name::Host(259), &right), Verdict::Wrong);
        assert_eq!(judge(name, &right[..right.len() - 1]), Verdict::Wrong);
        assert_eq!(judge(name, &query), Verdict::Wrong);
        assert_eq!(judge(name, &[]), Verdict::Wrong);
        let other = reply(0, [10, 0, 1, 3], b"node2");
        assert_eq!(judge(name, &other), Verdict::Wrong);
        assert_eq!(judge(name, &reply(2, [0; 4], b"node1")), Verdict::Failed);
        assert_eq!(
            judge(name, &reply(3, [10, 0, 1, 2], b"node1")),
            Verdict::Wrong
        );
    }
}
