//! Which records of a response belong to its question, as hickory-proto reads them. Shared with the fuzz
//! targets, so nothing in it is Heimdall's.

use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData, Record},
    serialize::binary::{BinDecodable as _, BinEncodable},
};

const CNAME: u16 = 5;
const DNAME: u16 = 39;
const DS: u16 = 43;
const NXDOMAIN: u16 = 3;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const NSEC3: u16 = 50;
const YXDOMAIN: u16 = 6;

/// The records of each section that a client may get, in the order in which they came, duplicates and all.
/// `None`: the aliases form a loop, or are too many.
pub(crate) fn belonging(
    message: &Message,
    qtype: u16,
    dnssec_ok: bool,
) -> Option<[Vec<Record>; 3]> {
    let chain = chain(message, qtype)?;
    let last = chain.last()?;
    let in_chain = |record: &Record| chain.contains(&record.name);
    let code = u16::from(message.metadata.response_code);
    let around_chain = |zone: &Name| chain.iter().any(|name| zone.zone_of(name));

    let answers = kept(&message.answers, dnssec_ok, |record| {
        match rtype(record) {
            // The first alias of each name that is left, or of the name that was asked about.
            CNAME => {
                let (_, left) = chain.split_last()?;
                let first = alias_of(message, &record.name)?;
                let is_left =
                    left.contains(&record.name) || (qtype == CNAME && record.name == *last);
                Some(is_left && std::ptr::eq(first, record))
            }
            RRSIG | NSEC if rtype(record) == qtype && in_chain(record) => Some(true),
            DNAME => {
                let is_data = qtype == DNAME && record.name == *last && code != NXDOMAIN;
                let is_too_long =
                    code == YXDOMAIN && record.name.zone_of(last) && record.name != *last;
                Some(is_data || is_too_long || is_source(message, &chain, qtype, record)?)
            }
            asked if asked == qtype => Some(record.name == *last && code != NXDOMAIN),
            _ => None,
        }
    });
    let authorities = kept(&message.authorities, dnssec_ok, |record| {
        match (&record.data, rtype(record)) {
            (RData::SOA(_) | RData::NS(_), _) | (_, DS) => Some(record.name.zone_of(last)),
            (_, NSEC) => Some(
                dnssec_ok
                    && message.authorities.iter().any(|signature| {
                        let signer = signer(signature);
                        signature.name == record.name
                            && covers(signature) == NSEC
                            && signature.dns_class == DNSClass::IN
                            && signer.is_some_and(|zone| {
                                around_chain(&zone) && zone.zone_of(&record.name)
                            })
                    }),
            ),
            (_, NSEC3) => Some(dnssec_ok && around_chain(&record.name.base_name())),
            _ => None,
        }
    });
    let mut hosts: Vec<Name> = answers
        .iter()
        .chain(&authorities)
        .filter_map(host)
        .collect();
    let additionals = kept(&message.additionals, dnssec_ok, |record| {
        let of_host = matches!(rtype(record), 1 | 28 | 64 | 65) && hosts.contains(&record.name);
        hosts.extend(host(record).filter(|_| of_host));
        Some(of_host)
    });
    Some(match code {
        0 | 3 => [answers, authorities, additionals],
        YXDOMAIN => [answers, vec![], vec![]],
        _ => Default::default(),
    })
}

fn rtype(record: &Record) -> u16 {
    record.record_type().into()
}

fn alias_of<'a>(message: &'a Message, name: &Name) -> Option<&'a Record> {
    message.answers.iter().find(|record| {
        let is_alias = matches!(record.data, RData::CNAME(_));
        is_alias && record.name == *name && record.dns_class == DNSClass::IN
    })
}

fn chain(message: &Message, qtype: u16) -> Option<Vec<Name>> {
    let mut chain = vec![message.queries.first()?.name().clone()];
    while qtype != CNAME
        && let Some(record) = alias_of(message, chain.last()?)
        && let RData::CNAME(target) = &record.data
    {
        if chain.contains(&target.0) || chain.len() > 16 {
            return None;
        }
        chain.push(target.0.clone());
    }
    Some(chain)
}

/// The records that `belongs` says do, with their signatures.
fn kept(
    section: &[Record],
    dnssec_ok: bool,
    mut belongs: impl FnMut(&Record) -> Option<bool>,
) -> Vec<Record> {
    let belongs: Vec<bool> = (section.iter())
        .map(|record| record.dns_class == DNSClass::IN && belongs(record).unwrap_or_default())
        .collect();
    let is_signature = |record: &Record| {
        dnssec_ok
            && rtype(record) == RRSIG
            && record.dns_class == DNSClass::IN
            && section.iter().zip(&belongs).any(|(signed, belongs)| {
                *belongs && signed.name == record.name && rtype(signed) == covers(record)
            })
    };
    section
        .iter()
        .zip(&belongs)
        .filter(|(record, belongs)| **belongs || is_signature(record))
        .map(|(record, _)| record.clone())
        .collect()
}

/// The type that a record covers; 0 if it is no signature.
fn covers(signature: &Record) -> u16 {
    let data = signature.data.to_bytes().unwrap_or_default();
    match (rtype(signature), data.first_chunk()) {
        (RRSIG, Some(covers)) => u16::from_be_bytes(*covers),
        _ => 0,
    }
}

/// The name of the zone that made a signature, which follows 18 octets.
fn signer(signature: &Record) -> Option<Name> {
    let data = signature.data.to_bytes().ok()?;
    Name::from_bytes(data.get(18..)?).ok()
}

/// Whether a DNAME record is one that a kept alias follows from.
fn is_source(message: &Message, chain: &[Name], qtype: u16, dname: &Record) -> Option<bool> {
    let data = dname.data.to_bytes().ok()?;
    let target = Name::from_bytes(&data).ok()?;
    let (last, left) = chain.split_last()?;
    let asked = (qtype == CNAME).then_some(last);
    let mut owners = left.iter().chain(asked);
    Some(owners.any(|owner| {
        let Some(RData::CNAME(alias)) = alias_of(message, owner).map(|record| &record.data) else {
            return false;
        };
        let labels = owner.iter().count().checked_sub(dname.name.iter().count());
        let Some(labels @ 1..) = labels else {
            return false;
        };
        let first = owner.iter().take(labels).chain(target.iter());
        dname.name.zone_of(owner)
            && Name::from_labels(first).is_ok_and(|follows| follows == alias.0)
    }))
}

/// The host that a record names.
fn host(record: &Record) -> Option<Name> {
    let binding = |target: &Name| match target.is_root() {
        true => record.name.clone(),
        false => target.clone(),
    };
    match &record.data {
        RData::NS(ns) => Some(ns.0.clone()),
        RData::MX(mx) => Some(mx.exchange.clone()),
        RData::SRV(srv) => Some(srv.target.clone()),
        RData::NAPTR(naptr) => Some(naptr.replacement.clone()),
        RData::SVCB(svcb) => Some(binding(&svcb.target_name)),
        RData::HTTPS(https) => Some(binding(&https.0.target_name)),
        _ => None,
    }
}
