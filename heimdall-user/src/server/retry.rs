//! Waiting for a predecessor's end.
//!
//! When a service manager restarts a server that was killed, the kernel may still be releasing the old
//! process: its sockets stay bound and its XDP program attached for some milliseconds.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long to wait for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Attempts something until it succeeds, fails with an error that is not `is_busy`, or a second has
/// passed.
pub(super) fn retry<T, E>(
    attempt: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    retry_for(TIMEOUT, attempt, is_busy)
}

/// As [`retry`], for `limit` at most.
pub(super) fn retry_for<T, E>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() < end => thread::sleep(PAUSE),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_busy_errors_are_retried() {
        let mut attempts = 0;
        let mut third = || {
            attempts += 1;
            if attempts < 3 {
                Err("busy")
            } else {
                Ok(attempts)
            }
        };
        assert_eq!(retry(&mut third, |error| *error == "busy"), Ok(3));
        let mut attempts = 0;
        let mut never = || -> Result<(), &str> {
            attempts += 1;
            Err("broken")
        };
        assert_eq!(retry(&mut never, |error| *error == "busy"), Err("broken"));
        assert_eq!(attempts, 1);
        let busy = || Err::<(), _>("busy");
        assert_eq!(retry_for(Duration::ZERO, busy, |_| true), Err("busy"));
    }
}
