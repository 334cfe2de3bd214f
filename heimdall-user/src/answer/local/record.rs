//! Records in the presentation format of zone files (RFC 1035 section 5.1).

use std::net::IpAddr;

use domain::{
    base::{iana::Class, name::ToName, rdata::ComposeRecordData},
    zonefile::inplace::{Entry, Error, Zonefile},
};

use super::{LocalDataBuilder, LocalError, TTL};
use crate::dns::rrtype::{self, A, AAAA};

/// Longest TTL, in seconds (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;

impl LocalDataBuilder {
    /// Adds a record in the format of zone files. Names are absolute, with or without a final dot.
    ///
    /// # Errors
    /// It is not a record, or not one that can be answered from local data.
    pub fn record(&mut self, text: &str) -> Result<(), LocalError> {
        let bad = |why: String| LocalError::Record(text.to_owned(), why);
        if let Some(why) = unreadable(text) {
            return Err(bad(why.to_owned()));
        }
        let mut zone = Zonefile::from(format!("$TTL {TTL}\n{text}\n").as_bytes());
        zone.set_origin(domain::base::Name::root());
        zone.set_default_class(Class::IN);
        let record = match zone.next_entry().map_err(|error| bad(reason(&error)))? {
            Some(Entry::Record(record)) => record,
            _ => return Err(bad("there is none".to_owned())),
        };
        if zone
            .next_entry()
            .map_err(|error| bad(reason(&error)))?
            .is_some()
        {
            return Err(bad("there is more than one".to_owned()));
        }
        let rtype = record.rtype().to_int();
        let meta = (128..=255).contains(&rtype) || matches!(rtype, 0 | rrtype::OPT);
        if record.class() != Class::IN || meta {
            return Err(LocalError::Kind(text.to_owned()));
        }
        let mut owner = Vec::new();
        let mut rdata = Vec::new();
        // Writing to memory cannot fail.
        let _ = record.owner().compose_canonical(&mut owner);
        let _ = record.data().compose_rdata(&mut rdata);
        let ttl = record.ttl().as_secs();
        if ttl > MAX_TTL {
            return Err(bad(format!("its TTL is above {MAX_TTL}")));
        }
        if owner.starts_with(b"\x01*") {
            return Err(LocalError::Wildcard(text.to_owned()));
        }
        let address = match (rtype, rdata.as_slice()) {
            (A, octets) => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
            (AAAA, octets) => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
            _ => None,
        };
        let number = Some(self.records);
        match address {
            Some(address) => self.address(owner, address, ttl, number),
            None => self.add(owner, rtype, ttl, rdata, number),
        }
        self.records += 1;
        Ok(())
    }
}

/// Why a text is not one line of a zone file. The parser expects whole files, and panics over some of
/// these texts (domain 0.12.3).
fn unreadable(text: &str) -> Option<&'static str> {
    let mut octets = text.bytes();
    let (mut quoted, mut before) = (false, b' ');
    while let Some(octet) = octets.next() {
        let blank = matches!(before, b' ' | b'\t');
        match octet {
            b'\n' | b'\r' => return Some("it has more than one line"),
            b'\\' => drop(octets.next()),
            b'"' if !quoted && !blank => return Some("there is no blank before a quoted string"),
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' | b')' => return Some("parentheses are for records of several lines"),
            b' ' | b'\t' => {}
            _ if before == b'"' => return Some("there is no blank behind a quoted string"),
            _ => {}
        }
        before = octet;
    }
    quoted.then_some("a quoted string has no end")
}

/// The text of a parser's error without its position, which counts the line of `$TTL`.
fn reason(error: &Error) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((_, reason)) => reason.to_owned(),
        None => text,
    }
}
