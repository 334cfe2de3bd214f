//! Which records of a response belong to the question.
//!
//! | section | records |
//! |---|---|
//! | answer | the aliases from the queried name on (CNAME, and the DNAME that one follows from), in any order, and the records of the queried type at the end of them |
//! | authority | SOA, NS and DS of the name at the end or of one above it; NSEC and NSEC3, if DNSSEC is wanted |
//! | additional | addresses and service bindings of the hosts that those name |
//!
//! and the signatures of all these, if DNSSEC is wanted: what unbound's scrubber leaves of a response.

use super::{
    Asked, CLASS_IN, Candidate, Section,
    names::{NameId, Names},
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

/// Marks of names: one of the alias chain, from the queried name to the last target.
const CHAIN: u8 = 1;
/// A name above one of the chain.
const ABOVE_CHAIN: u8 = 2;
/// The last of the chain, or a name above it.
const ZONE: u8 = 4;
/// A host that a record names.
const HOST: u8 = 8;

/// Keeps the records that belong to the question. `signed` is scratch memory.
///
/// `None`: the aliases form a loop, or are too many.
pub(super) fn mark(
    names: &mut Names,
    records: &mut [Candidate],
    signed: &mut Vec<u64>,
    asked: &Asked,
) -> Option<()> {
    let last = follow(names, records, asked)?;
    names.mark_with_ancestors(last, ZONE);
    let in_class = |record: &&mut Candidate| record.class == CLASS_IN;
    for record in records.iter_mut().filter(in_class) {
        let owner = record.owner;
        record.kept |= match (record.section, record.rtype) {
            (Section::Answer, rtype) if rtype == asked.qtype => {
                owner == last || (BESIDE_ALIAS.contains(&rtype) && names.is_marked(owner, CHAIN))
            }
            (Section::Answer, rrtype::DNAME) => names.is_marked(owner, ABOVE_CHAIN),
            (Section::Authority, rrtype::SOA | rrtype::NS | rrtype::DS) => {
                names.is_marked(owner, ZONE)
            }
            (Section::Authority, rrtype::NSEC | rrtype::NSEC3) => asked.dnssec_ok,
            (Section::Additional, rtype) => {
                OF_HOSTS.contains(&rtype) && names.is_marked(owner, HOST)
            }
            _ => false,
        };
        if record.kept
            && NAMING_HOSTS.contains(&record.rtype)
            && let Some(host) = host(record)
        {
            names.mark(host, HOST);
        }
    }
    if asked.dnssec_ok {
        let kept = records.iter().filter(|record| record.kept);
        signed.clear();
        signed.extend(kept.map(|record| record.signed_as(record.rtype)));
        signed.sort_unstable();
        for record in records.iter_mut().filter(in_class) {
            record.kept |= record.rtype == rrtype::RRSIG
                && signed
                    .binary_search(&record.signed_as(record.covers))
                    .is_ok();
        }
    }
    Some(())
}

/// Follows the alias chain from the queried name on, and gives its last name; keeps the aliases. Each
/// step looks at all records: they may be in any order.
fn follow(names: &mut Names, records: &mut [Candidate], asked: &Asked) -> Option<NameId> {
    let mut last = asked.qname;
    for aliases in 0.. {
        names.mark(last, CHAIN);
        if last != NameId::ROOT {
            names.mark_with_ancestors(names.parent(last), ABOVE_CHAIN);
        }
        if asked.qtype == rrtype::CNAME {
            break;
        }
        let Some(target) = alias(records, last) else {
            break;
        };
        if aliases >= MAX_ALIASES || names.is_marked(target, CHAIN) {
            return None;
        }
        last = target;
    }
    Some(last)
}

/// The target of the alias of `owner`, which is kept. Of several the first is taken.
fn alias(records: &mut [Candidate], owner: NameId) -> Option<NameId> {
    let record = records.iter_mut().find(|record| {
        record.section == Section::Answer
            && record.rtype == rrtype::CNAME
            && record.class == CLASS_IN
            && record.owner == owner
    })?;
    record.kept = true;
    record.name
}

/// The host that a record names. A service binding can name its owner (RFC 9460 section 2.5.2).
fn host(record: &Candidate) -> Option<NameId> {
    let name = record.name?;
    let is_binding = matches!(record.rtype, rrtype::SVCB | rrtype::HTTPS);
    Some(match name {
        NameId::ROOT if is_binding => record.owner,
        _ => name,
    })
}
