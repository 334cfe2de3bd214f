//! The XDP program: answers popular DNS queries itself, steers the others for Heimdall to their queue's
//! AF_XDP socket, and passes all else.
//!
//! It never drops: what it neither answers nor steers, the kernel's stack handles as it would without Heimdall.
//! Each packet is counted once, by its [`Disposition`].
//!
//! - `steering` claims what the workers can answer in place.
//! - `tier` answers some of that. Unless the loader sets its size, the verifier removes it.
//! - `frame`, `wire` and `checksum` are what both read and write packets with.
//!
//! Loaded by `heimdall-user/src/xdp/program.rs`. Needs Linux 5.9 (for the bpf_link that holds it), with the tier
//! 5.11. See <https://docs.kernel.org/networking/af_xdp.html>.

mod checksum;
mod frame;
mod steering;
mod tier;
mod wire;

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_REDIRECT, XDP_TX},
    macros::{map, xdp},
    maps::PerCpuArray,
    programs::XdpContext,
};
use frame::Frame;
use heimdall_ebpf::Disposition;

// Names as in `heimdall_ebpf`: here and in the modules, NAME is that of NAME_MAP.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Disposition::COUNT as u32, 0);

#[xdp]
fn heimdall(ctx: XdpContext) -> u32 {
    let (action, disposition) = match steering::claim(Frame::of(&ctx)) {
        Ok(claimed) => {
            if tier::answer(&ctx, claimed) {
                (XDP_TX, Disposition::Answered)
            } else if steering::redirect(&ctx) {
                (XDP_REDIRECT, Disposition::Steered)
            } else {
                (XDP_PASS, Disposition::NoSocket)
            }
        }
        Err(reason) => (XDP_PASS, reason),
    };
    count(COUNTERS.get_ptr_mut(disposition as u32));
    action
}

/// Adds 1 to a counter of this CPU.
#[inline(always)]
fn count(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: the pointer is to this CPU's counter, and XDP runs to its end on one CPU.
        unsafe { *counter += 1 };
    }
}

/// "GPL" in it opens the kernel's GPL-only helpers; the crate's licence allows both.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
