//! Counters.
//!
//! Each thread that counts owns its set and is its only writer; the control room reads them all.
//! A count is therefore a plain load and store, without a locked instruction, and each set sits
//! on cache lines of its own.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the count. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Defines a set of counters, and lists them by name in the order of their definition.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $set:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $set { $($(#[$doc])* pub $name: $crate::stats::Counter,)* }

        impl $set {
            /// Every counter's name and value.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}
pub(crate) use counters;

counters! {
    /// What an answer core counts.
    pub struct AnswerCounters {
        /// Queries answered from the cache.
        hits,
        /// Queries handed to the forwarder.
        misses,
        /// Replies that had to be cut (TC).
        truncated,
        /// Replies of NOERROR.
        noerror,
        /// Replies of FORMERR.
        formerr,
        /// Replies of SERVFAIL.
        servfail,
        /// Replies of NXDOMAIN.
        nxdomain,
        /// Replies of NOTIMP.
        notimp,
        /// Replies of REFUSED.
        refused,
        /// Replies of BADVERS.
        badvers,
        /// Replies of BADCOOKIE.
        badcookie,
        /// Queries refused because the client may not ask here.
        prohibited,
        /// Replies cut because the client's prefix asks too much.
        slipped,
        /// Queries that local data answered, and no cache yet.
        local,
        /// Queries that a blocklist answered, and no cache yet.
        blocked,
        /// Answers now in the cache.
        cache_entries,
        /// Answers put in the cache.
        cache_insertions,
        /// Answers that made room for others before they expired.
        cache_evictions,
    }
}

counters! {
    /// Queries that get no reply, by reason.
    pub struct DropCounters {
        /// Shorter than a DNS header.
        runt,
        /// A response (QR=1).
        response,
        /// An error reply would go to a well-known service's port, where it could start a loop.
        service_port,
        /// Headers or lengths that cannot be read.
        bad_length,
        /// A wrong IPv4 or UDP checksum.
        bad_checksum,
        /// A source address or port that no reply may go to.
        bad_source,
        /// Clients that the operator wants to be dropped, or that sent something unreadable and may
        /// not ask here.
        access,
        /// The client's prefix asks too much.
        rate_limited,
        /// No room to write the reply.
        no_room,
    }
}
