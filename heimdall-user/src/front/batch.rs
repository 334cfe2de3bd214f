//! A batch of messages between reading and answering.

use super::BATCH;
use crate::{
    answer::{Core, Hint},
    dns::{Malformed, Query},
};

/// How many queries ahead of the one being answered an entry is prefetched. Memory then answers
/// while the queries in between are worked on; prefetched for a whole batch at once, the processor
/// would run out of line-fill buffers and wait.
pub const PREFETCH_DISTANCE: usize = 8;

/// Messages that were read and are to be answered ([`Engine::answer`](super::Engine::answer)).
#[derive(Debug)]
pub struct Batch<M> {
    pub(super) messages: Vec<M>,
    /// What was read from each. They are apart, so that a message can be moved without its query.
    pub(super) read: Vec<Read>,
}

/// What [`Engine::read`](super::Engine::read) has read.
#[derive(Debug)]
pub struct Read {
    pub(super) query: Result<Query, Malformed>,
    /// Where the query's answer may be in the cache.
    pub(super) hint: Hint,
}

impl Read {
    /// Prefetches the query's entry, and keeps its position for the look-up.
    #[inline(always)]
    pub(super) fn prefetch(&mut self, core: &Core) {
        if let Ok(query) = &self.query {
            self.hint = core.prefetch_entry(query);
        }
    }
}

impl<M> Batch<M> {
    /// An empty batch with room for [`BATCH`] messages.
    pub fn new() -> Self {
        Self {
            messages: Vec::with_capacity(BATCH),
            read: Vec::with_capacity(BATCH),
        }
    }

    /// Adds a message; `read` is what [`Engine::read`](super::Engine::read) returned for it.
    #[inline(always)]
    pub fn push(&mut self, message: M, read: Read) {
        self.messages.push(message);
        self.read.push(read);
    }
}

impl<M> Default for Batch<M> {
    fn default() -> Self {
        Self::new()
    }
}
