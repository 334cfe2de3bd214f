//! What the echo and its XDP programs agree on.
#![no_std]

/// Name of the program that steers queries to the AF_XDP sockets.
pub const STEER: &str = "echo_steer";

/// Name of the program that answers queries itself.
pub const TX: &str = "echo_tx";

/// Name of the XSKMAP: receive queue index → AF_XDP socket.
pub const SOCKETS_MAP: &str = "SOCKETS";

/// Most receive queues that can be steered; the size of [`SOCKETS_MAP`].
pub const MAX_QUEUES: u32 = 64;

/// Octets up to the end of the DNS header: Ethernet, IPv4, UDP, DNS.
pub const HEADERS: usize = 14 + 20 + 8 + 12;

/// Whether it is a DNS query over UDP to port 53 in IPv4 without options.
#[inline(always)]
pub fn is_query(packet: &[u8; HEADERS]) -> bool {
    // Ethertype; IP version and header length; protocol (RFC 791, 3.1); QR, so that no loop can start.
    packet[12..14] == [0x08, 0x00]
        && packet[14] == 0x45
        && packet[23] == 17
        && packet[36..38] == [0, 53]
        && packet[44] & 0x80 == 0
}

/// Makes a reply of a query by its addresses, its ports and its QR bit. It has no UDP checksum (RFC 768).
#[inline(always)]
pub fn make_reply(packet: &mut [u8; HEADERS]) {
    let before = *packet;
    packet[..6].copy_from_slice(&before[6..12]);
    packet[6..12].copy_from_slice(&before[..6]);
    packet[26..30].copy_from_slice(&before[30..34]);
    packet[30..34].copy_from_slice(&before[26..30]);
    packet[34..36].copy_from_slice(&before[36..38]);
    packet[36..38].copy_from_slice(&before[34..36]);
    packet[40..42].fill(0);
    packet[44] |= 0x80;
}
