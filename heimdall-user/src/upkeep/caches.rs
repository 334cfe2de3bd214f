//! All caches of the process.

use std::sync::{
    Arc,
    mpsc::{Receiver, sync_channel},
};

use super::{Desk, MAX_PORTIONS, Order, Portion, Scope, Task};

/// Where the caches' threads get their orders. Everything here waits for them, for as long as
/// they need: milliseconds for each hundred thousand entries.
#[derive(Clone, Debug, Default)]
pub struct Caches {
    /// The forwarder's.
    pub forwarder: Vec<Arc<Desk>>,
    /// The fronts', each with its name.
    pub fronts: Vec<(String, Arc<Desk>)>,
}

/// The forwarder's name among the caches.
const FORWARDER: &str = "forwarder";

impl Caches {
    /// Forgets entries, everywhere. Returns how many there were, each cache's counted for itself.
    pub fn flush(&self, scope: Scope) -> u64 {
        let scope = Arc::new(scope);
        // The forwarder first: a front must not learn again from it what it has just forgotten.
        let forwarder = flush(self.forwarder.iter(), &scope);
        forwarder + flush(self.fronts.iter().map(|(_, desk)| desk), &scope)
    }

    /// Gives `take` copies of the entries of all caches: the name of the cache, and some records
    /// one behind the other. Ends early when `take` fails.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn copy<E>(
        &self,
        scope: Scope,
        mut take: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let scope = Arc::new(scope);
        let fronts = self.fronts.iter().map(|(name, desk)| (name.as_str(), desk));
        let forwarder = self.forwarder.iter().map(|desk| (FORWARDER, desk));
        for (name, desk) in forwarder.chain(fronts) {
            for portion in order(desk, Task::Copy, &scope) {
                if let Portion::Records(records, _) = portion {
                    take(name, &records)?;
                }
            }
        }
        Ok(())
    }

    /// Gives `take` copies of all entries of the forwarder's caches, which is everything that
    /// upstreams have told: some records one behind the other, and how many.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn copy_forwarder<E>(
        &self,
        mut take: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let scope = Arc::new(Scope::All);
        for desk in &self.forwarder {
            for portion in order(desk, Task::Copy, &scope) {
                if let Portion::Records(records, count) = portion {
                    take(&records, count)?;
                }
            }
        }
        Ok(())
    }
}

/// Leaves an order; what comes of it.
fn order(desk: &Desk, task: Task, scope: &Arc<Scope>) -> Receiver<Portion> {
    let (to, portions) = sync_channel(MAX_PORTIONS);
    desk.give(Order {
        task,
        scope: Arc::clone(scope),
        to,
    });
    portions
}

fn flush<'a>(desks: impl Iterator<Item = &'a Arc<Desk>>, scope: &Arc<Scope>) -> u64 {
    // All at work before the first is waited for.
    let orders: Vec<_> = desks.map(|desk| order(desk, Task::Flush, scope)).collect();
    let portions = orders.into_iter().flatten();
    portions
        .map(|portion| match portion {
            Portion::Flushed(count) => count,
            Portion::Records(..) => 0,
        })
        .sum()
}
