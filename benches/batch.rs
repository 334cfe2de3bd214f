//! What is done in batches, as workers do, and reported an item.

use std::time::Duration;

/// Items of a batch: [`heimdall_user::xdp::xsk::BATCH`].
pub const BATCH: usize = heimdall_user::xdp::xsk::BATCH;

/// The time that `items` take, for criterion's `iter_custom`: `batch` handles a whole batch, and tells
/// the time of what is to be measured of it.
pub fn time(items: u64, mut batch: impl FnMut() -> Duration) -> Duration {
    let batches = items.div_ceil(BATCH as u64);
    let time: Duration = (0..batches).map(|_| batch()).sum();
    time.mul_f64(items as f64 / (batches * BATCH as u64) as f64)
}
