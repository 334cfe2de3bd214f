//! Wakes a thread only if it sleeps: a write to an eventfd is a system call, and wakes a thread that
//! sees its queue anyway for nothing.
//!
//! Whether the thread sleeps is a flag, and the danger is a wakeup that is lost: the thread finds its
//! queue empty and goes to sleep, and the producer, which has pushed meanwhile, still finds it awake.
//! Each side writes first, then reads what the other one writes, with a sequentially consistent fence
//! in between:
//!
//! ```text
//! thread: flag = true;  fence;  is the queue empty?   ─► sleep
//! producer: push;       fence;  is the flag true?     ─► wake
//! ```
//!
//! All such fences have one order. If the thread's comes first, the producer's read of the flag comes
//! after the write and finds `true`: it wakes the thread. If the producer's comes first, the thread's
//! look at the queue finds what was pushed: it does not sleep. (The stores alone, without the fences,
//! could still be in each side's store buffer when it reads.)
//!
//! The producer that wakes resets the flag, so the others do not write again. An eventfd stays
//! readable, so it does not matter whether the thread is asleep yet. A wakeup may come late, when the
//! thread has found its queue by itself: the next sleep then ends at once, which is harmless.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether a thread sleeps, or is about to.
#[derive(Debug, Default)]
pub(super) struct Sleeping(AtomicBool);

impl Sleeping {
    /// The thread is about to sleep. Whether it may: `is_empty` says that its queue has nothing for it.
    #[inline]
    pub(super) fn begin(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let may_sleep = is_empty();
        if !may_sleep {
            self.end();
        }
        may_sleep
    }

    /// The thread is awake, and looks at its queue before it sleeps again.
    #[inline]
    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Something was pushed. Whether the thread has to be woken for it, by the caller.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        // Read first: while the thread is awake, nothing is written.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize, mpsc},
        thread,
        time::Duration,
    };

    use crossbeam_queue::ArrayQueue;

    use super::*;

    #[test]
    fn a_thread_is_woken_once_and_only_if_it_sleeps() {
        let sleeping = Sleeping::default();
        assert!(!sleeping.needs_wakeup());
        assert!(!sleeping.begin(|| false));
        assert!(!sleeping.needs_wakeup(), "it did not sleep");
        assert!(sleeping.begin(|| true));
        assert!(sleeping.needs_wakeup());
        assert!(!sleeping.needs_wakeup(), "by one producer");
        assert!(sleeping.begin(|| true));
        sleeping.end();
        assert!(!sleeping.needs_wakeup(), "it is awake");
    }

    /// Both sides act at the same moment, many times. Without either fence this fails on x86-64, too.
    #[test]
    fn either_the_thread_stays_awake_or_the_producer_wakes_it() {
        const ROUNDS: usize = 300_000;
        let sleeping = Sleeping::default();
        let pushed = AtomicBool::new(false);
        let arrived = AtomicUsize::new(0);
        let meet = |count: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let mut turns = 0;
            while arrived.load(Ordering::SeqCst) < count {
                turns += 1;
                if turns % 1_000 == 0 {
                    thread::yield_now();
                }
            }
        };
        let (slept, woken) = thread::scope(|scope| {
            let producer = scope.spawn(|| {
                let mut woken = Vec::with_capacity(ROUNDS);
                for round in 0..ROUNDS {
                    meet(4 * round + 2);
                    pushed.store(true, Ordering::Relaxed);
                    woken.push(sleeping.needs_wakeup());
                    meet(4 * round + 4);
                    pushed.store(false, Ordering::Relaxed);
                }
                woken
            });
            let mut slept = Vec::with_capacity(ROUNDS);
            for round in 0..ROUNDS {
                sleeping.end();
                meet(4 * round + 2);
                slept.push(sleeping.begin(|| !pushed.load(Ordering::Relaxed)));
                meet(4 * round + 4);
            }
            (slept, producer.join().unwrap_or_default())
        });
        assert_eq!(woken.len(), ROUNDS);
        let lost = slept
            .iter()
            .zip(&woken)
            .filter(|both| *both == (&true, &false));
        assert_eq!(lost.count(), 0, "wakeups were lost");
    }

    /// Producers wait for each item to be consumed, so the consumer sleeps, or is about to, at most pushes: if
    /// a wakeup were lost, both sides would wait for ever.
    #[test]
    fn no_wakeup_is_lost() {
        const PRODUCERS: usize = 2;
        const ITEMS: usize = 100_000;
        let shared = Arc::new((Sleeping::default(), ArrayQueue::new(PRODUCERS)));
        let (wake, wakeups) = mpsc::channel::<()>();
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|_| {
                let (shared, wake) = (Arc::clone(&shared), wake.clone());
                let (done, consumed) = mpsc::channel();
                let body = move || {
                    for item in 0..ITEMS {
                        shared.1.push(done.clone()).unwrap_or_default();
                        if shared.0.needs_wakeup() {
                            let _ = wake.send(());
                        }
                        let consumed = consumed.recv_timeout(Duration::from_secs(60));
                        assert!(consumed.is_ok(), "item {item} lies in the queue");
                    }
                };
                thread::spawn(body)
            })
            .collect();
        let mut sleeps = 0;
        for _ in 0..PRODUCERS * ITEMS {
            let done: mpsc::Sender<()> = loop {
                if let Some(done) = shared.1.pop() {
                    break done;
                }
                if shared.0.begin(|| shared.1.is_empty()) {
                    sleeps += 1;
                    let woken = wakeups.recv_timeout(Duration::from_secs(60));
                    assert!(woken.is_ok(), "a wakeup was lost");
                }
                shared.0.end();
            };
            let _ = done.send(());
        }
        for producer in producers {
            assert!(producer.join().is_ok());
        }
        assert!(sleeps > 1_000, "the race was not met");
    }
}
