//! The steps that the policy decides.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Query, Steps, code, origin, route};
use crate::{
    answer::{access::Decision, blocklist::BlockAction, policy::AnsweredBy},
    dns::{header::rcode, name::parent, rrtype},
    maintenance::{ThreadState, presentation},
};

/// The step of the special-use names.
const SPECIAL: &str = "special names";

impl Query<'_> {
    /// Whether the client may ask: the reply if not.
    pub(super) fn access(&self, client: IpAddr, steps: &mut Steps) -> Option<String> {
        let decision = self.policy.access.decide(client);
        let (word, key, list) = {
            let access = &self.origin.config.access;
            match decision {
                Decision::Allow => ("allowed", "access.allow", &access.allow),
                Decision::Refuse => ("refused", "access.refuse", &access.refuse),
                Decision::Drop => ("dropped", "access.drop", &access.drop),
            }
        };
        let prefix = self.policy.access.rule(client);
        let place = prefix.map(|prefix| {
            let item = list.iter().position(|listed| *listed == prefix);
            origin::place(self.origin, key, item)
        });
        let text = match (&prefix, &place) {
            (Some(prefix), Some(place)) => format!("{word} by {prefix} ({place})"),
            _ => format!("{word}: {client} is in no prefix of [access]"),
        };
        let fields = json!({
            "decision": word,
            "prefix": prefix.map(|prefix| prefix.to_string()),
            "place": place,
        });
        steps.add("access", text, fields);
        match decision {
            Decision::Allow => None,
            Decision::Refuse => {
                Some("REFUSED: the access list does not allow the client".to_owned())
            }
            Decision::Drop => Some("no reply: the access list drops the client".to_owned()),
        }
    }

    /// The rest of the client's allowance. It decides nothing: it may be another one at the next query.
    pub(super) fn limit(&self, client: IpAddr, steps: &mut Steps) {
        const STEP: &str = "rate limit";
        let limit = &self.policy.limit;
        if limit.per_second == 0 {
            return steps.add(STEP, "there is none", json!({ "per_second": 0 }));
        }
        let prefix = limit.prefix(client).to_string();
        let left: Vec<(&str, u16)> = self
            .states
            .iter()
            .filter_map(|(name, state)| match state {
                ThreadState::Front(front) => Some((*name, front.allowance?)),
                ThreadState::Forwarder(_) => None,
            })
            .collect();
        if left.is_empty() {
            let text = format!("{client} is exempt");
            return steps.add(STEP, text, json!({ "prefix": prefix, "exempt": true }));
        }
        let mut lines = vec![format!(
            "{prefix} gets {} replies a second from each thread over UDP, {} at once",
            limit.per_second, limit.burst
        )];
        lines.extend(left.iter().map(|(name, left)| match left {
            0 => format!("{name}: none left, replies are dropped or truncated"),
            left => format!("{name}: {left} left"),
        }));
        let threads: Vec<Value> = left
            .iter()
            .map(|(name, left)| json!({ "thread": name, "left": left }))
            .collect();
        let fields = json!({
            "prefix": prefix,
            "exempt": false,
            "per_second": limit.per_second,
            "burst": limit.burst,
            "threads": threads,
        });
        steps.add(STEP, lines, fields);
    }

    /// A type that no cache and no upstream is asked for.
    pub(super) fn unforwardable(&self, steps: &mut Steps) -> String {
        if self.asked.qtype == rrtype::ANY {
            let lines = self.answer_lines(&self.policy.any);
            steps.add("type", lines, json!({ "forwarded": false }));
            return "NOERROR: ANY has a record that says so (RFC 8482)".to_owned();
        }
        let text = "queries of this type are not forwarded";
        steps.add("type", text, json!({ "forwarded": false }));
        format!("{}: the type is not supported", code(rcode::REFUSED))
    }

    /// Local data, blocklists and special names: the reply if one of them has one.
    pub(super) fn decided(&self, steps: &mut Steps) -> Option<String> {
        let name = &self.asked.name;
        let decided = self.policy.decide(name, self.asked.qtype);
        if let Some((answer, AnsweredBy::Local)) = decided {
            let places = origin::of_local_name(self.origin, name);
            let mut lines = places.clone();
            lines.extend(self.answer_lines(answer));
            steps.add("local data", lines, json!({ "places": places }));
            return Some(format!("{} from local data", code(answer.as_ref().rcode())));
        }
        steps.add("local data", "none for the name", json!({ "places": [] }));
        let listed = self.blocklist(steps);
        if let Some((answer, AnsweredBy::Blocklist)) = decided {
            let code = code(answer.as_ref().rcode());
            return Some(format!("{code}: the name is on a blocklist"));
        }
        if listed {
            let text = "not looked at: a list allows the name";
            steps.add(SPECIAL, text, json!({ "zone": null }));
            return None;
        }
        let Some((answer, by)) = decided else {
            steps.add(SPECIAL, "it is none", json!({ "zone": null }));
            return None;
        };
        let zone = self.policy.special.zone(name, self.asked.qtype);
        let zone = zone.unwrap_or_default();
        let (shown, code) = (presentation(zone), code(answer.as_ref().rcode()));
        if by == AnsweredBy::Route {
            steps.add(SPECIAL, "it is none", json!({ "zone": null }));
            let place = route::place(self.origin, zone);
            let mut lines = vec![format!(
                "{shown} ({place}) is answered here and never forwarded"
            )];
            lines.extend(self.answer_lines(answer));
            let fields = json!({ "zone": shown, "place": place, "first": null, "upstreams": [] });
            steps.add("route", lines, fields);
            return Some(format!("{code}: by the route of {shown}"));
        }
        let mut lines = vec![format!("{shown} is answered here and never forwarded")];
        lines.extend(self.answer_lines(answer));
        steps.add(SPECIAL, lines, json!({ "zone": shown }));
        Some(format!("{code}: a special-use name"))
    }

    /// Whether the name is on a list.
    fn blocklist(&self, steps: &mut Steps) -> bool {
        const STEP: &str = "blocklist";
        let Some((action, labels)) = self.policy.blocklists.find(&self.asked.name) else {
            let lists = self.origin.config.blocklists.len();
            let text = format!("the name is on none of {lists} lists");
            steps.add(STEP, text, json!({ "action": null }));
            return false;
        };
        let mut entry = Some(&*self.asked.name);
        for _ in 0..labels {
            entry = entry.and_then(parent);
        }
        let entry = entry.unwrap_or_default();
        let places = origin::of_blocked_name(self.origin, entry, action, labels > 0);
        let action = match action {
            BlockAction::NxDomain => "nxdomain",
            BlockAction::NullAddress => "null",
            BlockAction::Refused => "refused",
            BlockAction::Allow => "allow",
        };
        let entry = presentation(entry);
        let mut lines = vec![format!("{action}, by the entry for {entry}")];
        lines.extend(places.iter().cloned());
        let fields = json!({ "action": action, "entry": entry, "places": places });
        steps.add(STEP, lines, fields);
        true
    }
}
