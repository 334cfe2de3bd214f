//! Which clients the tier may answer: those that access allows, unless no reply may go to them.

use std::{collections::BTreeMap, net::IpAddr};

use crate::answer::{
    access::{Access, Decision},
    prefix::Prefix,
};

/// A prefix by its first address and its length.
type Range = (IpAddr, u8);

/// The prefixes whose most specific one says whether a client may be answered; a client in none may not. `senders`
/// are those that no reply may go to, whatever access says.
pub(super) fn clients(access: &Access, senders: &[Range]) -> Vec<(Range, bool)> {
    let mut clients = BTreeMap::new();
    // Of equal prefixes the last decides.
    for (prefix, decision) in access.rules() {
        clients.insert(prefix.parts(), decision == Decision::Allow);
    }
    for &(first, len) in senders {
        let is_address = len == if first.is_ipv4() { 32 } else { 128 };
        if !is_address {
            clients.retain(|&(inner, inner_len): &Range, _| {
                let is_inside = inner.is_ipv4() == first.is_ipv4()
                    && inner_len >= len
                    && Prefix::of(inner, len).parts() == (first, len);
                !is_inside
            });
        }
        clients.insert((first, len), false);
    }
    clients.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// What the program's map says: the most specific prefix decides.
    fn look_up(clients: &[(Range, bool)], address: IpAddr) -> bool {
        let mut inside: Vec<_> = clients
            .iter()
            .filter(|((first, len), _)| {
                first.is_ipv4() == address.is_ipv4()
                    && Prefix::of(address, *len).parts() == (*first, *len)
            })
            .collect();
        inside.sort_by_key(|((_, len), _)| *len);
        inside.last().is_some_and(|(_, allowed)| *allowed)
    }

    /// A prefix of few addresses, so that some contain others.
    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (0..64u32, 24..=32u8).prop_map(|(host, len)| {
            Prefix::of(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | host << 2)), len)
        });
        let v6 = (any::<u8>(), 0..=128u8).prop_map(|(first, len)| {
            Prefix::of(Ipv6Addr::from(u128::from(first) << 120).into(), len)
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn those_whom_access_allows_unless_they_are_refused_as_senders(
            rules in prop::collection::vec((prefix(), 0..3usize), 0..20),
            senders in prop::collection::vec(prefix(), 0..6),
            v4: u8,
            v6: u8,
        ) {
            let of = |wanted: usize| -> Vec<Prefix> {
                rules.iter().filter(|(_, kind)| *kind == wanted).map(|(prefix, _)| *prefix).collect()
            };
            let access = Access::new(&of(0), &of(1), &of(2));
            let senders: Vec<Range> = senders.iter().map(Prefix::parts).collect();
            let clients = clients(&access, &senders);
            let mut prefixes: Vec<Range> = clients.iter().map(|(range, _)| *range).collect();
            prefixes.dedup();
            prop_assert_eq!(prefixes.len(), clients.len(), "each prefix once");
            let addresses = [
                IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | u32::from(v4))),
                IpAddr::V6((u128::from(v6) << 120).into()),
            ];
            for address in addresses {
                let is_refused = senders.iter().any(|(first, len)| {
                    first.is_ipv4() == address.is_ipv4() && Prefix::of(address, *len).parts() == (*first, *len)
                });
                let expected = access.decide(address) == Decision::Allow && !is_refused;
                prop_assert_eq!(look_up(&clients, address), expected, "{}", address);
            }
        }
    }

    #[test]
    fn loopback_is_allowed_by_default_and_no_client() {
        let clients = clients(&Access::default(), &[("127.0.0.0".parse().unwrap(), 8)]);
        assert!(!look_up(&clients, "127.0.0.1".parse().unwrap()));
        assert!(look_up(&clients, "10.0.0.1".parse().unwrap()));
        assert!(!look_up(&clients, "192.0.2.1".parse().unwrap()));
    }
}
