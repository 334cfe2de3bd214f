//! The XDP program: gives DNS queries for served endpoints to AF_XDP, and everything else to the
//! kernel. It never drops a packet, and writes to none.
//!
//! ```text
//! Ethernet, 0–2 VLAN tags │ IPv4, no options, no fragment │ UDP │ DNS header, QR = 0
//!                         │ IPv6, no extension header     │     │
//! ```
//!
//! Licensed MIT OR Apache-2.0 as all of Heimdall, and besides under the GPL version 2, as the
//! licence string says.
#![no_std]
#![no_main]
// `#[xdp]` exports the program under an item of its own that has no documentation.
#![allow(missing_docs, unreachable_pub)]

use core::mem::{offset_of, size_of};

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_REDIRECT},
    macros::{map, xdp},
    maps::{HashMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use heimdall_ebpf::{MAX_QUEUES, MAX_SERVED, Served, VERDICT_COUNT, Verdict};

#[map]
static SERVED: HashMap<Served, u8> = HashMap::with_max_entries(MAX_SERVED, 0);
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_COUNT, 0);

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const DNS_HEADER: usize = 12;
const PROTO_UDP: u8 = 17;

#[repr(C)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    len: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
struct Ipv6 {
    version_class_flow: [u8; 4],
    payload_len: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

#[repr(C)]
struct Udp {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    len: [u8; 2],
    checksum: [u8; 2],
}

/// Entry point.
#[xdp]
pub fn heimdall(ctx: XdpContext) -> u32 {
    let (action, verdict) = match steer(&ctx) {
        Ok(()) => match SOCKETS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)) {
            Ok(_) => (XDP_REDIRECT, Verdict::Steered),
            Err(_) => (XDP_PASS, Verdict::NoSocket),
        },
        Err(verdict) => (XDP_PASS, verdict),
    };
    if let Some(count) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the pointer is into this CPU's own slot of the map, which lives as long as the
        // program, and the program is not preempted by another run of itself on this CPU.
        unsafe { *count += 1 };
    }
    action
}

/// Whether a packet is to be steered; if not, why not.
#[inline(always)]
fn steer(ctx: &XdpContext) -> Result<(), Verdict> {
    let mut ip = ETHERNET;
    let mut ethertype = *read::<[u8; 2]>(ctx, ip - 2).ok_or(Verdict::NotIp)?;
    if is_vlan(ethertype) {
        ip += VLAN_TAG;
        ethertype = *read::<[u8; 2]>(ctx, ip - 2).ok_or(Verdict::NotIp)?;
        if is_vlan(ethertype) {
            ip += VLAN_TAG;
            ethertype = *read::<[u8; 2]>(ctx, ip - 2).ok_or(Verdict::NotIp)?;
        }
    }
    match ethertype {
        [0x08, 0x00] => steer_ipv4(ctx, ip),
        [0x86, 0xdd] => steer_ipv6(ctx, ip),
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn is_vlan(ethertype: [u8; 2]) -> bool {
    matches!(ethertype, [0x81, 0x00] | [0x88, 0xa8])
}

#[inline(always)]
fn steer_ipv4(ctx: &XdpContext, ip: usize) -> Result<(), Verdict> {
    let header: &Ipv4 = read(ctx, ip).ok_or(Verdict::BadLength)?;
    if header.protocol != PROTO_UDP {
        return Err(Verdict::NotUdp);
    }
    // More fragments, or an offset.
    if u16::from_be_bytes(header.fragment) & 0x3fff != 0 {
        return Err(Verdict::Fragment);
    }
    if header.version_ihl != 0x45 {
        return Err(Verdict::Ipv4Options);
    }
    let udp_len = u16::from_be_bytes(header.len).wrapping_sub(size_of::<Ipv4>() as u16);
    steer_udp(ctx, ip + size_of::<Ipv4>(), udp_len, |port| {
        Served::v4(header.destination, port)
    })
}

#[inline(always)]
fn steer_ipv6(ctx: &XdpContext, ip: usize) -> Result<(), Verdict> {
    let header: &Ipv6 = read(ctx, ip).ok_or(Verdict::BadLength)?;
    if header.next_header != PROTO_UDP {
        return Err(Verdict::NotUdp);
    }
    if header.version_class_flow[0] >> 4 != 6 {
        return Err(Verdict::NotIp);
    }
    let udp_len = u16::from_be_bytes(header.payload_len);
    steer_udp(ctx, ip + size_of::<Ipv6>(), udp_len, |port| {
        Served::v6(header.destination, port)
    })
}

/// `ip_payload` is the length of the UDP datagram as the IP header has it. The frame may be longer
/// (padding), not shorter.
#[inline(always)]
fn steer_udp(
    ctx: &XdpContext,
    udp: usize,
    ip_payload: u16,
    endpoint: impl FnOnce([u8; 2]) -> Served,
) -> Result<(), Verdict> {
    let header: &Udp = read(ctx, udp).ok_or(Verdict::BadLength)?;
    // SAFETY: `get` asks that no other program of ours changes the map's values: none does.
    if unsafe { SERVED.get(endpoint(header.destination_port)) }.is_none() {
        return Err(Verdict::NotServed);
    }
    let dns: &[u8; DNS_HEADER] = read(ctx, udp + size_of::<Udp>()).ok_or(Verdict::BadLength)?;
    let fits = usize::from(ip_payload) <= ctx.data_end() - ctx.data() - udp;
    let holds_a_header = usize::from(ip_payload) >= size_of::<Udp>() + DNS_HEADER;
    if u16::from_be_bytes(header.len) != ip_payload || !fits || !holds_a_header {
        return Err(Verdict::BadLength);
    }
    if dns[2] & 0x80 != 0 {
        return Err(Verdict::Response);
    }
    Ok(())
}

const _: () = assert!(offset_of!(Ipv4, destination) == 16 && offset_of!(Ipv6, destination) == 24);

/// A header at an offset of the packet, if all of it is within.
#[inline(always)]
fn read<'a, T>(ctx: &'a XdpContext, offset: usize) -> Option<&'a T> {
    const { assert!(align_of::<T>() == 1) };
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: `start` and all of `T` lie between the packet's start and end, as the line above
    // checks and the verifier proves; `T` is made of octets, so any alignment and value will do.
    Some(unsafe { &*(start as *const T) })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing above can panic; the verifier would refuse a program that loops for ever.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
