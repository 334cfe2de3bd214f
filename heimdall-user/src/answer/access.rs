//! Access: which clients are answered. The most specific prefix that an address is in decides.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use super::prefix::{Prefix, PrefixMap};

/// The handling of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An answer.
    Allow,
    /// REFUSED.
    Refuse,
    /// Nothing.
    Drop,
}

/// Addresses that are not used on the public Internet: loopback (RFC 1122, RFC 4291), private (RFC
/// 1918), shared by a provider's customers (RFC 6598), link-local (RFC 3927, RFC 4291), unique local
/// (RFC 4193).
const PRIVATE: [&str; 9] = [
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

/// The private prefixes: loopback, private, shared, link-local and unique local addresses.
pub(crate) fn private() -> Vec<Prefix> {
    PRIVATE
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Whether it is in one of the private prefixes.
pub(crate) fn is_private(address: IpAddr) -> bool {
    let address = Prefix::of(address, 128);
    private().iter().any(|known| known.contains(&address))
}

/// Length of the largest public prefix that the clients of one operator may have.
fn least(is_ipv4: bool) -> u8 {
    if is_ipv4 { 8 } else { 16 }
}

/// Whether a prefix has more of the public Internet in it than the clients of one operator: it is shorter than /8, or /16 for
/// IPv6.
pub(crate) fn is_open(prefix: &Prefix) -> bool {
    let (address, len) = prefix.parts();
    len < least(address.is_ipv4()) && !private().iter().any(|known| known.contains(prefix))
}

/// Whether the public prefixes of a family among these have, in sum, more addresses than one that just is not
/// [open](is_open). What is in several of them counts once.
pub(crate) fn are_open(prefixes: &[Prefix], is_ipv4: bool) -> bool {
    let private = private();
    let counts = |prefix: &&Prefix| {
        let (address, _) = prefix.parts();
        address.is_ipv4() == is_ipv4 && !private.iter().any(|known| known.contains(prefix))
    };
    let mut ranges: Vec<_> = prefixes.iter().filter(counts).map(Prefix::range).collect();
    ranges.sort_unstable();
    let (mut sum, mut next) = (0u128, 0u128);
    for (first, last) in ranges {
        let first = first.max(next);
        if first <= last {
            sum = sum.saturating_add((last - first).saturating_add(1));
            next = last.saturating_add(1);
        }
    }
    let width = if is_ipv4 { 32 } else { 128 };
    sum > 1 << (width - u32::from(least(is_ipv4)))
}

/// The access list.
#[derive(Clone, Debug)]
pub struct Access {
    decisions: PrefixMap<Decision>,
    /// The prefixes that these were made of, in order.
    rules: Vec<(Prefix, Decision)>,
    public: Vec<Prefix>,
}

impl Default for Access {
    /// Private addresses only.
    fn default() -> Self {
        Self::new(&private(), &[], &[])
    }
}

impl Access {
    /// An access list of these prefixes. The most specific prefix decides; of equal ones, drop comes
    /// before refuse and refuse before allow. Addresses in none are refused.
    pub fn new(allow: &[Prefix], refuse: &[Prefix], drop: &[Prefix]) -> Self {
        let lists = [
            (allow, Decision::Allow),
            (refuse, Decision::Refuse),
            (drop, Decision::Drop),
        ];
        let rules: Vec<_> = lists
            .into_iter()
            .flat_map(|(list, decision)| list.iter().map(move |prefix| (*prefix, decision)))
            .collect();
        let private = private();
        let is_public = |prefix: &&Prefix| !private.iter().any(|known| known.contains(prefix));
        Self {
            decisions: PrefixMap::new(rules.iter().copied(), Decision::Refuse),
            rules,
            public: allow.iter().filter(is_public).copied().collect(),
        }
    }

    /// The handling of a client with this address.
    #[inline]
    pub fn decide(&self, address: IpAddr) -> Decision {
        self.decisions.get(address)
    }

    /// The prefix that decides for a client with this address. `None`: it is in none.
    pub(crate) fn rule(&self, address: IpAddr) -> Option<Prefix> {
        let numbered = self.rules.iter().enumerate();
        let numbered = numbered.map(|(number, (prefix, _))| (*prefix, Some(number)));
        let number = PrefixMap::new(numbered, None).get(address)?;
        self.rules.get(number).map(|(prefix, _)| *prefix)
    }

    /// The prefixes with their decisions; of equal ones the last decides.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (Prefix, Decision)> {
        self.rules.iter().copied()
    }

    /// The range of addresses around this one, itself included, with the same decision.
    pub(super) fn range_v4(&self, address: Ipv4Addr) -> RangeInclusive<u32> {
        self.decisions.range_v4(address)
    }

    /// The allowed prefixes that have public addresses in them.
    pub(crate) fn public(&self) -> &[Prefix] {
        &self.public
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn much_of_the_internet_is_open() {
        for (prefix, open) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("8.0.0.0/7", true),
            ("8.0.0.0/8", false),
            ("192.0.2.1", false),
            ("::/0", true),
            ("2000::/3", true),
            ("2001::/16", false),
            ("fc00::/7", false),
            ("fe80::/10", false),
        ] {
            assert_eq!(is_open(&prefix.parse().unwrap()), open, "{prefix}");
        }
        for (address, private) in [("10.1.2.3", true), ("192.0.2.1", false), ("fd00::1", true)] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }

    #[test]
    fn many_prefixes_are_open_in_sum() {
        let eights = ["8.0.0.0/8", "9.0.0.0/8"];
        let halves = ["8.0.0.0/9", "8.128.0.0/9", "8.0.0.0/8", "8.8.8.0/24"];
        let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "8.0.0.0/8"];
        let v6 = ["2001::/16", "2001:db8::/32", "fc00::/7", "::1/128"];
        let all: [&[&str]; 8] = [
            &[],
            &halves,
            &private,
            &["8.0.0.0/8", "9.9.9.9"],
            &eights,
            &v6,
            &["2001::/16", "2002::1"],
            &["0.0.0.0/0", "::/0", "ffff::/16"],
        ];
        let expected = [
            (false, false),
            (false, false),
            (false, false),
            (true, false),
            (true, false),
            (false, false),
            (false, true),
            (true, true),
        ];
        for (texts, expected) in all.into_iter().zip(expected) {
            let prefixes: Vec<Prefix> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let open = (are_open(&prefixes, true), are_open(&prefixes, false));
            assert_eq!(open, expected, "{texts:?}");
        }
    }

    #[test]
    fn public_addresses_are_refused_unless_they_are_allowed() {
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
        // Close together, so that some contain others.
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
                    .filter(|(prefix, _)| prefix.contains(&host))
                    .max_by_key(|(prefix, kind)| (prefix.parts().1, *kind))
                    .map_or(Decision::Refuse, |(_, kind)| [Decision::Allow, Decision::Refuse, Decision::Drop][*kind]);
                prop_assert_eq!(access.decide(address), expected);
                let longest = prefixes.iter().filter(|(prefix, _)| prefix.contains(&host));
                let longest = longest.map(|(prefix, _)| *prefix).max_by_key(|prefix| prefix.parts().1);
                prop_assert_eq!(access.rule(address), longest);
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
