//! Going through all entries, a few at a time, while the cache is in use.

use super::{Cache, Record, learnt, log::Queue};

/// How far a walk has come.
///
/// A walk goes from the oldest entry to the youngest, through the small queue first, because
/// entries move from there to the main queue, and never back. It sees every entry that is there
/// all the time; one that is moved or written meanwhile, once or twice.
#[derive(Debug)]
pub struct Walk {
    queue: Queue,
    position: u64,
}

/// What becomes of an entry that was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It stays.
    Keep,
    /// It is forgotten.
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
    /// Goes on with a walk, for at most `steps` entries: `visit` gets each that is of use at
    /// `now`, also one whose life is over and its grace not. Whether there may be more.
    ///
    /// One walk comes to its end if more entries are visited than written meanwhile.
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
            let Some(answer) = entry.answer().filter(|_| !self.is_dead(&entry, now)) else {
                continue;
            };
            let record = Record {
                question: entry.question(),
                flags: entry.flags(),
                age: now.saturating_sub(learnt(&entry, answer)),
                answer,
            };
            if visit(&record) == Visit::Remove {
                self.drop_entry(slot);
            }
        }
        true
    }
}
