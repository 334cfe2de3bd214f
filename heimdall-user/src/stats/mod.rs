//! Counters.
//!
//! Each thread owns its set of counters and is its only writer; the control server reads them all. So
//! counting is a plain load and store, without a locked instruction, and each set has cache lines of
//! its own (no false sharing).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the count. Only the owning thread may call this.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge. Only the owning thread may call this.
    #[inline(always)]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter's value at one moment, with its definition.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The counter's name.
    pub name: &'static str,
    /// What it counts: the comment of its definition.
    pub help: &'static str,
    /// It can fall, too.
    pub gauge: bool,
    /// The count so far, or the gauge's value.
    pub value: u64,
}

/// Defines a set of counters, and lists them by name in the order of their definition. Each has a comment, which
/// operators get to see, and those that can fall are marked: `entries: gauge`.
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis struct $set:ident { $($(#[doc = $doc:literal])+ $name:ident $(: $kind:ident)?,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        $vis struct $set { $($(#[doc = $doc])+ $vis $name: $crate::stats::Counter,)* }

        impl $set {
            /// Every counter's name and value.
            $vis fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }

            /// Every counter with its definition, in the same order.
            $vis fn described(&self) -> Vec<$crate::stats::Described> {
                vec![$($crate::stats::Described {
                    name: stringify!($name),
                    help: concat!($($doc),+).trim_ascii_start(),
                    gauge: false $(|| counters!(@$kind))?,
                    value: self.$name.get(),
                },)*]
            }
        }
    };
    (@gauge) => { true };
}
pub(crate) use counters;

counters! {
    /// An answer core's counters.
    pub struct AnswerCounters {
        /// Queries answered from the cache.
        hits,
        /// Queries submitted to the forwarder.
        misses,
        /// Queries for A records.
        type_a,
        /// Queries for NS records.
        type_ns,
        /// Queries for CNAME records.
        type_cname,
        /// Queries for SOA records.
        type_soa,
        /// Queries for PTR records.
        type_ptr,
        /// Queries for MX records.
        type_mx,
        /// Queries for TXT records.
        type_txt,
        /// Queries for AAAA records.
        type_aaaa,
        /// Queries for SRV records.
        type_srv,
        /// Queries for DS records.
        type_ds,
        /// Queries for DNSKEY records.
        type_dnskey,
        /// Queries for SVCB records.
        type_svcb,
        /// Queries for HTTPS records.
        type_https,
        /// Queries for all records of a name.
        type_any,
        /// Queries for other types.
        type_other,
        /// Replies that were truncated (TC).
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
        /// Replies of other response codes, which upstreams gave.
        other,
        /// Queries refused because the client may not ask here.
        prohibited,
        /// Replies truncated because the client's prefix exceeds its rate limit (RRL slip).
        slipped,
        /// Queries answered from local data for the first time; then the cache answers.
        local,
        /// Queries answered by a blocklist for the first time; then the cache answers.
        blocked,
        /// Answers now in the cache.
        cache_entries: gauge,
        /// Answers inserted into the cache.
        cache_insertions,
        /// Answers that were evicted before they expired.
        cache_evictions,
    }
}

impl AnswerCounters {
    /// The counter of queries for a type.
    #[inline(always)]
    pub(crate) fn of_type(&self, qtype: u16) -> &Counter {
        // Numbers without gaps: the compiler then computes the counter's address from a table. For the
        // types themselves it would emit a jump that the processor cannot predict.
        match type_index(qtype) {
            1 => &self.type_a,
            2 => &self.type_ns,
            3 => &self.type_cname,
            4 => &self.type_soa,
            5 => &self.type_ptr,
            6 => &self.type_mx,
            7 => &self.type_txt,
            8 => &self.type_aaaa,
            9 => &self.type_srv,
            10 => &self.type_ds,
            11 => &self.type_dnskey,
            12 => &self.type_svcb,
            13 => &self.type_https,
            14 => &self.type_any,
            _ => &self.type_other,
        }
    }
}

/// The number of a type's counter: 1 to 14 in the order of `type_a` to `type_any`, 0 for `type_other`.
#[inline(always)]
pub(crate) fn type_index(qtype: u16) -> u8 {
    KINDS.get(usize::from(qtype)).copied().unwrap_or_default()
}

/// A number for each type that has a counter of its own, 0 for the rest.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of range is an error"
)]
const KINDS: [u8; 256] = {
    const COUNTED: [usize; 14] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 64, 65, 255];
    let mut kinds = [0; 256];
    let mut kind = 0;
    while kind < COUNTED.len() {
        kinds[COUNTED[kind]] = kind as u8 + 1;
        kind += 1;
    }
    kinds
};

counters! {
    /// Queries that get no reply, by reason.
    pub struct DropCounters {
        /// Shorter than a DNS header.
        runt,
        /// A response (QR=1).
        response,
        /// An error reply would go to a well-known service's port, where it could start a reply loop.
        service_port,
        /// Headers or lengths that cannot be read.
        bad_length,
        /// A wrong IPv4 or UDP checksum.
        bad_checksum,
        /// A source address or port that no reply may go to.
        bad_source,
        /// Clients that the access list drops, or that may not ask here and sent something unreadable.
        access,
        /// The client's prefix exceeds its rate limit.
        rate_limited,
        /// The reply does not fit.
        no_room,
    }
}
