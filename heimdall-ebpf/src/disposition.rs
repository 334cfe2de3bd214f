//! What the program did with a packet, and why.

/// What the program did with a packet, and why: the index of a counter in the counters map.
///
/// [`Disposition::Answered`] goes back to its sender, [`Disposition::Steered`] to the AF_XDP socket of its queue, every
/// other one to the kernel's IP stack. Checks run in the order given here, and the first that fails is counted. The last eight
/// count only packets to served addresses, apart from headers that are cut short
/// ([`Disposition::BadLength`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Disposition {
    /// Handed to the queue's AF_XDP socket.
    Steered,
    /// Neither IPv4 nor IPv6 (ARP, LLDP, …), or too short to tell.
    NotIp,
    /// More than two VLAN tags.
    TooManyTags,
    /// Not UDP: TCP, ICMP, …
    NotUdp,
    /// UDP over IPv4 with options (IHL > 5).
    Ipv4Options,
    /// A fragment: UDP over IPv4 with MF or an offset, or an IPv6 Fragment header.
    Fragment,
    /// IPv6 with an extension header other than Fragment ahead of what it carries.
    Ipv6Extension,
    /// Destination address and port are not in the served map.
    NotServed,
    /// The frame belongs to no link at which the address is served: its destination is another MAC address, or a group, or
    /// it is in another VLAN; or its source is a group. The kernel decides what happens to it (`PACKET_OTHERHOST`, a router's virtual MAC address).
    OtherMac,
    /// Lengths disagree: a header is cut short, IP's length is beyond the frame's end, UDP's is
    /// not IP's payload, or there is no room for a DNS header.
    BadLength,
    /// A DNS response (QR = 1).
    NotQuery,
    /// A query in a packet of more than [`MAX_STEERED`](crate::MAX_STEERED) octets, or in several buffers.
    TooLong,
    /// Its reply would leave by another interface, or there is no route to the sender. Only if routes are looked up.
    OtherRoute,
    /// The kernel is to find the next hop's MAC address, or to confirm it. Only if routes are looked up.
    Neighbour,
    /// A query to a served address on a queue without an AF_XDP socket.
    NoSocket,
    /// Answered by the hot tier.
    Answered,
}

impl Disposition {
    /// Their number; the size of the counters map.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their counters.
    pub const ALL: [Self; 16] = [
        Self::Steered,
        Self::NotIp,
        Self::TooManyTags,
        Self::NotUdp,
        Self::Ipv4Options,
        Self::Fragment,
        Self::Ipv6Extension,
        Self::NotServed,
        Self::OtherMac,
        Self::BadLength,
        Self::NotQuery,
        Self::TooLong,
        Self::OtherRoute,
        Self::Neighbour,
        Self::NoSocket,
        Self::Answered,
    ];

    /// The name in statistics and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::NotIp => "not_ip",
            Self::TooManyTags => "too_many_tags",
            Self::NotUdp => "not_udp",
            Self::Ipv4Options => "ipv4_options",
            Self::Fragment => "fragment",
            Self::Ipv6Extension => "ipv6_extension",
            Self::NotServed => "not_served",
            Self::OtherMac => "other_mac",
            Self::BadLength => "bad_length",
            Self::NotQuery => "not_query",
            Self::TooLong => "too_long",
            Self::OtherRoute => "other_route",
            Self::Neighbour => "neighbour",
            Self::NoSocket => "no_socket",
            Self::Answered => "answered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_the_order_of_the_counters() {
        for (index, disposition) in Disposition::ALL.into_iter().enumerate() {
            assert_eq!(disposition as usize, index, "{}", disposition.name());
        }
    }
}
