//! Response rate limiting (RRL): how many datagrams a client prefix gets back.
//!
//! A query in a datagram may have a forged source, and the reply then hits a victim. Each prefix has
//! an allowance, which is refilled by the second. The replies of a prefix that has used it up are
//! dropped, except for every Nth, which is sent truncated (slip): a real client asks again over TCP,
//! whose source cannot be forged, and a victim gets no more octets than were sent.
//!
//! Each thread has a table of 131,072 prefixes in 1 MiB. A prefix has 8 possible slots, all in one cache
//! line. If others have them all, the prefix that has been idle longest is evicted, and of several
//! the one with most of its allowance left. An evicted prefix starts again with its whole allowance, so
//! a flood from more prefixes than the table holds gains at most one allowance for each query that
//! evicts.

use std::{hash::BuildHasher, net::IpAddr};

use foldhash::fast::RandomState;

use super::prefix::{Prefix, PrefixMap};

/// Settings of the limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Replies a second, of one thread: 0 (no limit) to 65,535.
    pub per_second: u16,
    /// The whole allowance: replies that a prefix gets at once after it has been idle; at least
    /// `per_second`.
    pub burst: u16,
    /// Every Nth limited reply is sent truncated. 1: all, 0: none.
    pub slip: u16,
    /// Bits of an IPv4 address that make up a prefix: 0 to 32.
    pub v4_prefix: u8,
    /// Bits of an IPv6 address that make up a prefix: 0 to 64.
    pub v6_prefix: u8,
    /// Prefixes without a limit.
    pub exempt: Vec<Prefix>,
}

impl LimitSettings {
    /// The prefix by which a client is counted.
    pub(crate) fn prefix(&self, client: IpAddr) -> Prefix {
        let bits = match client {
            IpAddr::V4(_) => self.v4_prefix,
            IpAddr::V6(_) => self.v6_prefix,
        };
        Prefix::of(client, bits)
    }
}

impl Default for LimitSettings {
    /// No limit.
    fn default() -> Self {
        Self {
            per_second: 0,
            burst: 0,
            slip: 2,
            v4_prefix: 24,
            v6_prefix: 56,
            exempt: Vec::new(),
        }
    }
}

/// The reply that a client's allowance permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// A reply.
    Full,
    /// A small reply: more than half of its prefix's allowance is used up.
    Small,
    /// A truncated reply.
    Slip,
    /// No reply.
    Drop,
}

/// Slots of a bucket.
const WAYS: usize = 8;

/// Buckets of the table, of one cache line each.
const BUCKETS: usize = 1 << 14;

/// A slot: the rest of a prefix's allowance.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Part of the prefix's hash, which identifies it in its bucket; 0: the slot is free.
    tag: u32,
    tokens: u16,
    /// When it was last refilled: the low bits of the clock's seconds.
    refilled: u16,
}

#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Bucket([Account; WAYS]);

/// The limiter of one thread.
#[derive(Debug)]
pub struct Limiter {
    settings: LimitSettings,
    exempt: PrefixMap<bool>,
    hasher: RandomState,
    buckets: Box<[Bucket]>,
    /// Limited replies so far, of which every Nth slips.
    limited: u16,
}

impl Limiter {
    /// A limiter. Without a limit it takes no memory.
    pub fn new(settings: &LimitSettings) -> Self {
        let buckets = if settings.per_second > 0 { BUCKETS } else { 0 };
        let exempt = settings.exempt.iter().map(|prefix| (*prefix, true));
        Self {
            settings: settings.clone(),
            exempt: PrefixMap::new(exempt, false),
            hasher: RandomState::default(),
            buckets: vec![Bucket::default(); buckets].into(),
            limited: 0,
        }
    }

    /// Whether there is a limit at all.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// The reply that the client may get at `now`, in seconds. It is taken from its prefix's allowance.
    pub fn check(&mut self, address: IpAddr, now: u32) -> Allowance {
        if self.exempt.get(address) {
            return Allowance::Full;
        }
        let (bucket, tag) = self.position(address);
        let LimitSettings {
            per_second,
            burst,
            slip,
            ..
        } = self.settings;
        let Some(Bucket(accounts)) = self.buckets.get_mut(bucket) else {
            return Allowance::Full;
        };
        let now = now as u16;
        let way = accounts.iter().position(|account| account.tag == tag);
        let way = way.unwrap_or_else(|| eviction_candidate(accounts, now));
        let Some(account) = accounts.get_mut(way) else {
            return Allowance::Full;
        };
        if account.tag == tag {
            account.refill(per_second, burst, now);
        } else {
            *account = Account {
                tag,
                tokens: burst,
                refilled: now,
            };
        }
        match account.tokens.checked_sub(1) {
            Some(left) => {
                account.tokens = left;
                full_or_small(left, burst)
            }
            None => {
                self.limited = self.limited.wrapping_add(1);
                match self.limited.checked_rem(slip) {
                    Some(0) => Allowance::Slip,
                    _ => Allowance::Drop,
                }
            }
        }
    }

    /// As [`check`](Self::check), for a later reply to a query that was checked: nothing is taken, and
    /// the reply is full or small.
    pub(super) fn peek(&self, address: IpAddr, now: u32) -> Allowance {
        let burst = self.settings.burst;
        let left = self.left(address, now);
        left.map_or(Allowance::Full, |left| full_or_small(left, burst))
    }

    /// The replies that the client's prefix may get at `now`. `None`: there is no limit for it.
    pub(super) fn left(&self, address: IpAddr, now: u32) -> Option<u16> {
        let (bucket, tag) = self.position(address);
        let Bucket(accounts) = self.buckets.get(bucket)?;
        if self.exempt.get(address) {
            return None;
        }
        let LimitSettings {
            per_second, burst, ..
        } = self.settings;
        let Some(account) = accounts.iter().find(|account| account.tag == tag) else {
            return Some(burst);
        };
        let mut account = *account;
        account.refill(per_second, burst, now as u16);
        Some(account.tokens)
    }

    /// The bucket and the tag of an address's prefix.
    fn position(&self, address: IpAddr) -> (usize, u32) {
        let prefix = match address {
            IpAddr::V4(v4) => {
                let bits = u64::from(u32::from(v4)) << 32;
                (4u8, leading(bits, self.settings.v4_prefix))
            }
            IpAddr::V6(v6) => {
                let bits = (u128::from(v6) >> 64) as u64;
                (6, leading(bits, self.settings.v6_prefix))
            }
        };
        let hash = self.hasher.hash_one(prefix);
        let tag = (hash >> 32) as u32;
        (hash as usize % BUCKETS, tag.max(1))
    }
}

impl Account {
    fn refill(&mut self, per_second: u16, burst: u16, now: u16) {
        let elapsed = now.wrapping_sub(self.refilled);
        let earned = per_second.saturating_mul(elapsed);
        self.tokens = self.tokens.saturating_add(earned).min(burst);
        self.refilled = now;
    }
}

/// The first `count` bits.
fn leading(bits: u64, count: u8) -> u64 {
    match count {
        0 => 0,
        1..64 => bits & (u64::MAX << (64 - count)),
        _ => bits,
    }
}

fn full_or_small(left: u16, burst: u16) -> Allowance {
    if left < burst / 2 {
        Allowance::Small
    } else {
        Allowance::Full
    }
}

/// The slot to use: a free one, else that of the prefix that has been idle longest. Of several, that
/// with most left: one that is used up stays, so that no flood can restore its allowance at once.
fn eviction_candidate(accounts: &[Account; WAYS], now: u16) -> usize {
    accounts
        .iter()
        .enumerate()
        .max_by_key(|(_, account)| {
            (
                account.tag == 0,
                now.wrapping_sub(account.refilled),
                account.tokens,
            )
        })
        .map_or(0, |(way, _)| way)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::HashMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn settings(per_second: u16, burst: u16, slip: u16) -> LimitSettings {
        LimitSettings {
            per_second,
            burst,
            slip,
            ..LimitSettings::default()
        }
    }

    #[test]
    fn every_nth_limited_reply_slips() {
        use Allowance::{Drop, Full, Slip, Small};
        for (slip, expected) in [
            (0, [Full, Full, Small, Small, Drop, Drop, Drop, Drop]),
            (1, [Full, Full, Small, Small, Slip, Slip, Slip, Slip]),
            (2, [Full, Full, Small, Small, Drop, Slip, Drop, Slip]),
        ] {
            let mut limiter = Limiter::new(&settings(1, 4, slip));
            let got = [(); 8].map(|()| limiter.check("192.0.2.1".parse().unwrap(), 9));
            assert_eq!(got, expected, "slip {slip}");
            let left = |text: &str| limiter.left(text.parse().unwrap(), 11);
            assert_eq!([left("192.0.2.9"), left("192.0.3.1")], [Some(2), Some(4)]);
            // A second later there is one more.
            let address = "192.0.2.200".parse().unwrap();
            assert_eq!(limiter.peek(address, 10), Small);
            assert_eq!(limiter.check(address, 10), Small, "the same /24");
            assert_ne!(limiter.check(address, 10), Small);
            assert_eq!(limiter.check("192.0.3.1".parse().unwrap(), 10), Full);
        }
    }

    #[test]
    fn without_a_limit_all_replies_are_full() {
        let mut limiter = Limiter::new(&LimitSettings::default());
        assert!(!limiter.is_on());
        assert_eq!(limiter.left("192.0.2.1".parse().unwrap(), 0), None);
        for _ in 0..100_000 {
            let address = "192.0.2.1".parse().unwrap();
            assert_eq!(limiter.check(address, 0), Allowance::Full);
        }
        let exempt = LimitSettings {
            exempt: vec!["192.0.2.0/25".parse().unwrap()],
            ..settings(1, 1, 0)
        };
        let mut limiter = Limiter::new(&exempt);
        for _ in 0..100 {
            let address = "192.0.2.1".parse().unwrap();
            assert_eq!(limiter.check(address, 0), Allowance::Full);
        }
    }

    #[test]
    fn a_flood_of_prefixes_does_not_evict_one_that_is_limited() {
        let mut limiter = Limiter::new(&settings(5, 5, 0));
        let victim = "198.51.100.1".parse().unwrap();
        for second in 0..20 {
            let flood = (second * 100_000..(second + 1) * 100_000u32)
                .map(|number| IpAddr::from(Ipv4Addr::from(number << 8)));
            let mut answered = 0;
            for address in flood {
                limiter.check(address, second);
                // It queries often, so the other prefixes have been idle for longer.
                if address.to_string().ends_with(".0.0") {
                    let allowed = limiter.check(victim, second);
                    answered += u32::from(allowed != Allowance::Drop);
                }
            }
            assert!(answered <= 5, "{answered} in second {second}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_an_unbounded_table(
            per_second in 1..20u16, more in 0..20u16, steps in prop::collection::vec((0..6u8, 0..3u32), 1..300),
        ) {
            let burst = per_second + more;
            let mut limiter = Limiter::new(&settings(per_second, burst, 0));
            let mut model: HashMap<u8, (u32, u32)> = HashMap::new();
            let mut now = 1000;
            for (net, pass) in steps {
                now += pass / 2;
                let (tokens, filled) = model.entry(net).or_insert((u32::from(burst), now));
                *tokens = (*tokens + (now - *filled) * u32::from(per_second)).min(u32::from(burst));
                *filled = now;
                let expected = *tokens > 0;
                *tokens = tokens.saturating_sub(1);
                let address = IpAddr::from([10, 0, net, pass as u8]);
                prop_assert_eq!(limiter.check(address, now) != Allowance::Drop, expected);
            }
        }
    }
}
