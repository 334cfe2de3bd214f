//! Iteration over all entries, a few at a time, while the cache is in use.

use super::{Cache, Record, log::Queue, received_at};

/// The position of a walk.
///
/// A walk goes from the oldest entry to the newest, through the small queue first, because entries
/// move from there to the main queue, and never back. It visits every entry that the cache holds
/// from its begin to its end; one that is moved or written meanwhile, once or twice.
#[derive(Debug)]
pub struct Walk {
    queue: Queue,
    position: u64,
}

/// What to do with an entry that was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Leave it.
    Keep,
    /// Remove it.
    Remove,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            queue: Queue::Small,
            position: 0,
        }
    }
}

impl Cache {
    /// Continues a walk, for at most `steps` entries: `visit` gets each that is fresh or stale at
    /// `now`. Returns whether there may be more.
    ///
    /// A walk ends if more entries are visited than written meanwhile.
    pub fn walk(
        &mut self,
        walk: &mut Walk,
        steps: usize,
        now: u32,
        mut visit: impl FnMut(&Record<'_>) -> Visit,
    ) -> bool {
        for _ in 0..steps {
            let Some((position, entry)) = self.log.next(walk.queue, walk.position) else {
                if walk.queue == Queue::Main {
                    return false;
                }
                *walk = Walk {
                    queue: Queue::Main,
                    position: 0,
                };
                continue;
            };
            walk.position = position + entry.len() as u64;
            let offset = self.log.offset(walk.queue, position);
            let Some(slot) = self.index.find_offset(entry.hash(), offset) else {
                continue;
            };
            let Some(answer) = entry.answer().filter(|_| !self.is_unusable(&entry, now)) else {
                continue;
            };
            let record = Record {
                question: entry.question(),
                flags: entry.flags(),
                age: now.saturating_sub(received_at(&entry, answer)),
                answer,
            };
            if visit(&record) == Visit::Remove {
                self.clear_slot(slot);
            }
        }
        true
    }
}
