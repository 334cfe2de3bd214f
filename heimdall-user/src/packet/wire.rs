//! The headers in front of a DNS message, field by field.

use core::ops::Range;

/// A field of `octets`. `None`: they end before it.
#[inline(always)]
pub(super) fn get<const N: usize>(octets: &[u8], field: Range<usize>) -> Option<&[u8; N]> {
    octets.get(field)?.first_chunk()
}

/// Ethernet II, and the tags of IEEE 802.1Q and 802.1ad that may precede its type:
///
/// ```text
/// | destination (6) | source (6) | [TPID (2) | TCI (2)] × 0–2 | type (2) |
/// ```
pub(super) mod ethernet {
    use core::ops::Range;

    /// Octets without tags.
    pub(in crate::packet) const LEN: usize = 14;
    /// Octets of a tag.
    pub(in crate::packet) const TAG_LEN: usize = 4;
    pub(in crate::packet) const TYPE: Range<usize> = 12..14;

    pub(in crate::packet) const TYPE_IPV4: u16 = 0x0800;
    pub(in crate::packet) const TYPE_IPV6: u16 = 0x86dd;
    /// Tag protocol identifiers, in the place of the type.
    pub(in crate::packet) const TAGS: [u16; 2] = [0x8100, 0x88a8];
    /// In the first octet of a destination: a group of hosts.
    pub(in crate::packet) const GROUP: u8 = 1;
}

/// IPv4 without options, [RFC 791 section 3.1](https://www.rfc-editor.org/rfc/rfc791#section-3.1):
///
/// ```text
///  0               8              16              24            31
/// +-------+-------+---------------+-------------------------------+
/// |Version|  IHL  |Type of Service|         Total Length          |  0
/// |        Identification         |Flags|     Fragment Offset     |  4
/// | Time to Live  |   Protocol    |        Header Checksum        |  8
/// |                        Source Address                         | 12
/// |                      Destination Address                      | 16
/// +---------------------------------------------------------------+
/// ```
pub(super) mod ipv4 {
    use core::ops::Range;

    pub(in crate::packet) const LEN: usize = 20;
    pub(in crate::packet) const VERSION_IHL: Range<usize> = 0..1;
    pub(in crate::packet) const TOTAL_LENGTH: Range<usize> = 2..4;
    pub(in crate::packet) const FRAGMENT: Range<usize> = 6..8;
    pub(in crate::packet) const PROTOCOL: Range<usize> = 9..10;
    pub(in crate::packet) const SOURCE: Range<usize> = 12..16;
    pub(in crate::packet) const ADDRESSES: Range<usize> = 12..20;

    /// Version 4, and five words of header: no options.
    pub(in crate::packet) const WITHOUT_OPTIONS: u8 = 0x45;
    /// In [`FRAGMENT`]: more fragments follow, or it is not the first.
    pub(in crate::packet) const IS_FRAGMENT: u16 = 0x3fff;
    pub(in crate::packet) const DONT_FRAGMENT: u16 = 0x4000;
}

/// IPv6 without extension headers, [RFC 8200 section 3](https://www.rfc-editor.org/rfc/rfc8200#section-3):
///
/// ```text
///  0               8              16              24            31
/// +-------+---------------+---------------------------------------+
/// |Version| Traffic Class |              Flow Label               |  0
/// |        Payload Length         |  Next Header  |   Hop Limit   |  4
/// /                        Source Address                         /  8
/// /                      Destination Address                      / 24
/// +---------------------------------------------------------------+
/// ```
pub(super) mod ipv6 {
    use core::ops::Range;

    pub(in crate::packet) const LEN: usize = 40;
    pub(in crate::packet) const VERSION: Range<usize> = 0..1;
    pub(in crate::packet) const PAYLOAD_LENGTH: Range<usize> = 4..6;
    pub(in crate::packet) const NEXT_HEADER: Range<usize> = 6..7;
    pub(in crate::packet) const SOURCE: Range<usize> = 8..24;
    pub(in crate::packet) const ADDRESSES: Range<usize> = 8..40;
}

/// UDP, [RFC 768](https://www.rfc-editor.org/rfc/rfc768):
///
/// ```text
///  0              15 16             31
/// +-----------------+-----------------+
/// |   Source Port   | Destination Port|  0
/// |     Length      |    Checksum     |  4
/// +-----------------+-----------------+
/// ```
pub(super) mod udp {
    use core::ops::Range;

    pub(in crate::packet) const LEN: usize = 8;
    pub(in crate::packet) const SOURCE_PORT: Range<usize> = 0..2;
    pub(in crate::packet) const LENGTH: Range<usize> = 4..6;
    pub(in crate::packet) const CHECKSUM: Range<usize> = 6..8;

    /// Its number in an IP header.
    pub(in crate::packet) const PROTOCOL: u8 = 17;
}
