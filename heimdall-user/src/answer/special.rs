//! Names that are answered from the policy and not forwarded: special-use names, and those of routes without upstreams.
//!
//! Special-use names have no owner in the public DNS: queries for them would disclose the network to upstreams and
//! get no useful answer. The answers:
//!
//! | zone | answer | source |
//! |---|---|---|
//! | `localhost` | the loopback addresses, no data for other types | RFC 6761 section 6.3 |
//! | `invalid`, `test`, `onion` | NXDOMAIN | RFC 6761 sections 6.2 and 6.4, RFC 7686 |
//! | `local` | NXDOMAIN: multicast DNS has these names, and the DNS has none | RFC 6762 section 22.1 |
//! | `home.arpa`, reverse zones of addresses that are not global | NXDOMAIN | RFC 8375, RFC 6303 |
//! | `resolver.arpa` | no data: there is no designated resolver | RFC 9462 section 6.4 |
//!
//! All but `localhost` are zones with a SOA and an NS record and nothing else (RFC 6303 section 3), and so are the zones
//! of routes that answer NXDOMAIN. DS records of a zone belong to its parent, and are forwarded: they prove to a validating
//! client that the zone is not signed (RFC 8375 section 4).
//!
//! Of a special zone, an exception to them and a route, the one with the most labels decides.

use std::{collections::HashSet, fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr, sync::LazyLock};

use thiserror::Error;

use super::{
    body::{Body, NEGATIVE_TTL, QUESTION},
    hostname,
    local::LocalData,
    policy::AnsweredBy,
};
use crate::dns::{
    Answer, CLASS_IN, ZoneMap,
    edns::ede,
    header::rcode,
    name::{MAX_NAME, lower_case, parent},
    rrtype,
};

/// TTL of all records, and the SOA's MINIMUM, in seconds (RFC 6303 section 3).
const TTL: u32 = 10_800;

/// Zones outside `arpa`.
const TOP: [(&str, Kind); 5] = [
    ("localhost", Kind::Loopback),
    ("invalid", Kind::Empty),
    ("test", Kind::Empty),
    ("onion", Kind::Empty),
    ("local", Kind::Empty),
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

/// What the names of a route without upstreams get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalOnly {
    /// NXDOMAIN.
    NxDomain,
    /// REFUSED.
    Refused,
}

impl LocalOnly {
    /// The answer to a name below `zone`, in wire form.
    pub(crate) fn answer(self, zone: &[u8]) -> Answer {
        match self {
            Self::NxDomain => negative(rcode::NXDOMAIN, zone),
            Self::Refused => Answer::failure(rcode::REFUSED, Some(ede::BLOCKED), NEGATIVE_TTL),
        }
    }

    /// The answer to `zone` itself, for types that it has no data of.
    pub(crate) fn answer_for_zone(self, zone: &[u8]) -> Answer {
        match self {
            Self::NxDomain => negative(rcode::NOERROR, zone),
            Self::Refused => self.answer(zone),
        }
    }
}

/// The names that are answered from the policy. The default has none.
#[derive(Debug, Default)]
pub struct SpecialNames {
    /// `None`: the zone is forwarded.
    zones: ZoneMap<Option<Zone>>,
    /// Names above local data and above other zones: they exist because names below them do (RFC 8020).
    parents: HashSet<Box<[u8]>>,
}

#[derive(Debug)]
struct Zone {
    by: AnsweredBy,
    kind: Kind,
    /// Answers to queries for the apex, or for all names of [`Kind::Loopback`], by type.
    by_type: Vec<(u16, Answer)>,
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

/// Whether a name (wire form, any case) is in a special zone, whatever the operator says of that.
pub(crate) fn is_special(name: &[u8]) -> bool {
    static ZONES: LazyLock<ZoneMap<()>> = LazyLock::new(|| {
        let mut zones = ZoneMap::default();
        for (zone, _) in names() {
            zones.insert(wire(&zone), ());
        }
        zones
    });
    ZONES.find(name, rrtype::RESERVED).is_some()
}

fn wire(name: &str) -> Box<[u8]> {
    hostname::wire(name.as_bytes()).unwrap_or_default().into()
}

impl SpecialNames {
    /// The special zones except for these, or none at all without a list of exceptions, and the zones of routes, in lower
    /// case, with what those without upstreams get. A route takes the place of a special zone of that name. Names above
    /// all these and above `local` data exist.
    pub(crate) fn new<'a>(
        exceptions: Option<&[Exception]>,
        routes: impl Iterator<Item = (&'a [u8], Option<LocalOnly>)>,
        local: &LocalData,
    ) -> Self {
        let mut zones = ZoneMap::default();
        if let Some(exceptions) = exceptions {
            for (name, kind) in names() {
                let name = wire(&name);
                let is_in = |exception: &Exception| is_within(&name, &exception.name);
                if !exceptions.iter().any(is_in) {
                    let zone = Zone::special(&name, kind);
                    zones.insert(name, Some(zone));
                }
            }
            for exception in exceptions {
                zones.insert(exception.name.clone(), None);
            }
        }
        for (zone, local_only) in routes {
            let own = local_only.map(|local_only| Zone::local_only(zone, local_only));
            zones.insert(zone.into(), own);
        }
        let mut parents = HashSet::new();
        let below = zones.iter().map(|(zone, _)| zone);
        for name in local.all_names().chain(below) {
            let mut above = parent(name);
            while let Some(name) = above
                && matches!(zones.find(name, rrtype::A), Some((_, Some(_))))
                && parents.insert(name.into())
            {
                above = parent(name);
            }
        }
        Self { zones, parents }
    }

    /// The answer to a question of class IN, if its name (wire form, any case) is not forwarded.
    pub(super) fn lookup(&self, qname: &[u8], qtype: u16) -> Option<(&Answer, AnsweredBy)> {
        let (apex, zone) = self.zones.find(qname, qtype)?;
        let zone = zone.as_ref()?;
        if qname.len() == apex.len() || zone.kind == Kind::Loopback {
            let mut by_type = zone.by_type.iter();
            let typed = by_type.find(|(rtype, _)| *rtype == qtype);
            return Some((typed.map_or(&zone.no_data, |(_, answer)| answer), zone.by));
        }
        let exists = zone.kind == Kind::NoData || self.is_parent(qname);
        let answer = if exists {
            &zone.no_data
        } else {
            &zone.nxdomain
        };
        Some((answer, zone.by))
    }

    fn is_parent(&self, qname: &[u8]) -> bool {
        let mut lower = [0; MAX_NAME];
        lower_case(qname, &mut lower).is_some_and(|name| self.parents.contains(name))
    }

    /// The zone, in wire form, by which [`lookup`](Self::lookup) answers a question.
    pub(crate) fn zone(&self, qname: &[u8], qtype: u16) -> Option<&[u8]> {
        let (zone, answered) = self.zones.find(qname, qtype)?;
        answered.is_some().then_some(zone)
    }
}

impl Zone {
    fn special(name: &[u8], kind: Kind) -> Self {
        Self {
            by: AnsweredBy::Special,
            ..Self::new(name, kind)
        }
    }

    fn local_only(name: &[u8], local_only: LocalOnly) -> Self {
        match local_only {
            LocalOnly::NxDomain => Self::new(name, Kind::Empty),
            LocalOnly::Refused => Self {
                by: AnsweredBy::Route,
                kind: Kind::Empty,
                by_type: Vec::new(),
                no_data: local_only.answer(name),
                nxdomain: local_only.answer(name),
            },
        }
    }

    /// A route's.
    fn new(name: &[u8], kind: Kind) -> Self {
        let record = |rtype, data: &[u8]| {
            let mut body = Body::default();
            body.answer(QUESTION, rtype, CLASS_IN, TTL, data);
            (rtype, body.into_small_answer(rcode::NOERROR, None))
        };
        let by_type = match kind {
            Kind::Loopback => vec![
                record(rrtype::A, &Ipv4Addr::LOCALHOST.octets()),
                record(rrtype::AAAA, &Ipv6Addr::LOCALHOST.octets()),
            ],
            Kind::Empty | Kind::NoData => {
                vec![record(rrtype::SOA, &soa(name)), record(rrtype::NS, name)]
            }
        };
        Self {
            by: AnsweredBy::Route,
            kind,
            by_type,
            no_data: negative(rcode::NOERROR, name),
            nxdomain: negative(rcode::NXDOMAIN, name),
        }
    }
}

/// A negative answer of a zone, in wire form.
fn negative(code: u8, zone: &[u8]) -> Answer {
    let mut body = Body::default();
    body.authority(zone, rrtype::SOA, TTL, &soa(zone));
    body.into_small_answer(code, None)
}

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

    use std::iter;

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
        SpecialNames::new(Some(&exceptions), iter::empty(), &local.build().unwrap())
    }

    /// What a question gets: `-` for nothing, `no data`, `nxdomain`, or the data in hex.
    fn answer(special: &SpecialNames, name: &str, qtype: u16) -> String {
        let name = hostname::wire(name.as_bytes()).unwrap();
        let Some((answer, _)) = special.lookup(&name, qtype) else {
            return "-".to_owned();
        };
        let answer = answer.as_ref();
        assert!(answer.is_sound(name.len() + 4));
        assert_eq!(
            answer.ede(),
            (answer.rcode() == rcode::REFUSED).then_some(ede::BLOCKED)
        );
        if answer.rcode() != rcode::REFUSED {
            assert_eq!(answer.ttl(), TTL);
        }
        match (answer.rcode(), answer.counts()) {
            (rcode::NXDOMAIN, [0, 0, 0, 1, 0, 0]) => "nxdomain".to_owned(),
            (rcode::NOERROR, [0, 0, 0, 1, 0, 0]) => "no data".to_owned(),
            (rcode::REFUSED, [0, 0, 0, 0, 0, 0]) => "refused".to_owned(),
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
            ("local", A, "no data"),
            ("Printer.Local", A, "nxdomain"),
            ("local", DS, "-"),
            ("mylocal", A, "-"),
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

    /// The names and routes, in lower case, with what those without upstreams get.
    fn routed(
        exceptions: Option<&[Exception]>,
        routes: &[(&str, Option<LocalOnly>)],
    ) -> SpecialNames {
        let routes: Vec<_> = routes
            .iter()
            .map(|(zone, local_only)| match *zone {
                "." => (vec![0], *local_only),
                zone => (hostname::wire(zone.as_bytes()).unwrap(), *local_only),
            })
            .collect();
        let routes = routes
            .iter()
            .map(|(zone, local_only)| (zone.as_slice(), *local_only));
        let mut local = LocalData::builder();
        local.record("a.b.denied.example. A 10.1.2.3").unwrap();
        SpecialNames::new(exceptions, routes, &local.build().unwrap())
    }

    #[test]
    fn routes_without_upstreams_are_answered() {
        let (denied, refused) = (Some(LocalOnly::NxDomain), Some(LocalOnly::Refused));
        let names = routed(
            Some(&[]),
            &[
                ("denied.example", denied),
                ("refused.example", refused),
                ("c.d.denied.example", None),
                ("x.test", refused),
                ("corp.internal", None),
            ],
        );
        for (name, qtype, expected) in [
            ("www.denied.example", A, "nxdomain"),
            ("denied.example", A, "no data"),
            ("denied.example", DS, "-"),
            ("x.denied.example", DS, "nxdomain"),
            // Local data and another route are below these.
            ("B.denied.example", A, "no data"),
            ("d.denied.example", A, "no data"),
            ("c.d.denied.example", A, "-"),
            ("x.c.d.denied.example", A, "-"),
            ("c.d.denied.example", DS, "nxdomain"),
            ("refused.example", A, "refused"),
            ("a.b.REFUSED.example", SOA, "refused"),
            ("refused.example", DS, "-"),
            ("a.x.test", A, "refused"),
            ("x.test", A, "refused"),
            ("y.test", A, "nxdomain"),
            ("corp.internal", A, "-"),
            ("example", A, "-"),
        ] {
            assert_eq!(answer(&names, name, qtype), expected, "{name} {qtype}");
        }
        let by = |name: &str| {
            let name = hostname::wire(name.as_bytes()).unwrap();
            names.lookup(&name, A).map(|(_, by)| by)
        };
        assert_eq!(by("a.denied.example"), Some(AnsweredBy::Route));
        assert_eq!(by("a.x.test"), Some(AnsweredBy::Route));
        assert_eq!(by("y.test"), Some(AnsweredBy::Special));
        let all = routed(Some(&[]), &[(".", denied), ("corp.example", None)]);
        for (name, expected) in [
            ("www.example", "nxdomain"),
            ("example", "no data"),
            ("corp.example", "-"),
            ("localhost", "7f000001"),
        ] {
            assert_eq!(answer(&all, name, A), expected, "{name}");
        }
    }

    #[test]
    fn every_special_zone_can_be_taken_away_by_an_exception_or_a_route() {
        let all = special(&[], &[]);
        for (zone, _) in names() {
            let below = format!("x.{zone}");
            assert_ne!(answer(&all, &below, A), "-", "{zone}");
            let excepted = special(&[&zone], &[]);
            assert_eq!(answer(&excepted, &below, A), "-", "{zone}");
            let by_route = routed(Some(&[]), &[(&zone, None)]);
            assert_eq!(answer(&by_route, &below, A), "-", "{zone}");
            assert_eq!(answer(&by_route, &zone, SOA), "-", "{zone}");
            // Only that one.
            let others = names().filter(|(other, _)| *other != zone);
            for (other, _) in others {
                let below = format!("x.{other}");
                assert_ne!(answer(&excepted, &below, A), "-", "{zone}, {other}");
                assert_ne!(answer(&by_route, &below, A), "-", "{zone}, {other}");
            }
        }
    }

    /// As with zones of any kind, the one with the most labels decides.
    #[test]
    fn a_route_for_a_zone_above_takes_none_away() {
        let names = routed(Some(&[]), &[("in-addr.arpa", None), (".", None)]);
        assert_eq!(answer(&names, "9.10.in-addr.arpa", PTR), "nxdomain");
        assert_eq!(answer(&names, "a.test", A), "nxdomain");
        assert_eq!(answer(&names, "1.11.in-addr.arpa", PTR), "-");
        let off = routed(None, &[("example", Some(LocalOnly::NxDomain))]);
        assert_eq!(answer(&off, "a.test", A), "-");
        assert_eq!(answer(&off, "a.example", A), "nxdomain");
    }

    #[test]
    fn the_operator_designates_a_resolver() {
        let record = "_dns.resolver.arpa. 300 SVCB 1 dns.example.net. alpn=dot port=853";
        let mut local = LocalData::builder();
        local.record(record).unwrap();
        let local = local.build().unwrap();
        let special = SpecialNames::new(Some(&[]), iter::empty(), &local);
        let name = hostname::wire(b"_dns.resolver.arpa").unwrap();
        let answer = local.lookup(&name, SVCB).unwrap().as_ref();
        assert_eq!((answer.rcode(), answer.counts()), (0, [0, 1, 0, 0, 0, 0]));
        let target = b"\x03dns\x07example\x03net\0";
        assert!(
            answer
                .body()
                .windows(target.len())
                .any(|octets| octets == target)
        );
        // Of other names and types there are no data.
        assert_eq!(local.lookup(&name, A).unwrap().as_ref().rcode(), 0);
        assert!(special.lookup(&name, A).is_some());
    }
}
