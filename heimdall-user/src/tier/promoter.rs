//! The promoter's thread.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{handle::Shared, nominate::NOMINATIONS};

/// The time between two rounds: it is halved when a ring was nearly full, and doubled when all were nearly empty.
const SHORTEST: Duration = Duration::from_millis(8);
const LONGEST: Duration = Duration::from_millis(256);

/// Runs until `stopped` says so.
pub(super) fn run(shared: &Shared, stopped: &Receiver<()>) {
    let mut pause = LONGEST;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let most = round(shared);
        pause = next_pause(pause, most);
    }
}

/// Takes the nominations that wait, and looks after the entries. Returns the most nominations that waited in one ring.
pub(super) fn round(shared: &Shared) -> usize {
    let rings = shared.rings().clone();
    let mut state = shared.state();
    let now = shared.clock.seconds();
    // Those of the last round: one grace period for all.
    state.reclaim();
    let most = rings.iter().map(|ring| ring.drain(|nomination| state.consider(nomination, now)));
    let most = most.max().unwrap_or_default();
    state.visit(now);
    state.count();
    drop(state);
    remove_ended(shared, rings);
    most
}

/// Removes the empty rings whose workers have ended: they have no other owner.
fn remove_ended(shared: &Shared, rings: Vec<Arc<Ring>>) {
    drop(rings);
}

/// The pause after one, when so many nominations waited in the fullest ring.
fn next_pause(pause: Duration, most: usize) -> Duration {
    let next = if most > NOMINATIONS / 4 {
        pause / 2
    } else if most < NOMINATIONS / 16 {
        pause * 2
    } else {
        pause
    };
    next.clamp(SHORTEST, LONGEST)
}
