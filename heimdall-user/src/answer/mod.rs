//! The answer core: what a query gets, whatever carried it.
//!
//! AF_XDP workers, UDP sockets and TCP all call [`Core`]. It takes octets, a cache, the operator's
//! [`Policy`](policy::Policy) and a clock value and gives a verdict; it does no I/O, knows no thread, and
//! neither allocates nor blocks for a hit. A front calls [`Core::begin`] once a batch; then a query
//! takes two or three steps, so that a batch can overlap the memory latency of its look-ups:
//!
//! 1. [`Core::read`] checks the message and hashes its key; [`Core::prefetch`], and when the rest
//!    of the batch has been read, [`Core::prefetch_entry`].
//! 2. [`Core::answer`], or [`Core::answer_at`] with the hint of the prefetch, writes the reply over the
//!    query, or returns [`Verdict::Miss`]. The verdict also says whether the answer should be refreshed.
//! 3. After a miss, [`Core::complete`] writes the reply once the forwarder has the answer, and
//!    [`Core::insert`] caches it.
//!
//! `client` is what a client is and on what terms it gets its reply, `admission` decides whether it
//! gets one, `core` and `steps` answer, and `writer` writes and counts the replies. The
//! other modules are parts of the policy.
//!
//! The rules for *clients* (access, limit, cookies) are applied to every query. The rules for
//! *names* are looked at only after a cache miss, and the answer that they give is then cached like any
//! other, so that local data and blocklists cost a hit nothing; a new policy invalidates the cache.

pub mod access;
mod admission;
pub mod blocklist;
mod body;
mod client;
pub mod cookie;
mod core;
pub(crate) mod hostname;
pub mod identity;
pub mod limit;
pub mod local;
pub mod policy;
pub mod prefix;
pub(crate) mod special;
mod steps;
#[cfg(test)]
mod testing;
mod writer;

pub use self::core::{Core, Verdict};
pub use crate::cache::Hint;
pub(crate) use client::STREAM_IDLE;
pub use client::{Client, Transport};
