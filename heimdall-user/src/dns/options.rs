//! EDNS options, [RFC 6891 section 6.1.2](https://www.rfc-editor.org/rfc/rfc6891#section-6.1.2): the
//! data of an OPT record.
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! |                  OPTION-CODE                  |
//! |                 OPTION-LENGTH                 |
//! /                  OPTION-DATA                  /
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use core::{iter, time::Duration};

use super::{
    cursor::Cursor,
    edns::option,
    header::{self, Header},
    record::{Record, Records, Section},
    rrtype, u16_at,
};

/// An option.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdnsOption<'a> {
    pub(super) code: u16,
    /// Offset of its data in the message.
    pub(super) at: usize,
    pub(super) data: &'a [u8],
}

/// The options in the data of an OPT record. `None` is given for one that runs past the record,
/// and is the last.
pub(super) fn in_record(rdata: Cursor<'_>) -> impl Iterator<Item = Option<EdnsOption<'_>>> {
    let mut left = Some(rdata);
    iter::from_fn(move || {
        let mut cursor = left.take().filter(|cursor| !cursor.is_empty())?;
        let option = read(&mut cursor);
        left = option.map(|_| cursor);
        Some(option)
    })
}

fn read<'a>(cursor: &mut Cursor<'a>) -> Option<EdnsOption<'a>> {
    let (code, len) = (cursor.u16()?, cursor.u16()?);
    let at = cursor.at();
    let data = cursor.take(len.into())?;
    Some(EdnsOption { code, at, data })
}

/// The OPT record of `msg`, if it has one.
pub(super) fn opt_record(msg: &[u8]) -> Option<Record<'_>> {
    let [questions, counts @ ..] = Header::read(msg)?.counts;
    if let [_, _, 0] = counts {
        return None;
    }
    let mut cursor = Cursor::new(msg, header::LEN);
    for _ in 0..questions {
        cursor.question()?;
    }
    Records::new(cursor, counts)
        .map_while(|record| record)
        .find(|record| record.section == Section::Additional && record.rtype == rrtype::OPT)
}

/// Whether a message has an OPT record: a server that knows EDNS adds one to its response to a query that has one (RFC
/// 6891 section 6.1.1).
pub(crate) fn has_opt(msg: &[u8]) -> bool {
    opt_record(msg).is_some()
}

/// The data of the first option `code` in the OPT record of `msg`, if it has one that can be read.
pub(crate) fn find(msg: &[u8], code: u16) -> Option<&[u8]> {
    find_in(opt_record(msg)?.rdata, code)
}

fn find_in(rdata: Cursor<'_>, code: u16) -> Option<&[u8]> {
    let mut options = in_record(rdata).map_while(|option| option);
    let found = options.find(|option| option.code == code)?;
    Some(found.data)
}

/// The time for which the sender of `msg` keeps an unused TCP connection, if it says so ([RFC 7828 section
/// 3.1](https://www.rfc-editor.org/rfc/rfc7828#section-3.1): in units of 100 ms).
pub(crate) fn tcp_keepalive(msg: &[u8]) -> Option<Duration> {
    let data = find(msg, option::TCP_KEEPALIVE)?;
    let units = u16_at(data, 0).filter(|_| data.len() == 2)?;
    Some(Duration::from_millis(100) * units.into())
}

/// The info-code of the Extended DNS Error that `msg` carries, if it does (RFC 8914 section 2).
pub fn extended_error(msg: &[u8]) -> Option<u16> {
    extended_error_in(opt_record(msg)?.rdata)
}

/// The response code of `msg`, with the upper bits that its OPT record has (RFC 6891 section 6.1.3).
pub(crate) fn response_code(msg: &[u8]) -> u16 {
    let low = u16_at(msg, header::field::FLAGS).unwrap_or_default() & header::RCODE;
    let upper = opt_record(msg).map_or(0, |opt| (opt.ttl >> 24) as u16);
    upper << 4 | low
}

/// As [`extended_error`], from the data of an OPT record.
pub(super) fn extended_error_in(rdata: Cursor<'_>) -> Option<u16> {
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

    #[test]
    fn a_keepalive_has_two_octets() {
        let of = |option: &[u8]| tcp_keepalive(&response(option));
        assert_eq!(of(&[0, 11, 0, 2, 0, 100]), Some(Duration::from_secs(10)));
        assert_eq!(of(&[0, 11, 0, 2, 0, 0]), Some(Duration::ZERO));
        for none in [
            &[0, 11, 0, 0][..],
            &[0, 11, 0, 1, 9],
            &[0, 11, 0, 3, 0, 9, 9],
            &[],
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn response_codes_have_two_parts() {
        let mut msg = response(&[]);
        assert_eq!(response_code(&msg), 2);
        let ttl = msg.len() - 6;
        msg[ttl] = 1;
        assert_eq!(response_code(&msg), 18);
        msg.truncate(12);
        assert_eq!(response_code(&msg), 2, "no such record");
        assert_eq!(response_code(&[]), 0);
    }

    proptest! {
        /// Options are read as they were written, and one that is cut short is the last.
        #[test]
        fn options_are_read_in_order(
            options in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..9)), 0..6),
            cut in 0..40usize,
        ) {
            let wire = |(code, data): &(u16, Vec<u8>)| {
                [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
            };
            let mut octets = options.iter().flat_map(wire).collect::<Vec<_>>();
            octets.truncate(octets.len().saturating_sub(cut));
            let mut left = octets.len();
            let mut read = in_record(Cursor::new(&octets, 0));
            for (code, data) in &options {
                if left == 0 {
                    break;
                }
                let option = read.next().unwrap();
                prop_assert_eq!(option.is_some(), left >= 4 + data.len());
                let Some(option) = option else { break };
                prop_assert_eq!((option.code, option.data), (*code, &data[..]));
                prop_assert_eq!(&octets[option.at..option.at + data.len()], &data[..]);
                left -= 4 + data.len();
            }
            prop_assert!(read.next().is_none());
        }

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
