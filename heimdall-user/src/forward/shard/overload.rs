//! Overload of a thread, and the effects of failures on questions and zones.

use std::{sync::atomic::Ordering, time::Instant};

use super::Shard;
use crate::forward::{
    Request,
    failures::Cause,
    inflight::Lookup,
    shed::{Scarce, Shedding},
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
        let Some(shedding) = self.in_flight.shedding(scarce, &self.hasher) else {
            return;
        };
        self.log.shed(scarce, &shedding, now);
        let Shedding {
            client,
            zone,
            slots,
            ..
        } = shedding;
        match (client, zone) {
            (Some(_), _) => &self.counters.shed_client,
            (None, Some(_)) => &self.counters.shed_zone,
            (None, None) => &self.counters.shed_oldest,
        }
        .add(slots.len() as u64);
        for slot in slots {
            if let Some(lookup) = self.end(slot) {
                // Counted for its zones, or a zone whose look-ups are all shed would never be found
                // dead.
                self.record_failure(&lookup, now);
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
    /// Finds the cause of a failed look-up, and counts it for the name's zones unless every name
    /// fails.
    pub(super) fn record_failure(&mut self, lookup: &Lookup, now: Instant) -> Cause {
        let time = now.saturating_duration_since(lookup.began);
        if !lookup.heard || !self.upstreams.heard_within(now, time) {
            return Cause::Outage;
        }
        if lookup.truncated.is_some() {
            // There is an answer, which only TCP could have brought: the zone is not dead.
            return Cause::Name;
        }
        if self.cache.has_stale(&lookup.request, self.clock.seconds()) {
            // Such names are looked up in any case, and would double the pauses between probes.
            return Cause::Name;
        }
        let died = self
            .zones
            .failed(&lookup.request, lookup.serial, self.serial, now);
        if let Some(zone) = died {
            let queries = zones::queries(&lookup.request);
            self.log.dead_zone(zone, queries, now);
        }
        Cause::Name
    }

    /// Notes that an upstream responded, whatever its response.
    pub(super) fn heard(&mut self, upstream: usize, now: Instant) {
        self.upstreams.heard(upstream, now);
        self.failures.end_outage();
    }
}
