//! Response rate limiting: how many datagrams a client prefix gets back.
//!
//! A query in a datagram may carry a forged address, and the reply then hits a victim. Each prefix
//! has an allowance that fills up by the second. One that has used it up gets nothing, but for
//! every so many replies one that is cut: a client that is really there comes back over TCP, which
//! cannot be forged, and a victim gets no more than was sent.
//!
//! Each thread has a table of its own, of fixed size, in which a look-up touches one cache line. A
//! flood from more prefixes than it holds (131,072) pushes those out that were quiet longest, and
//! so gives each of the flood's prefixes its allowance anew: what it gains is bounded by the
//! allowance of a prefix for each query that pushes one out.

use std::{hash::BuildHasher, net::IpAddr};

use foldhash::fast::RandomState;

use super::access::{Prefix, PrefixMap};

/// How much a prefix gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Replies a second, of one thread: 0 (no limit) to 65,535.
    pub per_second: u16,
    /// Replies that a prefix which was quiet may get at once: at least `per_second`.
    pub burst: u16,
    /// Of the replies over the limit every so manieth is sent, cut. 1: all, 0: none.
    pub slip: u16,
    /// Bits of an IPv4 address that make up a prefix: 0 to 32.
    pub v4_prefix: u8,
    /// Bits of an IPv6 address that make up a prefix: 0 to 64.
    pub v6_prefix: u8,
    /// Prefixes without a limit.
    pub exempt: Vec<Prefix>,
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

/// What a client may get now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// A reply.
    Full,
    /// A small reply: more than half of its prefix's allowance is used up.
    Small,
    /// A reply that is cut.
    Slip,
    /// None.
    Drop,
}

const WAYS: usize = 8;

/// Buckets of the table: one MiB.
const BUCKETS: usize = 1 << 14;

/// What a prefix has left.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Tells the prefixes of a bucket apart; 0: nobody's.
    tag: u32,
    tokens: u16,
    /// When it was last filled up: the low bits of the clock's seconds.
    filled: u16,
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
    /// Replies over the limit so far, for the slip.
    limited: u16,
}

impl Limiter {
    /// A limiter; without a limit it takes no memory.
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
    pub fn is_on(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// What the client may get at `now`, in seconds; takes it from its prefix's allowance.
    pub fn check(&mut self, address: IpAddr, now: u32) -> Allowance {
        if self.exempt.get(address) {
            return Allowance::Full;
        }
        let (place, tag) = self.place(address);
        let LimitSettings {
            per_second,
            burst,
            slip,
            ..
        } = self.settings;
        let Some(Bucket(accounts)) = self.buckets.get_mut(place) else {
            return Allowance::Full;
        };
        let now = now as u16;
        let way = accounts.iter().position(|account| account.tag == tag);
        let way = way.unwrap_or_else(|| quietest(accounts, now));
        let Some(account) = accounts.get_mut(way) else {
            return Allowance::Full;
        };
        if account.tag == tag {
            account.fill(per_second, burst, now);
        } else {
            *account = Account {
                tag,
                tokens: burst,
                filled: now,
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

    /// As [`check`](Self::check), for a reply whose query was checked, and not from scratch: nothing
    /// is taken, and it is full or small.
    pub fn peek(&self, address: IpAddr, now: u32) -> Allowance {
        let (place, tag) = self.place(address);
        let account = self
            .buckets
            .get(place)
            .and_then(|Bucket(accounts)| accounts.iter().find(|account| account.tag == tag));
        match account {
            Some(account) if !self.exempt.get(address) => {
                let mut account = *account;
                account.fill(self.settings.per_second, self.settings.burst, now as u16);
                full_or_small(account.tokens, self.settings.burst)
            }
            _ => Allowance::Full,
        }
    }

    /// Where the account of an address's prefix is.
    fn place(&self, address: IpAddr) -> (usize, u32) {
        let prefix = match address {
            IpAddr::V4(v4) => {
                let kept = leading(u64::from(u32::from(v4)) << 32, self.settings.v4_prefix);
                (4u8, kept)
            }
            IpAddr::V6(v6) => {
                let kept = leading((u128::from(v6) >> 64) as u64, self.settings.v6_prefix);
                (6, kept)
            }
        };
        let hash = self.hasher.hash_one(prefix);
        let tag = (hash >> 32) as u32;
        (hash as usize % BUCKETS, tag.max(1))
    }
}

impl Account {
    fn fill(&mut self, per_second: u16, burst: u16, now: u16) {
        let elapsed = now.wrapping_sub(self.filled);
        let earned = per_second.saturating_mul(elapsed);
        self.tokens = self.tokens.saturating_add(earned).min(burst);
        self.filled = now;
    }
}

/// The first so many bits.
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

/// The account that was quiet longest, or one that is nobody's. Of several, the one that has most
/// left goes: one that is used up stays, so that no flood can give it its allowance anew at once.
fn quietest(accounts: &[Account; WAYS], now: u16) -> usize {
    accounts
        .iter()
        .enumerate()
        .max_by_key(|(_, account)| {
            (
                account.tag == 0,
                now.wrapping_sub(account.filled),
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
    fn slips_are_every_so_manieth() {
        use Allowance::{Drop, Full, Slip, Small};
        for (slip, expected) in [
            (0, [Full, Full, Small, Small, Drop, Drop, Drop, Drop]),
            (1, [Full, Full, Small, Small, Slip, Slip, Slip, Slip]),
            (2, [Full, Full, Small, Small, Drop, Slip, Drop, Slip]),
        ] {
            let mut limiter = Limiter::new(&settings(1, 4, slip));
            let got = [(); 8].map(|()| limiter.check("192.0.2.1".parse().unwrap(), 9));
            assert_eq!(got, expected, "slip {slip}");
            // A second later there is one more.
            let address = "192.0.2.200".parse().unwrap();
            assert_eq!(limiter.peek(address, 10), Small);
            assert_eq!(limiter.check(address, 10), Small, "the same /24");
            assert_ne!(limiter.check(address, 10), Small);
            assert_eq!(limiter.check("192.0.3.1".parse().unwrap(), 10), Full);
        }
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let mut limiter = Limiter::new(&LimitSettings::default());
        assert!(!limiter.is_on());
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
    fn a_flood_of_prefixes_does_not_touch_the_one_that_is_limited_now() {
        let mut limiter = Limiter::new(&settings(5, 5, 0));
        let victim = "198.51.100.1".parse().unwrap();
        for second in 0..20 {
            let flood = (second * 100_000..(second + 1) * 100_000u32)
                .map(|number| IpAddr::from(Ipv4Addr::from(number << 8)));
            let mut answered = 0;
            for address in flood {
                limiter.check(address, second);
                // Its account is used in every turn, so others are quiet for longer.
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
        fn agrees_with_a_table_of_any_size(
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
