//! EDNS(0), RFC 6891: the OPT pseudo-record of section 6.1.2.
//!
//! ```text
//! NAME  root (one zero octet)      TYPE  41
//! CLASS requestor's UDP payload size
//! TTL   EXTENDED-RCODE (8) | VERSION (8) | DO (1) | Z (15)
//! RDLEN, RDATA {option code, length, data} …
//! ```

use super::{rrtype, u16_at, u32_at};

/// Octets of an OPT record without options, its root owner included.
pub const OPT_LEN: usize = 11;

/// The DO bit, as it stands in the TTL field (RFC 3225).
const DO: u32 = 0x0000_8000;

/// Info-codes of Extended DNS Errors (RFC 8914 section 4) that Heimdall gives.
pub mod ede {
    /// The answer's life is over, and no upstream gave a newer one.
    pub const STALE: u16 = 3;
    /// The failure is remembered: no upstream was asked now.
    pub const CACHED_ERROR: u16 = 13;
    /// The name is on a blocklist.
    pub const BLOCKED: u16 = 15;
    /// The client may not ask here.
    pub const PROHIBITED: u16 = 18;
    /// As [`STALE`], for a name that did not exist.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// The kind of question is not supported.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No upstream gave an answer.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// No upstream could be reached.
    pub const NETWORK_ERROR: u16 = 23;
}

/// What a query's OPT record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The requestor's UDP payload size in octets; values below 512 count as 512.
    pub udp_size: u16,
    /// EDNS version; anything but 0 is answered BADVERS.
    pub version: u8,
    /// The requestor wants DNSSEC records (DO).
    pub dnssec_ok: bool,
}

impl Edns {
    /// Reads an OPT record from its TYPE field at `at`; `rdata` is its options.
    ///
    /// Returns `None` if an option's length runs past the record. Options themselves are not
    /// interpreted (section 6.1.2: unknown options are ignored).
    pub(super) fn read(msg: &[u8], at: usize, mut rdata: &[u8]) -> Option<Self> {
        while !rdata.is_empty() {
            let len = usize::from(u16_at(rdata, 2)?);
            rdata = rdata.get(4 + len..)?;
        }
        let ttl = u32_at(msg, at + 4)?;
        let [_, version, _, _] = ttl.to_be_bytes();
        Some(Self {
            udp_size: u16_at(msg, at + 2)?.max(512),
            version,
            dnssec_ok: ttl & DO != 0,
        })
    }

    /// The OPT record of a message of ours: our payload size, the upper bits of `rcode`, the DO
    /// bit as the requestor set it (RFC 3225 section 3), no options.
    pub fn write(udp_size: u16, rcode: u8, dnssec_ok: bool) -> [u8; OPT_LEN] {
        let [size_high, size_low] = udp_size.to_be_bytes();
        let [_, opt] = rrtype::OPT.to_be_bytes();
        let flags = if dnssec_ok { 0x80 } else { 0 };
        [
            0,
            0,
            opt,
            size_high,
            size_low,
            rcode >> 4,
            0,
            flags,
            0,
            0,
            0,
        ]
    }
}
