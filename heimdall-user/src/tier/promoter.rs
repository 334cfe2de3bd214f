//! The promoter's thread.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
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
        let most = round(shared, shared.clock.seconds());
        pause = next_pause(pause, most);
    }
}

/// Takes the nominations that wait, and looks after the entries. Returns the most nominations that waited in one ring.
pub(super) fn round(shared: &Shared, now: u32) -> usize {
    let mut state = shared.state();
    // What the last round retired: one grace period for all.
    state.reclaim();
    let most = shared
        .nominations
        .drain(|nomination| state.consider(nomination, now));
    state.visit(now);
    state.count();
    most
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_nominations() {
        let ms = Duration::from_millis;
        for (pause, most, next) in [
            (256, 0, 256),
            (128, 0, 256),
            (128, NOMINATIONS / 8, 128),
            (128, NOMINATIONS, 64),
            (8, NOMINATIONS, 8),
        ] {
            assert_eq!(next_pause(ms(pause), most), ms(next), "{pause}, {most}");
        }
    }
}
