//! All caches of the process.

use std::sync::{
    Arc,
    mpsc::{Receiver, sync_channel},
};

use super::{Chunk, Command, CommandQueue, Inquiry, MAX_CHUNKS, Scope, Subject, Task, ThreadState};

/// The command queues of all caches. Its methods block until the threads have executed the
/// commands: milliseconds for each hundred thousand entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caches {
    /// Those of the forwarder's threads.
    pub(crate) forwarder: Vec<Arc<CommandQueue>>,
    /// Those of the fronts, each with the cache's name.
    pub(crate) fronts: Vec<(String, Arc<CommandQueue>)>,
}

/// The forwarder's name among the caches.
pub(crate) const FORWARDER: &str = "forwarder";

impl Caches {
    /// Removes the entries in `scope` from all caches. Returns how many there were; an answer that
    /// several caches had counts once for each.
    pub(crate) fn flush(&self, scope: Scope) -> u64 {
        let scope = Arc::new(scope);
        // The forwarder first: else a front could get an answer from it again that it has just flushed.
        let forwarder = flush(self.forwarder.iter(), &scope);
        forwarder + flush(self.fronts.iter().map(|(_, queue)| queue), &scope)
    }

    /// Calls `take` with copies of the entries in `scope` of all caches: the cache's name, and some
    /// encoded records, one after another.
    ///
    /// # Errors
    /// The first that `take` returns, which ends the copy.
    pub(crate) fn copy<E>(
        &self,
        scope: Scope,
        mut take: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let scope = Arc::new(scope);
        let fronts = self
            .fronts
            .iter()
            .map(|(name, queue)| (name.as_str(), queue));
        let forwarder = self.forwarder.iter().map(|queue| (FORWARDER, queue));
        for (name, queue) in forwarder.chain(fronts) {
            for chunk in submit(queue, Task::Copy, &scope) {
                if let Chunk::Records(records, _) = chunk {
                    take(name, &records)?;
                }
            }
        }
        Ok(())
    }

    /// What the fronts' threads, by their caches' names, and the forwarder's thread with this number say to an
    /// inquiry; those that have ended say nothing.
    pub(crate) fn inquire(&self, subject: Subject, forwarder: usize) -> Vec<(&str, ThreadState)> {
        let subject = Arc::new(subject);
        let fronts = self
            .fronts
            .iter()
            .map(|(name, queue)| (name.as_str(), queue));
        let forwarder = self
            .forwarder
            .get(forwarder)
            .map(|queue| (FORWARDER, queue));
        // All are submitted before the first is waited for.
        let results: Vec<_> = fronts
            .chain(forwarder)
            .map(|(name, queue)| {
                let (result, answer) = sync_channel(1);
                queue.inquire(Inquiry {
                    subject: Arc::clone(&subject),
                    result,
                });
                (name, answer)
            })
            .collect();
        let answers = results.into_iter();
        answers
            .filter_map(|(name, answer)| Some((name, answer.recv().ok()?)))
            .collect()
    }

    /// Calls `take` with copies of all entries of the forwarder's caches, which hold all answers of
    /// upstreams: some encoded records, one after another, and their number.
    ///
    /// # Errors
    /// The first that `take` returns, which ends the copy.
    pub(crate) fn copy_forwarder<E>(
        &self,
        mut take: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let scope = Arc::new(Scope::All);
        for queue in &self.forwarder {
            for chunk in submit(queue, Task::Copy, &scope) {
                if let Chunk::Records(records, count) = chunk {
                    take(&records, count)?;
                }
            }
        }
        Ok(())
    }
}

/// Submits a command; returns the receiver of its result.
fn submit(queue: &CommandQueue, task: Task, scope: &Arc<Scope>) -> Receiver<Chunk> {
    let (result, chunks) = sync_channel(MAX_CHUNKS);
    queue.submit(Command {
        task,
        scope: Arc::clone(scope),
        result,
    });
    chunks
}

fn flush<'a>(queues: impl Iterator<Item = &'a Arc<CommandQueue>>, scope: &Arc<Scope>) -> u64 {
    // All are submitted before the first is waited for.
    let results: Vec<_> = queues
        .map(|queue| submit(queue, Task::Flush, scope))
        .collect();
    let chunks = results.into_iter().flatten();
    chunks
        .map(|chunk| match chunk {
            Chunk::Flushed(count) => count,
            Chunk::Records(..) => 0,
        })
        .sum()
}
