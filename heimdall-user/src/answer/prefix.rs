//! Address prefixes, and a map from addresses to the value of their most specific prefix.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use thiserror::Error;

/// The addresses of one family that have the same first `len` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrefixError {
    /// It does not have the form of one.
    #[error("{0:?} is not a prefix; write ADDR/BITS, like 192.0.2.0/24 or 2001:db8::/32, or ADDR")]
    Unreadable(String),
    /// Bits beyond the length are set.
    #[error(
        "{0} has bits set beyond its length; write {1}, or the address without a length for one address"
    )]
    HostBits(String, Prefix),
}

impl Prefix {
    /// The prefix of `len` bits that `address` is in; at most all of them.
    pub fn of(address: IpAddr, len: u8) -> Self {
        let len = len.min(width(address));
        let (first, _) = bounds(address, len);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(first as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(first)),
        };
        Self { address, len }
    }

    /// The first of its addresses, and its length in bits.
    pub(crate) fn parts(&self) -> (IpAddr, u8) {
        (self.address, self.len)
    }

    /// The first and the last of its addresses, as numbers.
    pub(super) fn range(&self) -> (u128, u128) {
        bounds(self.address, self.len)
    }

    /// Whether all of `other` is in it.
    pub(super) fn contains(&self, other: &Self) -> bool {
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

/// Bits of an address of this family.
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

/// Maps addresses to the value of the most specific prefix that they are in.
///
/// Prefixes that contain each other are flattened once into ranges that do not overlap, so that a look-up
/// is one binary search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrefixMap<T> {
    /// The first address of each range, in ascending order, and its value. The first range begins at 0.
    v4: Vec<(u32, T)>,
    v6: Vec<(u128, T)>,
    otherwise: T,
}

impl<T: Copy> PrefixMap<T> {
    /// Of two equal prefixes the later one counts; an address in none has the value `otherwise`.
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

    /// The range of addresses around this one, itself included, that have the same value.
    pub(super) fn range_v4(&self, address: Ipv4Addr) -> RangeInclusive<u32> {
        let after = self
            .v4
            .partition_point(|(first, _)| *first <= u32::from(address));
        let first = after.checked_sub(1).and_then(|at| self.v4.get(at));
        let next = self.v4.get(after);
        first.map_or(0, |(first, _)| *first)..=next.map_or(u32::MAX, |(next, _)| next - 1)
    }
}

/// The value of the last range that begins at `key` or before.
#[inline]
fn last_up_to<N: Ord, T: Copy>(ranges: &[(N, T)], key: N) -> Option<T> {
    let after = ranges.partition_point(|(first, _)| *first <= key);
    let (_, value) = ranges.get(after.checked_sub(1)?)?;
    Some(*value)
}

/// Flattens prefixes, which may contain each other, into ranges in ascending order; `end` is the last
/// address of the family.
fn ranges<T: Copy>(
    mut prefixes: Vec<(Prefix, T)>,
    otherwise: T,
    end: u128,
) -> impl Iterator<Item = (u128, T)> {
    // Stable: of equal prefixes the later one is opened last.
    prefixes.sort_by_key(|(prefix, _)| (number(prefix.address), prefix.len));
    let mut starts = BTreeMap::from([(0, otherwise)]);
    // The prefixes that contain the current address, the most specific on top.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
}
