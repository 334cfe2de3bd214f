//! Local zones and local data: records, routes that answer by themselves, blocklists and exceptions to special-use names.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use super::{
    super::{
        Draft,
        source::Statement,
        values::{self, reverse_name},
    },
    lexer::Entry,
    unreadable,
};
use crate::{
    answer::{local::LocalData, special::Exception},
    config::Zone,
};

/// The TTL of local data that have none, in seconds.
const TTL: &str = "3600";

/// Zones that `unblock-lan-zones` leaves to upstreams.
const LAN_ZONES: [&str; 5] = [
    "10.in-addr.arpa",
    "168.192.in-addr.arpa",
    "254.169.in-addr.arpa",
    "d.f.ip6.arpa",
    "home.arpa",
];

/// Local zones and data.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// By name, in lower case without the last dot.
    zones: BTreeMap<String, (String, Statement)>,
    data: Vec<(String, Statement)>,
    unblock: Option<Statement>,
}

impl Local {
    /// Takes a statement, if it is one of these.
    pub(super) fn statement(&mut self, entry: &Entry, draft: &mut Draft) -> bool {
        let statement = &entry.statement;
        match (entry.key.as_str(), entry.values.as_slice()) {
            ("local-zone", [name, kind]) => {
                let (name, kind) = (plain(name), kind.to_ascii_lowercase());
                self.zones.insert(name, (kind, statement.clone()));
            }
            ("local-data", [data]) => self.data.push((data.clone(), statement.clone())),
            ("local-data-ptr", [data]) => match pointer(data) {
                Some(record) => self.data.push((record, statement.clone())),
                None => unreadable(statement, draft),
            },
            ("unblock-lan-zones", [on]) if on == "yes" => self.unblock = Some(statement.clone()),
            ("unblock-lan-zones" | "insecure-lan-zones", _) => {
                draft.unneeded(statement, "signatures are not checked here, and it is off");
            }
            ("local-zone" | "local-data" | "local-data-ptr", _) => unreadable(statement, draft),
            _ => return false,
        }
        true
    }

    /// Makes the settings.
    pub(super) fn finish(self, draft: &mut Draft) {
        let redirected = self.redirected();
        for (data, statement) in &self.data {
            let owner = data.split_ascii_whitespace().next().unwrap_or_default();
            if redirected.contains(&plain(owner)) {
                continue;
            }
            let record = with_ttl(data);
            let mut builder = LocalData::builder();
            match builder.record(&record) {
                Ok(()) => draft.push("local.records", record, Some(statement)),
                Err(error) => draft.lost(statement, error.to_string()),
            }
        }
        let zones = self.zones.iter().map(|(name, (kind, statement))| {
            let way = Way::of(name, kind, redirected.contains(name));
            (name, kind, statement, way)
        });
        // The first are those that take resolvers from zones above, before these have none.
        let (forwarded, others): (Vec<_>, Vec<_>) =
            zones.partition(|(.., way)| *way == Some(Way::Forward));
        for (name, kind, statement, way) in forwarded.into_iter().chain(others) {
            let above = self.above(name, &redirected);
            zone(name, kind, way, above, statement, draft);
        }
        if let Some(statement) = &self.unblock {
            let shared = (16..32).map(|octet| format!("{octet}.172.in-addr.arpa"));
            for zone in LAN_ZONES.map(str::to_owned).into_iter().chain(shared) {
                draft.push("local.special-names-except", zone, Some(statement));
            }
        }
    }

    /// What zones above do to the names of one.
    fn above(&self, name: &str, redirected: &HashSet<String>) -> Above {
        let mut all = Above::default();
        for name in values::above(name) {
            let kind = self.zones.get(name).map(|(kind, _)| kind.as_str());
            match kind.and_then(|kind| Way::of(name, kind, redirected.contains(name))) {
                Some(Way::List(_)) => all.is_listed = true,
                // Such a zone is taken from the lists of those above it.
                Some(Way::Answer(_)) => {
                    all.is_answered = true;
                    break;
                }
                Some(Way::Forward) => break,
                None => {}
            }
        }
        all
    }

    /// Zones all names in which get a null address.
    fn redirected(&self) -> HashSet<String> {
        let redirects = self
            .zones
            .iter()
            .filter(|(_, (kind, _))| kind == "redirect");
        let mut zones: HashSet<String> = redirects.map(|(name, _)| name.clone()).collect();
        let mut with_data = HashSet::new();
        for (data, _) in &self.data {
            let mut words = data.split_ascii_whitespace();
            let owner = plain(words.next().unwrap_or_default());
            let address = words.last().and_then(|word| word.parse::<IpAddr>().ok());
            if address.is_some_and(|address| address.is_unspecified()) {
                with_data.insert(owner);
            } else {
                zones.remove(&owner);
            }
        }
        zones.retain(|zone| with_data.contains(zone));
        zones
    }
}

/// How Heimdall does what a local zone does with names that have no local data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a blocklist with this action.
    List(&'static str),
    /// By a route with this answer.
    Answer(&'static str),
    /// They are forwarded.
    Forward,
}

impl Way {
    /// The way of a kind of zone, if there is one. `is_null`: all its data are null addresses.
    fn of(name: &str, kind: &str, is_null: bool) -> Option<Self> {
        Some(match kind {
            // No list can have the root.
            "always_nxdomain" if name == "." => Self::Answer("nxdomain"),
            "always_refuse" if name == "." => Self::Answer("refused"),
            "always_nxdomain" => Self::List("nxdomain"),
            "always_null" => Self::List("null"),
            "always_refuse" => Self::List("refused"),
            "redirect" if is_null => Self::List("null"),
            "static" => Self::Answer("nxdomain"),
            "refuse" | "deny" | "always_deny" => Self::Answer("refused"),
            "transparent" | "nodefault" | "always_transparent" | "typetransparent" | "inform" => {
                Self::Forward
            }
            _ => return None,
        })
    }
}

/// What zones above do to the names of one, which takes them out of that.
#[derive(Clone, Copy, Default)]
struct Above {
    is_listed: bool,
    is_answered: bool,
}

/// Converts a local zone.
fn zone(
    name: &str,
    kind: &str,
    way: Option<Way>,
    above: Above,
    statement: &Statement,
    draft: &mut Draft,
) {
    let zone: Zone = match values::zone(name) {
        Ok(zone) => zone,
        Err(why) => return draft.lost(statement, why),
    };
    let list = match way {
        Some(Way::List(action)) => Some(action),
        Some(_) if above.is_listed => Some("allow"),
        _ => None,
    };
    if list.is_some_and(|action| !draft.block(action, name, statement)) {
        draft.lost(statement, "this is no name that a blocklist can have");
    }
    match way {
        Some(Way::Answer(answer)) => draft.answer(&zone, answer, statement),
        Some(Way::Forward) if above.is_answered => draft.route_as_above(&zone, statement),
        _ => {}
    }
    match kind {
        "deny" | "always_deny" => draft.lost(statement, "queries get REFUSED, and not no reply"),
        "redirect" if list.is_none() => {
            draft.lost(
                statement,
                "local data are of their name only, not of names below it",
            );
        }
        "transparent" | "nodefault" | "always_transparent" if !above.is_answered => {
            match name.parse::<Exception>() {
                Ok(_) => draft.push("local.special-names-except", name, Some(statement)),
                Err(_) if above.is_listed => {}
                Err(_) => draft.unneeded(statement, "names without local data are forwarded"),
            }
        }
        "typetransparent" => {
            draft.lost(
                statement,
                "a name with local data has no data of other types",
            );
        }
        "inform" => draft.lost(statement, "the log of queries is `query-log`, not by zone"),
        _ if way.is_none() => {
            draft.lost(statement, "there is no counterpart to this kind of zone");
        }
        _ => {}
    }
}

/// A name in lower case without the last dot, except for the root.
fn plain(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.strip_suffix('.') {
        Some("") | None => name,
        Some(name) => name.to_owned(),
    }
}

/// A record with unbound's TTL, if it has none of its own.
fn with_ttl(data: &str) -> String {
    let data = data.trim();
    let Some((owner, rest)) = data.split_once(|letter: char| letter.is_ascii_whitespace()) else {
        return data.to_owned();
    };
    let mut words = rest.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let is_class = |word: &str| {
        ["IN", "CH", "HS"]
            .iter()
            .any(|class| class.eq_ignore_ascii_case(word))
    };
    let second = if is_class(first) {
        words.next().unwrap_or_default()
    } else {
        ""
    };
    let is_ttl = |word: &str| word.starts_with(|letter: char| letter.is_ascii_digit());
    match is_ttl(first) || is_ttl(second) {
        true => data.to_owned(),
        false => format!("{owner} {TTL} {}", rest.trim_start()),
    }
}

/// Reads `ADDR [TTL] NAME`: the PTR record.
fn pointer(data: &str) -> Option<String> {
    let words: Vec<&str> = data.split_ascii_whitespace().collect();
    let (address, ttl, name) = match words.as_slice() {
        [address, ttl, name] => (address, *ttl, name),
        [address, name] => (address, TTL, name),
        _ => return None,
    };
    let address: IpAddr = address.parse().ok()?;
    Some(format!("{} {ttl} IN PTR {name}", reverse_name(address)))
}
