//! The Internet checksum (RFC 1071).
//!
//! Sums are kept unfolded in 64 bits and in the machine's own octet order, which one's complement
//! arithmetic allows (section 2 B); only the folded result is a number of the wire.

/// Adds the octets of `data` to `sum`, as 16-bit words, an odd last octet padded with zero.
#[inline]
pub fn add(mut sum: u64, data: &[u8]) -> u64 {
    // Thirty-two-bit additions into 64 bits cannot overflow before 2^32 of them.
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut tail = [0; 4];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    sum + u64::from(u32::from_ne_bytes(tail))
}

/// Adds one 16-bit number of the wire.
#[inline]
pub fn add_u16(sum: u64, value: u16) -> u64 {
    sum + u64::from(value.to_be())
}

/// Folds a sum into 16 bits: the wire's octets, not complemented. A correct message, its checksum
/// field included, folds to 0xffff.
#[inline]
pub fn fold(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum as u16).to_ne_bytes()
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
        assert_eq!(
            finish_udp(add(0, &[0xff, 0xff])),
            [0xff, 0xff],
            "zero is sent as all ones"
        );
    }
}
