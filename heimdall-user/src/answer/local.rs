//! Names that are answered from here: hosts files and records that the operator gives.
//!
//! All answers are made when the data are read; a look-up finds one and copies nothing. A type that
//! a local name does not have gets no data; a name that is not local is somebody else's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use domain::{
    base::{iana::Class, name::ToName, rdata::ComposeRecordData},
    zonefile::inplace::{Entry, Zonefile},
};
use thiserror::Error;

use super::{
    body::{Body, QUESTION},
    hostname,
};
use crate::dns::{Answer, CLASS_IN, header::rcode, name::MAX_NAME, rrtype};

/// TTL of local records that have none of their own, in seconds.
const TTL: u32 = 300;

/// Longest TTL, in seconds (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;

/// Addresses of one family that hosts files may give a name: they fit in a message, behind aliases,
/// too.
const MAX_ADDRESSES: usize = 1024;

/// Aliases that may lead to one another.
const MAX_ALIASES: usize = 8;

/// What is wrong with local data.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocalError {
    /// Not a record.
    #[error(
        "{0:?} is not a record: {1}; write it as in a zone file, like \"printer.lan. 300 IN A 192.168.1.9\""
    )]
    Record(String, String),
    /// A class but IN, or a type that only DNS itself uses.
    #[error("{0:?} cannot be answered from here; give records of class IN that hold data")]
    Kind(String),
    /// A wildcard (RFC 4592), which would only be asked for by its own name.
    #[error("{0:?} is a wildcard, which local data do not have; give each name a record")]
    Wildcard(String),
    /// An alias beside other data (RFC 1034 section 3.6.2).
    #[error("{0} is an alias and has other data; a name with CNAME has nothing else")]
    AliasWithData(String),
    /// An alias to a name of others, or in a circle.
    #[error(
        "{0} is an alias of {1}, which is not local, or leads back to it; give {1} local data, or {0} records of its own"
    )]
    AliasToNowhere(String, String),
    /// Too many records of a type.
    #[error("{0} has more data of one type than a message holds; leave some out")]
    TooLarge(String),
}

/// Local data do not fit together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{error}")]
pub struct Conflict {
    /// Number of the record that it is about, counted from 0 in the order in which they were added.
    pub record: Option<usize>,
    /// What is wrong.
    pub error: LocalError,
}

/// What a hosts file held that was not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsReport {
    /// Lines of which something was skipped: all of it, or a name.
    pub skipped: usize,
    /// The first of those, counted from 1, and why.
    pub first: Option<(usize, Skipped)>,
}

/// Why a line of a hosts file, or a name on it, was skipped.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Skipped {
    /// The line does not begin with an address.
    #[error("\"{0}\" is not an address")]
    Address(String),
    /// The address is only valid on one link (RFC 4007), which an answer cannot say.
    #[error("\"{0}\" has a zone, which DNS cannot express")]
    Zone(String),
    /// The line has an address alone.
    #[error("the address has no name")]
    NoName,
    /// No host name.
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

/// Names, in wire form and small letters, and what they are answered with.
#[derive(Debug, Default)]
pub struct LocalData {
    names: HashMap<Box<[u8]>, Answers>,
}

/// The answers of one name.
#[derive(Debug)]
struct Answers {
    by_type: Vec<(u16, Answer)>,
    /// For types that the name does not have.
    otherwise: Answer,
}

impl LocalData {
    /// Starts with nothing.
    pub fn builder() -> LocalDataBuilder {
        LocalDataBuilder::default()
    }

    /// The answer to a question of class IN, if its name (wire form, any case) is local.
    pub fn lookup(&self, qname: &[u8], qtype: u16) -> Option<&Answer> {
        if self.names.is_empty() {
            return None;
        }
        let mut folded = [0; MAX_NAME];
        let folded = folded.get_mut(..qname.len())?;
        folded.copy_from_slice(qname);
        folded.make_ascii_lowercase();
        let answers = self.names.get(&*folded)?;
        let typed = answers.by_type.iter().find(|(rtype, _)| *rtype == qtype);
        Some(typed.map_or(&answers.otherwise, |(_, answer)| answer))
    }

    /// The names that are answered from here, in wire form and lower case.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.keys().map(AsRef::as_ref)
    }

    /// How many names are answered from here.
    pub fn names(&self) -> usize {
        self.names.len()
    }
}

/// Records of one name and type.
#[derive(Clone, Debug, Default)]
struct RrSet {
    ttl: Option<u32>,
    rdata: Vec<Vec<u8>>,
    /// Number of the record that began the set, if one did.
    record: Option<usize>,
}

type Name = Vec<u8>;

/// Local data that are being read.
#[derive(Debug, Default)]
pub struct LocalDataBuilder {
    names: BTreeMap<Name, BTreeMap<u16, RrSet>>,
    /// Reverse names of addresses, and the first name that each was given to.
    reverse: BTreeMap<Name, (Name, u32)>,
    /// Records added so far.
    records: usize,
}

impl LocalDataBuilder {
    /// Adds the lines of a hosts file: an address, then names; `#` begins a comment. The first name
    /// of an address's first line is the address's own. Other programs write these files, so what
    /// cannot be taken is skipped and reported. Add records first: a name that one of them makes an
    /// alias gets no address.
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

    /// The error is the first; names behind it have been added.
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

    /// Adds a record in the format of zone files. Names are taken from the root, whether they end
    /// in a dot or not.
    ///
    /// # Errors
    /// It is no record, or not one that can be answered from here.
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
        // Into memory: cannot fail.
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

    fn address(&mut self, name: Name, address: IpAddr, ttl: u32, record: Option<usize>) {
        let (rtype, rdata) = match address {
            IpAddr::V4(v4) => (A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
        };
        self.reverse
            .entry(reverse(address))
            .or_insert_with(|| (name.clone(), ttl));
        self.add(name, rtype, ttl, rdata, record);
    }

    fn add(&mut self, name: Name, rtype: u16, ttl: u32, rdata: Vec<u8>, record: Option<usize>) {
        let set = self
            .names
            .entry(name)
            .or_default()
            .entry(rtype)
            .or_default();
        // The records of a set have one TTL (RFC 2181 section 5.2).
        set.ttl = Some(set.ttl.map_or(ttl, |other| other.min(ttl)));
        set.record = set.record.or(record);
        if !set.rdata.contains(&rdata) {
            set.rdata.push(rdata);
        }
    }

    /// Makes the answers.
    ///
    /// # Errors
    /// An alias leads nowhere, or a set of records is too large.
    pub fn build(mut self) -> Result<LocalData, Conflict> {
        for (reverse, (name, ttl)) in std::mem::take(&mut self.reverse) {
            let explicit = self
                .names
                .get(&reverse)
                .is_some_and(|sets| sets.contains_key(&PTR) || sets.contains_key(&CNAME));
            if !explicit {
                self.add(reverse, PTR, ttl, name, None);
            }
        }
        let names = self
            .names
            .keys()
            .map(|name| Ok((name.clone().into_boxed_slice(), self.answers(name)?)))
            .collect::<Result<_, Conflict>>()?;
        Ok(LocalData { names })
    }

    /// The answers of a name: its own records, or its alias and the records of the name that the
    /// alias leads to.
    fn answers(&self, name: &Name) -> Result<Answers, Conflict> {
        let conflict = |at: &Name, error| Conflict {
            record: self.names.get(at).and_then(|sets| sets.get(&CNAME)?.record),
            error,
        };
        let nowhere = |at: &Name| conflict(name, LocalError::AliasToNowhere(text(name), text(at)));
        let with_data = |at: &Name| conflict(at, LocalError::AliasWithData(text(at)));
        let mut chain = Body::default();
        let mut owner = QUESTION.to_vec();
        let mut at = name.clone();
        for _ in 0..=MAX_ALIASES {
            let sets = self.names.get(&at).ok_or_else(|| nowhere(&at))?;
            let Some(alias) = sets.get(&CNAME) else {
                return self.finish(name, chain, &owner, sets);
            };
            let [target] = alias.rdata.as_slice() else {
                return Err(with_data(&at));
            };
            if sets.len() > 1 {
                return Err(with_data(&at));
            }
            chain.answer(&owner, CNAME, CLASS_IN, alias.ttl.unwrap_or(TTL), target);
            owner.clone_from(target);
            at = target.to_ascii_lowercase();
        }
        Err(nowhere(&at))
    }

    fn finish(
        &self,
        name: &Name,
        chain: Body,
        owner: &[u8],
        sets: &BTreeMap<u16, RrSet>,
    ) -> Result<Answers, Conflict> {
        let too_large = |record| Conflict {
            record,
            error: LocalError::TooLarge(text(name)),
        };
        let whole = |body: Body, record| {
            body.into_answer(rcode::NOERROR, None)
                .ok_or_else(|| too_large(record))
        };
        let mut by_type = Vec::new();
        if owner != QUESTION {
            // To a question for the alias itself, that alone.
            let mut alias = Body::default();
            if let Some(set) = self.names.get(name).and_then(|sets| sets.get(&CNAME)) {
                for rdata in &set.rdata {
                    alias.answer(QUESTION, CNAME, CLASS_IN, set.ttl.unwrap_or(TTL), rdata);
                }
            }
            by_type.push((CNAME, whole(alias, None)?));
        }
        for (rtype, set) in sets {
            let mut body = chain.clone();
            for rdata in &set.rdata {
                body.answer(owner, *rtype, CLASS_IN, set.ttl.unwrap_or(TTL), rdata);
            }
            by_type.push((*rtype, whole(body, set.record)?));
        }
        let mut nothing = chain;
        nothing.soa(owner);
        Ok(Answers {
            by_type,
            otherwise: whole(nothing, None)?,
        })
    }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// The address at the beginning of a line of a hosts file.
fn parse_address(word: &[u8]) -> Result<IpAddr, Skipped> {
    let bad = || Skipped::Address(show(word));
    let text = str::from_utf8(word).map_err(|_| bad())?;
    match text.split_once('%') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Err(Skipped::Zone(show(word))),
        _ => text.parse().map_err(|_| bad()),
    }
}

/// A word of a file as text for the log, if need be its beginning.
fn show(word: &[u8]) -> String {
    const MAX_SHOWN: usize = 64;
    match word.get(..MAX_SHOWN) {
        Some(start) if word.len() > MAX_SHOWN => format!("{}...", start.escape_ascii()),
        _ => word.escape_ascii().to_string(),
    }
}

/// The name under which the name of an address is found (RFC 1035 section 3.5, RFC 3596 section
/// 2.5).
fn reverse(address: IpAddr) -> Name {
    let text = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev();
            let nibbles = nibbles.map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    };
    hostname::wire(text.as_bytes()).unwrap_or_default()
}

/// What keeps a text from being one line of a zone file. The parser of zone files is made for whole
/// ones, and panics over some of these (domain 0.12.3).
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

/// What a zone file's error says; the place in front of it is in a text that nobody wrote.
fn reason(error: &domain::zonefile::inplace::Error) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((_, reason)) => reason.to_owned(),
        None => text,
    }
}

/// A name in wire form as text, for errors.
fn text(mut name: &[u8]) -> String {
    let mut text = String::new();
    while let Some((len, rest)) = name.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*len)) else {
            break;
        };
        text.push_str(&label.escape_ascii().to_string());
        if !rest.is_empty() || text.is_empty() {
            text.push('.');
        }
        name = rest;
    }
    text
}

#[cfg(test)]
mod tests;
