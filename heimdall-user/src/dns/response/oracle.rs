//! Which records of a response belong to its question, as hickory-proto reads them. Shared with the fuzz
//! targets, so nothing in it is Heimdall's.

use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData, Record},
    serialize::binary::BinEncodable,
};

const CNAME: u16 = 5;
const DNAME: u16 = 39;
const DS: u16 = 43;
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

    let answers = kept(&message.answers, dnssec_ok, |record| {
        match rtype(record) {
            // The first alias of each name that is left.
            CNAME if qtype != CNAME => {
                let (_, left) = chain.split_last()?;
                let first = alias_of(message, &record.name)?;
                Some(left.contains(&record.name) && std::ptr::eq(first, record))
            }
            RRSIG | NSEC if rtype(record) == qtype => Some(in_chain(record)),
            asked if asked == qtype => Some(record.name == *last),
            DNAME => Some(
                chain
                    .iter()
                    .any(|name| record.name.zone_of(name) && record.name != *name),
            ),
            _ => None,
        }
    });
    let authorities = kept(&message.authorities, dnssec_ok, |record| {
        match (&record.data, rtype(record)) {
            (RData::SOA(_) | RData::NS(_), _) | (_, DS) => Some(record.name.zone_of(last)),
            (_, NSEC | NSEC3) => Some(dnssec_ok),
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
    Some(match u16::from(message.metadata.response_code) {
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

fn covers(signature: &Record) -> u16 {
    let data = signature.data.to_bytes().unwrap_or_default();
    data.first_chunk()
        .map_or(0, |covers| u16::from_be_bytes(*covers))
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
