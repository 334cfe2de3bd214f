//! The load generator's XDP program: steers what comes to a client's port, passes everything else.
//!
//! It takes IPv4 without options, and packets that hold a whole DNS header: all that a reply to a
//! query of `clients` can be. Compiles to nothing on the host.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action::XDP_PASS,
        macros::{map, xdp},
        maps::XskMap,
        programs::XdpContext,
    };
    use clients_ebpf::{MAX_QUEUES, PORTS};

    // Named as in `clients_ebpf::SOCKETS_MAP`.
    #[map]
    static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

    /// Ethernet, IPv4, UDP and DNS header.
    const HEADERS: usize = 14 + 20 + 8 + 12;

    // A veth lets its peer have a large MTU only beside a program that copes with several buffers.
    #[xdp(frags)]
    fn clients(ctx: XdpContext) -> u32 {
        if is_reply(&ctx) {
            // The result is the action in either case.
            let (Ok(action) | Err(action)) =
                SOCKETS.redirect(ctx.rx_queue_index(), XDP_PASS.into());
            action
        } else {
            XDP_PASS
        }
    }

    #[inline(always)]
    fn is_reply(ctx: &XdpContext) -> bool {
        let start = ctx.data();
        if start + HEADERS > ctx.data_end() {
            return false;
        }
        // SAFETY: the octets lie within the packet, which no one else writes while the program runs;
        // octets have no alignment and no invalid value.
        let packet = unsafe { &*(start as *const [u8; HEADERS]) };
        // Ethertype; IP version and header length; protocol (RFC 791, 3.1).
        packet[12..14] == [0x08, 0x00]
            && packet[14] == 0x45
            && packet[23] == 17
            && PORTS.contains(&u16::from_be_bytes([packet[36], packet[37]]))
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
