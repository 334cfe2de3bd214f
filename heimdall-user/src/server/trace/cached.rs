//! The entries of the caches that concern a query.

use std::convert::Infallible;

use domain::base::iana::Rtype;
use serde_json::{Value, json};

use super::{Query, Steps, code};
use crate::{
    cache::Record,
    dns::{
        KEY_FLAG_CD, KEY_FLAG_DO, QUESTION_FIXED,
        edns::ede,
        name::{eq_ignore_case, parent},
        u16_at,
    },
    maintenance::{Caches, FORWARDER, Scope, presentation},
    server::commands,
};

/// A copy of an entry.
pub(super) struct Cached {
    /// The name of its cache.
    pub(super) cache: String,
    /// Its name, if that is one above the queried one: it says that nothing is below it.
    ancestor: Option<String>,
    /// 0: it is for all types.
    qtype: u16,
    /// DO and CD.
    flags: u8,
    age: u32,
    /// Seconds until it expires; negative: since then.
    left: i64,
    pub(super) rcode: u8,
    ede: Option<u16>,
    /// The blocked name that an alias in it leads to.
    blocked_alias: Option<String>,
    document: Value,
}

/// What is cached of a query.
pub(super) struct Caching {
    qtype: u16,
    fronts: Vec<String>,
    entries: Vec<Cached>,
}

impl Caching {
    /// Copies the entries. `cut`: NXDOMAIN for a name answers for all names below it.
    pub(super) fn read(caches: &Caches, query: &Query<'_>, cut: bool) -> Self {
        let name = &query.asked.name;
        let scope = match cut {
            true => Scope::Above(name.clone()),
            false => Scope::Name(name.clone()),
        };
        let mut entries: Vec<Cached> = Vec::new();
        let copied: Result<(), Infallible> = caches.copy(scope, |cache, mut records| {
            while let Some(record) = Record::take(&mut records) {
                entries.extend(Cached::new(cache, &record, query));
            }
            Ok(())
        });
        copied.unwrap_or_else(|never| match never {});
        Self {
            qtype: query.asked.qtype,
            fronts: (caches.fronts.iter())
                .filter(|(_, queue)| queue.is_open())
                .map(|(name, _)| name.clone())
                .collect(),
            entries,
        }
    }

    /// Fronts that have a cache.
    pub(super) fn fronts(&self) -> usize {
        self.fronts.len()
    }

    /// The fresh entries of fronts for the query.
    pub(super) fn hits(&self) -> Vec<&Cached> {
        let fronts = self.fronts.iter();
        fronts
            .filter_map(|front| self.find(front, Cached::is_fresh))
            .collect()
    }

    /// The forwarder's fresh entry for the query; else its NXDOMAIN for a name above.
    pub(super) fn forwarder(&self) -> Option<&Cached> {
        let above = |entry: &&Cached| {
            entry.cache == FORWARDER
                && entry.ancestor.is_some()
                && entry.is_plain()
                && entry.is_fresh()
        };
        let found = self.find(FORWARDER, Cached::is_fresh);
        found.or_else(|| self.entries.iter().find(above))
    }

    /// What the forwarder would serve stale.
    pub(super) fn stale(&self) -> Option<&Cached> {
        self.find(FORWARDER, |entry| !entry.is_fresh())
    }

    fn find(&self, cache: &str, is: impl Fn(&Cached) -> bool) -> Option<&Cached> {
        let mut entries = self.entries.iter();
        entries.find(|entry| {
            entry.cache == cache && entry.answers(self.qtype) && entry.is_plain() && is(entry)
        })
    }

    pub(super) fn add_to(&self, steps: &mut Steps) {
        let mut lines: Vec<String> = self.entries.iter().map(Cached::line).collect();
        let without = |front: &&String| self.find(front, Cached::is_fresh).is_none();
        let without: Vec<&str> = self
            .fronts
            .iter()
            .filter(without)
            .map(String::as_str)
            .collect();
        if !without.is_empty() {
            lines.push(format!("no fresh answer in {}", without.join(", ")));
        }
        if self.forwarder().is_none() {
            lines.push(format!("no fresh answer in {FORWARDER}"));
        }
        let entries: Vec<&Value> = self.entries.iter().map(|entry| &entry.document).collect();
        steps.add("cache", lines, json!({ "entries": entries }));
    }
}

impl Cached {
    /// `None`: it does not concern the query.
    fn new(cache: &str, record: &Record<'_>, query: &Query<'_>) -> Option<Self> {
        let answer = record.answer;
        let (name, fixed) = record.question.split_last_chunk::<QUESTION_FIXED>()?;
        let qtype = u16_at(fixed, 0)?;
        let own = eq_ignore_case(name, &query.asked.name);
        // Above the name only what says that there is nothing below.
        if !own && (qtype != 0 || parent(name).is_none()) {
            return None;
        }
        let blocked = query
            .policy
            .find_blocked_alias(query.question, answer, |target, _| presentation(target));
        Some(Self {
            cache: cache.to_owned(),
            ancestor: (!own).then(|| presentation(name)),
            qtype,
            flags: record.flags & (KEY_FLAG_DO | KEY_FLAG_CD),
            age: record.age,
            left: i64::from(answer.ttl()) - i64::from(record.age),
            rcode: answer.rcode(),
            ede: answer.ede(),
            blocked_alias: blocked,
            document: commands::entry(cache, record, query.tier),
        })
    }

    fn is_fresh(&self) -> bool {
        self.left > 0
    }

    /// For queries without DO and CD.
    fn is_plain(&self) -> bool {
        self.flags == 0
    }

    fn answers(&self, qtype: u16) -> bool {
        self.ancestor.is_none() && (self.qtype == qtype || self.qtype == 0)
    }

    /// What a client gets of it.
    pub(super) fn outcome(&self) -> String {
        match &self.blocked_alias {
            Some(target) => format!("blocked: its alias {target} is on a blocklist"),
            None => code(self.rcode),
        }
    }

    fn line(&self) -> String {
        let mut line = format!("{}:", self.cache);
        if let Some(ancestor) = &self.ancestor {
            line.push_str(&format!(" of {ancestor},"));
        }
        line.push_str(&match self.qtype {
            0 => " all types".to_owned(),
            qtype => format!(" {}", Rtype::from_int(qtype)),
        });
        for (bit, flag) in [(KEY_FLAG_DO, "DO"), (KEY_FLAG_CD, "CD")] {
            if self.flags & bit != 0 {
                line.push_str(&format!(" +{flag}"));
            }
        }
        line.push_str(&format!(
            ", {}, received {} s ago, ",
            code(self.rcode),
            self.age
        ));
        line.push_str(&match self.left {
            left @ 1.. => format!("{left} s left"),
            left => format!("expired {} s ago, kept to be served stale", -left),
        });
        if self.ede == Some(ede::BLOCKED) {
            line.push_str(", blocked for an alias of it");
        }
        line
    }
}
