//! What the program decided about a packet, and why.

/// The program's verdict on one packet, and the index of its counter in the verdicts map.
///
/// [`Verdict::Steered`] goes to the AF_XDP socket of its queue, every other one to the kernel's
/// IP stack. Checks run in the order given here, except that the last four come after
/// [`Verdict::NotServed`], so that they only count packets for Heimdall. The first check that
/// fails names the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Verdict {
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
    /// In a frame that is not sent to the interface's own MAC address, but to another host's, or to
    /// a group. The kernel decides whose it is (`PACKET_OTHERHOST`, macvlan, a router's virtual MAC
    /// address).
    OtherMac,
    /// Lengths disagree: a header is cut short, IP's length is beyond the frame's end, UDP's is
    /// not IP's payload, or there is no room for a DNS header.
    BadLength,
    /// A DNS response (QR = 1).
    NotQuery,
    /// A query for Heimdall on a queue that has no AF_XDP socket.
    NoSocket,
}

impl Verdict {
    /// How many verdicts there are; the size of the verdicts map.
    pub const COUNT: usize = Self::ALL.len();

    /// Every verdict, in the order of its counter.
    pub const ALL: [Self; 12] = [
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
        Self::NoSocket,
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
            Self::NoSocket => "no_socket",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_the_order_of_the_counters() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, index, "{}", verdict.name());
        }
    }
}
