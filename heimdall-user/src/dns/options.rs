//! EDNS options of a response, RFC 6891 section 6.1.2: what an upstream says beside the answer.

use core::ops::Range;

use super::{
    QUESTION_FIXED,
    edns::{OPT_LEN, option},
    header::{self, field},
    name::end_of_record_name,
    rrtype, u16_at,
};

/// The data of the first option `code` in the OPT record of `msg`, if it has one that can be read.
pub fn find(msg: &[u8], code: u16) -> Option<&[u8]> {
    find_in(msg.get(opt_record(msg)?)?.get(OPT_LEN..)?, code)
}

/// Where the OPT record of `msg` is, if it has one.
///
/// Each record takes at least 11 octets, so the walk is bounded by the message whatever the
/// counts say.
pub(super) fn opt_record(msg: &[u8]) -> Option<Range<usize>> {
    let count = |at| u16_at(msg, at);
    let mut at = header::LEN;
    for _ in 0..count(field::QDCOUNT)? {
        at = end_of_record_name(msg, at)? + QUESTION_FIXED;
    }
    let before = u32::from(count(field::ANCOUNT)?) + u32::from(count(field::NSCOUNT)?);
    for index in 0..before + u32::from(count(field::ARCOUNT)?) {
        let fixed = end_of_record_name(msg, at)?;
        let next = fixed + 10 + usize::from(u16_at(msg, fixed + 8)?);
        if index >= before && u16_at(msg, fixed)? == rrtype::OPT {
            return Some(fixed - 1..next);
        }
        at = next;
    }
    None
}

fn find_in(mut rdata: &[u8], code: u16) -> Option<&[u8]> {
    while !rdata.is_empty() {
        let end = 4 + usize::from(u16_at(rdata, 2)?);
        let data = rdata.get(4..end)?;
        if u16_at(rdata, 0)? == code {
            return Some(data);
        }
        rdata = rdata.get(end..)?;
    }
    None
}

/// The info-code of the Extended DNS Error that `msg` carries, if it does (RFC 8914 section 2).
pub fn extended_error(msg: &[u8]) -> Option<u16> {
    u16_at(find(msg, option::EDE)?, 0)
}

/// As [`extended_error`], from the data of an OPT record.
pub(super) fn extended_error_in(rdata: &[u8]) -> Option<u16> {
    u16_at(find_in(rdata, option::EDE)?, 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    /// A response with one answer record, and an OPT record of `options`.
    fn response(options: &[u8]) -> Vec<u8> {
        let mut msg = vec![0, 1, 0x80, 2, 0, 1, 0, 1, 0, 0, 0, 1];
        msg.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        msg.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
        msg.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
        msg.extend_from_slice(options);
        msg
    }

    #[test]
    fn finds_an_option_among_others() {
        let msg = response(&[0, 10, 0, 2, 7, 7, 0, 15, 0, 4, 0, 22, b'n', b'o']);
        assert_eq!(find(&msg, 10), Some(&[7, 7][..]));
        assert_eq!(extended_error(&msg), Some(22));
        assert_eq!(find(&msg, option::CLIENT_SUBNET), None);
        assert_eq!(extended_error(&response(&[])), None);
        assert_eq!(extended_error(&response(&[0, 15, 0, 1, 9])), None, "short");
        assert_eq!(extended_error(&response(&[0, 15, 0, 9, 0, 1])), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(at: prop::sample::Index, octet: u8, len: prop::sample::Index) {
            let mut msg = response(&[0, 10, 0, 2, 7, 7, 0, 15, 0, 2, 0, 22]);
            let at = at.index(msg.len());
            msg[at] = octet;
            msg.truncate(len.index(msg.len() + 1));
            let _ = extended_error(&msg);
        }
    }
}
