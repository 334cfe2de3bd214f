//! The query that goes upstream.
//!
//! It takes the question from the client's query, in its name case unless that is random, and those flags that are
//! part of the cache key. ID and OPT record are new.

use super::{
    ClientSubnet, Edns, KEY_FLAG_CD, KEY_FLAG_DO, Letters, UpstreamCookie, edns::option, header,
};

/// The UDP payload size sent to upstreams, in octets: it passes any path without fragments
/// (DNS flag day 2020; RFC 9715 recommends 1400 or less).
const UDP_SIZE: u16 = 1232;

/// Queries are padded to a multiple of so many octets ([RFC 8467 section
/// 4.1](https://www.rfc-editor.org/rfc/rfc8467#section-4.1)).
const PADDING_BLOCK: usize = 128;

/// Octets of an option's code and length.
const OPTION_HEAD: usize = 4;

/// A query to an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamQuery<'a> {
    /// Transaction ID.
    pub id: u16,
    /// The question in wire form.
    pub question: &'a [u8],
    /// DO and CD, as in [`Query::key_flags`](super::Query::key_flags).
    pub key_flags: u8,
    /// The name's case, in place of the client's.
    pub letters: Option<Letters>,
    /// Set AD: the response is to have the AD bit (RFC 6840 section 5.7).
    pub want_ad: bool,
    /// Send an OPT record. Without one neither DO nor an option is sent.
    pub edns: bool,
    /// The client subnet option.
    pub subnet: Option<&'a ClientSubnet>,
    /// The cookies of client and upstream (RFC 7873).
    pub cookie: Option<&'a UpstreamCookie>,
    /// Ask for how long the upstream keeps an unused connection (RFC 7828).
    pub keepalive: bool,
    /// Pad the message, so that its length tells less about the name (RFC 7830).
    pub padding: bool,
}

impl UpstreamQuery<'_> {
    /// Writes the query into `out`, over what was there.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        let flags = header::RD
            | flag(self.key_flags & KEY_FLAG_CD != 0, header::CD)
            | flag(self.want_ad, header::AD);
        out.clear();
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        let counts = [1, 0, 0, u16::from(self.edns)];
        out.extend(counts.into_iter().flat_map(u16::to_be_bytes));
        match self.letters {
            Some(letters) => out.extend(letters.apply(self.question)),
            None => out.extend_from_slice(self.question),
        }
        if self.edns {
            let dnssec_ok = self.key_flags & KEY_FLAG_DO != 0;
            let record = out.len();
            out.extend_from_slice(&Edns::record(UDP_SIZE, dnssec_ok, 0));
            let options = out.len();
            out.extend_from_slice(self.subnet.map_or(&[][..], ClientSubnet::option));
            if let Some(cookie) = self.cookie {
                let data = cookie.data();
                out.extend(option_head(option::COOKIE, data.len()));
                out.extend_from_slice(data);
            }
            if self.keepalive {
                out.extend(option_head(option::TCP_KEEPALIVE, 0));
            }
            if self.padding {
                let padding = (out.len() + OPTION_HEAD).next_multiple_of(PADDING_BLOCK);
                let len = padding - out.len() - OPTION_HEAD;
                out.extend(option_head(option::PADDING, len));
                out.resize(padding, 0);
            }
            let rdlength = ((out.len() - options) as u16).to_be_bytes();
            let place = record..options;
            if let Some([.., high, low]) = out.get_mut(place) {
                [*high, *low] = rdlength;
            }
        }
    }
}

/// The code and the length of an option.
fn option_head(code: u16, len: usize) -> impl Iterator<Item = u8> {
    [code, len as u16].into_iter().flat_map(u16::to_be_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use hickory_proto::{
        op::{Message, MessageType, OpCode},
        rr::rdata::opt::EdnsCode,
        serialize::binary::BinDecodable,
    };
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_as_it_was_built(
            id: u16, key_flags in 0..4u8, want_ad: bool, edns: bool, keepalive: bool, padding: bool,
            subnet in prop::option::of((any::<[u8; 4]>(), 0..40u8)),
            letters in prop::option::of(any::<u64>()), cookie in prop::option::of(any::<[u8; 8]>()),
        ) {
            let question = b"\x03wWw\x02ok\0\0\x1c\0\x01";
            let (letters, cookie) = (letters.map(Letters::new), cookie.map(UpstreamCookie::new));
            let subnet = subnet.map(|(address, prefix)| ClientSubnet::new(address.into(), prefix));
            let query = UpstreamQuery {
                id, question, key_flags, letters, want_ad, edns, subnet: subnet.as_ref(), cookie: cookie.as_ref(),
                keepalive, padding,
            };
            let mut msg = vec![7; 500];
            query.write_to(&mut msg);
            let read = Message::from_bytes(&msg).unwrap();
            prop_assert_eq!(read.metadata.id, id);
            prop_assert_eq!((read.metadata.message_type, read.metadata.op_code), (MessageType::Query, OpCode::Query));
            prop_assert!(read.metadata.recursion_desired && !read.metadata.recursion_available);
            prop_assert_eq!(read.metadata.authentic_data, want_ad);
            prop_assert_eq!(read.metadata.checking_disabled, key_flags & KEY_FLAG_CD != 0);
            prop_assert_eq!(read.queries.len(), 1);
            let sent = &msg[12..12 + question.len()];
            prop_assert!(letters.map_or(sent == question, |letters| letters.are_in(sent, question)));
            prop_assert_eq!(read.edns.is_some(), edns);
            if let Some(read) = read.edns {
                prop_assert_eq!((read.max_payload(), read.version()), (UDP_SIZE, 0));
                prop_assert_eq!(read.flags().dnssec_ok, key_flags & KEY_FLAG_DO != 0);
                prop_assert_eq!(read.option(EdnsCode::Subnet).is_some(), subnet.is_some());
                let code = |code: u16| read.option(EdnsCode::from(code)).is_some();
                prop_assert_eq!((code(10), code(11), code(12)), (cookie.is_some(), keepalive, padding));
                let len = 12 + question.len() + 11
                    + subnet.map_or(0, |subnet| subnet.option().len())
                    + if cookie.is_some() { 12 } else { 0 }
                    + if keepalive { 4 } else { 0 };
                prop_assert_eq!(msg.len(), if padding { 128 } else { len });
            }
        }
    }
}
