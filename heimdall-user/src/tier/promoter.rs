//! The promoter's thread.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::{handle::Shared, nominate::NOMINATIONS};
use crate::heartbeat;

/// The time between two rounds: it is halved when a ring was nearly full, and doubled when all were nearly empty.
const SHORTEST: Duration = Duration::from_millis(8);
const LONGEST: Duration = Duration::from_millis(256);

/// The time until the next round while nothing was nominated and there are no entries to visit.
const IDLE: Duration = Duration::from_secs(1);

/// Runs until `stopped` says so.
pub(super) fn run(shared: &Shared, stopped: &Receiver<()>) {
    let mut pause = LONGEST;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        heartbeat::beat();
        let seen = round(shared, shared.clock.seconds());
        pause = next_pause(pause, seen);
    }
}

/// What a round has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The most nominations that waited in one ring.
    most: usize,
    /// Whether there are entries.
    entries: bool,
}

/// Takes the nominations that wait, and looks after the entries.
pub(super) fn round(shared: &Shared, now: u32) -> Seen {
    reclaim(shared);
    let mut state = shared.state();
    let most = shared
        .nominations
        .drain(|nomination| state.consider(nomination, now));
    state.visit(now);
    state.count();
    Seen {
        most,
        entries: state.table.live() > 0,
    }
}

/// Frees what the last round retired, after one grace period for all. Others take the lock meanwhile.
fn reclaim(shared: &Shared) {
    let retired = shared.state().retired();
    if let Some((retired, readers)) = retired {
        let waited = readers.wait();
        shared.state().reclaim(&retired, waited);
    }
}

/// The pause after one, and after a round that has seen this.
fn next_pause(pause: Duration, Seen { most, entries }: Seen) -> Duration {
    if most == 0 && !entries {
        return IDLE;
    }
    let next = if most > NOMINATIONS / 4 {
        pause / 2
    } else if most < NOMINATIONS / 16 {
        pause * 2
    } else {
        pause
    };
    next.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_nominations() {
        let ms = Duration::from_millis;
        for (pause, most, entries, next) in [
            (256, 0, true, 256),
            (128, 0, true, 256),
            (128, NOMINATIONS / 8, true, 128),
            (128, NOMINATIONS, false, 64),
            (8, NOMINATIONS, true, 8),
            (8, 0, false, 1000),
            (1000, 0, false, 1000),
            // At once as often as entries are to be visited.
            (1000, 0, true, 256),
            (1000, 1, false, 256),
            (1000, NOMINATIONS, true, 256),
        ] {
            let seen = Seen { most, entries };
            assert_eq!(next_pause(ms(pause), seen), ms(next), "{pause}, {seen:?}");
        }
    }
}
