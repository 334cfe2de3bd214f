//! When addresses are announced and withdrawn.
//!
//! An obstacle that may pass by itself withdraws them only if it lasts, and they come back only if nothing was in the way
//! for some time, so that a service which comes and goes does not have all routers follow. Time is an argument, and
//! nothing here does any I/O.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Why the server should not get queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It may pass: no upstream responds, caches are not populated yet.
    Passing(String),
    /// It does not answer: a thread has ended or is stuck.
    Serious(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(text) | Self::Serious(text) => f.write_str(text),
        }
    }
}

/// Decides.
#[derive(Debug)]
pub(super) struct Announcement {
    announce_after: Duration,
    withdraw_after: Duration,
    announced: bool,
    /// They were announced before, so that `announce_after` has to pass.
    returns: bool,
    /// Since when the observations are on the other side of what is announced.
    since: Option<Instant>,
}

impl Announcement {
    /// `announced`: they are already.
    pub(super) fn new(announce_after: Duration, withdraw_after: Duration, announced: bool) -> Self {
        Self {
            announce_after,
            withdraw_after,
            announced,
            returns: announced,
            since: None,
        }
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// Takes an observation, and returns whether the addresses are to be announced from now on.
    pub(super) fn observe(&mut self, now: Instant, obstacle: Option<&Obstacle>) -> bool {
        let agrees = self.announced == obstacle.is_none();
        if agrees {
            self.since = None;
            return self.announced;
        }
        let wait = match obstacle {
            None if self.returns => self.announce_after,
            Some(Obstacle::Passing(_)) => self.withdraw_after,
            None | Some(Obstacle::Serious(_)) => Duration::ZERO,
        };
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= wait {
            self.announced = !self.announced;
            self.returns |= self.announced;
            self.since = None;
        }
        self.announced
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const ANNOUNCE: Duration = Duration::from_secs(5);
    const WITHDRAW: Duration = Duration::from_secs(3);

    fn passing() -> Obstacle {
        Obstacle::Passing("no upstream responds".to_owned())
    }

    /// What is announced after observations a second apart: `.` no obstacle, `p` one that may pass, `s` a serious one.
    fn run(announced: bool, observations: &str) -> String {
        let begin = Instant::now();
        let mut announcement = Announcement::new(ANNOUNCE, WITHDRAW, announced);
        let observe = |(second, observed): (u64, char)| {
            let obstacle = match observed {
                '.' => None,
                'p' => Some(passing()),
                _ => Some(Obstacle::Serious("stuck".to_owned())),
            };
            let now = begin + Duration::from_secs(second);
            match announcement.observe(now, obstacle.as_ref()) {
                true => 'A',
                false => '-',
            }
        };
        (0..).zip(observations.chars()).map(observe).collect()
    }

    #[test]
    fn the_first_time_they_are_announced_at_once() {
        assert_eq!(run(false, "pp."), "--A");
    }

    #[test]
    fn what_passes_withdraws_nothing() {
        assert_eq!(run(true, "ppp.ppp."), "AAAAAAAA");
    }

    #[test]
    fn what_lasts_withdraws_and_they_return_after_some_time() {
        assert_eq!(run(true, "pppp......"), "AAA------A");
        assert_eq!(run(true, "pppp...p......"), "AAA----------A");
    }

    #[test]
    fn what_is_serious_withdraws_at_once() {
        assert_eq!(run(true, ".s......"), "A------A");
        assert_eq!(run(true, "ps"), "A-");
    }

    proptest! {
        #[test]
        fn they_change_only_after_the_time_that_a_change_takes(
            announced: bool,
            observations in vec(prop_oneof!["\\.{1,7}", "p{1,5}", "s"], 1..20),
        ) {
            let observations = observations.concat();
            let shown = run(announced, &observations);
            let mut before = if announced { 'A' } else { '-' };
            let mut was_announced = announced;
            for (at, now) in shown.char_indices() {
                let last = |count: usize, one: char| {
                    at >= count && observations.as_bytes()[at - count..=at].iter().all(|of| char::from(*of) == one)
                };
                match (before, now) {
                    ('A', '-') => {
                        let obstacles = |count: usize| at >= count
                            && observations.as_bytes()[at - count..=at].iter().all(|of| *of != b'.');
                        prop_assert!(observations.as_bytes()[at] == b's' || obstacles(3), "{observations} {shown}");
                    }
                    ('-', 'A') if was_announced => prop_assert!(last(5, '.'), "{observations} {shown}"),
                    ('-', 'A') => prop_assert_eq!(observations.as_bytes()[at], b'.'),
                    _ => {}
                }
                was_announced |= now == 'A';
                before = now;
            }
        }
    }
}
