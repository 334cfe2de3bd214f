//! Which records of a response belong to the question.
//!
//! | section | records |
//! |---|---|
//! | answer | the aliases from the queried name on (CNAME, and the DNAME that one follows from), in any order, and the records of the queried type at the end of them |
//! | authority | SOA, NS and DS of the name at the end or of one above it; NSEC and NSEC3 of a zone that a name of the chain is in, if DNSSEC is wanted |
//! | additional | addresses and service bindings of the hosts that those name |
//!
//! and the signatures of all these, if DNSSEC is wanted: what unbound's scrubber leaves of a response, and less
//! where the response itself shows that a record is not true or of no use.

use super::{
    Asked, CLASS_IN, Candidate, Section,
    names::{NameId, Names},
};
use crate::dns::{header::rcode, name::eq_ignore_case, rrtype};

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
/// The owner of an NSEC record that is signed by a zone which a name of the chain is in.
const DENIAL: u8 = 16;

/// Keeps the records that belong to the question. `scratch` is memory for that.
///
/// `None`: the aliases form a loop, or are too many.
pub(super) fn mark(
    names: &mut Names,
    msg: &[u8],
    records: &mut [Candidate],
    scratch: &mut Vec<u64>,
    asked: &Asked,
) -> Option<()> {
    let last = follow(names, records, asked)?;
    names.mark_with_ancestors(last, ZONE);
    if asked.dnssec_ok {
        mark_denials(names, records);
    }
    if has_dname(records) {
        find_sources(names, msg, records, scratch);
        keep_dnames(names, records, scratch, asked, last);
    }
    // A name that does not exist has no data.
    let is_denied = asked.rcode == rcode::NXDOMAIN;
    let in_class = |record: &&mut Candidate| record.class == CLASS_IN;
    for record in records.iter_mut().filter(in_class) {
        let owner = record.owner;
        record.kept |= match (record.section, record.rtype) {
            // Those of the chain are kept already.
            (Section::Answer, rrtype::CNAME) => false,
            (Section::Answer, rtype) if rtype == asked.qtype => {
                let is_data = owner == last && !is_denied;
                is_data || (BESIDE_ALIAS.contains(&rtype) && names.is_marked(owner, CHAIN))
            }
            (Section::Authority, rrtype::SOA | rrtype::NS | rrtype::DS) => {
                names.is_marked(owner, ZONE)
            }
            (Section::Authority, rrtype::NSEC) => names.is_marked(owner, DENIAL),
            (Section::Authority, rrtype::NSEC3) => {
                asked.dnssec_ok && is_around_chain(names, names.parent(owner))
            }
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
        scratch.clear();
        scratch.extend(kept.map(|record| record.signed_as(record.rtype)));
        scratch.sort_unstable();
        for record in records.iter_mut().filter(in_class) {
            record.kept |= record.rtype == rrtype::RRSIG
                && scratch
                    .binary_search(&record.signed_as(record.covers))
                    .is_ok();
        }
    }
    Some(())
}

/// Whether a name is one of the chain, or above one.
fn is_around_chain(names: &Names, name: NameId) -> bool {
    names.is_marked(name, CHAIN) || names.is_marked(name, ABOVE_CHAIN)
}

/// Marks the owners of NSEC records of a zone that a name of the chain is in. Which zone that is only its
/// signature says (RFC 4035 section 5.3.1): without one the record is of no use.
fn mark_denials(names: &mut Names, records: &[Candidate]) {
    for record in records {
        if record.section == Section::Authority
            && record.class == CLASS_IN
            && record.covers == rrtype::NSEC
            && let Some(zone) = record.name
            && is_around_chain(names, zone)
            && names.is_within(record.owner, zone)
        {
            names.mark(record.owner, DENIAL);
        }
    }
}

fn has_dname(records: &[Candidate]) -> bool {
    let mut answers = (records.iter()).take_while(|record| record.section == Section::Answer);
    answers.any(|record| record.rtype == rrtype::DNAME)
}

/// Puts into `sources` the DNAME records, by owner and target, that the kept aliases can follow from: those
/// that differ from owner and target of an alias by the same first labels (RFC 6672 section 3.3).
#[cold]
fn find_sources(names: &Names, msg: &[u8], records: &[Candidate], sources: &mut Vec<u64>) {
    sources.clear();
    for alias in records.iter().filter(|record| record.kept) {
        let (mut owner, Some(mut target)) = (alias.owner, alias.name) else {
            continue;
        };
        while let (Some(a), Some(b)) = (
            names.first_label(msg, owner),
            names.first_label(msg, target),
        ) && eq_ignore_case(a, b)
        {
            (owner, target) = (names.parent(owner), names.parent(target));
            sources.push(source(owner, target));
        }
    }
    sources.sort_unstable();
}

fn source(owner: NameId, target: NameId) -> u64 {
    u64::from(owner.number()) << 32 | u64::from(target.number())
}

/// Keeps the DNAME records that an alias follows from. With YXDOMAIN there is no alias: it would be too long.
#[cold]
fn keep_dnames(
    names: &Names,
    records: &mut [Candidate],
    sources: &[u64],
    asked: &Asked,
    last: NameId,
) {
    for record in records {
        let (owner, Some(target)) = (record.owner, record.name) else {
            continue;
        };
        let is_above = owner != last && names.is_marked(owner, ZONE);
        record.kept |= record.section == Section::Answer
            && record.rtype == rrtype::DNAME
            && record.class == CLASS_IN
            && (sources.binary_search(&source(owner, target)).is_ok()
                || (asked.rcode == rcode::YXDOMAIN && is_above));
    }
}

/// Follows the alias chain from the queried name on, and gives its last name; keeps the aliases. Each
/// step looks at all records: they may be in any order. An alias that was asked for itself is not followed.
fn follow(names: &mut Names, records: &mut [Candidate], asked: &Asked) -> Option<NameId> {
    let mut last = asked.qname;
    for aliases in 0.. {
        names.mark(last, CHAIN);
        if last != NameId::ROOT {
            names.mark_with_ancestors(names.parent(last), ABOVE_CHAIN);
        }
        let Some(target) = alias(records, last) else {
            break;
        };
        if asked.qtype == rrtype::CNAME {
            break;
        }
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
