//! The DNS wire format, read and written in place.
//!
//! The module does no I/O, knows no thread and no clock, and allocates nothing while a query is read
//! or answered. The answer core reads a query through [`DnsPacketView`], and writes the reply over it
//! through [`reply`]; the forwarder writes an `UpstreamQuery` and makes an [`Answer`] of the
//! response, the form in which answers are cached and passed between threads.
//!
//! Every reader takes untrusted octets: lengths are checked where they are read (by the `cursor`,
//! except for the path of a hit), every loop is bounded by the message's length, and nothing panics.

pub(crate) mod aliases;
pub mod answer;
pub mod compose;
mod cursor;
pub mod denial;
pub(crate) mod edns;
pub mod header;
mod letters;
pub mod name;
pub mod options;
mod query;
mod question;
mod record;
pub mod reply;
mod response;
mod subnet;
mod upstream_cookie;
mod upstream_query;
mod view;
mod zone_map;

pub use answer::{Answer, AnswerRef};
use edns::Edns;
pub(crate) use edns::Options;
pub(crate) use letters::Letters;
pub use name::NameHasher;
pub use query::Query;
pub(crate) use query::{KEY_FLAG_CD, KEY_FLAG_DO, key_hash, name_hash, question_hash};
pub(crate) use question::{MAX_QUESTION, QUESTION_FIXED, same_question};
pub use response::{BadResponse, ResponseReader, TtlLimits};
pub(crate) use subnet::ClientSubnet;
pub(crate) use upstream_cookie::{CookieEcho, UpstreamCookie};
pub(crate) use upstream_query::UpstreamQuery;
pub use view::{DnsPacketView, Malformed};
pub(crate) use zone_map::ZoneMap;

/// Reads a big-endian 16-bit field, or `None` past the end.
#[inline]
pub(crate) fn u16_at(msg: &[u8], at: usize) -> Option<u16> {
    msg.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

/// Reads a big-endian 32-bit field, or `None` past the end.
#[inline]
fn u32_at(msg: &[u8], at: usize) -> Option<u32> {
    msg.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Resource record and query types that Heimdall treats specially (IANA, DNS parameters).
pub(crate) mod rrtype {
    /// Reserved; no record has it (RFC 6895 section 3.1).
    pub(crate) const RESERVED: u16 = 0;
    /// IPv4 address (RFC 1035).
    pub(crate) const A: u16 = 1;
    /// Name server (RFC 1035).
    pub(crate) const NS: u16 = 2;
    /// Alias (RFC 1035).
    pub(crate) const CNAME: u16 = 5;
    /// Start of authority (RFC 1035).
    pub(crate) const SOA: u16 = 6;
    /// Pointer from an address to a name (RFC 1035).
    pub(crate) const PTR: u16 = 12;
    /// Host information (RFC 1035), which also answers ANY (RFC 8482).
    pub(crate) const HINFO: u16 = 13;
    /// Text (RFC 1035).
    pub(crate) const TXT: u16 = 16;
    /// IPv6 address (RFC 3596).
    pub(crate) const AAAA: u16 = 28;
    /// Alias of all names below its owner (RFC 6672).
    pub(crate) const DNAME: u16 = 39;
    /// The EDNS pseudo-record (RFC 6891).
    pub(crate) const OPT: u16 = 41;
    /// Digest of a delegated zone's key (RFC 4034).
    pub(crate) const DS: u16 = 43;
    /// Signature (RFC 4034).
    pub(crate) const RRSIG: u16 = 46;
    /// Denial of existence (RFC 4034).
    pub(crate) const NSEC: u16 = 47;
    /// Denial of existence by hashed names (RFC 5155).
    pub(crate) const NSEC3: u16 = 50;
    /// Service binding (RFC 9460).
    pub(crate) const SVCB: u16 = 64;
    /// Service binding for HTTP (RFC 9460).
    pub(crate) const HTTPS: u16 = 65;
    /// TKEY, TSIG, IXFR, AXFR, MAILB, MAILA and [`ANY`], which are not for the records of one
    /// type (RFC 6895 section 3.1).
    pub(crate) const QUERY: core::ops::RangeInclusive<u16> = 249..=255;
    /// All records of a name (RFC 1035 section 3.2.3, RFC 8482).
    pub(crate) const ANY: u16 = 255;
}

/// The Internet class, the only one that is forwarded.
pub(crate) const CLASS_IN: u16 = 1;

/// The Chaos class, of queries about the server itself (RFC 4892).
pub(crate) const CLASS_CH: u16 = 3;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
