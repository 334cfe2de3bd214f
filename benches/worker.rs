//! What a worker does to a batch of packets, from the layout to the finished reply, without the rings
//! that they come from and go to.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use heimdall_user::{
    answer::{AHEAD, Core, Hint, Verdict},
    clock::Now,
    dns::{Query, reply::Reply},
    packet::{Layout, SourceFilter},
    worker::client,
};

use crate::{batch::BATCH, fixture};

/// Octets of a frame that a query takes, at most.
const QUERY: usize = 128;

/// Octets of a frame behind XDP's headroom.
const FRAME: usize = 1792;

/// A worker whose cache has an answer for every query that comes.
#[derive(Debug)]
pub struct Worker {
    core: Core,
    sources: SourceFilter,
    frames: Vec<Vec<u8>>,
    staged: Vec<(Layout, Query, Hint)>,
    queries: Vec<[u8; QUERY]>,
}

impl Worker {
    /// A worker for the first `count` names that `name` gives, asked for with EDNS or without. Its
    /// answers are a minute old, so that their TTLs have to be lowered.
    pub fn new(count: usize, name: fn(usize) -> String, edns: bool) -> Self {
        let mut core = fixture::core_for((0..count).map(name));
        core.begin(Now {
            seconds: 60,
            unix: 0,
        });
        let query = |number| *fixture::frame(&name(number), edns).first_chunk().unwrap();
        Self {
            core,
            sources: SourceFilter::new([[10, 0, 0, 1].into()]),
            frames: vec![vec![0; FRAME]; BATCH],
            staged: Vec::with_capacity(BATCH),
            queries: (0..count).map(query).collect(),
        }
    }

    /// Puts a query in each frame, as the kernel does, on the same core at best: for the names whose
    /// numbers `next` gives, modulo how many there are.
    pub fn receive(&mut self, mut next: impl FnMut() -> usize) {
        for frame in &mut self.frames {
            let query = self.queries.get(next() % self.queries.len()).unwrap();
            frame.first_chunk_mut().unwrap().clone_from(query);
        }
    }

    /// Answers the batch, in both stages. How many replies there are: one name in some thousands has
    /// lost its place in a full bucket of the cache.
    #[inline]
    pub fn answer(&mut self) -> usize {
        let Self {
            core,
            sources,
            frames,
            staged,
            ..
        } = self;
        for frame in &*frames {
            let layout = Layout::read(frame, sources, true).unwrap();
            let query = core.read(layout.query(frame)).unwrap();
            core.prefetch(&query);
            staged.push((layout, query, Hint::default()));
        }
        let mut replies = 0;
        for (_, query, hint) in staged.iter_mut().take(AHEAD) {
            *hint = core.prefetch_entry(query);
        }
        for (at, frame) in frames.iter_mut().enumerate() {
            if let Some((_, query, hint)) = staged.get_mut(at + AHEAD) {
                *hint = core.prefetch_entry(query);
            }
            let Some((layout, query, hint)) = staged.get(at) else {
                break;
            };
            let packet = layout.open(frame, 1500).unwrap();
            let client = client(&packet);
            let verdict = core.answer_at(*hint, query, packet.room, client);
            if let Verdict::Reply(Reply { len, sum }) = verdict {
                black_box(packet.into_reply(len, sum));
                replies += 1;
            }
        }
        staged.clear();
        replies
    }
}
