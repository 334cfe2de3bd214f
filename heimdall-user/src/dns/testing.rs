//! Records of the oracle, hickory-proto, for tests.
#![allow(clippy::unwrap_used)]

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

use super::rrtype;

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A record of any type.
pub(super) fn raw(owner: &str, rtype: u16, ttl: u32, data: &[u8]) -> Record {
    let rdata = rdata::NULL::with(data.to_vec());
    let code = RecordType::from(rtype);
    Record::from_rdata(name(owner), ttl, RData::Unknown { code, rdata })
}

pub(super) fn alias(owner: &str, target: &str) -> Record {
    let target = rdata::CNAME(name(target));
    Record::from_rdata(name(owner), 900, RData::CNAME(target))
}

/// An address, by its last octet.
pub(super) fn address(owner: &str, last: u8) -> Record {
    let address = rdata::A::new(192, 0, 2, last);
    Record::from_rdata(name(owner), 300, RData::A(address))
}

pub(super) fn soa(owner: &str) -> Record {
    let soa = rdata::SOA::new(name("ns.ok."), name("mail.ok."), 1, 2, 3, 4, 60);
    Record::from_rdata(name(owner), 600, RData::SOA(soa))
}

/// A signature of records of a type, by a zone in wire form.
pub(super) fn signature(owner: &str, covers: u8, zone: &[u8]) -> Record {
    let fixed = [0, covers, 13, 1, 0, 0, 0, 60, 0, 0, 0, 9, 0, 0, 0, 8, 0, 7];
    let data = [&fixed, zone, b"signature"].concat();
    raw(owner, rrtype::RRSIG, 300, &data)
}
