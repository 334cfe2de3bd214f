//! The XDP program: steers DNS queries for Heimdall to their queue's AF_XDP socket, passes all else.
//!
//! It never drops: what it does not steer, the kernel's stack handles as it would without Heimdall.
//! It steers only what the workers can answer in place; each condition is a [`Disposition`], and each
//! packet is counted once. Checksums are verified in userspace, which reads the payload anyway.
//!
//! Loaded by `heimdall-user/src/xdp/program.rs`. Needs Linux 5.9 (for the bpf_link that holds it).
//! See <https://docs.kernel.org/networking/af_xdp.html>.

use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC,
        xdp_action::{XDP_PASS, XDP_REDIRECT},
    },
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use heimdall_ebpf::{Disposition, MAX_QUEUES, MAX_SERVED, ServedKey, mac_word};

// Names as in `heimdall_ebpf::{SOCKETS_MAP, SERVED_MAP, MAC_MAP, COUNTERS_MAP}`.
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
#[map]
static SERVED: HashMap<ServedKey, u8> = HashMap::with_max_entries(MAX_SERVED, BPF_F_NO_PREALLOC);
#[map]
static MAC: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Disposition::COUNT as u32, 0);

/// IEEE 802.1Q and 802.1ad tag protocol identifiers.
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const DNS_LEN: usize = 12;

const PROTOCOL_UDP: u8 = 17;

/// The QR bit in the third octet of a DNS header.
const QR: u8 = 0x80;

#[xdp]
fn heimdall(ctx: XdpContext) -> u32 {
    let frame = Frame {
        start: ctx.data(),
        end: ctx.data_end(),
    };
    let (action, disposition) = match claim(frame) {
        Ok(()) => match SOCKETS.redirect(ctx.rx_queue_index(), XDP_PASS.into()) {
            Ok(_) => (XDP_REDIRECT, Disposition::Steered),
            Err(_) => (XDP_PASS, Disposition::NoSocket),
        },
        Err(reason) => (XDP_PASS, reason),
    };
    if let Some(counter) = COUNTERS.get_ptr_mut(disposition as u32) {
        // SAFETY: the pointer is to this CPU's slot, and XDP runs to its end on one CPU.
        unsafe { *counter += 1 };
    }
    action
}

/// Checks that the frame holds a query for Heimdall that can be answered in place.
#[inline(always)]
fn claim(frame: Frame) -> Result<(), Disposition> {
    let (ethertype, ip) = untag(frame)?;
    let datagram = match ethertype {
        IPV4 => ipv4(frame, ip)?,
        IPV6 => ipv6(frame, ip)?,
        _ => return Err(Disposition::NotIp),
    };
    claim_udp(frame, datagram)
}

/// Ethertype and offset of the payload, behind at most two VLAN tags.
#[inline(always)]
fn untag(frame: Frame) -> Result<(u16, usize), Disposition> {
    let ethernet: &[u8; ETHERNET_LEN] = frame.header(0).ok_or(Disposition::NotIp)?;
    let mut ethertype = be16(ethernet[12], ethernet[13]);
    let mut offset = ETHERNET_LEN;
    for _ in 0..2 {
        if ethertype != VLAN && ethertype != QINQ {
            return Ok((ethertype, offset));
        }
        let tag: &[u8; TAG_LEN] = frame.header(offset).ok_or(Disposition::NotIp)?;
        ethertype = be16(tag[2], tag[3]);
        offset += TAG_LEN;
    }
    if ethertype == VLAN || ethertype == QINQ {
        return Err(Disposition::TooManyTags);
    }
    Ok((ethertype, offset))
}

/// A UDP datagram, as IP describes it.
struct Datagram {
    /// Its offset in the frame.
    offset: usize,
    /// Its length by the IP header; what follows in the frame is Ethernet padding.
    length: usize,
    /// Its destination, at port 0.
    destination: ServedKey,
}

/// RFC 791, section 3.1.
#[inline(always)]
fn ipv4(frame: Frame, offset: usize) -> Result<Datagram, Disposition> {
    let ip: &[u8; IPV4_LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    if ip[0] >> 4 != 4 {
        return Err(Disposition::NotIp);
    }
    if ip[9] != PROTOCOL_UDP {
        return Err(Disposition::NotUdp);
    }
    match ip[0] & 0x0f {
        0..5 => return Err(Disposition::BadLength),
        5 => {}
        _ => return Err(Disposition::Ipv4Options),
    }
    // More Fragments and the offset; Don't Fragment may be set.
    if be16(ip[6], ip[7]) & 0x3fff != 0 {
        return Err(Disposition::Fragment);
    }
    let total: usize = be16(ip[2], ip[3]).into();
    let Some(length) = total.checked_sub(IPV4_LEN) else {
        return Err(Disposition::BadLength);
    };
    let destination = ServedKey::v4([ip[16], ip[17], ip[18], ip[19]]);
    Ok(Datagram {
        offset: offset + IPV4_LEN,
        length,
        destination,
    })
}

/// RFC 8200, section 3.
#[inline(always)]
fn ipv6(frame: Frame, offset: usize) -> Result<Datagram, Disposition> {
    let ip: &[u8; IPV6_LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    if ip[0] >> 4 != 6 {
        return Err(Disposition::NotIp);
    }
    match ip[6] {
        PROTOCOL_UDP => {}
        44 => return Err(Disposition::Fragment),
        // The IANA registry of IPv6 extension header types.
        0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
            return Err(Disposition::Ipv6Extension);
        }
        _ => return Err(Disposition::NotUdp),
    }
    let length: usize = be16(ip[4], ip[5]).into();
    let mut destination = [0; 16];
    destination.copy_from_slice(&ip[24..]);
    let destination = ServedKey::v6(destination);
    Ok(Datagram {
        offset: offset + IPV6_LEN,
        length,
        destination,
    })
}

/// RFC 768, and the first octets of RFC 1035, section 4.1.1.
#[inline(always)]
fn claim_udp(frame: Frame, datagram: Datagram) -> Result<(), Disposition> {
    let Datagram {
        offset,
        length,
        destination,
    } = datagram;
    let udp: &[u8; UDP_LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    if SERVED
        .get_ptr(&destination.with_port([udp[2], udp[3]]))
        .is_none()
    {
        return Err(Disposition::NotServed);
    }
    if !is_to_our_mac(frame) {
        return Err(Disposition::OtherMac);
    }
    let dns: &[u8; DNS_LEN] = frame
        .header(offset + UDP_LEN)
        .ok_or(Disposition::BadLength)?;
    let udp_length: usize = be16(udp[4], udp[5]).into();
    if udp_length != length || length < UDP_LEN + DNS_LEN || offset + length > frame.len() {
        return Err(Disposition::BadLength);
    }
    if dns[2] & QR != 0 {
        return Err(Disposition::NotQuery);
    }
    Ok(())
}

/// Whether the frame is sent to the interface's own MAC address. In promiscuous mode, or when a
/// switch floods, frames to other hosts arrive, too.
#[inline(always)]
fn is_to_our_mac(frame: Frame) -> bool {
    match (frame.header(0), MAC.get(0)) {
        (Some(destination), Some(own)) => mac_word(*destination) == *own,
        _ => false,
    }
}

#[inline(always)]
fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// The packet, between the two addresses that the kernel gives.
#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn len(self) -> usize {
        self.end - self.start
    }

    /// The `N` bytes at `offset`, if the frame has them. The comparison has the form that the verifier
    /// accepts as a bounds check.
    #[inline(always)]
    fn header<'a, const N: usize>(self, offset: usize) -> Option<&'a [u8; N]> {
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: the `N` bytes lie within the packet, which nothing else writes while the
        // program runs; bytes have no alignment and no invalid value.
        Some(unsafe { &*(at as *const [u8; N]) })
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
