//! Waiting for a predecessor's end.
//!
//! When a service manager starts a server again that was killed, the kernel may still be taking
//! the old process apart: its sockets are bound and its XDP program attached for some
//! milliseconds more.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long to wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Attempts something until it succeeds, fails of something else than `is_busy`, or a second has
/// passed.
pub(super) fn retry<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + PATIENCE;
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
    fn what_is_busy_is_attempted_again_and_nothing_else() {
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
        assert_eq!(retry(|| Err::<(), _>("busy"), |_| true), Err("busy"));
    }
}
