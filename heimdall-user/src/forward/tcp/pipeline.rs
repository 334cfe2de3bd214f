//! The queries on a connection, found by ID: responses come in any order (RFC 7766 section 7).

use foldhash::fast::RandomState;
use hashbrown::{HashMap, hash_map::Entry};

use crate::forward::udp::Outstanding;

/// Queries that wait on a connection before another one is opened.
pub(super) const SPREAD: usize = 64;

/// Queries on a connection that have no response, at most.
pub(super) const MAX_OUTSTANDING: usize = 1024;

/// Abandoned queries on a connection before it gets no more: they take places until their responses come, if ever.
const MAX_ABANDONED: usize = MAX_OUTSTANDING / 4;

/// A query that has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Pending {
    /// Its response is awaited.
    Awaited(Outstanding),
    /// Its exchange has ended. Its ID is not used again before the response has come.
    Abandoned,
}

/// The queries on a connection.
#[derive(Debug)]
pub(super) struct Pipeline {
    pending: HashMap<u16, Pending, RandomState>,
    awaited: usize,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            // Twice: a table that is half empty is rehashed in place.
            pending: HashMap::with_capacity_and_hasher(2 * SPREAD, RandomState::default()),
            awaited: 0,
        }
    }
}

impl Pipeline {
    /// Queries whose responses are awaited.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether it carries as many queries as it can.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_OUTSTANDING
    }

    /// Whether so many were abandoned that another connection is better.
    pub(super) fn is_clogged(&self) -> bool {
        self.pending.len() - self.awaited >= MAX_ABANDONED
    }

    /// Draws an ID that no other query has. `None`: there are [too many](MAX_OUTSTANDING).
    pub(super) fn assign(&mut self, slot: usize, serial: u64) -> Option<Outstanding> {
        if self.is_full() {
            return None;
        }
        // Few of the 65,536 are in use, so this ends soon.
        loop {
            let id = rand::random();
            if let Entry::Vacant(place) = self.pending.entry(id) {
                let outstanding = Outstanding { id, slot, serial };
                place.insert(Pending::Awaited(outstanding));
                self.awaited += 1;
                return Some(outstanding);
            }
        }
    }

    /// Takes the query that a response with this ID belongs to.
    pub(super) fn take(&mut self, id: u16) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        if let Pending::Awaited(_) = pending {
            self.awaited -= 1;
        }
        Some(pending)
    }

    /// The exchange with this ID and serial number has ended, if it had no response.
    pub(super) fn abandon(&mut self, id: u16, serial: u64) {
        if let Some(pending) = self.pending.get_mut(&id)
            && matches!(pending, Pending::Awaited(query) if query.serial == serial)
        {
            *pending = Pending::Abandoned;
            self.awaited -= 1;
        }
    }

    /// The queries whose responses are awaited.
    pub(super) fn into_awaited(self) -> Vec<Outstanding> {
        let awaited = self.pending.into_values();
        let awaited = awaited.filter_map(|pending| match pending {
            Pending::Awaited(query) => Some(query),
            Pending::Abandoned => None,
        });
        awaited.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Assign,
        /// A response to one of those that have none, by its position.
        Respond(prop::sample::Index),
        Abandon(prop::sample::Index),
        /// A response with any ID.
        Forge(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Assign),
            2 => any::<prop::sample::Index>().prop_map(Step::Respond),
            1 => any::<prop::sample::Index>().prop_map(Step::Abandon),
            1 => any::<u16>().prop_map(Step::Forge),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// In whatever order responses come, each is that of its query, and is taken once.
        #[test]
        fn responses_find_their_queries(steps in steps()) {
            let mut pipeline = Pipeline::default();
            // What is expected of each ID: the serial number, or that it was abandoned.
            let mut model: HashMap<u16, Option<u64>> = HashMap::new();
            let mut serial = 0;
            let pick = |model: &HashMap<u16, Option<u64>>, index: prop::sample::Index| {
                let mut ids: Vec<u16> = model.keys().copied().collect();
                ids.sort_unstable();
                (!ids.is_empty()).then(|| *index.get(&ids))
            };
            for step in steps {
                match step {
                    Step::Assign => {
                        serial += 1;
                        let query = pipeline.assign(7, serial).unwrap();
                        prop_assert!(model.insert(query.id, Some(serial)).is_none());
                    }
                    Step::Respond(index) => if let Some(id) = pick(&model, index) {
                        let expected = match model.remove(&id).unwrap() {
                            Some(serial) => Pending::Awaited(Outstanding { id, slot: 7, serial }),
                            None => Pending::Abandoned,
                        };
                        prop_assert_eq!(pipeline.take(id), Some(expected));
                        prop_assert_eq!(pipeline.take(id), None);
                    }
                    Step::Abandon(index) => if let Some(id) = pick(&model, index) {
                        let serial = model.insert(id, None).unwrap().unwrap_or(0);
                        pipeline.abandon(id, serial + 1);
                        prop_assert_eq!(pipeline.pending.get(&id) == Some(&Pending::Abandoned), serial == 0);
                        pipeline.abandon(id, serial);
                    }
                    Step::Forge(id) => {
                        prop_assert_eq!(pipeline.take(id).is_some(), model.remove(&id).is_some());
                    }
                }
                prop_assert_eq!(pipeline.pending.len(), model.len());
                prop_assert_eq!(pipeline.awaited(), model.values().flatten().count());
            }
            let mut awaited: Vec<_> = pipeline.into_awaited().iter().map(|q| (q.id, q.serial)).collect();
            awaited.sort_unstable();
            let mut expected: Vec<_> = model.into_iter().filter_map(|(id, s)| Some((id, s?))).collect();
            expected.sort_unstable();
            prop_assert_eq!(awaited, expected);
        }
    }

    #[test]
    fn it_is_bounded_and_abandoned_queries_count() {
        let mut pipeline = Pipeline::default();
        let queries: Vec<_> = (0..MAX_OUTSTANDING as u64)
            .map(|serial| pipeline.assign(0, serial).unwrap())
            .collect();
        assert!(pipeline.assign(0, 0).is_none());
        assert!(!pipeline.is_clogged());
        for query in &queries {
            pipeline.abandon(query.id, query.serial);
        }
        assert_eq!(pipeline.awaited(), 0);
        assert!(pipeline.is_full() && pipeline.is_clogged());
        assert!(pipeline.assign(0, 0).is_none());
        assert_eq!(
            pipeline.take(queries.first().unwrap().id),
            Some(Pending::Abandoned)
        );
        assert!(pipeline.assign(0, 0).is_some());
    }
}
