//! The tier in the statistics.

use heimdall_ebpf::tier::Outcome;
use serde_json::{Map, Value, json};

use super::HotTier;
use crate::{
    stats::{AnswerCounters, Described},
    tier::TierReport,
};

/// The tier at a moment.
pub(in crate::server) struct TierState {
    /// Why it answers nothing. `None`: it does.
    off: Option<String>,
    /// Answers that it holds at most.
    capacity: u32,
    report: TierReport,
}

impl HotTier {
    /// Its state now.
    pub(in crate::server) fn state(&self) -> TierState {
        let mut report = self.tier.report();
        let nowhere = self.followed().interfaces == 0;
        let nowhere = nowhere.then(|| "no interface has it now".to_owned());
        TierState {
            off: report.off.take().or(nowhere),
            capacity: self.capacity,
            report,
        }
    }
}

impl TierState {
    /// Why it answers nothing. `None`: it does.
    pub(in crate::server) fn why_off(&self) -> Option<&str> {
        self.off.as_deref()
    }

    /// Queries answered.
    pub(in crate::server) fn hits(&self) -> u64 {
        self.report.counts.hits.as_flattened().iter().sum()
    }

    /// What it counts itself.
    pub(in crate::server) fn own(&self) -> Vec<Described> {
        self.report.counters.described()
    }

    /// Queries that were passed on, by reason.
    pub(in crate::server) fn passed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = Outcome::ALL.into_iter().map(Outcome::name);
        names.zip(self.report.counts.passed)
    }

    /// The counts of its replies, as an answer core has them: hits, types and response codes.
    pub(in crate::server) fn of_core(&self) -> Vec<Described> {
        // The core's last type is `other`, which is the tier's first.
        let hits = self.report.counts.hits;
        let mut types = hits.map(|[noerror, nxdomain]| noerror + nxdomain);
        types.rotate_left(1);
        let mut types = types.into_iter();
        let all = AnswerCounters::default().described().into_iter();
        all.filter_map(|mut counter| {
            counter.value = match counter.name {
                "hits" => self.hits(),
                "noerror" => hits.iter().map(|[noerror, _]| noerror).sum(),
                "nxdomain" => hits.iter().map(|[_, nxdomain]| nxdomain).sum(),
                name if name.starts_with("type_") => types.next()?,
                _ => return None,
            };
            Some(counter)
        })
        .collect()
    }

    pub(in crate::server) fn json(&self) -> Value {
        let mut fields = Map::from_iter([
            (
                "state".to_owned(),
                json!(self.why_off().map_or("on", |_| "off")),
            ),
            ("reason".to_owned(), json!(self.why_off())),
            ("capacity".to_owned(), json!(self.capacity)),
        ]);
        for (name, count) in self.report.counters.list() {
            fields.insert(name.to_owned(), json!(count));
        }
        let [mut types, mut rcodes] = [Map::new(), Map::new()];
        for Described { name, value, .. } in self.of_core() {
            let (into, name) = match (name, name.strip_prefix("type_")) {
                ("hits", _) => (&mut fields, name),
                (_, Some(kind)) => (&mut types, kind),
                _ => (&mut rcodes, name),
            };
            into.insert(name.to_owned(), json!(value));
        }
        fields.insert("types".to_owned(), Value::Object(types));
        fields.insert("rcodes".to_owned(), Value::Object(rcodes));
        let passed = self
            .passed()
            .map(|(reason, count)| (reason.to_owned(), json!(count)));
        fields.insert("passed".to_owned(), Value::Object(passed.collect()));
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::type_index;

    /// On that the types of the tier and those of a core are matched.
    #[test]
    fn types_are_numbered_in_the_order_of_their_counters() {
        for qtype in 0..=300 {
            let counters = AnswerCounters::default();
            counters.of_type(qtype).add(1);
            let list = counters.list().into_iter();
            let mut types = list.filter(|(name, _)| name.starts_with("type_"));
            let position = types.position(|(_, count)| count == 1);
            let expected = (usize::from(type_index(qtype)) + 14) % 15;
            assert_eq!(position, Some(expected), "{qtype}");
        }
    }
}
