//! The Internet checksum (RFC 1071).
//!
//! Sums are kept unfolded in 64 bits, with the carry of each addition added in again, and in
//! little-endian order, which one's complement arithmetic allows (section 2 B and C); only the
//! folded result is a number of the wire.

/// Adds the octets of `data` to `sum`, as 16-bit words, an odd last octet padded with zero.
#[inline]
pub fn add(sum: u64, data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    // Carries gather in the upper half.
    let mut wide = u128::from(sum);
    for word in words {
        wide += u128::from(u64::from_le_bytes(*word));
    }
    wide += u128::from(match data.last_chunk::<8>() {
        // The last eight octets, without those that are in a word already.
        Some(last) if !rest.is_empty() => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
        Some(_) => 0,
        None => short(rest),
    });
    end_around(wide as u64, (wide >> 64) as u64)
}

/// Fewer than eight octets as a word.
fn short(octets: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(octets) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

#[inline]
fn end_around(sum: u64, value: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(value);
    sum + u64::from(carry)
}

/// Adds one 16-bit number of the wire.
#[inline]
pub fn add_u16(sum: u64, value: u16) -> u64 {
    end_around(sum, u64::from(value.swap_bytes()))
}

/// Folds a sum into 16 bits: the wire's octets, not complemented. A correct message, its checksum
/// field included, folds to 0xffff.
#[inline]
pub fn fold(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum as u16).to_le_bytes()
}

/// The checksum field for a sum over a message whose field is zero.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    let [a, b] = fold(sum);
    [!a, !b]
}

/// The checksum field of UDP: a computed zero is sent as all ones (RFC 768; RFC 8200 section 8.1
/// forbids zero over IPv6).
#[inline]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        field => field,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 section 4.1 says it.
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
    }

    #[test]
    fn extremes() {
        assert_eq!(
            fold(add(0, &[0xff; 65_535])),
            plain(&[0xff; 65_535]).to_be_bytes()
        );
        assert_eq!(fold(u64::MAX), [0xff, 0xff]);
        assert_eq!(fold(add(u64::MAX, &[0xff; 16])), [0xff, 0xff]);
        assert_eq!(fold(add_u16(u64::MAX, 1)), [0, 1]);
        assert_eq!(
            finish_udp(add(0, &[0xff, 0xff])),
            [0xff, 0xff],
            "zero is sent as all ones"
        );
    }
}
