//! The Internet checksum ([RFC 1071](https://www.rfc-editor.org/rfc/rfc1071)): of packets, and of the
//! parts of answers in advance.
//!
//! Sums are kept unfolded in 64 bits and in native byte order, which one's complement
//! arithmetic allows (section 2 B); only the folded result is in network byte order.

/// The folded sum of a correct message, its checksum field included.
pub(crate) const CORRECT: [u8; 2] = [0xff; 2];

/// Adds the octets of `data` to `sum`, as 16-bit words, an odd last octet padded with zero. They
/// begin at an even offset; for odd ones see `at`.
#[inline(always)]
pub fn add(sum: u64, data: &[u8]) -> u64 {
    let (words, _) = data.as_chunks::<8>();
    let total = words.iter().fold(u128::from(tail(data)), |total, word| {
        total + u128::from(u64::from_ne_bytes(*word))
    });
    let (carries, low) = ((total >> 64) as u64, total as u64);
    // 32-bit numbers: fewer than 2^32 of them cannot overflow 64 bits.
    sum + carries + (low >> 32) + (low & 0xffff_ffff)
}

/// The sum of a header whose size is known when this is compiled, a multiple of four.
#[inline(always)]
pub(crate) fn of_words<const N: usize>(header: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(4)) }
    let (words, _) = header.as_chunks::<4>();
    (words.iter()).fold(0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)))
}

/// The octets after the last whole eight, padded with zeros. They are taken from the last eight of
/// all: no branch depends on how many they are.
#[inline(always)]
fn tail(data: &[u8]) -> u64 {
    let Some(last) = data.last_chunk() else {
        return short(data);
    };
    let left = 8 * (data.len() as u32 % 8);
    // In two shifts, the first by one bit: a single one could be by 64, which is not defined.
    (u64::from_le_bytes(*last) >> 1 >> (63 - left)).to_le()
}

/// Fewer than eight octets, padded with zeros.
#[cold]
fn short(data: &[u8]) -> u64 {
    let mut padded = [0; 8];
    for (to, from) in padded.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_ne_bytes(padded)
}

/// A sum of octets that begin at `offset` of the whole: at an odd one, the octets of each word are
/// swapped (section 2 B), as a shift by eight bits does. `sum` is below 2^56.
#[inline(always)]
pub(crate) fn at(offset: usize, sum: u64) -> u64 {
    sum << (8 * (offset & 1))
}

/// The growth of a sum when the 32 bits `old` become `new`, both in memory order.
#[inline(always)]
pub(crate) fn change(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// Adds one 16-bit number of the wire.
#[inline(always)]
pub fn add_u16(sum: u64, value: u16) -> u64 {
    sum + u64::from(value.to_be())
}

/// Folds a sum into 16 bits: the wire's octets, not complemented.
#[inline(always)]
pub fn fold(sum: u64) -> [u8; 2] {
    folded(sum).to_ne_bytes()
}

#[inline(always)]
fn folded(sum: u64) -> u16 {
    // A number and its halves swapped: the upper half of their sum has the lower's carry.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum field for a sum over a message whose field is zero.
#[inline(always)]
pub fn finish(sum: u64) -> [u8; 2] {
    (!folded(sum)).to_ne_bytes()
}

/// The checksum field of UDP: a computed zero is sent as all ones (RFC 768; RFC 8200 section 8.1
/// forbids zero over IPv6).
#[inline(always)]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    let field = match !folded(sum) {
        0 => 0xffff,
        field => field,
    };
    field.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as in RFC 1071 section 4.1.
    fn plain(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([
                pair.first().copied().unwrap_or_default(),
                low,
            ]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_sum(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(u16::from_be_bytes(fold(add(0, &data))), plain(&data));
        }

        #[test]
        fn sums_can_be_added_up(a in prop::collection::vec(any::<[u8; 2]>(), 0..50), b: Vec<u8>, c: u16) {
            let a = a.concat();
            let whole = [&a[..], &c.to_be_bytes(), &b].concat();
            let parts = add(add_u16(add(0, &a), c), &b);
            prop_assert_eq!(fold(parts), fold(add(0, &whole)));
        }

        #[test]
        fn parts_may_begin_anywhere(a: Vec<u8>, b: Vec<u8>) {
            let sum = add(0, &a) + at(a.len(), add(0, &b));
            prop_assert_eq!(fold(sum), fold(add(0, &[a, b].concat())));
        }

        #[test]
        fn changes_add_up(mut data in prop::collection::vec(any::<u8>(), 4..100), at: prop::sample::Index, new: [u8; 4]) {
            let offset = at.index(data.len() - 3);
            let before = add(0, &data);
            let field = data.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<4>()).expect("four octets");
            let changed = change(u32::from_ne_bytes(*field), u32::from_ne_bytes(new));
            *field = new;
            let after = fold(add(0, &data));
            // Zero has two forms.
            let same = |sum| u16::from_ne_bytes(sum) % 0xffff;
            prop_assert_eq!(same(fold(before + super::at(offset, changed))), same(after));
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(
            fold(add(0, &[0xff; 65_535])),
            plain(&[0xff; 65_535]).to_be_bytes()
        );
        assert_eq!(fold(u64::MAX), [0xff, 0xff]);
        assert_eq!(
            finish_udp(add(0, &[0xff, 0xff])),
            [0xff, 0xff],
            "zero is sent as all ones"
        );
    }
}
