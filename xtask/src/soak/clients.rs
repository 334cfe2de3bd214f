//! The clients: each asks in small bunches, and checks every reply.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use xtask::lab::{CLIENT_V4, SERVER_V4};

use super::zone::{SERVFAIL, check, query};

/// Names that are asked for again and again.
const POPULAR: f64 = 3000.0;

/// Queries of a client that are under way at the same time.
const BUNCH: usize = 16;

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Replies that were right.
    pub(super) right: AtomicU64,
    /// Of those, replies that were to be asked for over TCP.
    pub(super) cut: AtomicU64,
    /// Queries without a reply.
    pub(super) lost: AtomicU64,
    /// Replies of SERVFAIL.
    pub(super) failed: AtomicU64,
    /// Queries for popular names.
    pub(super) popular: AtomicU64,
    /// The first replies that were wrong, in words.
    pub(super) wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn judge(&self, query: &[u8], reply: &[u8], over_tcp: bool) {
        match check(query, reply, over_tcp) {
            Ok(whole) => {
                self.right.fetch_add(1, Relaxed);
                self.cut.fetch_add(u64::from(!whole), Relaxed);
            }
            Err(SERVFAIL) => {
                self.failed.fetch_add(1, Relaxed);
            }
            Err(why) => {
                let mut wrong = self.wrong.lock().unwrap();
                if wrong.len() < 10 {
                    wrong.push(format!("{why}: {query:02x?} got {reply:02x?}"));
                }
            }
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Popular names, the more popular the more often (Zipf, s = 1).
    Popular,
    /// Names that nobody asks for twice, at leisure.
    LongTail,
    /// The same, as fast as it can, while there is a flood.
    Flood,
}

/// Asks over UDP until it is told to stop.
pub(super) fn over_udp(
    habit: Habit,
    seed: u64,
    tally: &Tally,
    flood: &AtomicBool,
    stop: &AtomicBool,
) -> Result<()> {
    let socket = UdpSocket::bind((CLIENT_V4, 0))?;
    socket.connect((SERVER_V4, 53))?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut buffer = [0; 2048];
    let mut under_way = HashMap::new();
    while !stop.load(Relaxed) {
        if habit == Habit::Flood && !flood.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        while under_way.len() < BUNCH {
            let id = rng.random();
            if under_way.contains_key(&id) {
                continue;
            }
            let query = query(id, &name(habit, &mut rng), rng.random_ratio(1, 20));
            socket.send(&query)?;
            under_way.insert(id, query);
        }
        if habit == Habit::Popular {
            tally.popular.fetch_add(BUNCH as u64, Relaxed);
        }
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        while !under_way.is_empty() {
            let Ok(len) = socket.recv(&mut buffer) else {
                tally.lost.fetch_add(under_way.len() as u64, Relaxed);
                under_way.clear();
                break;
            };
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            // One that comes after its time is up is nobody's.
            if let Some(query) = under_way.remove(&id) {
                tally.judge(&query, &buffer[..len], false);
            }
        }
        if habit != Habit::Flood {
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    Ok(())
}

/// Asks over TCP, some questions on each connection, until it is told to stop.
pub(super) fn over_tcp(seed: u64, tally: &Tally, stop: &AtomicBool) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Relaxed) {
        let mut stream = TcpStream::connect((SERVER_V4, 53))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        for _ in 0..20 {
            let query = query(rng.random(), &name(Habit::Popular, &mut rng), rng.random());
            stream.write_all(&(query.len() as u16).to_be_bytes())?;
            stream.write_all(&query)?;
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut reply)?;
            tally.judge(&query, &reply, true);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// A name in letters of any case.
fn name(habit: Habit, rng: &mut SmallRng) -> String {
    let name = match habit {
        Habit::Popular => {
            let rank = POPULAR.powf(rng.random::<f64>()) as u64;
            format!("p{rank}.zone{}.test", rank % 7)
        }
        Habit::LongTail => format!("{:x}.long.test", rng.random::<u64>()),
        Habit::Flood => format!("{:x}.flood.test", rng.random::<u64>()),
    };
    let mut case = || rng.random::<bool>();
    name.chars()
        .map(|letter| {
            if case() {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        })
        .collect()
}

/// Whether a query that the upstream gets is for a popular name.
pub(super) fn is_popular(query: &[u8]) -> bool {
    query
        .windows(6)
        .any(|octets| octets[..5].eq_ignore_ascii_case(b"\x05zone") && octets[5].is_ascii_digit())
}
