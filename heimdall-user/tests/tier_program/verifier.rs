//! What the verifier has to go through.

use crate::kernel::Kernel;

/// Instructions that the verifier walked through on Linux 6.18, of the 1,000,000 that it takes; half as many again
/// for other kernels, which prune less or more.
const WITH_TIER: u32 = 140_000;
const WITHOUT: u32 = 3_000;

#[test]
fn the_verifier_is_far_from_its_limit() {
    if !lab::available("the_verifier_is_far_from_its_limit") {
        return;
    }
    for (entries, buckets, most) in [
        (16, 4, WITH_TIER),
        (10_000, 4096, WITH_TIER),
        (65_536, 32_768, WITH_TIER),
        (0, 0, WITHOUT),
    ] {
        // Known since Linux 5.16.
        if let Some(count) = Kernel::load_sized(entries, buckets).verified_instructions() {
            println!("{entries} entries: {count} instructions");
            assert!(count <= most + most / 2, "{count} instructions, not {most}");
        }
    }
}
