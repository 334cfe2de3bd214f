//! Local data: names to which the operator gives records, in the settings or in hosts files.
//!
//! All answers are made when the data are loaded; a look-up finds one and copies nothing. A local name
//! has no data of other types than it is given; all other names are left to the rest of the policy
//! and to upstreams.

mod hosts;
mod record;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use thiserror::Error;

use super::{
    body::{Body, QUESTION},
    hostname,
};
use crate::dns::{
    Answer, CLASS_IN,
    header::rcode,
    name::{MAX_NAME, lower_case},
    rrtype::{A, AAAA, CNAME, PTR},
};

/// TTL of local records that have none of their own, in seconds.
const TTL: u32 = 300;

/// Addresses of one family that hosts files may give a name: they fit in a message, after aliases,
/// too.
const MAX_ADDRESSES: usize = 1024;

/// Longest chain of aliases.
const MAX_ALIASES: usize = 8;

/// What is wrong with local data.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocalError {
    /// Not a record.
    #[error(
        "{0:?} is not a record: {1}; write it as in a zone file, like \"printer.lan. 300 IN A 192.168.1.9\""
    )]
    Record(String, String),
    /// A class other than IN, or a type that only DNS itself uses.
    #[error("{0:?} is not a record that can be served; give records of class IN with data")]
    Kind(String),
    /// A wildcard (RFC 4592), which would only match its own name.
    #[error("{0:?} is a wildcard, which local data do not have; give each name a record")]
    Wildcard(String),
    /// An alias beside other data (RFC 1034 section 3.6.2).
    #[error("{0} is an alias and has other data; a name with CNAME has nothing else")]
    AliasWithData(String),
    /// An alias of a name that has no local data, or a loop of aliases.
    #[error(
        "{0} is an alias of {1}, which is not local, or leads back to it; give {1} local data, or {0} records of its own"
    )]
    AliasTarget(String, String),
    /// Too many records of a type.
    #[error("{0} has more data of one type than a message holds; leave some out")]
    TooLarge(String),
}

/// Local data that contradict each other.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{error}")]
pub struct Conflict {
    /// Number of the record that it is about, counted from 0 in the order in which they were added.
    pub record: Option<usize>,
    /// What is wrong.
    pub error: LocalError,
}

/// Names, in wire form and lower case, and their answers.
#[derive(Debug, Default)]
pub struct LocalData {
    names: HashMap<Box<[u8]>, Answers>,
}

/// The answers of one name.
#[derive(Debug)]
struct Answers {
    by_type: Vec<(u16, Answer)>,
    /// For types that the name does not have.
    no_data: Answer,
}

impl LocalData {
    /// Starts with no data.
    pub fn builder() -> LocalDataBuilder {
        LocalDataBuilder::default()
    }

    /// The answer to a question of class IN, if its name (wire form, any case) is local.
    pub fn lookup(&self, qname: &[u8], qtype: u16) -> Option<&Answer> {
        if self.names.is_empty() {
            return None;
        }
        let mut lower = [0; MAX_NAME];
        let answers = self.names.get(lower_case(qname, &mut lower)?)?;
        let typed = answers.by_type.iter().find(|(rtype, _)| *rtype == qtype);
        Some(typed.map_or(&answers.no_data, |(_, answer)| answer))
    }

    /// The local names, in wire form and lower case.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.keys().map(AsRef::as_ref)
    }

    /// How many names are local.
    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }
}

/// Records of one name and type.
#[derive(Clone, Debug, Default)]
struct RrSet {
    ttl: Option<u32>,
    rdata: Vec<Vec<u8>>,
    /// Number of the record that began the set; `None`: a hosts file did.
    record: Option<usize>,
}

type Name = Vec<u8>;

/// Gathers local data: first [records](Self::record), then [hosts files](Self::hosts).
#[derive(Debug, Default)]
pub struct LocalDataBuilder {
    names: BTreeMap<Name, BTreeMap<u16, RrSet>>,
    /// Reverse names of addresses, and the first name that each was given to.
    reverse: BTreeMap<Name, (Name, u32)>,
    /// Records added so far.
    records: usize,
}

impl LocalDataBuilder {
    /// Whether something that was added is about a name (wire form, any case).
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        let name = name.to_ascii_lowercase();
        self.names.contains_key(&name) || self.reverse.contains_key(&name)
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
    /// An alias has other data or no local target, or a set of records is too large.
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

    /// The answers of a name: its own records, or its chain of aliases and the records at the chain's
    /// end.
    fn answers(&self, name: &Name) -> Result<Answers, Conflict> {
        let conflict = |at: &Name, error| Conflict {
            record: self.names.get(at).and_then(|sets| sets.get(&CNAME)?.record),
            error,
        };
        let bad_target = |at: &Name| conflict(name, LocalError::AliasTarget(text(name), text(at)));
        let with_data = |at: &Name| conflict(at, LocalError::AliasWithData(text(at)));
        let mut chain = Body::default();
        let mut owner = QUESTION.to_vec();
        let mut at = name.clone();
        for _ in 0..=MAX_ALIASES {
            let sets = self.names.get(&at).ok_or_else(|| bad_target(&at))?;
            let Some(alias) = sets.get(&CNAME) else {
                return self.answers_after(name, chain, &owner, sets);
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
        Err(bad_target(&at))
    }

    /// The answers of `name`, whose chain of aliases ends at `owner`, which has these sets.
    fn answers_after(
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
            // The answer to a question for the alias itself is the alias alone.
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
        let mut negative = chain;
        negative.soa(owner);
        Ok(Answers {
            by_type,
            no_data: whole(negative, None)?,
        })
    }
}

/// The name that has the PTR record of an address (RFC 1035 section 3.5, RFC 3596 section 2.5).
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
