//! Which records of a response belong to the question.
//!
//! | section | records |
//! |---|---|
//! | answer | the aliases from the queried name on (CNAME, and the DNAME that one follows from), in any order, and the records of the queried type at the end of them |
//! | authority | SOA, NS and DS of the name at the end or of one above it; NSEC and NSEC3, if DNSSEC is wanted |
//! | additional | addresses and service bindings of the hosts that those name |
//!
//! and the signatures of all these, if DNSSEC is wanted: what unbound's scrubber leaves of a response.

use std::collections::HashSet;

use super::{
    Asked, CLASS_IN, Candidate, Section,
    names::{Name, NameId, Names},
};
use crate::dns::rrtype;

/// Most aliases that are followed; unbound and BIND follow eleven.
const MAX_ALIASES: usize = 16;

/// Types that can exist beside an alias (RFC 4034 section 3, RFC 6672 section 2.4), and so at any name
/// of the chain.
const BESIDE_ALIAS: [u16; 2] = [rrtype::RRSIG, rrtype::NSEC];

/// Types whose data's first name is a host, about which the additional section may have records: NS, MX,
/// SRV, NAPTR, SVCB, HTTPS.
const NAMING_HOSTS: [u16; 6] = [rrtype::NS, 15, 33, 35, rrtype::SVCB, rrtype::HTTPS];

/// The types of those records (RFC 1035 section 3.3, RFC 3596 section 3, RFC 9460 section 4).
const OF_HOSTS: [u16; 4] = [rrtype::A, rrtype::AAAA, rrtype::SVCB, rrtype::HTTPS];

/// Marks the records that belong to the question.
///
/// `None`: the aliases form a loop, or are too many.
pub(super) fn mark(names: &Names<'_>, records: &mut [Candidate<'_>], asked: &Asked) -> Option<()> {
    let chain = follow(records, asked)?;
    let last = *chain.last()?;
    let is_in_chain = |owner: NameId| chain.iter().any(|name| name.id == owner);
    let above: HashSet<NameId> = (chain.iter())
        .flat_map(|name| names.with_ancestors(*name).into_iter().skip(1))
        .collect();
    let zones: HashSet<NameId> = names.with_ancestors(last).into_iter().collect();

    let in_class = |record: &&mut Candidate<'_>| record.wire.class == CLASS_IN;
    let mut hosts = HashSet::new();
    for record in records.iter_mut().filter(in_class) {
        let owner = record.owner;
        record.kept |= match (record.wire.section, record.wire.rtype) {
            (Section::Answer, rtype) if rtype == asked.qtype => {
                owner == last.id || (BESIDE_ALIAS.contains(&rtype) && is_in_chain(owner))
            }
            (Section::Answer, rrtype::DNAME) => above.contains(&owner),
            (Section::Authority, rrtype::SOA | rrtype::NS | rrtype::DS) => zones.contains(&owner),
            (Section::Authority, rrtype::NSEC | rrtype::NSEC3) => asked.dnssec_ok,
            (Section::Additional, rtype) => OF_HOSTS.contains(&rtype) && hosts.contains(&owner),
            _ => false,
        };
        if record.kept && NAMING_HOSTS.contains(&record.wire.rtype) {
            hosts.extend(host(record));
        }
    }
    if asked.dnssec_ok {
        let signed: HashSet<_> = (records.iter())
            .filter(|record| record.kept)
            .map(|record| (record.wire.section, record.owner, record.wire.rtype))
            .collect();
        for record in records.iter_mut().filter(in_class) {
            record.kept |= record.wire.rtype == rrtype::RRSIG
                && signed.contains(&(record.wire.section, record.owner, record.covers));
        }
    }
    Some(())
}

/// The alias chain from the queried name on; marks the aliases. Each step looks at all records: they
/// may be in any order.
fn follow(records: &mut [Candidate<'_>], asked: &Asked) -> Option<Vec<Name>> {
    let mut chain = vec![asked.qname];
    if asked.qtype == rrtype::CNAME {
        return Some(chain);
    }
    while let Some(target) = alias(records, chain.last()?.id) {
        if chain.len() > MAX_ALIASES || chain.iter().any(|name| name.id == target.id) {
            return None;
        }
        chain.push(target);
    }
    Some(chain)
}

/// The target of the alias of `owner`, which is marked. Of several the first is taken.
fn alias(records: &mut [Candidate<'_>], owner: NameId) -> Option<Name> {
    let record = records.iter_mut().find(|record| {
        record.wire.section == Section::Answer
            && record.wire.rtype == rrtype::CNAME
            && record.wire.class == CLASS_IN
            && record.owner == owner
    })?;
    record.kept = true;
    record.data.name
}

/// The host that a record names. A service binding can name its owner (RFC 9460 section 2.5.2).
fn host(record: &Candidate<'_>) -> Option<NameId> {
    let name = record.data.name?.id;
    let is_binding = matches!(record.wire.rtype, rrtype::SVCB | rrtype::HTTPS);
    Some(match name {
        NameId::ROOT if is_binding => record.owner,
        _ => name,
    })
}
