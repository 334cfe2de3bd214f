//! Latency: histograms of durations, each recorded by one thread while others read it.
//!
//! The engine of each front has two ([`FrontLatency`]), each forwarder thread one for each upstream. What they measure,
//! from where to where, is in docs/observing.md, section "Latency".
//!
//! Recording costs a search in a constant table of bounds and three plain loads and stores: no lock, no allocation, no
//! locked instruction. The clock is read for a batch, never for a packet, and the replies of a batch are recorded
//! together.
//!
//! The hdrhistogram crate is not used: its histograms are not readable while they are recorded into, and its recorder
//! (`SyncHistogram`) solves that with a channel, memory that each recorder allocates, and readers that wait for all
//! recorders. A fixed array of counters needs none of that, and its bounds can be decimal, so that a subset of them
//! are those that Prometheus gets.
//!
//! This module knows no clock, and nothing of what it measures.

mod distribution;
mod histogram;

pub use distribution::Distribution;
pub(crate) use histogram::Histogram;

/// The latency of one front's replies.
#[derive(Debug, Default)]
pub struct FrontLatency {
    /// From the receipt of a batch until the replies from the cache were sent, for each of them.
    pub(crate) hits: Histogram,
    /// From the receipt of a query until the reply with the forwarder's answer was sent.
    pub(crate) misses: Histogram,
}

#[cfg(test)]
mod tests;
