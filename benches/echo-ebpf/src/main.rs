//! The echo's XDP programs: one steers DNS queries to AF_XDP sockets, one answers them itself. Both pass
//! everything else. Compiles to nothing on the host.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_PASS, XDP_TX},
        macros::{map, xdp},
        maps::XskMap,
        programs::XdpContext,
    };
    use echo_ebpf::{HEADERS, MAX_QUEUES, is_query, make_reply};

    // Named as in `echo_ebpf::SOCKETS_MAP`.
    #[map]
    static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

    // Named as in `echo_ebpf::STEER`.
    #[xdp]
    fn echo_steer(ctx: XdpContext) -> u32 {
        match query(&ctx) {
            // The result is the action in either case.
            Some(_) => {
                let (Ok(action) | Err(action)) =
                    SOCKETS.redirect(ctx.rx_queue_index(), XDP_PASS.into());
                action
            }
            None => XDP_PASS,
        }
    }

    // Named as in `echo_ebpf::TX`.
    #[xdp]
    fn echo_tx(ctx: XdpContext) -> u32 {
        match query(&ctx) {
            Some(packet) => {
                make_reply(packet);
                XDP_TX
            }
            None => XDP_PASS,
        }
    }

    #[inline(always)]
    fn query(ctx: &XdpContext) -> Option<&mut [u8; HEADERS]> {
        let start = ctx.data();
        if start + HEADERS > ctx.data_end() {
            return None;
        }
        // SAFETY: the octets lie within the packet, which no one else accesses while the program runs;
        // octets have no alignment and no invalid value. Each program makes one such reference.
        let packet = unsafe { &mut *(start as *mut [u8; HEADERS]) };
        is_query(packet).then_some(packet)
    }

    /// "GPL" in it opens the kernel's GPL-only helpers; the crate's licence allows both.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
