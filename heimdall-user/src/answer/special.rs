//! Special-use names, which are answered from the policy and not forwarded.
//!
//! They have no owner in the public DNS: queries for them would disclose the network to upstreams and
//! get no useful answer. The answers:
//!
//! | zone | answer | source |
//! |---|---|---|
//! | `localhost` | the loopback addresses, no data for other types | RFC 6761 section 6.3 |
//! | `invalid`, `test`, `onion` | NXDOMAIN | RFC 6761 sections 6.2 and 6.4, RFC 7686 |
//! | `home.arpa`, reverse zones of addresses that are not global | NXDOMAIN | RFC 8375, RFC 6303 |
//! | `resolver.arpa` | no data: there is no designated resolver | RFC 9462 section 6.4 |
//!
//! All but `localhost` are zones with a SOA and an NS record and nothing else (RFC 6303 section 3).
//! DS records of a zone belong to its parent, and are forwarded: they prove to a validating client that
//! the zone is not signed (RFC 8375 section 4).

use std::{collections::HashSet, fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use thiserror::Error;

use super::{
    body::{Body, QUESTION},
    hostname,
    local::LocalData,
};
use crate::dns::{
    Answer, CLASS_IN,
    header::rcode,
    name::{MAX_NAME, lower_case, parent},
    rrtype,
};

/// TTL of all records, and the SOA's MINIMUM, in seconds (RFC 6303 section 3).
const TTL: u32 = 10_800;

/// Zones outside `arpa`.
const TOP: [(&str, Kind); 4] = [
    ("localhost", Kind::Loopback),
    ("invalid", Kind::Empty),
    ("test", Kind::Empty),
    ("onion", Kind::Empty),
];

/// Zones below `arpa`, except for those of [`ranges`] (IANA, Locally-Served DNS Zones).
const ARPA: [(&str, Kind); 19] = [
    ("home.arpa", Kind::Empty),
    ("resolver.arpa", Kind::NoData),
    ("0.in-addr.arpa", Kind::Empty),
    ("10.in-addr.arpa", Kind::Empty),
    ("127.in-addr.arpa", Kind::Empty),
    ("254.169.in-addr.arpa", Kind::Empty),
    ("168.192.in-addr.arpa", Kind::Empty),
    ("2.0.192.in-addr.arpa", Kind::Empty),
    ("100.51.198.in-addr.arpa", Kind::Empty),
    ("113.0.203.in-addr.arpa", Kind::Empty),
    ("255.255.255.255.in-addr.arpa", Kind::Empty),
    // :: and ::1.
    (
        "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
        Kind::Empty,
    ),
    (
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
        Kind::Empty,
    ),
    // fd00::/8, fe80::/10 and 2001:db8::/32.
    ("d.f.ip6.arpa", Kind::Empty),
    ("8.e.f.ip6.arpa", Kind::Empty),
    ("9.e.f.ip6.arpa", Kind::Empty),
    ("a.e.f.ip6.arpa", Kind::Empty),
    ("b.e.f.ip6.arpa", Kind::Empty),
    ("8.b.d.0.1.0.0.2.ip6.arpa", Kind::Empty),
];

/// The zones of 172.16.0.0/12 (RFC 6303) and 100.64.0.0/10 (RFC 7793).
fn ranges() -> impl Iterator<Item = String> {
    let private = (16..32).map(|octet| format!("{octet}.172.in-addr.arpa"));
    private.chain((64..128).map(|octet| format!("{octet}.100.in-addr.arpa")))
}

/// How the names of a zone are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The apex exists, the names below it do not.
    Empty,
    /// All names exist and have no data.
    NoData,
    /// All names have the loopback addresses.
    Loopback,
}

/// The special zones that are answered from the policy. The default has none.
#[derive(Debug, Default)]
pub struct SpecialNames {
    top: Vec<Zone>,
    arpa: Vec<Zone>,
    exceptions: Vec<Box<[u8]>>,
    /// Names above local data and exceptions: they exist because names below them do (RFC 8020).
    parents: HashSet<Box<[u8]>>,
}

#[derive(Debug)]
struct Zone {
    /// In wire form and lower case.
    name: Box<[u8]>,
    kind: Kind,
    /// Answers to queries for the apex, or for all names of [`Kind::Loopback`], by type.
    by_type: [(u16, Answer); 2],
    no_data: Answer,
    nxdomain: Answer,
}

/// A zone that is forwarded although it is, contains or is part of a special zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    text: String,
    /// In wire form and lower case.
    name: Box<[u8]>,
}

/// The zone is not related to any special zone.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a special-use name, and none is below it; write a zone like \"10.in-addr.arpa\""
)]
pub struct NotSpecial(String);

impl FromStr for Exception {
    type Err = NotSpecial;

    fn from_str(text: &str) -> Result<Self, NotSpecial> {
        let overlaps = |name: &Vec<u8>| {
            names().any(|(zone, _)| {
                let zone = wire(&zone);
                is_within(name, &zone) || is_within(&zone, name)
            })
        };
        let name = hostname::wire(text.as_bytes()).filter(overlaps);
        let name = name.ok_or_else(|| NotSpecial(text.to_owned()))?;
        Ok(Self {
            text: text.to_owned(),
            name: name.into(),
        })
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All special zones.
fn names() -> impl Iterator<Item = (String, Kind)> {
    let fixed = TOP.iter().chain(&ARPA);
    let fixed = fixed.map(|(name, kind)| ((*name).to_owned(), *kind));
    fixed.chain(ranges().map(|name| (name, Kind::Empty)))
}

fn wire(name: &str) -> Box<[u8]> {
    hostname::wire(name.as_bytes()).unwrap_or_default().into()
}

impl SpecialNames {
    /// All special zones except for the exceptions. Names above these and above `local` data exist.
    pub(crate) fn new(exceptions: &[Exception], local: &LocalData) -> Self {
        let zones = names().map(|(name, kind)| Zone::new(wire(&name), kind));
        let (arpa, top) = zones.partition(|zone| zone.name.ends_with(ARPA_LABEL));
        let mut special = Self {
            top,
            arpa,
            exceptions: exceptions.iter().map(|zone| zone.name.clone()).collect(),
            parents: HashSet::new(),
        };
        let excepted = exceptions.iter().map(|zone| &*zone.name);
        for name in local.all_names().chain(excepted) {
            let mut above = parent(name);
            while let Some(name) = above
                && special.zone_of(name).is_some()
                && special.parents.insert(name.into())
            {
                above = parent(name);
            }
        }
        special
    }

    /// The answer to a question of class IN, if its name (wire form, any case) is special.
    pub(super) fn lookup(&self, qname: &[u8], qtype: u16) -> Option<&Answer> {
        let mut lower = [0; MAX_NAME];
        let name = lower_case(qname, &mut lower)?;
        let zone = self.zone_of(name)?;
        let apex = name.len() == zone.name.len();
        if apex && qtype == rrtype::DS {
            return None;
        }
        if apex || zone.kind == Kind::Loopback {
            let typed = zone.by_type.iter().find(|(rtype, _)| *rtype == qtype);
            return Some(typed.map_or(&zone.no_data, |(_, answer)| answer));
        }
        let exists = zone.kind == Kind::NoData || self.parents.contains(name);
        Some(if exists {
            &zone.no_data
        } else {
            &zone.nxdomain
        })
    }

    /// The special zone that a name (wire form, any case) belongs to, in wire form.
    pub(crate) fn zone(&self, qname: &[u8]) -> Option<&[u8]> {
        let mut lower = [0; MAX_NAME];
        let zone = self.zone_of(lower_case(qname, &mut lower)?)?;
        Some(&zone.name)
    }

    /// The special zone that a name in lower case belongs to.
    fn zone_of(&self, name: &[u8]) -> Option<&Zone> {
        let zones = match name.ends_with(ARPA_LABEL) {
            true => &self.arpa,
            false => &self.top,
        };
        let zone = zones.iter().find(|zone| is_within(name, &zone.name))?;
        let excepted = self.exceptions.iter().any(|zone| is_within(name, zone));
        (!excepted).then_some(zone)
    }
}

impl Zone {
    fn new(name: Box<[u8]>, kind: Kind) -> Self {
        let soa = soa(&name);
        let record = |rtype, data: &[u8]| {
            let mut body = Body::default();
            body.answer(QUESTION, rtype, CLASS_IN, TTL, data);
            (rtype, body.into_small_answer(rcode::NOERROR, None))
        };
        let by_type = match kind {
            Kind::Loopback => [
                record(rrtype::A, &Ipv4Addr::LOCALHOST.octets()),
                record(rrtype::AAAA, &Ipv6Addr::LOCALHOST.octets()),
            ],
            Kind::Empty | Kind::NoData => [record(rrtype::SOA, &soa), record(rrtype::NS, &name)],
        };
        let nothing = |code| {
            let mut body = Body::default();
            body.authority(&name, rrtype::SOA, TTL, &soa);
            body.into_small_answer(code, None)
        };
        Self {
            kind,
            by_type,
            no_data: nothing(rcode::NOERROR),
            nxdomain: nothing(rcode::NXDOMAIN),
            name,
        }
    }
}

/// The last labels of names below `arpa`.
const ARPA_LABEL: &[u8] = b"\x04arpa\0";

/// The data of a zone's SOA record (RFC 6303 section 3).
fn soa(name: &[u8]) -> Vec<u8> {
    let numbers = [1, 3_600, 1_200, 604_800, TTL].map(u32::to_be_bytes);
    [name, b"\x06nobody\x07invalid\0", &numbers.concat()].concat()
}

/// Whether a name is `zone` or below it; both in lower case.
fn is_within(name: &[u8], zone: &[u8]) -> bool {
    let mut rest = Some(name).filter(|name| name.ends_with(zone));
    while let Some(name) = rest
        && name.len() > zone.len()
    {
        rest = parent(name);
    }
    rest.is_some_and(|rest| rest.len() == zone.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::dns::rrtype::{A, AAAA, DS, NS, PTR, SOA, SVCB};

    fn special(exceptions: &[&str], records: &[&str]) -> SpecialNames {
        let mut local = LocalData::builder();
        for record in records {
            local.record(record).unwrap();
        }
        let exceptions: Vec<Exception> = exceptions
            .iter()
            .map(|zone| zone.parse().unwrap())
            .collect();
        SpecialNames::new(&exceptions, &local.build().unwrap())
    }

    /// What a question gets: `-` for nothing, `no data`, `nxdomain`, or the data in hex.
    fn answer(special: &SpecialNames, name: &str, qtype: u16) -> String {
        let name = hostname::wire(name.as_bytes()).unwrap();
        let Some(answer) = special.lookup(&name, qtype) else {
            return "-".to_owned();
        };
        let answer = answer.as_ref();
        assert!(answer.is_sound(name.len() + 4));
        assert_eq!(answer.ttl(), TTL);
        match (answer.rcode(), answer.counts()) {
            (rcode::NXDOMAIN, [0, 0, 0, 1, 0, 0]) => "nxdomain".to_owned(),
            (rcode::NOERROR, [0, 0, 0, 1, 0, 0]) => "no data".to_owned(),
            (rcode::NOERROR, [0, 1, 0, 0, 0, 0]) => {
                let data = &answer.body()[12..];
                data.iter().map(|octet| format!("{octet:02x}")).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn special_names_have_their_answers() {
        let special = special(&[], &[]);
        let loopback6 = "00000000000000000000000000000001";
        let ip6 =
            |digits: &str, name: &str| format!("{name}{}ip6.arpa", "0.".repeat(32 - digits.len()));
        for (name, qtype, expected) in [
            ("localhost", A, "7f000001"),
            ("LocalHost", AAAA, loopback6),
            ("a.b.localhost", A, "7f000001"),
            ("a.localhost", AAAA, loopback6),
            ("localhost", 15, "no data"),
            ("localhost", NS, "no data"),
            ("localhost", DS, "-"),
            ("mylocalhost", A, "-"),
            ("localhost.example", A, "-"),
            ("invalid", A, "no data"),
            ("a.invalid", A, "nxdomain"),
            ("A.B.Test", 16, "nxdomain"),
            ("a.onion", A, "nxdomain"),
            ("onion", DS, "-"),
            ("a.onion", DS, "nxdomain"),
            ("xtest", A, "-"),
            ("printer.local", A, "-"),
            ("home.arpa", A, "no data"),
            ("home.arpa", DS, "-"),
            ("nas.home.arpa", A, "nxdomain"),
            ("myhome.arpa", A, "-"),
            ("arpa", NS, "-"),
            ("in-addr.arpa", NS, "-"),
            ("_dns.resolver.arpa", SVCB, "no data"),
            ("resolver.arpa", A, "no data"),
            ("x.resolver.arpa", A, "no data"),
            ("1.0.0.127.in-addr.arpa", PTR, "nxdomain"),
            ("4.3.2.10.in-addr.arpa", PTR, "nxdomain"),
            ("3.2.110.in-addr.arpa", PTR, "-"),
            ("1.15.172.in-addr.arpa", PTR, "-"),
            ("1.16.172.in-addr.arpa", PTR, "nxdomain"),
            ("1.31.172.in-addr.arpa", PTR, "nxdomain"),
            ("1.32.172.in-addr.arpa", PTR, "-"),
            ("1.63.100.in-addr.arpa", PTR, "-"),
            ("1.64.100.in-addr.arpa", PTR, "nxdomain"),
            ("1.127.100.in-addr.arpa", PTR, "nxdomain"),
            ("1.128.100.in-addr.arpa", PTR, "-"),
            ("1.1.168.192.in-addr.arpa", PTR, "nxdomain"),
            ("255.255.255.255.in-addr.arpa", PTR, "no data"),
            ("1.255.255.255.in-addr.arpa", PTR, "-"),
            ("8.8.8.8.in-addr.arpa", PTR, "-"),
            (&ip6("1", "1."), PTR, "no data"),
            (&ip6("2", "2."), PTR, "-"),
            ("1.d.f.ip6.arpa", PTR, "nxdomain"),
            ("1.c.f.ip6.arpa", PTR, "-"),
            ("0.b.e.f.ip6.arpa", PTR, "nxdomain"),
            ("0.c.e.f.ip6.arpa", PTR, "-"),
            ("0.8.b.d.0.1.0.0.2.ip6.arpa", PTR, "nxdomain"),
        ] {
            assert_eq!(answer(&special, name, qtype), expected, "{name} {qtype}");
        }
        // The label is `\x04test`: a length octet in it is not the start of a label.
        assert!(special.lookup(b"\x01a\x05\x04test\0", A).is_none());
        assert!(answer(&special, "10.in-addr.arpa", SOA).ends_with("00002a30"));
        assert_eq!(
            answer(&special, "test", NS),
            "047465737400",
            "the zone itself"
        );
    }

    #[test]
    fn exceptions_are_forwarded() {
        let special = special(
            &[
                "5.10.in-addr.arpa",
                "9.8.10.in-addr.arpa",
                "Home.arpa.",
                "ip6.arpa",
            ],
            &[],
        );
        for (name, expected) in [
            ("5.10.in-addr.arpa", "-"),
            ("1.5.10.in-addr.arpa", "-"),
            ("1.6.10.in-addr.arpa", "nxdomain"),
            ("15.10.in-addr.arpa", "nxdomain"),
            ("10.in-addr.arpa", "no data"),
            ("8.10.in-addr.arpa", "no data"),
            ("9.8.10.in-addr.arpa", "-"),
            ("nas.home.arpa", "-"),
            ("1.d.f.ip6.arpa", "-"),
        ] {
            assert_eq!(answer(&special, name, PTR), expected, "{name}");
        }
        for text in ["example", "", "in-adr.arpa", "11.in-addr.arpa", "a..test"] {
            assert!(text.parse::<Exception>().is_err(), "{text}");
        }
        for text in ["arpa", "in-addr.arpa", "a.test", "1.168.192.in-addr.arpa"] {
            assert_eq!(text.parse::<Exception>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_above_local_data_exist() {
        let special = special(&[], &["nas.home.arpa. A 10.1.2.3", "a.b.test. A 192.0.2.1"]);
        for (name, expected) in [
            ("2.1.10.in-addr.arpa", "no data"),
            ("1.10.in-addr.arpa", "no data"),
            ("3.1.10.in-addr.arpa", "nxdomain"),
            ("2.10.in-addr.arpa", "nxdomain"),
            ("B.test", "no data"),
            ("c.test", "nxdomain"),
            ("home.arpa", "no data"),
        ] {
            assert_eq!(answer(&special, name, A), expected, "{name}");
        }
    }

    #[test]
    fn none_by_default() {
        assert_eq!(answer(&SpecialNames::default(), "a.test", A), "-");
    }
}
