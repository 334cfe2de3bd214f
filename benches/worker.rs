//! What a worker does to a batch of packets, from the layout to the finished reply, without the rings
//! that they come from and go to.
#![allow(clippy::unwrap_used)]

use heimdall_user::{
    clock::{Clock, Now},
    tap::{Rate, Rates, Taps},
};

use crate::{batch::BATCH, fixture, frames};

/// Octets of a frame that a query takes, at most.
const QUERY: usize = 128;

/// A worker whose cache has an answer for every query that comes, with all sampling on: 1 in 256 for the popular
/// names, as always, 1 in 100 for dnstap, 1 in 1,000 for the query log.
#[derive(Debug)]
pub struct Worker {
    worker: frames::Worker,
    taps: Taps,
    batches: usize,
    queries: Vec<[u8; QUERY]>,
}

impl Worker {
    /// A worker for the first `count` names that `name` gives, asked for with EDNS or without. Its
    /// answers are a minute old, so that their TTLs have to be lowered.
    pub fn new(count: usize, name: fn(usize) -> String, edns: bool) -> Self {
        let now = Clock::start().now();
        let minute_ago = Now {
            seconds: now.seconds - 60,
            ..now
        };
        let core = fixture::core_for((0..count).map(name), minute_ago);
        let taps = Taps::new(Rates {
            popular: Some(Rate::one_in(256)),
            dnstap: Some(Rate::one_in(100)),
            log: Some(Rate::one_in(1000)),
            forwarder: None,
        });
        let mut worker = frames::Worker::disconnected(core, BATCH, true, taps.front());
        worker.begin();
        let query = |number| *fixture::frame(&name(number), edns).first_chunk().unwrap();
        Self {
            worker,
            taps,
            batches: 0,
            queries: (0..count).map(query).collect(),
        }
    }

    /// Puts a query in each frame, as the kernel does, on the same core at best: for the names whose
    /// numbers `next` gives, modulo how many there are.
    pub fn receive(&mut self, mut next: impl FnMut() -> usize) {
        let memory = &mut self.worker.memory;
        for frame in &mut memory.frames {
            let query = self.queries.get(next() % self.queries.len()).unwrap();
            frame.octets.first_chunk_mut().unwrap().clone_from(query);
            frame.len = QUERY;
        }
        memory.replied.clear();
        // What the observer does, on another core and less often.
        self.batches += 1;
        if self.batches.is_multiple_of(16) {
            self.taps.drain(|_| ());
        }
    }

    /// Answers the batch. Returns how many replies there are.
    #[inline]
    pub fn answer(&mut self) -> usize {
        self.worker.answer(0..BATCH);
        self.worker.memory.replied.len()
    }
}
