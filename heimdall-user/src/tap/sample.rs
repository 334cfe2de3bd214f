//! A sample: what is copied of a query and its reply.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::dns::{MAX_QUESTION, QUESTION_FIXED, header, name::end_of_question_name, u16_at};

/// Octets of a query in which its question is.
pub(super) const HEAD: usize = header::LEN + MAX_QUESTION;

/// Octets for the messages of a sample, if they are wanted: the largest reply over UDP that can be configured,
/// and a query.
pub(super) const MESSAGES: usize = 4096 + 512;

/// Where a client's reply came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The thread's cache.
    Hit,
    /// The forwarder.
    Miss,
    /// Local data or special names, for the first time.
    Local,
    /// A blocklist, for the first time.
    Blocklist,
    /// The server itself: the query was refused, limited, or not one that can be forwarded.
    #[default]
    Server,
}

/// What a sample is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client's query and its reply, if it got one.
    #[default]
    Client,
    /// A query to an upstream.
    ForwarderQuery,
    /// An upstream's response; the query is not in the sample.
    ForwarderResponse,
}

/// How a query came, or went to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Udp,
    Tcp,
    /// TLS over TCP (RFC 7858).
    Tls,
}

/// A sampled query. Its memory is used again.
#[derive(Debug)]
pub struct Sample {
    /// Who it is for.
    pub(super) consumers: u8,
    pub(super) kind: Kind,
    /// The client's address, or the upstream's; an IPv4 address is mapped.
    pub(super) peer: Ipv6Addr,
    /// The peer's port, if it is known.
    pub(super) port: Option<u16>,
    pub(super) protocol: Protocol,
    /// When the client's query was received, with its batch, or the one to the upstream was sent.
    pub(super) queried: Instant,
    /// When the reply was written, or the upstream's response received. `None`: there is none.
    pub(super) replied: Option<Instant>,
    /// For the query log alone.
    pub(crate) origin: Origin,
    /// Of the reply, with the upper bits that an OPT record has.
    pub(super) rcode: u16,
    octets: Box<[u8]>,
    /// Octets of the query, or of its start.
    query: usize,
    query_is_whole: bool,
    /// Octets of the reply, which follow the query. 0: there is none, or no space for it.
    reply: usize,
}

impl Sample {
    /// One with space for so many octets of messages.
    pub(super) fn new(space: usize) -> Self {
        Self {
            consumers: 0,
            kind: Kind::default(),
            peer: Ipv6Addr::UNSPECIFIED,
            port: None,
            protocol: Protocol::default(),
            queried: Instant::now(),
            replied: None,
            origin: Origin::default(),
            rcode: 0,
            octets: vec![0; space].into(),
            query: 0,
            query_is_whole: false,
            reply: 0,
        }
    }

    /// Begins another sample, with this query. Of one that does not fit the start is kept, in which the question
    /// is.
    pub(super) fn begin(&mut self, consumers: u8, query: &[u8], queried: Instant) {
        self.consumers = consumers;
        self.kind = Kind::Client;
        self.queried = queried;
        self.replied = None;
        self.origin = Origin::Server;
        self.rcode = 0;
        self.reply = 0;
        self.query_is_whole = query.len() <= self.octets.len();
        let kept = if self.query_is_whole {
            query.len()
        } else {
            HEAD
        };
        let kept = query.get(..kept).unwrap_or_default();
        self.query = match self.octets.get_mut(..kept.len()) {
            Some(octets) => {
                octets.copy_from_slice(kept);
                kept.len()
            }
            None => 0,
        };
    }

    /// Adds the reply, if it fits.
    pub(super) fn set_reply(&mut self, reply: &[u8]) {
        let space = self.octets.get_mut(self.query..self.query + reply.len());
        self.reply = match space {
            Some(octets) => {
                octets.copy_from_slice(reply);
                reply.len()
            }
            None => 0,
        };
    }

    /// The client's address, or the upstream's.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer.to_canonical()
    }

    /// The time from query to reply. `None`: there is no reply.
    pub(super) fn took(&self) -> Option<Duration> {
        let replied = self.replied?;
        Some(replied.saturating_duration_since(self.queried))
    }

    /// The query, if it is kept whole.
    pub(crate) fn query(&self) -> Option<&[u8]> {
        let query = self.octets.get(..self.query);
        query.filter(|_| self.query_is_whole)
    }

    /// The reply, if there is one and it is kept.
    pub(crate) fn reply(&self) -> Option<&[u8]> {
        let reply = self.octets.get(self.query..self.query + self.reply);
        reply.filter(|reply| !reply.is_empty())
    }

    /// The question, if there is one that can be read: of the query, or else of the reply.
    pub(super) fn question(&self) -> Option<Question<'_>> {
        let query = self.octets.get(..self.query);
        Question::read(match query {
            Some(query) if !query.is_empty() => query,
            _ => self.reply()?,
        })
    }
}

/// The question of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    /// In wire form, in the client's letter case.
    pub(super) name: &'a [u8],
    pub(super) qtype: u16,
    pub(super) qclass: u16,
}

impl<'a> Question<'a> {
    fn read(msg: &'a [u8]) -> Option<Self> {
        if u16_at(msg, header::field::QDCOUNT)? != 1 {
            return None;
        }
        let end = end_of_question_name(msg, header::LEN)?;
        msg.get(..end + QUESTION_FIXED)?;
        Some(Self {
            name: msg.get(header::LEN..end)?,
            qtype: u16_at(msg, end)?,
            qclass: u16_at(msg, end + 2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03WWW\x02ex\0\0\x1c\0\x01";

    #[test]
    fn messages_that_fit_are_kept_whole() {
        let mut sample = Sample::new(MESSAGES);
        sample.begin(1, QUERY, Instant::now());
        sample.set_reply(&[7; 4096]);
        assert_eq!(sample.query(), Some(QUERY));
        assert_eq!(sample.reply(), Some(&[7; 4096][..]));
        let question = sample.question().unwrap();
        assert_eq!(question.name, b"\x03WWW\x02ex\0");
        assert_eq!((question.qtype, question.qclass), (28, 1));
        sample.set_reply(&[7; 4600]);
        assert_eq!(sample.reply(), None, "it does not fit");
        // The next one has nothing of the last.
        sample.begin(1, &QUERY[..5], Instant::now());
        assert_eq!((sample.query(), sample.reply()), (Some(&QUERY[..5]), None));
        assert_eq!(sample.question(), None);
    }

    #[test]
    fn of_a_longer_query_the_question_is_kept() {
        let mut sample = Sample::new(HEAD);
        let long = [QUERY, &[0; 500]].concat();
        sample.begin(1, &long, Instant::now());
        assert_eq!(sample.query(), None);
        assert_eq!(sample.question().unwrap().qtype, 28);
    }

    #[test]
    fn an_upstreams_response_has_the_question() {
        let mut sample = Sample::new(MESSAGES);
        sample.begin(1, &[], Instant::now());
        sample.set_reply(QUERY);
        assert_eq!(sample.question().unwrap().qtype, 28);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(query in prop::collection::vec(any::<u8>(), 0..600), reply in prop::collection::vec(any::<u8>(), 0..6000), small: bool) {
            let mut sample = Sample::new(if small { HEAD } else { MESSAGES });
            sample.begin(1, &query, Instant::now());
            sample.set_reply(&reply);
            let _ = (sample.query(), sample.reply(), sample.question());
        }
    }
}
