//! The query that goes upstream.
//!
//! Only the client's question travels, in its own letter case. The rest is ours: a fresh ID, an
//! OPT record of our own, and of the flags those that are part of the cache key.

use crate::dns::{Edns, KEY_FLAG_CD, KEY_FLAG_DO, header};

/// Our UDP payload size towards upstreams, in octets: what passes any path without fragments
/// (DNS flag day 2020; RFC 9715 recommends 1400 or less).
const UDP_SIZE: u16 = 1232;

/// Writes the query for `question` into `out`, over what was there.
///
/// `flags` are the key's, DO and CD. `want_ad` asks for the AD bit (RFC 6840 section 5.7).
/// `options` stand in the OPT record; without any there is no such record.
pub(super) fn write(
    out: &mut Vec<u8>,
    id: u16,
    question: &[u8],
    flags: u8,
    want_ad: bool,
    options: Option<&[u8]>,
) {
    let mut word = header::RD;
    if flags & KEY_FLAG_CD != 0 {
        word |= header::CD;
    }
    if want_ad {
        word |= header::AD;
    }
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())]);
    out.extend_from_slice(question);
    if let Some(options) = options {
        let dnssec_ok = flags & KEY_FLAG_DO != 0;
        let mut opt = Edns::write(UDP_SIZE, dnssec_ok);
        if let Some(len) = opt.last_chunk_mut() {
            *len = (options.len() as u16).to_be_bytes();
        }
        out.extend_from_slice(&opt);
        out.extend_from_slice(options);
    }
}
