//! The reply, written over the query: octet for octet what `heimdall-user/src/dns/reply.rs` and
//! `heimdall-user/src/packet/reply.rs` write.
//!
//! The ID and the question stay where they are, in the client's letter case. The checksum is put together from the
//! sums of the parts; no octet is read back.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use heimdall_ebpf::tier::{Config, MAX_BODY};

use super::{
    super::{
        checksum,
        frame::Frame,
        steering::Claimed,
        wire::{dns, ipv4, ipv6, opt, udp},
    },
    lookup::Held,
    query::Query,
};

/// Time to live, or hop limit, of replies.
const TTL: u8 = 64;

/// Sums that are known from the query.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Of the IP header's addresses.
    pub(super) addresses: u64,
    /// Of the question.
    pub(super) question: u64,
}

/// Writes the reply into a frame of its length.
#[inline(always)]
pub(super) fn write(
    ctx: &XdpContext,
    packet: Claimed,
    query: &Query,
    held: Held,
    config: &Config,
    age: u32,
    sums: Sums,
) -> Option<()> {
    copy_body(Frame::of(ctx), query, held)?;
    let aged = if age > 0 {
        age_ttls(body(Frame::of(ctx), query, held), held, age)?
    } else {
        0
    };
    let body_sum = u64::from(held.entry.body_sum) + aged;
    let frame = Frame::of(ctx);
    let mut sum = sums.question + checksum::at(held.name_len(), body_sum);
    let mut end = body_at(query, held) + held.body_len()?;
    sum += write_header(frame, packet.dns(), query, held, config)?;
    if query.opt.is_some() {
        let record = write_opt(frame.from(end), query.dnssec_ok(), config.udp_size as u16)?;
        sum += checksum::at(held.name_len() + held.body_len()?, record);
        end += opt::LEN;
    }
    let udp_len = (end - packet.udp()) as u16;
    write_udp(frame, packet.udp(), udp_len, sums.addresses + sum)?;
    if packet.v4 {
        write_ipv4(frame, packet.ip, udp_len)?;
    } else {
        write_ipv6(frame, packet.ip, udp_len)?;
    }
    swap_macs(frame)
}

/// Offset of the body in the frame.
#[inline(always)]
fn body_at(query: &Query, held: Held) -> usize {
    query.name + held.name_len() + dns::KIND_LEN
}

/// The frame from the body on.
#[inline(always)]
fn body(frame: Frame, query: &Query, held: Held) -> Frame {
    frame.from(body_at(query, held))
}

/// Copies the body into the frame: whole words, then the last eight octets.
#[inline(always)]
fn copy_body(frame: Frame, query: &Query, held: Held) -> Option<()> {
    let octets = held.entry.body.as_ptr();
    // SAFETY: `offset` is at most `MAX_BODY` less eight.
    let word = |offset: usize| unsafe { ptr::read_unaligned(octets.add(offset).cast::<u64>()) };
    let len = held.body_len()?;
    let to = body(frame, query, held);
    for index in 0..MAX_BODY / 8 {
        let offset = 8 * index;
        if len < offset + 8 {
            break;
        }
        to.store(offset, word(offset))?;
    }
    let last = held.body_len()?.checked_sub(8)?;
    // From the frame's start again, as what is known of `to` depends on the number of rounds.
    body(frame, query, held).from(last).store(0, word(last))
}

/// Lowers the TTLs in the copy of the body by `age` seconds, to 0 at least. Returns what the body's sum grows by.
#[inline(always)]
fn age_ttls(copy: Frame, held: Held, age: u32) -> Option<u64> {
    let entry = held.entry;
    let mut growth = 0;
    for (index, offset) in entry.ttl_offsets.iter().enumerate() {
        if index >= usize::from(entry.ttl_count) {
            break;
        }
        let offset = usize::from(*offset);
        if offset > MAX_BODY - 4 {
            return None;
        }
        // SAFETY: four octets from `offset` on are within the body.
        let old = unsafe { ptr::read_unaligned(entry.body.as_ptr().add(offset).cast::<u32>()) };
        let new = u32::from_be(old).saturating_sub(age).to_be();
        copy.from(offset).store(0, new)?;
        growth += checksum::at(offset, checksum::change(old, new));
    }
    Some(growth)
}

/// Writes the header but for its ID, and returns its sum.
#[inline(always)]
fn write_header(
    frame: Frame,
    message: usize,
    query: &Query,
    held: Held,
    config: &Config,
) -> Option<u64> {
    let entry = held.entry;
    let mut flags = dns::QR | dns::RA | query.flags & (dns::RD | dns::CD) | u16::from(entry.rcode);
    // AD only for clients that requested it (RFC 6840 section 5.8).
    let wants_ad = query.flags & dns::AD != 0 || query.dnssec_ok();
    if wants_ad && entry.authentic != 0 && config.flags & Config::TRUST_AD != 0 {
        flags |= dns::AD;
    }
    let [answers, authorities, additionals] = entry.counts.map(u64::from);
    let additionals = additionals + u64::from(query.opt.is_some());
    let counts = 1 << 48 | answers << 32 | authorities << 16 | additionals;
    frame.store(message + dns::FLAGS, flags.to_be())?;
    frame.store(message + dns::COUNTS, counts.to_be())?;
    let id: u16 = frame.load(message)?;
    Some(u64::from(id) + checksum::of_number(flags) + checksum::of_word(counts.to_be()))
}

/// Writes the OPT record at the start of `to`, and returns its sum.
#[inline(always)]
fn write_opt(to: Frame, dnssec_ok: bool, udp_size: u16) -> Option<u64> {
    let flags = if dnssec_ok { opt::DO } else { 0 };
    let first = (opt::BARE | u64::from(udp_size) << opt::SIZE_SHIFT | flags).to_be();
    to.store(0, first)?;
    // The first of these four octets is among the eight. The others are zero.
    to.store(opt::FLAGS, ((flags as u32) << 24).to_be())?;
    Some(checksum::of_word(first))
}

/// Swaps the ports, and writes length and checksum. `sum` is that of the message and the addresses.
#[inline(always)]
fn write_udp(frame: Frame, at: usize, udp_len: u16, sum: u64) -> Option<()> {
    let ports: u32 = frame.load(at + udp::PORTS)?;
    // The length is in the header and in the pseudo-header.
    let length = checksum::of_number(udp_len);
    let pseudo = checksum::of_number(udp::PROTOCOL.into()) + length;
    let field = checksum::finish_udp(sum + pseudo + length + u64::from(ports));
    frame.store(at + udp::PORTS, ports.rotate_left(16))?;
    frame.store(at + udp::LENGTH, u32::from(field) << 16 | length as u32)
}

/// Swaps the addresses, and writes the fields before them.
///
/// A packet that is never fragmented needs no identification (RFC 6864 section 4.1).
#[inline(always)]
fn write_ipv4(frame: Frame, ip: usize, udp_len: u16) -> Option<()> {
    // Version and IHL, no type of service; no identification; Don't Fragment.
    const FIRST: u64 = 0x45 << 56 | 0x4000;
    const TTL_PROTOCOL: u16 = (TTL as u16) << 8 | udp::PROTOCOL as u16;
    let len = ipv4::LEN as u64 + u64::from(udp_len);
    let first = (FIRST | len << 32).to_be();
    let addresses: u64 = frame.load(ip + ipv4::ADDRESSES)?;
    let words = checksum::of_word(first) + checksum::of_word(addresses);
    let field = !checksum::fold(words + checksum::of_number(TTL_PROTOCOL));
    frame.store(ip, first)?;
    let ttl = u32::from(field) << 16 | u32::from(TTL_PROTOCOL.to_be());
    frame.store(ip + ipv4::TTL, ttl)?;
    frame.store(ip + ipv4::ADDRESSES, addresses.rotate_left(32))
}

/// Swaps the addresses, and writes the fields before them.
#[inline(always)]
fn write_ipv6(frame: Frame, ip: usize, udp_len: u16) -> Option<()> {
    // Version 6, no traffic class, no flow label.
    const FIRST: u64 = 0x60 << 56 | (udp::PROTOCOL as u64) << 8 | TTL as u64;
    frame.store(ip, (FIRST | u64::from(udp_len) << 16).to_be())?;
    let swap = |word: usize| {
        let source = ip + ipv6::SOURCE + 8 * word;
        let destination = ip + ipv6::DESTINATION + 8 * word;
        let (from, to): (u64, u64) = (frame.load(source)?, frame.load(destination)?);
        frame.store(source, to)?;
        frame.store(destination, from)
    };
    swap(0)?;
    swap(1)
}

/// Swaps the addresses of the Ethernet header: six octets and six octets, as words of eight and four.
#[inline(always)]
fn swap_macs(frame: Frame) -> Option<()> {
    const SIX: u64 = 0xffff_ffff_ffff;
    let (first, last): (u64, u32) = (frame.load(0)?, frame.load(8)?);
    let destination = first & SIX;
    let source = first >> 48 | u64::from(last) << 16;
    frame.store(0, source | destination << 48)?;
    frame.store(8, (destination >> 16) as u32)
}
