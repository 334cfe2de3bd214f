//! Criterion timing of batches, reported an item.

use std::time::Duration;

/// Items of a batch: [`heimdall_user::front::BATCH`].
pub const BATCH: usize = heimdall_user::front::BATCH;

/// The time that `items` take, for criterion's `iter_custom`: `batch` handles a whole batch, and returns
/// the time of the part that is measured.
pub fn time(items: u64, mut batch: impl FnMut() -> Duration) -> Duration {
    let batches = items.div_ceil(BATCH as u64);
    let time: Duration = (0..batches).map(|_| batch()).sum();
    time.mul_f64(items as f64 / (batches * BATCH as u64) as f64)
}
