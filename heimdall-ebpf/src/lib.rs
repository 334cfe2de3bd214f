//! The map layouts that the XDP program (`main.rs`) and userspace share.
//!
//! The program looks up in [`SERVED`] where a query goes, redirects it to the AF_XDP socket that
//! [`SOCKETS`] has for its queue, and counts what it did in [`VERDICTS`].
#![no_std]

/// Name of the program in the object.
pub const PROGRAM: &str = "heimdall";

/// Name of the hash map of [`Served`] endpoints. Its values mean nothing.
pub const SERVED: &str = "SERVED";
/// Endpoints that the map holds at most.
pub const MAX_SERVED: u32 = 4096;

/// Name of the XSKMAP: queue to AF_XDP socket.
pub const SOCKETS: &str = "SOCKETS";
/// Queues of an interface that can have a socket.
pub const MAX_QUEUES: u32 = 1024;

/// Name of the per-CPU array of counters, indexed by [`Verdict`].
pub const VERDICTS: &str = "VERDICTS";

/// A destination address and port that is served: the key of [`SERVED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Served {
    /// The address; an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
    pub address: [u8; 16],
    /// The port, in network order.
    pub port: [u8; 2],
    /// Zero: the kernel compares keys octet by octet.
    pub zero: [u8; 2],
}

impl Served {
    /// An IPv4 endpoint.
    #[inline(always)]
    pub const fn v4(address: [u8; 4], port: [u8; 2]) -> Self {
        let [a, b, c, d] = address;
        Self::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port)
    }

    /// An IPv6 endpoint.
    #[inline(always)]
    pub const fn v6(address: [u8; 16], port: [u8; 2]) -> Self {
        Self {
            address,
            port,
            zero: [0; 2],
        }
    }
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What the program made of a packet. All but the first leave it to the kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict { $($(#[$doc])* $variant,)* }

        impl Verdict {
            /// Every verdict, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The verdict's name in statistics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

verdicts! {
    /// A DNS query to a served endpoint, given to the queue's AF_XDP socket.
    Steered = "steered",
    /// The same, but the queue has no socket.
    NoSocket = "no_socket",
    /// Neither IPv4 nor IPv6, behind no more than two VLAN tags.
    NotIp = "not_ip",
    /// IPv4 with options.
    Ipv4Options = "ipv4_options",
    /// A fragment of an IPv4 packet.
    Fragment = "fragment",
    /// Not UDP; over IPv6, that includes every extension header.
    NotUdp = "not_udp",
    /// An address and port that is not served.
    NotServed = "not_served",
    /// A DNS response (QR=1).
    Response = "response",
    /// Lengths that contradict one another, or no room for a DNS header.
    BadLength = "bad_length",
}

/// Counters in [`VERDICTS`].
pub const VERDICT_COUNT: u32 = Verdict::ALL.len() as u32;
