//! Who may ask.
//!
//! The most specific prefix that an address is in decides. All prefixes are laid out once as ranges
//! that do not overlap, so that a query costs one binary search.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use thiserror::Error;

/// A range of addresses: those that begin with the same so many bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrefixError {
    /// It does not read as one.
    #[error("{0:?} is not a prefix; write ADDR/BITS, like 192.0.2.0/24 or 2001:db8::/32, or ADDR")]
    Unreadable(String),
    /// Bits beyond the length are set.
    #[error("{0} has bits set beyond its length; write {1}, or the address alone if one is meant")]
    HostBits(String, Prefix),
}

impl Prefix {
    /// The prefix of so many bits that `address` is in; at most all of them.
    pub fn of(address: IpAddr, len: u8) -> Self {
        let len = len.min(width(address));
        let (first, _) = bounds(address, len);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(first as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(first)),
        };
        Self { address, len }
    }

    /// The first of its addresses, and how many leading bits they have in common.
    pub fn parts(&self) -> (IpAddr, u8) {
        (self.address, self.len)
    }

    /// Whether all of `other` is in it.
    pub fn contains(&self, other: &Self) -> bool {
        other.len >= self.len && Self::of(other.address, self.len) == *self
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let unreadable = || PrefixError::Unreadable(text.to_owned());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| unreadable())?;
        let len = match len {
            None => width(address),
            Some(len) => len
                .parse()
                .ok()
                .filter(|bits| *bits <= width(address) && !len.starts_with('+'))
                .ok_or_else(unreadable)?,
        };
        let prefix = Self::of(address, len);
        if prefix.address != address {
            return Err(PrefixError::HostBits(text.to_owned(), prefix));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// First and last of the addresses that share the first `len` bits with `address`.
fn bounds(address: IpAddr, len: u8) -> (u128, u128) {
    let host_bits = u32::from(width(address) - len);
    let hosts = 1u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |size| size - 1);
    let first = number(address) & !hosts;
    (first, first | hosts)
}

/// Which value the most specific prefix gives to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrefixMap<T> {
    /// Where each range begins, in order, and its value; the first begins at 0.
    v4: Vec<(u32, T)>,
    v6: Vec<(u128, T)>,
    otherwise: T,
}

impl<T: Copy> PrefixMap<T> {
    /// Lays the prefixes out. Of two that are equal the later one counts; an address in none has
    /// the value `otherwise`.
    pub(super) fn new(prefixes: impl Iterator<Item = (Prefix, T)>, otherwise: T) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = prefixes.partition(|(prefix, _)| prefix.address.is_ipv4());
        let narrow = |(first, value): (u128, T)| (first as u32, value);
        Self {
            v4: ranges(v4, otherwise, u32::MAX.into()).map(narrow).collect(),
            v6: ranges(v6, otherwise, u128::MAX).collect(),
            otherwise,
        }
    }

    /// The value of an address.
    #[inline]
    pub(super) fn get(&self, address: IpAddr) -> T {
        let value = match address {
            IpAddr::V4(v4) => last_up_to(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => last_up_to(&self.v6, u128::from(v6)),
        };
        value.unwrap_or(self.otherwise)
    }
}

#[inline]
fn last_up_to<N: Ord, T: Copy>(ranges: &[(N, T)], key: N) -> Option<T> {
    let after = ranges.partition_point(|(first, _)| *first <= key);
    let (_, value) = ranges.get(after.checked_sub(1)?)?;
    Some(*value)
}

/// Ranges that do not overlap, in order, of prefixes that may lie in one another; `end` is the last
/// address there is.
fn ranges<T: Copy>(
    mut prefixes: Vec<(Prefix, T)>,
    otherwise: T,
    end: u128,
) -> impl Iterator<Item = (u128, T)> {
    // Stable: of equal prefixes the later one is laid on top.
    prefixes.sort_by_key(|(prefix, _)| (number(prefix.address), prefix.len));
    let mut starts = BTreeMap::from([(0, otherwise)]);
    // Those that the present place lies in, the most specific on top.
    let mut open: Vec<(u128, T)> = Vec::new();
    let close = |open: &mut Vec<(u128, T)>, starts: &mut BTreeMap<u128, T>| {
        if let Some((last, _)) = open.pop()
            && last < end
        {
            let value = open.last().map_or(otherwise, |(_, value)| *value);
            starts.insert(last + 1, value);
        }
    };
    for (prefix, value) in prefixes {
        let (first, last) = bounds(prefix.address, prefix.len);
        while open.last().is_some_and(|(end, _)| *end < first) {
            close(&mut open, &mut starts);
        }
        starts.insert(first, value);
        open.push((last, value));
    }
    while !open.is_empty() {
        close(&mut open, &mut starts);
    }
    starts.into_iter()
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An answer.
    Allow,
    /// REFUSED.
    Refuse,
    /// Nothing.
    Drop,
}

/// Addresses that no stranger on the Internet has: loopback (RFC 1122, RFC 4291), private (RFC
/// 1918), shared by a provider's customers (RFC 6598), link-local (RFC 3927, RFC 4291), unique local
/// (RFC 4193).
pub const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// The prefixes of [`PRIVATE`].
pub fn private() -> Vec<Prefix> {
    PRIVATE
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Access {
    decisions: PrefixMap<Decision>,
    public: Vec<Prefix>,
}

impl Default for Access {
    /// Private addresses only.
    fn default() -> Self {
        Self::new(&private(), &[], &[])
    }
}

impl Access {
    /// Allows, refuses and drops these. The most specific prefix decides; of equal ones, drop comes
    /// before refuse and refuse before allow. Who is in none is refused.
    pub fn new(allow: &[Prefix], refuse: &[Prefix], drop: &[Prefix]) -> Self {
        let with = |prefixes: &[Prefix], decision| {
            let prefixes: Vec<_> = prefixes.iter().map(|prefix| (*prefix, decision)).collect();
            prefixes.into_iter()
        };
        let all = with(allow, Decision::Allow)
            .chain(with(refuse, Decision::Refuse))
            .chain(with(drop, Decision::Drop));
        let private = private();
        let is_public = |prefix: &&Prefix| !private.iter().any(|known| known.contains(prefix));
        Self {
            decisions: PrefixMap::new(all, Decision::Refuse),
            public: allow.iter().filter(is_public).copied().collect(),
        }
    }

    /// What a client with this address gets.
    #[inline]
    pub fn decide(&self, address: IpAddr) -> Decision {
        self.decisions.get(address)
    }

    /// Addresses around this one, itself among them, that get the same.
    pub fn range_v4(&self, address: Ipv4Addr) -> RangeInclusive<u32> {
        let ranges = &self.decisions.v4;
        let after = ranges.partition_point(|(first, _)| *first <= u32::from(address));
        let first = after.checked_sub(1).and_then(|at| ranges.get(at));
        let next = ranges.get(after);
        first.map_or(0, |(first, _)| *first)..=next.map_or(u32::MAX, |(next, _)| next - 1)
    }

    /// The allowed prefixes in which there are strangers.
    pub fn public(&self) -> &[Prefix] {
        &self.public
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("192.0.2.7", Ok("192.0.2.7/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::/0", Ok("::/0")),
            ("2001:db8::1", Ok("2001:db8::1/128")),
            ("10.1.2.3/8", Err("10.0.0.0/8")),
            ("10.0.0.0/33", Err("not a prefix")),
            ("10.0.0.0/+8", Err("not a prefix")),
            ("10.0.0/8", Err("not a prefix")),
            ("example.com", Err("not a prefix")),
            ("", Err("not a prefix")),
        ] {
            match (text.parse::<Prefix>(), expected) {
                (Ok(prefix), Ok(expected)) => assert_eq!(prefix.to_string(), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn strangers_are_refused_unless_they_are_allowed() {
        let access = Access::default();
        for (address, decision) in [
            ("127.0.0.1", Decision::Allow),
            ("10.255.255.255", Decision::Allow),
            ("172.15.255.255", Decision::Refuse),
            ("172.31.255.255", Decision::Allow),
            ("172.32.0.0", Decision::Refuse),
            ("192.168.1.1", Decision::Allow),
            ("100.64.0.1", Decision::Allow),
            ("169.254.1.1", Decision::Allow),
            ("8.8.8.8", Decision::Refuse),
            ("255.255.255.255", Decision::Refuse),
            ("0.0.0.0", Decision::Refuse),
            ("::1", Decision::Allow),
            ("::2", Decision::Refuse),
            ("fd00::1", Decision::Allow),
            ("fe80::1", Decision::Allow),
            ("2001:db8::1", Decision::Refuse),
        ] {
            assert_eq!(
                access.decide(address.parse().unwrap()),
                decision,
                "{address}"
            );
        }
        assert!(access.public().is_empty());
        let open = ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1"].map(|text| text.parse().unwrap());
        let access = Access::new(&open, &[], &["198.51.100.0/24".parse().unwrap()]);
        assert_eq!(access.public(), &open[1..]);
        assert_eq!(
            access.decide("198.51.100.9".parse().unwrap()),
            Decision::Drop
        );
        assert_eq!(
            access.decide("198.51.101.9".parse().unwrap()),
            Decision::Allow
        );
    }

    fn arb_prefix() -> impl Strategy<Value = Prefix> {
        // Close together, so that they lie in one another.
        let v4 = (0..4u32, 24..=32u8).prop_map(|(host, len)| {
            Prefix::of(IpAddr::V4(Ipv4Addr::from(0xffff_ff00 | host << 6)), len)
        });
        let v6 = (any::<u8>(), 0..=128u8).prop_map(|(first, len)| {
            Prefix::of(Ipv6Addr::from(u128::from(first) << 120).into(), len)
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn the_longest_prefix_decides(prefixes in prop::collection::vec((arb_prefix(), 0..3usize), 0..20), v4: u8, v6: u128) {
            let of = |wanted: usize| -> Vec<Prefix> {
                prefixes.iter().filter(|(_, kind)| *kind == wanted).map(|(prefix, _)| *prefix).collect()
            };
            let access = Access::new(&of(0), &of(1), &of(2));
            let addresses = [IpAddr::V4(Ipv4Addr::from(0xffff_ff00 | u32::from(v4))), IpAddr::V6(v6.into())];
            for address in addresses {
                let host = Prefix::of(address, 128);
                let expected = prefixes
                    .iter()
                    .filter(|(prefix, _)| prefix.address.is_ipv4() == address.is_ipv4() && prefix.contains(&host))
                    .max_by_key(|(prefix, kind)| (prefix.len, *kind))
                    .map_or(Decision::Refuse, |(_, kind)| [Decision::Allow, Decision::Refuse, Decision::Drop][*kind]);
                prop_assert_eq!(access.decide(address), expected);
                if let IpAddr::V4(v4) = address {
                    let range = access.range_v4(v4);
                    prop_assert!(range.contains(&u32::from(v4)));
                    for end in [*range.start(), *range.end()] {
                        prop_assert_eq!(access.decide(Ipv4Addr::from(end).into()), expected);
                    }
                }
            }
        }
    }
}
