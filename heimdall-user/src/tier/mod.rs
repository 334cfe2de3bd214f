//! The hot tier: the most popular answers, which the XDP program gives by itself.
//!
//! A worker nominates answers that it has just served from its cache ([`Nominator`]); the promoter, a thread,
//! takes the nominations and writes what is worth it into the program's maps. `Tier` is the handle of all
//! this: the server attaches interfaces, sets the rules, and announces what makes answers outdated. This module
//! must not parse packets, and must not decide what a query gets: an entry is what the core would reply, octet
//! for octet, or there is none.
//!
//! ```text
//!  worker: 1 in 32 queries ─► Nominator: makes an entry ─► Ring (a worker's own, bounded)
//!                                                            │
//!              promoter (one thread) ◄───────────────────────┘
//!                ├─► Table: free, live and retired entries ─► the maps of each interface
//!                ├─► Candidates: what was nominated before
//!                ├─► Fruitless: what was promoted and never given
//!                └◄─ hits of each entry, a slice a second: what cooled is demoted, and `top` counts
//! ```
//!
//! # Why nothing outdated is promoted
//!
//! What a cache holds becomes outdated in two ways: by another policy, which a worker loads at the begin of its
//! next batch, invalidating its cache; and by a flush, which a worker executes between batches. In both cases
//! there is a time in which the maps hold nothing outdated any more, but a worker's cache still does, and so may
//! nominations. Therefore:
//!
//! 1. Every nomination carries the epoch that the tier had *before* the worker looked at its policy and its cache.
//!    It is made only if the worker's policy is the shared one then.
//! 2. `Tier::suspend` and `Tier::forget` close the epoch: it reads 0, no worker nominates, and the promoter
//!    promotes nothing. Then they remove the entries from the maps and wait until no program reads them.
//! 3. The caller stores the policy, or flushes all caches and waits for that.
//! 4. When the last of their guards is dropped, a new epoch opens. The promoter compares each nomination's with
//!    it, under the lock under which epochs open and close, and drops those of other epochs.
//!
//! So for what is promoted in epoch E, the worker read E (acquire) after E was opened (release), hence after
//! step 3 of everything before E:
//!
//! - The shared policy that it looked at then is at least as new as the one stored in step 3. Its own is the
//!   same, so it has invalidated its cache when it loaded that. (If a still newer one is stored, then after
//!   another suspension has begun, and epoch E is closed.)
//! - Its cache has been flushed: the flush returned after this worker had executed it. A worker that has ended
//!   meanwhile has lost its cache.
//!
//! What a front caches after that, the core answers, too: an answer that was asked for before a flush and arrives
//! after it, for example. The tier is no fresher than the core, and no staler.
//!
//! An entry is used until the second in which a refresh is due, so it is never expired or stale; then the worker
//! gets the queries, refreshes the answer, and nominates that.
//!
//! # Why no entry is seen half
//!
//! A live entry is never written. The promoter writes a free one, and publishes it by one store of 64 bits.
//! One that was removed is retired: it is free again once all programs have ended that may have read its slot
//! (an RCU grace period).

mod candidates;
mod entry;
mod fruitless;
mod handle;
mod interfaces;
mod nominate;
mod promoter;
mod report;
mod state;
mod table;

pub(crate) use handle::{Tier, TierRules, TierSettings};
pub(crate) use nominate::Offer;
pub use nominate::{Nomination, Nominations, Nominator};
pub(crate) use report::TierReport;

#[cfg(test)]
mod tests;
