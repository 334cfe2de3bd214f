//! What is observed of single queries: a sampler in every front and forwarder thread, and the observer,
//! a thread that makes of the samples the popular names and clients, dnstap and the query log.
//!
//! ```text
//!  engine, shard: 1 in N ─► Tap: copies the messages ─► Ring (a thread's own, bounded)
//!                                                        │
//!            Observer (one thread) ◄─────────────────────┘
//!              ├─► Popular: sketches of names, types and clients
//!              ├─► dnstap: frames to a Unix socket or a file
//!              └─► the query log: lines of JSON to a file or stdout
//! ```
//!
//! A query that is not sampled costs its thread a decrement and a branch. One that is sampled is copied
//! into memory that was allocated at the start: no lock, no allocation, no system call. If that is used
//! up, because the observer is behind, the sample is dropped and counted. The observer never waits for
//! who reads its output: what does not fit into a bounded queue is dropped and counted, too.
//!
//! This module must not know what a query gets, or why; the callers say so.

mod dnstap;
mod file_output;
mod frame_stream;
mod observer;
mod options;
mod output;
mod popular;
mod protobuf;
mod query_log;
mod queue;
mod rate;
mod ring;
mod sample;
mod sketch;
mod socket_output;
mod taps;
mod wall_clock;

pub(crate) use observer::{Observations, Observer};
pub use options::{BadTarget, DnstapTarget, MessageKind};
pub(crate) use options::{DnstapOptions, QueryLogOptions, TapOptions};
pub use rate::{BadRate, Rate};
pub(crate) use sample::Protocol;
pub use sample::{Origin, Sample};
pub use taps::{Rates, Tap, Taps};

#[cfg(test)]
mod tests;
