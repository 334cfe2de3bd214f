//! The Internet checksum (RFC 1071), as in `heimdall-user/src/checksum.rs`: sums are kept unfolded in 64 bits
//! and in memory order.

/// The folded sum of a correct packet, its checksum field included.
pub(super) const CORRECT: u16 = 0xffff;

/// The sum of eight octets.
#[inline(always)]
pub(super) const fn of_word(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

/// The sum of a 16-bit number of the wire.
#[inline(always)]
pub(super) const fn of_number(number: u16) -> u64 {
    number.to_be() as u64
}

/// A sum, below 2^56, of octets that begin at `offset` of the whole: at an odd one, the octets of each 16-bit
/// word are swapped.
#[inline(always)]
pub(super) const fn at(offset: usize, sum: u64) -> u64 {
    sum << (8 * (offset & 1))
}

/// The growth of a sum when the 32 bits `old` become `new`.
#[inline(always)]
pub(super) const fn change(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// Folds a sum into 16 bits.
#[inline(always)]
pub(super) const fn fold(sum: u64) -> u16 {
    let sum = of_word(sum);
    // Below 2^33, then 2^18, then at most 2^16 + 2.
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The checksum field of UDP: a computed zero is sent as all ones.
#[inline(always)]
pub(super) const fn finish_udp(sum: u64) -> u16 {
    match !fold(sum) {
        0 => 0xffff,
        field => field,
    }
}
