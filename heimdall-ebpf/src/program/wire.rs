//! Offsets and values of the headers' fields. Offsets are from the start of the header.

/// Ethernet II, and the tags of IEEE 802.1Q and 802.1ad.
pub(super) mod ethernet {
    pub(in crate::program) const LEN: usize = 14;
    pub(in crate::program) const TAG_LEN: usize = 4;
    pub(in crate::program) const DESTINATION: usize = 0;
    pub(in crate::program) const SOURCE: usize = 6;
    /// Tag protocol identifiers, in the place of the type.
    pub(in crate::program) const VLAN: u16 = 0x8100;
    pub(in crate::program) const QINQ: u16 = 0x88a8;
    pub(in crate::program) const IPV4: u16 = 0x0800;
    pub(in crate::program) const IPV6: u16 = 0x86dd;
}

/// RFC 791 section 3.1, without options.
pub(super) mod ipv4 {
    pub(in crate::program) const LEN: usize = 20;
    pub(in crate::program) const TTL: usize = 8;
    pub(in crate::program) const SOURCE: usize = 12;
    pub(in crate::program) const DESTINATION: usize = 16;
    /// Source and destination.
    pub(in crate::program) const ADDRESSES: usize = 12;
}

/// RFC 8200 section 3, without extension headers.
pub(super) mod ipv6 {
    pub(in crate::program) const LEN: usize = 40;
    pub(in crate::program) const SOURCE: usize = 8;
    pub(in crate::program) const DESTINATION: usize = 24;
}

/// RFC 768.
pub(super) mod udp {
    pub(in crate::program) const LEN: usize = 8;
    /// Source and destination.
    pub(in crate::program) const PORTS: usize = 0;
    pub(in crate::program) const DESTINATION_PORT: usize = 2;
    /// Length and checksum.
    pub(in crate::program) const LENGTH: usize = 4;
    /// Its number in an IP header.
    pub(in crate::program) const PROTOCOL: u8 = 17;
}

/// RFC 1035 section 4.1; flags of RFC 4035 section 3.2.
pub(super) mod dns {
    /// Octets of the header.
    pub(in crate::program) const LEN: usize = 12;
    pub(in crate::program) const FLAGS: usize = 2;
    /// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT.
    pub(in crate::program) const COUNTS: usize = 4;
    /// Octets of type and class behind the name of a question.
    pub(in crate::program) const KIND_LEN: usize = 4;

    pub(in crate::program) const QR: u16 = 0x8000;
    pub(in crate::program) const OPCODE: u16 = 0x7800;
    pub(in crate::program) const RD: u16 = 0x0100;
    pub(in crate::program) const RA: u16 = 0x0080;
    pub(in crate::program) const AD: u16 = 0x0020;
    pub(in crate::program) const CD: u16 = 0x0010;
}

/// An OPT record without options, RFC 6891 section 6.1.2:
///
/// ```text
/// | root (1) | type 41 (2) | payload size (2) | rcode (1) | version (1) | DO, Z (2) | RDLENGTH 0 (2) |
/// ```
pub(super) mod opt {
    pub(in crate::program) const LEN: usize = 11;
    /// The record's last four octets: flags and RDLENGTH.
    pub(in crate::program) const FLAGS: usize = 7;
    /// The record's last two octets.
    pub(in crate::program) const RDLENGTH: usize = 9;
    /// The first eight octets, big-endian: root, type, no version, all else zero.
    pub(in crate::program) const BARE: u64 = 41 << 40;
    /// The bits of them that are the same in each record of version 0.
    pub(in crate::program) const FIXED: u64 = 0xffff_ff00_0000_ff00;
    /// Where the payload size is in them.
    pub(in crate::program) const SIZE_SHIFT: u32 = 24;
    /// DO in them.
    pub(in crate::program) const DO: u64 = 0x80;
}
