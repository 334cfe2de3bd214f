//! Overload of a thread, and the effects of failures on questions and zones.

use std::{sync::atomic::Ordering, time::Instant};

use super::Shard;
use crate::forward::{
    Request,
    inflight::Lookup,
    shed::{Scarce, Shedding},
    upstreams::Missing,
    zones,
};

/// Shedding.
impl Shard {
    /// Makes room if the request's front is nearly full.
    pub(super) fn make_room_at_front(&mut self, request: &Request, now: Instant) {
        let front = usize::from(request.front);
        let (Some(mailbox), Some(waiting)) =
            (self.inbox.mailboxes.get(front), self.waiting.get(front))
        else {
            return;
        };
        // If another thread holds most of the front's queries, that one has to make room.
        let fair = mailbox.capacity() / 2 / self.options.threads.max(1);
        if mailbox.is_crowded() && *waiting > fair {
            self.shed(Scarce::Front(request.front), now);
        }
    }

    /// Makes room for another look-up.
    pub(super) fn make_room(&mut self, now: Instant) {
        if self.in_flight.is_full() {
            self.shed(Scarce::Lookups, now);
        }
    }

    /// Ends the oldest look-ups of the largest holder of the scarce resource.
    #[cold]
    fn shed(&mut self, scarce: Scarce, now: Instant) {
        let several = self.upstreams.indices().nth(1).is_some();
        let shedding = self.in_flight.shedding(scarce, several, &self.hasher);
        let Some(shedding) = shedding else {
            return;
        };
        let upstream = shedding
            .upstream
            .and_then(|index| self.upstreams.address(index));
        self.log.shed(scarce, &shedding, upstream, now);
        let Shedding {
            upstream,
            client,
            zone,
            slots,
            ..
        } = shedding;
        match (client, zone, upstream) {
            (Some(_), _, _) => &self.counters.shed_client,
            (None, Some(_), _) => &self.counters.shed_zone,
            (None, None, Some(_)) => &self.counters.shed_upstream,
            (None, None, None) => &self.counters.shed_oldest,
        }
        .add(slots.len() as u64);
        for slot in slots {
            if let Some(lookup) = self.end(slot) {
                // Counted for its zones, or a zone whose look-ups are all shed would never be found
                // dead.
                if lookup.request.generation == self.routes.generation() {
                    self.record_failure(&lookup, now);
                }
                let answer = self.stale_or_servfail(&lookup.request);
                self.deliver(&lookup.request, &lookup.waiters, answer);
            }
        }
    }

    /// Logs that requests were rejected because the queue was full.
    pub(super) fn log_full_queue(&mut self, now: Instant) {
        let count = self.inbox.rejected.load(Ordering::Relaxed);
        if count > self.counters.queue_full.get() && !self.inbox.is_closed() {
            self.log.queue_full(count, now);
        }
    }
}

/// Failures.
impl Shard {
    /// Finds out which upstreams were missing when a look-up failed, and counts the failure for the name's zones unless every
    /// name fails.
    pub(super) fn record_failure(&mut self, lookup: &Lookup, now: Instant) -> Missing {
        let mut missing = Missing::default();
        if let Some(route) = self.routes.get(lookup.route) {
            let (tried, began) = (lookup.tried, lookup.step_began());
            missing = self.upstreams.missing(&route.group, tried, began);
        }
        missing.is_outage |= !lookup.heard;
        if missing.is_outage {
            return missing;
        }
        if lookup.truncated.is_some() {
            // There is an answer, which only TCP could have brought: the zone is not dead.
            return missing;
        }
        let asked = lookup.asked();
        if lookup.is_over() || self.has_stale(asked) {
            // Names with a stale answer are looked up in any case, and would double the pauses between probes.
            return missing;
        }
        let died = self.zones.failed(asked, lookup.serial, self.serial, now);
        if let Some(zone) = died {
            let queries = zones::queries(asked);
            self.log.dead_zone(zone, queries, now);
        }
        missing
    }
}
