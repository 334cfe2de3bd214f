//! The message header, [RFC 1035 section 4.1.1](https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1),
//! with the AD and CD bits of [RFC 4035 section 3.2](https://www.rfc-editor.org/rfc/rfc4035#section-3.2):
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! |                      ID                       |  0
//! |QR|   OPCODE  |AA|TC|RD|RA| Z|AD|CD|   RCODE   |  2
//! |                    QDCOUNT                    |  4
//! |                    ANCOUNT                    |  6
//! |                    NSCOUNT                    |  8
//! |                    ARCOUNT                    | 10
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use super::u16_at;

/// Octets of the header.
pub(crate) const LEN: usize = 12;

/// A header's fields except for the ID.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) flags: u16,
    /// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT.
    pub(super) counts: [u16; 4],
}

impl Header {
    /// `None`: the message is shorter than a header.
    pub(super) fn read(msg: &[u8]) -> Option<Self> {
        let header: &[u8; LEN] = msg.first_chunk()?;
        Some(Self {
            flags: u16_at(header, field::FLAGS)?,
            counts: [
                u16_at(header, field::QDCOUNT)?,
                u16_at(header, field::ANCOUNT)?,
                u16_at(header, field::NSCOUNT)?,
                u16_at(header, field::ARCOUNT)?,
            ],
        })
    }
}

/// Offsets of the header's fields.
pub(crate) mod field {
    /// Transaction ID.
    pub(crate) const ID: usize = 0;
    /// Flags, opcode and response code.
    pub(crate) const FLAGS: usize = 2;
    /// Entries in the question section.
    pub(crate) const QDCOUNT: usize = 4;
    /// Entries in the answer section.
    pub(crate) const ANCOUNT: usize = 6;
    /// Entries in the authority section.
    pub(super) const NSCOUNT: usize = 8;
    /// Entries in the additional section.
    pub(super) const ARCOUNT: usize = 10;
}

/// This message is a response.
pub(crate) const QR: u16 = 0x8000;
/// Mask of the opcode.
pub(crate) const OPCODE: u16 = 0x7800;
/// The reply is truncated.
pub(crate) const TC: u16 = 0x0200;
/// Recursion is desired.
pub(crate) const RD: u16 = 0x0100;
/// Recursion is available.
pub(super) const RA: u16 = 0x0080;
/// The data are authentic (RFC 4035, RFC 6840 section 5.7).
pub(super) const AD: u16 = 0x0020;
/// Checking is disabled (RFC 4035).
pub(super) const CD: u16 = 0x0010;
/// Mask of the response code.
pub(crate) const RCODE: u16 = 0x000f;

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub mod rcode {
    /// No error.
    pub const NOERROR: u8 = 0;
    /// The query could not be read.
    pub(crate) const FORMERR: u8 = 1;
    /// The server could not get an answer.
    pub(crate) const SERVFAIL: u8 = 2;
    /// The name does not exist.
    pub(crate) const NXDOMAIN: u8 = 3;
    /// The kind of query is not supported.
    pub(crate) const NOTIMP: u8 = 4;
    /// The server refuses to answer.
    pub(crate) const REFUSED: u8 = 5;
    /// A DNAME record leads to a name that is too long (RFC 6672 section 2.2).
    pub(crate) const YXDOMAIN: u8 = 6;
    /// Those of a server that has no answer, where another may have one.
    pub(in crate::dns) const FAILURES: [u8; 4] = [FORMERR, SERVFAIL, NOTIMP, REFUSED];
    /// The EDNS version is not supported; its upper eight bits travel in the OPT record.
    pub(crate) const BADVERS: u8 = 16;
    /// The server wants a cookie of its own first (RFC 7873); extended as BADVERS is.
    pub(crate) const BADCOOKIE: u8 = 23;
}
