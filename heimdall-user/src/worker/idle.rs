//! What a worker does while its queue is empty.

use std::time::{Duration, Instant};

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleMode {
    /// Sleeps in poll(2) at once.
    Sleep,
    /// Looks at the rx ring for some microseconds first, as long as packets arrive meanwhile and no
    /// other thread wants the core.
    Adaptive,
    /// Drives the NIC's NAPI itself, by busy polling its socket (`SO_PREFER_BUSY_POLL`), and sleeps
    /// after some milliseconds without a packet.
    BusyPoll,
}

/// What to do after a turn without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Look at the rings again.
    Look,
    /// Busy-poll the socket, then look.
    BusyPoll,
    /// Sleep.
    Sleep,
}

/// Longest look at an empty ring: about what it costs to sleep and to be woken, so that looking costs
/// no more than sleeping twice if nothing comes.
const LOOK: Duration = Duration::from_micros(10);

/// A longer time between two looks means that another thread had the core.
const PREEMPTED: Duration = Duration::from_micros(5);

/// After N idle periods in a row in which nothing came, the worker looks at the ring in one of 2^N of
/// them; this is the largest N.
const MAX_FAILED: u32 = 10;

/// Time without a packet after which a busy-polling worker sleeps.
const BUSY_POLL: Duration = Duration::from_millis(10);

/// The state of a worker's waiting.
#[derive(Debug)]
pub(super) struct Idle {
    mode: IdleMode,
    /// Start of this idle period and the time of its last look; `None` after work.
    period: Option<(Instant, Instant)>,
    /// Periods in a row in which the worker looked and nothing came.
    failed: u32,
    /// Idle periods to sleep through at once.
    skip: u32,
}

impl Idle {
    pub(super) fn new(mode: IdleMode) -> Self {
        Self {
            mode,
            period: None,
            failed: 0,
            skip: 0,
        }
    }

    /// Notes that a turn had work.
    #[inline]
    pub(super) fn worked(&mut self) {
        if self.period.take().is_some() {
            // It came while the worker looked.
            self.failed = 0;
        }
        if self.mode == IdleMode::BusyPoll {
            self.skip = 0;
        }
    }

    /// What to do after a turn without work. `now` is called in modes that need the time.
    #[inline]
    pub(super) fn wait(&mut self, now: impl FnOnce() -> Instant) -> Wait {
        if self.mode == IdleMode::Sleep {
            return Wait::Sleep;
        }
        if self.period.is_none() && self.skip > 0 {
            self.skip -= 1;
            return Wait::Sleep;
        }
        let now = now();
        let (start, last) = *self.period.get_or_insert((now, now));
        self.period = Some((start, now));
        let (waited, gap) = (now - start, now - last);
        match self.mode {
            IdleMode::BusyPoll if waited < BUSY_POLL => return Wait::BusyPoll,
            // Until there is work again.
            IdleMode::BusyPoll => self.skip = u32::MAX,
            IdleMode::Adaptive if waited < LOOK && gap < PREEMPTED => return Wait::Look,
            IdleMode::Adaptive => {
                self.failed = (self.failed + 1).min(MAX_FAILED);
                self.skip = 1 << self.failed;
            }
            IdleMode::Sleep => {}
        }
        self.period = None;
        Wait::Sleep
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    /// Waits through a period in which nothing comes, looking at these microseconds; what was done.
    fn period(idle: &mut Idle, start: Instant, micros: &[u64]) -> Vec<Wait> {
        let mut done = Vec::new();
        for at in micros {
            done.push(idle.wait(|| start + Duration::from_micros(*at)));
            if done.last() == Some(&Wait::Sleep) {
                break;
            }
        }
        done
    }

    #[test]
    fn sleeps_at_once_without_a_look_at_the_clock() {
        let mut idle = Idle::new(IdleMode::Sleep);
        assert_eq!(idle.wait(|| panic!("the clock was read")), Wait::Sleep);
    }

    #[test]
    fn looks_ever_more_rarely_while_nothing_comes() {
        let (mut idle, start) = (Idle::new(IdleMode::Adaptive), Instant::now());
        let mut looked = Vec::new();
        for number in 0..5000 {
            if period(&mut idle, start, &[0, 3, 6, 9, 12])[0] == Wait::Look {
                looked.push(number);
            }
        }
        assert_eq!(looked[..6], [0, 3, 8, 17, 34, 67]);
        let gaps = looked.windows(2).map(|pair| pair[1] - pair[0]);
        assert_eq!(gaps.max(), Some(1 + (1 << MAX_FAILED)));
    }

    #[test]
    fn looks_on_while_packets_arrive_meanwhile() {
        let (mut idle, start) = (Idle::new(IdleMode::Adaptive), Instant::now());
        period(&mut idle, start, &[0, 3, 6, 9, 12]);
        while period(&mut idle, start, &[0])[0] != Wait::Look {}
        idle.worked();
        for _ in 0..10 {
            assert_eq!(period(&mut idle, start, &[0, 4]), [Wait::Look, Wait::Look]);
            idle.worked();
        }
        // Earlier failures are forgotten.
        period(&mut idle, start, &[0, 3, 6, 9, 12]);
        assert_eq!(idle.skip, 2);
    }

    #[test]
    fn gives_the_core_up_when_another_thread_wants_it() {
        let (mut idle, start) = (Idle::new(IdleMode::Adaptive), Instant::now());
        let done = period(&mut idle, start, &[0, 1, 7, 8]);
        assert_eq!(done, [Wait::Look, Wait::Look, Wait::Sleep]);
        assert_eq!(idle.skip, 2);
    }

    #[test]
    fn busy_polling_ends_after_some_time_without_packets() {
        let (mut idle, start) = (Idle::new(IdleMode::BusyPoll), Instant::now());
        for _ in 0..2 {
            let done = period(&mut idle, start, &[0, 5_000, 9_999, 10_000]);
            assert_eq!(
                done,
                [Wait::BusyPoll, Wait::BusyPoll, Wait::BusyPoll, Wait::Sleep]
            );
            assert_eq!(period(&mut idle, start, &[20_000]), [Wait::Sleep]);
            idle.worked();
        }
    }
}
