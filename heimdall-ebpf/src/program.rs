//! The XDP program: answers popular DNS queries itself, steers the others for Heimdall to their queue's
//! AF_XDP socket, and passes all else.
//!
//! It never drops: what it neither answers nor steers, the kernel's stack handles as it would without Heimdall.
//! Each packet is counted once, by its [`Disposition`].
//!
//! - `steering` claims what the workers can answer in place.
//! - `route` looks up where the reply is sent, if the loader says so; else the verifier removes it.
//! - `tier` answers some of that. Unless the loader sets its size, the verifier removes it.
//! - `frame`, `wire` and `checksum` are what both read and write packets with.
//!
//! Loaded by `heimdall-user/src/xdp/program.rs`. Needs Linux 5.9 (for the bpf_link that holds it), with `route` or
//! `tier` 5.11, and with `FRAGS` 5.18. See <https://docs.kernel.org/networking/af_xdp.html>.

mod checksum;
mod frame;
mod route;
mod steering;
mod tier;
mod wire;

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_REDIRECT, XDP_TX},
    macros::{map, xdp},
    maps::PerCpuArray,
    programs::XdpContext,
};
use frame::Frame;
use heimdall_ebpf::Disposition;
use route::NextHop;
use steering::Claimed;

// Names as in `heimdall_ebpf`: here and in the modules, NAME is that of NAME_MAP.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Disposition::COUNT as u32, 0);

#[xdp(frags)]
fn heimdall(ctx: XdpContext) -> u32 {
    let (action, disposition) = match claim(&ctx) {
        Ok((packet, hash, next_hop)) => {
            if tier::answer(&ctx, packet, hash) {
                next_hop.set_destination(&ctx);
                (XDP_TX, Disposition::Answered)
            } else if steering::redirect(&ctx) {
                next_hop.set_source(&ctx);
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

/// The packet if it is a query that can be answered in place, with its hash for the tier and the reply's next hop.
#[inline(always)]
fn claim(ctx: &XdpContext) -> Result<(Claimed, Option<u64>, NextHop), Disposition> {
    let frame = Frame::of(ctx);
    let (packet, link, hash) = steering::claim(frame, |packet| tier::hash(frame, packet))?;
    if steering::is_too_long(ctx, frame) {
        return Err(Disposition::TooLong);
    }
    let next_hop = route::next_hop(ctx, frame, packet, link)?;
    Ok((packet, hash, next_hop))
}

/// A constant that the loader sets. It is in a map that the kernel has frozen, so the verifier knows its value.
#[inline(always)]
fn constant(global: &u32) -> u32 {
    // SAFETY: it is a reference.
    unsafe { ptr::read_volatile(global) }
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
