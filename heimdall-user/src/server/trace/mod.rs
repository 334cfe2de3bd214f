//! Explains what a query would get, and why: the command `trace`.
//!
//! It asks the policy as the answer core does, in the core's order, and then looks at copies of cached entries and
//! at what the threads say of their state. Nothing is forwarded, counted or changed.

mod cached;
mod origin;
mod policy;
mod route;

use std::sync::Arc;

use domain::base::iana::{Rcode, Rtype};
use serde_json::{Map, Value, json};

use super::{
    commands::records,
    reload::{Origin, Reloader},
    tier::HotTier,
};
use crate::{
    answer::policy::Policy,
    control::TraceQuery,
    dns::{Answer, CLASS_IN, header},
    forward::Handle,
    maintenance::{Caches, Subject, ThreadState, presentation},
};
use cached::{Cached, Caching};
pub(crate) use route::planned;

/// Explains queries.
pub(super) struct Tracer {
    pub(super) reloader: Arc<Reloader>,
    pub(super) caches: Caches,
    pub(super) tier: Option<Arc<HotTier>>,
    pub(super) forwarder: Handle,
    /// `cache.nxdomain-cut`.
    pub(super) nxdomain_cut: bool,
}

/// The steps of an answer, each with its name, what it comes to in lines of text, and the same as fields.
#[derive(Default)]
struct Steps(Vec<Value>);

impl Steps {
    fn add(&mut self, name: &str, text: impl Into<Lines>, fields: Value) {
        let Lines(text) = text.into();
        let mut step = Map::from_iter([
            ("step".to_owned(), json!(name)),
            ("text".to_owned(), json!(text)),
        ]);
        if let Value::Object(fields) = fields {
            step.extend(fields);
        }
        self.0.push(Value::Object(step));
    }
}

/// Lines of text.
struct Lines(Vec<String>);

impl From<&str> for Lines {
    fn from(line: &str) -> Self {
        Self(vec![line.to_owned()])
    }
}

impl From<String> for Lines {
    fn from(line: String) -> Self {
        Self(vec![line])
    }
}

impl From<Vec<String>> for Lines {
    fn from(lines: Vec<String>) -> Self {
        Self(lines)
    }
}

/// What is known of a query.
struct Query<'a> {
    asked: &'a TraceQuery,
    /// In wire form.
    question: &'a [u8],
    policy: &'a Policy,
    /// What the policy was made of.
    origin: &'a Origin,
    tier: Option<&'a HotTier>,
    /// What the threads say, with their names.
    states: &'a [(&'a str, ThreadState)],
}

impl Tracer {
    /// Explains what a query would get: a document with the steps, and what they come to.
    pub(super) fn trace(&self, asked: &TraceQuery) -> Value {
        let mut steps = Steps::default();
        let verdict = self.explain(asked, &mut steps);
        let Steps(steps) = steps;
        json!({
            "name": presentation(&asked.name),
            "type": Rtype::from_int(asked.qtype).to_string(),
            "client": asked.client,
            "steps": steps,
            "verdict": verdict,
        })
    }

    /// Says which route a query takes: a document with the steps, and what they come to.
    pub(super) fn route(&self, asked: &TraceQuery) -> Value {
        let mut steps = Steps::default();
        let verdict = self.with_query(asked, |query, _| {
            let mut decided = Steps::default();
            if let Some(verdict) = query.decided(&mut decided) {
                steps = decided;
                return verdict;
            }
            let route = query.forwarder().and_then(|state| state.route.as_ref());
            match route {
                Some(route) => route::route_step(route, query, &mut steps),
                None => "SERVFAIL: the forwarder does not run".to_owned(),
            }
        });
        route_document(asked, steps, &verdict)
    }

    fn explain(&self, asked: &TraceQuery, steps: &mut Steps) -> String {
        self.with_query(asked, |query, is_forwardable| {
            if let Some(client) = asked.client {
                if let Some(denied) = query.access(client, steps) {
                    return denied;
                }
                query.limit(client, steps);
            }
            if !is_forwardable {
                return query.unforwardable(steps);
            }
            if let Some(decided) = query.decided(steps) {
                return decided;
            }
            let in_tier = query.in_tier(steps);
            let caching = Caching::read(&self.caches, query, self.nxdomain_cut);
            caching.add_to(steps);
            let behind = behind_tier(&caching, query, steps);
            match in_tier {
                true => format!("the hot tier's answer where that is on; elsewhere {behind}"),
                false => behind,
            }
        })
    }

    /// Has `explain` say what the query gets, which may be of a type that is never forwarded.
    fn with_query(
        &self,
        asked: &TraceQuery,
        explain: impl FnOnce(&Query<'_>, bool) -> String,
    ) -> String {
        let question = question(asked);
        let msg = message(&question);
        let Some((read, thread)) = self.forwarder.read(&msg) else {
            return "FORMERR: it cannot be read as a query".to_owned();
        };
        let subject = Subject {
            query: msg.into(),
            client: asked.client,
        };
        let states = self.caches.inquire(subject, thread);
        let query = Query {
            asked,
            question: &question,
            policy: &self.reloader.policy().load_full(),
            origin: &self.reloader.origin(),
            tier: self.tier.as_deref(),
            states: &states,
        };
        explain(&query, read.is_forwardable())
    }
}

/// Says which route a query takes, and why.
fn route_document(asked: &TraceQuery, Steps(steps): Steps, verdict: &str) -> Value {
    json!({
        "name": presentation(&asked.name),
        "type": Rtype::from_int(asked.qtype).to_string(),
        "steps": steps,
        "verdict": verdict,
    })
}

/// What the caches of the fronts and the forwarder give.
fn behind_tier(caching: &Caching, query: &Query<'_>, steps: &mut Steps) -> String {
    let hits = caching.hits();
    if hits.len() == caching.fronts() {
        return from_cache(&hits);
    }
    let otherwise = caching.forwarded(query, steps);
    match hits.as_slice() {
        [] => otherwise,
        hits => format!("{}; from other threads: {otherwise}", from_cache(hits)),
    }
}

/// What fronts answer from their caches.
fn from_cache(hits: &[&Cached]) -> String {
    let names: Vec<&str> = hits.iter().map(|hit| hit.cache.as_str()).collect();
    let code = hits.first().map(|hit| code(hit.rcode));
    let code = code.unwrap_or_default();
    format!("{code} from the cache of {}", names.join(", "))
}

impl Query<'_> {
    /// Whether the hot tier has the answer; a step if there is a tier.
    fn in_tier(&self, steps: &mut Steps) -> bool {
        let Some(tier) = self.tier else {
            return false;
        };
        let held = tier.contains(self.question, 0);
        let text = match held {
            true => "it holds the answer: the XDP program gives it",
            false => "it does not hold the answer",
        };
        steps.add("hot tier", text, json!({ "held": held }));
        held
    }

    /// The response code and the records of an answer of the policy, a line each.
    fn answer_lines(&self, answer: &Answer) -> Vec<String> {
        let answer = answer.as_ref();
        let mut lines = vec![code(answer.rcode())];
        lines.extend(records(self.question, answer, 0));
        lines
    }
}

/// The name of a response code.
fn code(rcode: u8) -> String {
    Rcode::masked_from_int(rcode).to_string()
}

/// The question in wire form.
fn question(asked: &TraceQuery) -> Vec<u8> {
    let fixed = [asked.qtype, CLASS_IN].map(u16::to_be_bytes);
    [&*asked.name, &fixed.concat()].concat()
}

/// The query as most clients send it: with RD, without an OPT record.
fn message(question: &[u8]) -> Vec<u8> {
    let mut msg = vec![0; header::LEN];
    if let Some(fields) = msg.get_mut(header::field::FLAGS..header::field::ANCOUNT) {
        let [high, low] = header::RD.to_be_bytes();
        fields.copy_from_slice(&[high, low, 0, 1]);
    }
    msg.extend_from_slice(question);
    msg
}
