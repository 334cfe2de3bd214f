//! The engine of every front: what an AF_XDP worker and the socket front have in common.
//!
//! A front takes queries from clients. Its transport (frames, datagrams, streams) implements
//! [`Messages`] and nothing else; the [`Engine`] does the rest, on the transport's thread:
//!
//! ```text
//! begin ─► read each message, push it to a Batch ─► answer the batch ─► complete outcomes ─► end ─► maintain
//! ```
//!
//! It reads a whole batch before it answers the first query, so that the cache's memory arrives
//! meanwhile; hands misses to the forwarder and keeps their queries in a table; completes them when
//! the outcomes arrive; and maintains the cache. It makes no system call except for misses, and
//! allocates nothing after its creation. It knows no socket, ring or thread.

mod batch;
mod engine;
mod sampler;
mod waiting;

pub use batch::{Batch, PREFETCH_DISTANCE, Read};
pub use engine::{Engine, Resources};

use crate::{
    answer::{Client, Verdict},
    dns::Query,
};

/// Most messages that a transport takes at once, and most outcomes that are completed at once.
pub const BATCH: usize = 64;

/// The messages of a transport: where their octets are, and how to reply to them.
///
/// The engine calls [`edit`](Self::edit) for a message, and then exactly one of
/// [`reply`](Self::reply), [`discard`](Self::discard) and [`park`](Self::park).
pub trait Messages {
    /// A message between its receipt and its reply.
    type Message;
    /// What is kept of a message while its query waits for the forwarder.
    type Parked;

    /// Octets of a message that has not been edited yet.
    fn received_len(&self, message: &Self::Message) -> usize;

    /// Calls `write` with the message's octets, followed by room for the reply, and with its client.
    /// If it returns [`Verdict::Reply`], the reply is at the start of the octets.
    ///
    /// Returns what `write` returned; [`Verdict::Drop`] if the message is unusable, so that `write` was not
    /// called, or its reply cannot be sent. A [`Verdict::Miss`] is returned in any case: the forwarder has
    /// the request already.
    fn edit(
        &mut self,
        message: &mut Self::Message,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict;

    /// Sends the reply that was written last. `query` is what it replies to, if that was a query.
    fn reply(&mut self, message: Self::Message, query: Option<&Query>);

    /// Forgets the message; it gets no reply.
    fn discard(&mut self, message: Self::Message);

    /// Keeps of the message what the reply needs: the first `Query::needed` octets, and the client.
    fn park(&mut self, message: Self::Message, query: &Query) -> Self::Parked;

    /// Makes a message of what was kept, for the reply to be written over. It is replied to or
    /// discarded before the next one is resumed.
    fn resume(&mut self, parked: Self::Parked) -> Self::Message;

    /// Counts a query that got SERVFAIL because it could not be handed to the forwarder: the table
    /// of waiting queries was full, or the forwarder's queue.
    fn count_overflow(&self);
}

#[cfg(test)]
mod tests;
