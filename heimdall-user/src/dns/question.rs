//! The question, [RFC 1035 section 4.1.2](https://www.rfc-editor.org/rfc/rfc1035#section-4.1.2):
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! /                     QNAME                     /  uncompressed, 1 to 255 octets
//! |                     QTYPE                     |
//! |                     QCLASS                    |
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use super::name::{MAX_NAME, eq_ignore_case};

/// Octets of the type and class that follow the name.
pub(crate) const QUESTION_FIXED: usize = 4;

/// Longest question on the wire: a 255-octet name, its type and its class.
pub(crate) const MAX_QUESTION: usize = MAX_NAME + QUESTION_FIXED;

/// Whether two questions are the same except for the name case. Type and class are not
/// folded: type 0x41 is not type 0x61.
#[inline(never)]
pub(crate) fn same_question(a: &[u8], b: &[u8]) -> bool {
    match (
        a.last_chunk::<QUESTION_FIXED>(),
        b.last_chunk::<QUESTION_FIXED>(),
    ) {
        (Some(a_fixed), Some(b_fixed)) => a_fixed == b_fixed && eq_ignore_case(a, b),
        _ => false,
    }
}
