//! Steering: which packets are for Heimdall, and handing them to their queue's AF_XDP socket.
//!
//! It claims only what the workers can answer in place; each condition is a [`Disposition`].
//! Checksums are not verified here: the workers read the payload anyway.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, xdp_action::XDP_PASS},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::map,
    maps::{Array, HashMap, XskMap},
    programs::XdpContext,
};
use heimdall_ebpf::{
    Disposition, Link, MAX_LINKS, MAX_QUEUES, MAX_SERVED, MAX_STEERED, ServedKey, Tags, link_entry,
    mac_word,
};

use super::{
    constant,
    frame::Frame,
    wire::{dns, ethernet, ipv4, ipv6, udp},
};

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
#[map]
static SERVED: HashMap<ServedKey, u32> = HashMap::with_max_entries(MAX_SERVED, BPF_F_NO_PREALLOC);
#[map]
static LINKS: Array<Link> = Array::with_max_entries(MAX_LINKS, 0);

/// See `heimdall_ebpf::FRAGS_GLOBAL`.
#[unsafe(no_mangle)]
static FRAGS: u32 = 0;

/// The QR bit in the third octet of a DNS header.
const QR: u8 = (dns::QR >> 8) as u8;

/// A packet with a query for Heimdall.
#[derive(Clone, Copy)]
pub(super) struct Claimed {
    /// Whether it is IPv4; else it is IPv6.
    pub(super) v4: bool,
    /// Offset of the IP header.
    pub(super) ip: usize,
    /// Octets of the DNS message, which ends with the UDP datagram; at least a header's. Padding may follow.
    pub(super) dns_len: usize,
}

impl Claimed {
    /// Offset of the UDP header.
    #[inline(always)]
    pub(super) fn udp(self) -> usize {
        self.ip + if self.v4 { ipv4::LEN } else { ipv6::LEN }
    }

    /// Offset of the DNS message.
    #[inline(always)]
    pub(super) fn dns(self) -> usize {
        self.udp() + udp::LEN
    }
}

/// Hands the packet to its queue's socket; `false`: there is none.
#[inline(always)]
pub(super) fn redirect(ctx: &XdpContext) -> bool {
    SOCKETS
        .redirect(ctx.rx_queue_index(), XDP_PASS.into())
        .is_ok()
}

/// Whether the packet does not fit an AF_XDP frame, or is in several buffers, of which `frame` is the first: the kernel
/// would drop it at the socket, and the tier would resize its last buffer.
#[inline(always)]
pub(super) fn is_too_long(ctx: &XdpContext, frame: Frame) -> bool {
    if frame.len() > MAX_STEERED {
        return true;
    }
    // SAFETY: it is the program's context.
    constant(&FRAGS) != 0 && unsafe { bpf_xdp_get_buff_len(ctx.ctx) } != frame.len() as u64
}

/// Checks that the frame holds a query for Heimdall that can be answered in place. What `ahead` begins before the
/// destination is looked up is returned with it and the link that the frame belongs to; the packet's length is not checked by then.
#[inline(always)]
pub(super) fn claim<T>(
    frame: Frame,
    ahead: impl FnOnce(Claimed) -> T,
) -> Result<(Claimed, &'static Link, T), Disposition> {
    let Untagged {
        ethertype,
        offset: ip,
        tags,
    } = untag(frame)?;
    let datagram = match ethertype {
        ethernet::IPV4 => read_ipv4(frame, ip)?,
        ethernet::IPV6 => read_ipv6(frame, ip)?,
        _ => return Err(Disposition::NotIp),
    };
    let packet = Claimed {
        v4: ethertype == ethernet::IPV4,
        ip,
        dns_len: datagram.length.wrapping_sub(udp::LEN),
    };
    let begun = ahead(packet);
    let link = claim_udp(frame, datagram, tags)?;
    Ok((packet, link, begun))
}

/// What follows the Ethernet header and its tags.
struct Untagged {
    ethertype: u16,
    offset: usize,
    tags: Tags,
}

/// Reads at most two VLAN tags.
#[inline(always)]
fn untag(frame: Frame) -> Result<Untagged, Disposition> {
    let header: &[u8; ethernet::LEN] = frame.header(0).ok_or(Disposition::NotIp)?;
    let mut ethertype = be16(header[12], header[13]);
    let mut offset = ethernet::LEN;
    let mut tags = Tags::NONE;
    for _ in 0..Tags::MAX {
        if ethertype != ethernet::VLAN && ethertype != ethernet::QINQ {
            break;
        }
        let tag: &[u8; ethernet::TAG_LEN] = frame.header(offset).ok_or(Disposition::NotIp)?;
        tags = tags.push(ethertype == ethernet::QINQ, be16(tag[0], tag[1]));
        ethertype = be16(tag[2], tag[3]);
        offset += ethernet::TAG_LEN;
    }
    if ethertype == ethernet::VLAN || ethertype == ethernet::QINQ {
        return Err(Disposition::TooManyTags);
    }
    Ok(Untagged {
        ethertype,
        offset,
        tags,
    })
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
fn read_ipv4(frame: Frame, offset: usize) -> Result<Datagram, Disposition> {
    let ip: &[u8; ipv4::LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    if ip[0] >> 4 != 4 {
        return Err(Disposition::NotIp);
    }
    if ip[9] != udp::PROTOCOL {
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
    let Some(length) = total.checked_sub(ipv4::LEN) else {
        return Err(Disposition::BadLength);
    };
    let destination = ServedKey::v4([ip[16], ip[17], ip[18], ip[19]]);
    Ok(Datagram {
        offset: offset + ipv4::LEN,
        length,
        destination,
    })
}

/// RFC 8200, section 3.
#[inline(always)]
fn read_ipv6(frame: Frame, offset: usize) -> Result<Datagram, Disposition> {
    let ip: &[u8; ipv6::LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    if ip[0] >> 4 != 6 {
        return Err(Disposition::NotIp);
    }
    match ip[6] {
        udp::PROTOCOL => {}
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
        offset: offset + ipv6::LEN,
        length,
        destination,
    })
}

/// RFC 768, and the first octets of RFC 1035, section 4.1.1.
#[inline(always)]
fn claim_udp(frame: Frame, datagram: Datagram, tags: Tags) -> Result<&'static Link, Disposition> {
    let Datagram {
        offset,
        length,
        destination,
    } = datagram;
    let header: &[u8; udp::LEN] = frame.header(offset).ok_or(Disposition::BadLength)?;
    let key = destination.with_port([header[2], header[3]]);
    let links = SERVED.get_ptr(&key).ok_or(Disposition::NotServed)?;
    // SAFETY: the pointer is to a value of the map, in memory that the kernel frees only after the program has ended; a
    // number that userspace replaces meanwhile is the former or the later one.
    let links = unsafe { links.read_volatile() };
    let link = find_link(frame, tags, links).ok_or(Disposition::OtherMac)?;
    let message: &[u8; dns::LEN] = frame
        .header(offset + udp::LEN)
        .ok_or(Disposition::BadLength)?;
    let udp_length: usize = be16(header[4], header[5]).into();
    if udp_length != length || length < udp::LEN + dns::LEN || offset + length > frame.len() {
        return Err(Disposition::BadLength);
    }
    if message[2] & QR != 0 {
        return Err(Disposition::NotQuery);
    }
    Ok(link)
}

/// The link among these, a bit each, that the frame belongs to by its destination MAC address and its tags. In promiscuous
/// mode, or when a switch floods, frames to other hosts arrive, too. A frame whose source is a group address belongs to none: a
/// reply goes to one host (IEEE 802.3, section 3.2.3: the first bit).
#[inline(always)]
fn find_link(frame: Frame, tags: Tags, mut links: u32) -> Option<&'static Link> {
    let source: &[u8; 6] = frame.header(6)?;
    if source[0] & 1 != 0 {
        return None;
    }
    let mac = mac_word(*frame.header(0)?);
    for _ in 0..MAX_LINKS {
        // Mostly there is one.
        if links == 0 {
            break;
        }
        let bit = links & links.wrapping_neg();
        if let Some(link) = LINKS.get(link_entry(bit))
            && link.mac == mac
            && link.tags.accept(tags)
        {
            return Some(link);
        }
        links ^= bit;
    }
    None
}

#[inline(always)]
fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
