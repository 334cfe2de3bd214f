//! Answers so many packets from the cache, as a worker does, and nothing else: `cargo xtask
//! instructions` counts what the processor executes for one more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{env, hint::black_box, net::IpAddr};

use benches::fixture::{CLIENT, core, frame, name};
use heimdall_user::{
    answer::{AHEAD, Verdict},
    clock::Now,
    packet::{Layout, SourceFilter},
};

const NAMES: usize = 1000;
const BATCH: usize = 64;

fn main() {
    let batches: usize = env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap();
    let mut core = core(NAMES);
    // Late enough that TTLs have to be lowered.
    core.begin(Now {
        seconds: 60,
        unix: 0,
    });
    let own: IpAddr = [10, 0, 0, 1].into();
    let sources = SourceFilter::new([own]);
    let queries: Vec<Vec<u8>> = (0..NAMES).map(|number| frame(&name(number))).collect();
    let mut frames: Vec<Vec<u8>> = queries.iter().take(BATCH).cloned().collect();
    let mut staged = Vec::with_capacity(BATCH);
    for batch in 0..batches {
        // The only work that is not a worker's.
        for (i, frame) in frames.iter_mut().enumerate() {
            frame[..128].copy_from_slice(&queries[(batch * BATCH + i * 7) % NAMES][..128]);
        }
        for (i, frame) in frames.iter().enumerate() {
            let layout = Layout::read(frame, &sources, true).unwrap();
            let query = core.read(layout.query(frame)).unwrap();
            core.prefetch(&query);
            staged.push((i, layout, query));
        }
        for step in 0..BATCH + AHEAD {
            if let Some((_, _, query)) = staged.get(step) {
                core.prefetch_entry(query);
            }
            let at = step.checked_sub(AHEAD);
            let Some((i, layout, query)) = at.and_then(|at| staged.get(at)) else {
                continue;
            };
            let frame = &mut frames[*i];
            let room = layout.reply_room(frame, 1500);
            let Verdict::Reply(len) = core.answer(query, room, &CLIENT) else {
                panic!("a miss");
            };
            assert!(!core.take_refresh(query, layout.reply_room(frame, 1500)));
            black_box(layout.turn_round(frame, len));
        }
        staged.clear();
    }
}
