//! The watchdog: sees threads that make no progress, logs them, and withholds the sign of life that a service manager waits
//! for while an essential one is among them.
//!
//! A process has one, whichever servers run in it. A thread that is stuck cannot be ended, so its owner has to do
//! without it: the supervisor takes a stuck worker's queue out of the XSKMAP by itself, and for essential threads a service
//! manager starts the process again (`WatchdogSec=` of systemd).

use std::{
    io,
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use tracing::{error, info};

use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat::{self, Census, Change},
};

/// The time between two counts of all threads.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts without progress after which a thread is stuck: more than twice the longest sleep.
const LIMIT: u32 = 10;

const _: () = assert!(LIMIT as u64 > 2 * heartbeat::MAX_SLEEP.as_secs());

/// The running watchdog. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _thread: OwnedThread,
}

impl Watchdog {
    /// Starts the thread. It calls `alive` once a second while all essential threads make progress.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(mut alive: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = stop.send(());
        };
        let on_exit =
            OnExit::new(|| error!("the watchdog thread ended; stuck threads are not seen"));
        let thread = OwnedThread::start("watchdog", on_exit, stop, move || {
            let mut census = Census::new(LIMIT);
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                heartbeat::beat();
                census.count().iter().for_each(log);
                if !heartbeat::stuck().iter().any(|thread| thread.essential) {
                    alive();
                }
            }
        })?;
        Ok(Self { _thread: thread })
    }
}

fn log(change: &Change) {
    match change {
        Change::Stuck(thread) => error!(
            "the {thread} thread has made no progress for {} s; if that does not end, restart the server",
            LIMIT * INTERVAL.as_secs() as u32
        ),
        Change::Continues(thread) => info!("the {thread} thread makes progress again"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_says_once_a_second_that_the_process_is_alive() {
        let (said, hear) = channel();
        let watchdog = Watchdog::start(move || {
            let _ = said.send(());
        });
        for _ in 0..2 {
            hear.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        drop(watchdog);
        // Its end drops the sender.
        while hear.recv_timeout(Duration::from_secs(30)).is_ok() {}
        assert_eq!(
            hear.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Disconnected)
        );
    }
}
