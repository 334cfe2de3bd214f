//! Answers a number of packets from the cache, as a worker does, and nothing else: `cargo xtask
//! instructions` counts what the processor executes for one more.
#![allow(clippy::unwrap_used)]

use std::env;

use benches::{batch::BATCH, fixture::name, worker::Worker};

const NAMES: usize = 1000;

fn main() {
    let batches: usize = env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap();
    let mut worker = Worker::new(NAMES, name, true);
    let mut number = 0;
    for _ in 0..batches {
        // The only work that is not a worker's.
        worker.receive(|| {
            number += 7;
            number
        });
        assert_eq!(worker.answer(), BATCH, "a miss");
    }
}
