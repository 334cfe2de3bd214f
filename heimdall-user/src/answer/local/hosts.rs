//! Hosts files: an address a line, then its names; `#` begins a comment.
//!
//! Other programs write these files, so what cannot be used is skipped and reported.

use std::net::IpAddr;

use thiserror::Error;

use super::{LocalDataBuilder, MAX_ADDRESSES, RrSet, TTL};
use crate::{
    answer::hostname,
    dns::rrtype::{A, AAAA, CNAME},
};

/// What was skipped of a hosts file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsReport {
    /// Lines that were skipped, in whole or in part.
    pub skipped: usize,
    /// The number of the first of those, counted from 1, and the reason.
    pub first: Option<(usize, Skipped)>,
}

/// Why a line of a hosts file, or a name on it, was skipped.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Skipped {
    /// The line does not begin with an address.
    #[error("\"{0}\" is not an address")]
    Address(String),
    /// The address is only valid on one link (RFC 4007), which an answer cannot express.
    #[error("\"{0}\" has a zone, which DNS cannot express")]
    Zone(String),
    /// The line has nothing but an address.
    #[error("the address has no name")]
    NoName,
    /// Not a host name.
    #[error(
        "\"{0}\" is not a host name; labels have 1 to 63 letters, digits, hyphens and underscores, a \
         name up to 253 with the dots, and international ones are written as xn--"
    )]
    Name(String),
    /// A record makes the name an alias, which can have no addresses (RFC 1034 section 3.6.2).
    #[error("\"{0}\" is an alias by one of the records")]
    Alias(String),
    /// The name has 1024 addresses of the family already.
    #[error("\"{0}\" has {MAX_ADDRESSES} addresses already")]
    TooMany(String),
}

impl LocalDataBuilder {
    /// Adds the lines of a hosts file. The PTR record of an address has the first name of its first
    /// line. Add records first: a name that one of them makes an alias gets no address.
    pub fn hosts(&mut self, text: &[u8]) -> HostsReport {
        let mut report = HostsReport::default();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // byte order mark
        for (number, line) in (1..).zip(text.split(|octet| *octet == b'\n')) {
            if let Err(why) = self.hosts_line(line) {
                report.skipped += 1;
                report.first.get_or_insert((number, why));
            }
        }
        report
    }

    /// The error is the line's first; names after it have been added.
    fn hosts_line(&mut self, line: &[u8]) -> Result<(), Skipped> {
        let line = line.split(|octet| *octet == b'#').next();
        let mut words = line
            .unwrap_or_default()
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let Some(first) = words.next() else {
            return Ok(());
        };
        let address = parse_address(first)?;
        let names: Vec<&[u8]> = words.collect();
        if names.is_empty() {
            return Err(Skipped::NoName);
        }
        let mut outcome = Ok(());
        for name in names {
            outcome = outcome.and(self.host(name, address));
        }
        outcome
    }

    fn host(&mut self, word: &[u8], address: IpAddr) -> Result<(), Skipped> {
        let name = hostname::wire(word).ok_or_else(|| Skipped::Name(show(word)))?;
        if let Some(sets) = self.names.get(&name) {
            if sets.contains_key(&CNAME) {
                return Err(Skipped::Alias(show(word)));
            }
            let rtype = if address.is_ipv4() { A } else { AAAA };
            let full = |set: &RrSet| set.rdata.len() >= MAX_ADDRESSES;
            if sets.get(&rtype).is_some_and(full) {
                return Err(Skipped::TooMany(show(word)));
            }
        }
        self.address(name, address, TTL, None);
        Ok(())
    }
}

/// The address at the beginning of a line.
fn parse_address(word: &[u8]) -> Result<IpAddr, Skipped> {
    let bad = || Skipped::Address(show(word));
    let text = str::from_utf8(word).map_err(|_| bad())?;
    match text.split_once('%') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Err(Skipped::Zone(show(word))),
        _ => text.parse().map_err(|_| bad()),
    }
}

/// A word of the file as text for the log, shortened if it is long.
fn show(word: &[u8]) -> String {
    const MAX_SHOWN: usize = 64;
    match word.get(..MAX_SHOWN) {
        Some(start) if word.len() > MAX_SHOWN => format!("{}...", start.escape_ascii()),
        _ => word.escape_ascii().to_string(),
    }
}
