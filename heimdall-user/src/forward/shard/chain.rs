//! Aliases that an upstream's answer does not follow to their end, or that leave its route.
//!
//! An upstream is believed about the names of its route alone, so what an answer says about the first target in another
//! one, and beyond, is left out. The look-up goes on with a question for that name, a step, by the name's route, at most
//! [`MAX_STEPS`] times. What the thread knows of the name, an answer or a failure, takes the place of a query; but two look-ups
//! may ask for one target at a time. The answer is made of all steps' records, and delivered and cached only as a whole: if
//! a step fails, the look-up has failed.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Shard;
use crate::{
    answer::special,
    dns::{
        Answer, AnswerRef, NameHasher,
        aliases::{self, FullName},
        compose::Composition,
        edns::ede,
        header::rcode,
        same_question,
    },
    forward::{
        Request,
        inflight::{Hedge, Lookup},
        routes::{Route, RouteId, RouteOptions},
        upstreams::Tried,
    },
};

/// Most questions after the client's. Aliases over several zones are rarely more than three; unbound asks up to eleven.
const MAX_STEPS: usize = 8;

/// What a look-up that has gone on to the target of an alias knows.
#[derive(Debug)]
pub(in crate::forward) struct Chain {
    /// Of the answers so far.
    composition: Composition,
    /// For the names after the client's, the present one last.
    requests: Vec<Request>,
    /// Of the client's question.
    first_route: RouteId,
    /// When the present step began.
    began: Instant,
    /// Within this time after the look-up began, attempts beside the first of a step may begin.
    time: Duration,
    /// No upstream failed: the aliases form a loop or are too many, or the present name failed before.
    is_over: bool,
}

/// The request of a look-up, or the one that it has gone on to.
pub(in crate::forward) fn asked<'a>(request: &'a Request, chain: Option<&'a Chain>) -> &'a Request {
    let last = chain.and_then(|chain| chain.requests.last());
    last.unwrap_or(request)
}

/// The time that the attempts at a route may take.
fn time(route: &RouteOptions) -> Duration {
    2 * route.attempts * route.attempt_timeout
}

impl Lookup {
    /// What upstreams are asked for now: the client's request, or one for an alias's target.
    pub(in crate::forward) fn asked(&self) -> &Request {
        asked(&self.request, self.chain.as_deref())
    }

    /// The question that upstreams are asked now, in wire form.
    pub(in crate::forward) fn question(&self) -> &[u8] {
        self.asked().question()
    }

    /// When it began to ask for the present name.
    pub(in crate::forward) fn step_began(&self) -> Instant {
        self.chain.as_ref().map_or(self.began, |chain| chain.began)
    }

    /// Whether another attempt may begin: the first of each step, and others as long as the time of all steps is not over.
    pub(in crate::forward) fn has_time(&self, now: Instant) -> bool {
        let chain = self.chain.as_ref();
        chain.is_none_or(|chain| self.attempts == 0 || now < self.began + chain.time)
    }

    /// Whether its failure is none of the name that is asked for now.
    pub(in crate::forward) fn is_over(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.is_over)
    }

    /// The request for the target of an alias that upstreams did not answer.
    pub(in crate::forward) fn failed_target(&self) -> Option<&Request> {
        let chain = self.chain.as_ref().filter(|chain| !chain.is_over)?;
        chain.requests.last()
    }

    /// Goes on to `target`, one of the aliases' targets in `answer`. `None`: it was asked for before, there were too many
    /// before it, or the answer cannot be read.
    fn next_step(
        &mut self,
        answer: AnswerRef<'_>,
        target: &[u8],
        hasher: &NameHasher,
        now: Instant,
    ) -> Option<()> {
        let chain = self.chain.get_or_insert_with(|| {
            Box::new(Chain {
                composition: Composition::default(),
                requests: Vec::new(),
                first_route: self.route,
                began: now,
                time: Duration::ZERO,
                is_over: false,
            })
        });
        let before = asked(&self.request, Some(&**chain));
        let next = before.for_target(target, hasher)?;
        let same = |before: &Request| same_question(before.question(), next.question());
        if chain.requests.len() >= MAX_STEPS
            || same(&self.request)
            || chain.requests.iter().any(same)
        {
            return None;
        }
        let question = before.question().to_vec();
        chain.composition.add_aliases(&question, answer, target)?;
        chain.requests.push(next);
        chain.began = now;
        (self.tried, self.hedge) = (Tried::default(), Hedge::No);
        (self.attempts, self.errors, self.truncated) = (0, 0, None);
        (self.heard, self.not_sent, self.repeated) = (false, false, false);
        Some(())
    }

    /// Changes the route.
    fn take_route(&mut self, former: Option<&Route>, id: RouteId, route: Option<&Route>) {
        let routes = [former, route].into_iter().flatten();
        if let Some(chain) = &mut self.chain {
            let times = routes.map(|route| time(&route.options));
            chain.time = times.fold(chain.time, Duration::max);
        }
        self.route = id;
    }

    /// Notes that upstreams are not to be asked for the present name.
    fn give_up(&mut self, why: u16) {
        if let Some(chain) = &mut self.chain {
            chain.is_over = true;
        }
        self.explain(Some(why));
        self.heard = true;
    }
}

impl Shard {
    /// Continues after an upstream's answer to a look-up's question.
    pub(super) fn answered(&mut self, slot: usize, answer: Arc<Answer>, now: Instant) {
        let Some(lookup) = self.in_flight.get(slot) else {
            return;
        };
        match self.open_target(lookup, Answer::as_ref(&answer)) {
            Some(target) => self.follow_alias(slot, Answer::as_ref(&answer), &target, now),
            None if lookup.chain.is_some() => {
                self.keep_target(slot, &answer);
                self.finish_chain(slot, Answer::as_ref(&answer), now);
            }
            None => self.finish(slot, answer),
        }
    }

    /// The target of an alias in a look-up's answer that has to be asked for.
    fn open_target(&self, lookup: &Lookup, answer: AnswerRef<'_>) -> Option<FullName> {
        // An answer that does not tell what its aliases lead to has a TTL of 0.
        let follow_last = self.options.follow_aliases && answer.ttl() == 0;
        if !follow_last && self.routes.is_one() {
            return None;
        }
        let (route, qtype) = (lookup.route, lookup.request.qtype());
        let is_elsewhere = |name: &[u8]| self.routes.find(name, qtype) != route;
        aliases::open_target(lookup.question(), answer, follow_last, is_elsewhere)
    }

    /// Asks for the target of an alias in a look-up's answer.
    #[cold]
    fn follow_alias(
        &mut self,
        slot: usize,
        answer: AnswerRef<'_>,
        target: &FullName,
        now: Instant,
    ) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        if lookup.request.generation == self.routes.generation() {
            // The zone of the name before works, whatever becomes of the target.
            self.zones.answered(lookup.asked(), self.serial);
        }
        // Later responses are to another question.
        for exchange in lookup.exchanges.drain(..) {
            self.udp.end(&exchange);
            self.tcp.end(&exchange);
        }
        if lookup
            .next_step(answer, target.octets(), &self.hasher, now)
            .is_none()
        {
            lookup.give_up(ede::OTHER);
            return self.fail(slot, now);
        }
        let id = self.routes.find(target.octets(), lookup.request.qtype());
        let (former, route) = (self.routes.get(lookup.route), self.routes.get(id));
        lookup.take_route(former, id, route);
        let local = route.and_then(|route| route.local_answer(target.octets()));
        let is_special = self.routes.is_default(id)
            && special::is_special(target.octets())
            && !special::is_special(lookup.request.name());
        let request = *lookup.asked();
        if let Some(local) = local {
            return self.finish_chain(slot, Answer::as_ref(&local), now);
        }
        if is_special {
            // Never forwarded unless for a client that asks for it: the aliases are passed on alone.
            let nothing = Answer::failure(rcode::NOERROR, None, 0);
            return self.finish_chain(slot, nothing.as_ref(), now);
        }
        if let Some((_, answer)) = self.cached(&request, id) {
            return self.finish_chain(slot, Answer::as_ref(&answer), now);
        }
        let failed = self.failures.time_left(&request, now).is_some();
        if failed || self.zones.admit(&request, now).is_err() {
            if let Some(lookup) = self.in_flight.get_mut(slot) {
                lookup.give_up(ede::CACHED_ERROR);
            }
            return self.fail(slot, now);
        }
        self.counters.aliases_followed.add(1);
        self.next_attempt(slot, now);
    }

    /// Caches an upstream's answer about an alias's target, for other aliases of it.
    #[cold]
    fn keep_target(&mut self, slot: usize, answer: &Answer) {
        let Some(lookup) = self.in_flight.get(slot) else {
            return;
        };
        if lookup.request.generation == self.routes.generation() {
            let (request, route) = (*lookup.asked(), lookup.route);
            self.keep(&request, route, answer);
        }
    }

    /// Ends a look-up with the answer to its last question and what it got before.
    #[cold]
    fn finish_chain(&mut self, slot: usize, answer: AnswerRef<'_>, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let mut composition = Composition::default();
        let mut first_route = lookup.route;
        if let Some(chain) = &mut lookup.chain {
            composition = mem::take(&mut chain.composition);
            first_route = chain.first_route;
        }
        let request = &lookup.request;
        let composed = composition
            .finish(request.question(), lookup.question(), answer)
            .and_then(|msg| {
                let composed = (self.answers).compose(&msg, request.question(), request.flags);
                composed.ok()
            });
        match composed {
            Some(answer) => {
                lookup.route = first_route;
                self.finish(slot, answer);
            }
            None => {
                // A route without upstreams may refuse.
                lookup.give_up(answer.ede().unwrap_or(ede::OTHER));
                self.fail(slot, now);
            }
        }
    }
}
