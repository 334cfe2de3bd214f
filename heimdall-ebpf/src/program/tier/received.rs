//! The packet as it was received: its sender, and whether it arrived intact.

use core::ops::Deref;

use aya_ebpf::maps::lpm_trie;
use heimdall_ebpf::tier::ClientKey;

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

/// A key on the stack, where the verifier requires that words are aligned: aya's type is packed.
#[repr(C, align(8))]
pub(super) struct Aligned(lpm_trie::Key<ClientKey>);

impl Deref for Aligned {
    type Target = lpm_trie::Key<ClientKey>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The sender's address as the key of a look-up.
#[inline(always)]
pub(super) fn client(frame: Frame, packet: Claimed) -> Option<Aligned> {
    let (bits, key) = if packet.v4 {
        let source: u32 = frame.load(packet.ip + ipv4::SOURCE)?;
        (32, [4, source, 0, 0, 0])
    } else {
        let at = packet.ip + ipv6::SOURCE;
        let load = |word: usize| frame.load::<u32>(at + 4 * word);
        (128, [6, load(0)?, load(1)?, load(2)?, load(3)?])
    };
    Some(Aligned(lpm_trie::Key::new(
        ClientKey::VERSION_BITS + bits,
        ClientKey(key),
    )))
}

/// The sender's port, in memory order.
#[inline(always)]
pub(super) fn source_port(frame: Frame, packet: Claimed) -> Option<u16> {
    frame.load(packet.udp() + udp::PORTS)
}

/// The sum of the IP header's addresses.
#[inline(always)]
pub(super) fn addresses_sum(frame: Frame, packet: Claimed) -> Option<u64> {
    if packet.v4 {
        return frame
            .load(packet.ip + ipv4::ADDRESSES)
            .map(checksum::of_word);
    }
    // Not as a loop, of which the compiler would make comparisons that the verifier does not know.
    let sum = |word: usize| {
        frame
            .load(packet.ip + ipv6::SOURCE + 8 * word)
            .map(checksum::of_word)
    };
    Some(sum(0)? + sum(1)? + sum(2)? + sum(3)?)
}

/// Checks the IPv4 header's checksum, and UDP's: right, absent where it may be (IPv4), or partial. `None`: one is
/// wrong.
///
/// A sender on this host (veth) leaves the checksum to a device that the packet never reaches: the field then
/// holds the sum of the pseudo-header alone (Linux `CHECKSUM_PARTIAL`, skbuff.h).
#[inline(always)]
pub(super) fn check(
    frame: Frame,
    packet: Claimed,
    query: &Query,
    held: Held,
    addresses: u64,
    question: u64,
) -> Option<()> {
    if packet.v4 && checksum::fold(ipv4_header_sum(frame, packet.ip)?) != checksum::CORRECT {
        return None;
    }
    let header: u64 = frame.load(packet.udp())?;
    let field = (header >> 48) as u16;
    if field == 0 {
        return packet.v4.then_some(());
    }
    let length = (header >> 32) as u16;
    let pseudo = addresses + checksum::of_number(udp::PROTOCOL.into()) + u64::from(length);
    let opt = match query.opt {
        Some(first) => opt_sum(frame, packet, held, first)?,
        None => 0,
    };
    let message = dns_header_sum(frame, packet.dns())? + question + opt;
    let sum = pseudo + checksum::of_word(header) + message;
    (checksum::fold(sum) == checksum::CORRECT || checksum::fold(pseudo) == field).then_some(())
}

#[inline(always)]
fn ipv4_header_sum(frame: Frame, ip: usize) -> Option<u64> {
    let sum = checksum::of_word(frame.load(ip)?) + checksum::of_word(frame.load(ip + 8)?);
    Some(sum + u64::from(frame.load::<u32>(ip + 16)?))
}

#[inline(always)]
fn dns_header_sum(frame: Frame, message: usize) -> Option<u64> {
    let first: u32 = frame.load(message)?;
    let counts = frame.load(message + dns::COUNTS)?;
    Some(u64::from(first) + checksum::of_word(counts))
}

/// The sum of the query's OPT record, of which `first` are the first eight octets, big-endian.
#[inline(always)]
fn opt_sum(frame: Frame, packet: Claimed, held: Held, first: u64) -> Option<u64> {
    let offset = dns::LEN + held.name_len() + dns::KIND_LEN;
    let last: u32 = frame.from(packet.dns() + offset).load(opt::FLAGS)?;
    // The first of these four octets is among the eight.
    let sum = checksum::of_word(first.to_be()) + u64::from(last >> 8);
    Some(checksum::at(offset, sum))
}
