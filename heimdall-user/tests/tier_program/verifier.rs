//! What the verifier has to go through.

use crate::kernel::Kernel;

/// Instructions that the verifier walked through on Linux 6.18, of the 1,000,000 that it takes; twice as many
/// for other kernels, which prune less or more.
const WITH_TIER: u32 = 250_000;
const WITH_BOTH: u32 = 280_000;
const WITH_ROUTES: u32 = 25_000;
const WITHOUT: u32 = 25_000;

#[test]
fn the_verifier_is_far_from_its_limit() {
    if !lab::available("the_verifier_is_far_from_its_limit") {
        return;
    }
    for (entries, buckets, route_check, most) in [
        (16, 4, false, WITH_TIER),
        (10_000, 4096, false, WITH_TIER),
        (65_536, 32_768, false, WITH_TIER),
        (10_000, 4096, true, WITH_BOTH),
        (0, 0, true, WITH_ROUTES),
        (0, 0, false, WITHOUT),
    ] {
        let kernel = Kernel::load_with(entries, buckets, route_check);
        // Known since Linux 5.16.
        if let Some(count) = kernel.verified_instructions() {
            println!("{entries} entries, routes {route_check}: {count} instructions");
            assert!(count <= 2 * most, "{count} instructions, not {most}");
        }
    }
}
