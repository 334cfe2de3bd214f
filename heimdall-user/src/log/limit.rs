//! A bound on how often a warning or an error of one kind is logged.
//!
//! Packets can cause some of them, and so as many as there are packets. A kind is a place in the code.
//! Information is not limited, as no packet causes any; nor are details, which somebody has asked for.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{Layer, layer::Context};

use super::queue::Log;

/// The time in which lines of a kind are counted. It begins with a line.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Lines of a kind that are logged in this time.
const MAX_LINES: u32 = 20;

/// Leaves out events of which there were many.
pub(super) struct LimitLayer(pub(super) &'static Log);

impl<S: Subscriber> Layer<S> for LimitLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // More severe levels compare as less.
        *metadata.level() > Level::WARN || self.0.admits(metadata)
    }
}

/// The kinds that were logged: as many as there are places in the code, at most.
pub(super) struct Kinds(Mutex<Vec<Kind>>);

struct Kind {
    metadata: &'static Metadata<'static>,
    /// When the present window began.
    begin: Instant,
    /// Lines logged in it.
    lines: u32,
    /// Lines left out that have not been reported.
    left_out: u64,
}

impl Kinds {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn kinds(&self) -> MutexGuard<'_, Vec<Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line.
    ///
    /// # Errors
    /// It is left out, and so many with it that were not reported.
    pub(super) fn admit(
        &self,
        metadata: &'static Metadata<'static>,
        now: Instant,
    ) -> Result<(), u64> {
        let mut kinds = self.kinds();
        let mut known = kinds.iter_mut();
        let Some(kind) = known.find(|kind| kind.metadata.callsite() == metadata.callsite()) else {
            kinds.push(Kind {
                metadata,
                begin: now,
                lines: 1,
                left_out: 0,
            });
            return Ok(());
        };
        // Another window begins once it was reported what was left out in the one before.
        if kind.left_out == 0 && now.saturating_duration_since(kind.begin) >= WINDOW {
            (kind.begin, kind.lines) = (now, 0);
        }
        if kind.lines >= MAX_LINES {
            kind.left_out += 1;
            return Err(kind.left_out);
        }
        kind.lines += 1;
        Ok(())
    }

    /// When the first window ends in which lines were left out.
    pub(super) fn due(&self) -> Option<Instant> {
        let kinds = self.kinds();
        let ends = kinds.iter().filter(|kind| kind.left_out > 0);
        ends.map(|kind| kind.begin + WINDOW).min()
    }

    /// The lines that were left out in the windows that have ended, or in all.
    pub(super) fn take_left_out(
        &self,
        now: Instant,
        all: bool,
    ) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut kinds = self.kinds();
        let ended = |kind: &&mut Kind| {
            kind.left_out > 0 && (all || now.saturating_duration_since(kind.begin) >= WINDOW)
        };
        let ended = kinds.iter_mut().filter(ended);
        ended
            .map(|kind| {
                let left_out = kind.left_out;
                (kind.begin, kind.lines, kind.left_out) = (now, 0, 0);
                (kind.metadata, left_out)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{info, subscriber::with_default, warn};
    use tracing_subscriber::{fmt, layer::SubscriberExt as _, registry};

    use super::*;

    /// Keeps the places of events.
    #[derive(Clone, Default)]
    struct Places(Arc<Mutex<Vec<&'static Metadata<'static>>>>);

    impl<S: Subscriber> Layer<S> for Places {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.push(event.metadata());
        }
    }

    #[test]
    fn what_is_left_out_of_a_kind_is_reported_once() {
        let places = Places::default();
        with_default(registry().with(places.clone()), || {
            warn!("one");
            warn!("other");
        });
        let places = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let &[one, other] = places.as_slice() else {
            panic!("{} events", places.len());
        };
        let kinds = Kinds::new();
        let begin = Instant::now();
        let admitted = |now| (0..100).filter(|_| kinds.admit(one, now).is_ok()).count();
        assert_eq!(admitted(begin), MAX_LINES as usize);
        assert_eq!(kinds.admit(other, begin), Ok(()), "another kind");
        assert_eq!(kinds.due(), Some(begin + WINDOW));
        assert!(kinds.take_left_out(begin + WINDOW / 2, false).is_empty());
        let end = begin + WINDOW;
        assert_eq!(admitted(end), 0, "not reported yet");
        let counts = |all| {
            let left_out = kinds.take_left_out(end, all);
            left_out.iter().map(|(_, count)| *count).collect::<Vec<_>>()
        };
        assert_eq!(counts(false), [180]);
        assert_eq!(kinds.due(), None);
        assert_eq!(admitted(end), MAX_LINES as usize);
        assert_eq!(counts(false), [0; 0]);
        assert_eq!(counts(true), [80]);
        // A kind that is quiet for a while starts again without a report.
        let mut windows = 1..MAX_LINES * 2;
        assert!(windows.all(|window| kinds.admit(other, begin + WINDOW * window).is_ok()));
    }

    #[test]
    fn warnings_are_limited_and_information_is_not() {
        let log: &'static Log = Box::leak(Box::new(Log::new()));
        let lines = fmt::layer().with_writer(log).with_ansi(false);
        let mut out = Vec::new();
        with_default(registry().with(lines).with(LimitLayer(log)), || {
            for number in 0..100 {
                warn!("an attack, packet {number}");
                info!("as usual");
            }
            log.close();
            log.write_to(&mut out);
        });
        let text = String::from_utf8_lossy(&out);
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("an attack"), MAX_LINES as usize);
        assert_eq!(count("as usual"), 100);
        assert_eq!(
            count("80 more lines like the last of heimdall_user::log::limit"),
            1,
            "{text}"
        );
    }
}
