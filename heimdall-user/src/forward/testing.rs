//! The lab's scripted upstream on loopback, and messages for it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::{SocketAddr, UdpSocket};

use hickory_proto::{
    op::Message,
    rr::{RData, Record, RecordType, rdata::SOA},
};
pub(crate) use lab::Received as Seen;
use lab::{ScriptedUpstream, Step, message};

/// An upstream, which ends when dropped. It closes a connection after each query.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    upstream: ScriptedUpstream,
}

impl Upstream {
    /// Starts one; the script gives the messages to send back for a query.
    pub(crate) fn start(script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let steps = move |seen: &Seen| {
            let messages = script(seen).into_iter().map(Step::Send);
            messages.chain([Step::Close]).collect()
        };
        let upstream = ScriptedUpstream::on_loopback::<Step>("127.0.0.1:0", steps).unwrap();
        Self {
            address: upstream.address(),
            upstream,
        }
    }

    /// As [`start`](Self::start), but connections stay open.
    pub(crate) fn keeping_connections(
        script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let upstream = ScriptedUpstream::on_loopback("127.0.0.1:0", script).unwrap();
        Self {
            address: upstream.address(),
            upstream,
        }
    }

    /// As [`start`](Self::start), but connections are refused.
    pub(crate) fn without_tcp(
        script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let upstream = Self::start(script);
        upstream.upstream.refuse_tcp();
        upstream
    }

    /// The queries that have arrived so far, without probes.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut seen = self.upstream.received();
        seen.retain(|seen| !is_probe(seen));
        seen
    }

    /// How many probes have arrived so far.
    pub(crate) fn probes(&self) -> usize {
        self.upstream
            .received()
            .iter()
            .filter(|seen| is_probe(seen))
            .count()
    }
}

/// Whether a query asks for the root.
pub(crate) fn is_probe(seen: &Seen) -> bool {
    seen.msg[12] == 0
}

/// An address where nothing listens: a datagram to it is refused.
pub(crate) fn closed_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A query for TXT records of a label below `test`.
pub(crate) fn query(id: u16, label: &str, edns_size: Option<u16>) -> Vec<u8> {
    let mut query = message::query(id, &format!("{label}.test"), RecordType::TXT);
    query.edns = edns_size.map(message::edns);
    message::octets(&query)
}

/// A query for TXT records of a name with any labels, written as `a.example`.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    message::octets(&message::query(id, name, RecordType::TXT))
}

/// The response to `query`, which asks for TXT or SPF, with `fill` octets of text and a TTL of 300.
pub(crate) fn response(query: &[u8], fill: usize) -> Vec<u8> {
    let mut response = message::response(&Message::from_vec(query).unwrap());
    let question = response.queries[0].clone();
    let text: Vec<u8> = vec![b'x'; fill]
        .chunks(255)
        .flat_map(|string| [&[string.len() as u8][..], string].concat())
        .collect();
    let record = message::record(question.name(), question.query_type(), 300, &text);
    response.add_answer(record);
    with_flags(message::octets(&response), 0)
}

/// The response to `query` that has only flags and the question.
pub(crate) fn bare(query: &[u8], flags: u16) -> Vec<u8> {
    let response = message::response(&Message::from_vec(query).unwrap());
    with_flags(message::octets(&response), flags)
}

/// `msg` with an OPT record, as a server that knows EDNS adds one.
pub(crate) fn with_opt(mut msg: Vec<u8>) -> Vec<u8> {
    msg[11] = 1;
    msg.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    msg
}

/// SERVFAIL of a server that knows EDNS.
pub(crate) fn server_failure(query: &[u8]) -> Vec<u8> {
    with_opt(bare(query, 2))
}

/// A response with QR, RD and RA and these flags set, and no others.
fn with_flags(mut response: Vec<u8>, flags: u16) -> Vec<u8> {
    response[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    response
}

/// `query` for another type.
pub(crate) fn of_type(mut query: Vec<u8>, qtype: u8) -> Vec<u8> {
    let end = query.len();
    query[end - 3] = qtype;
    query
}

/// The response to `query` that the name does not exist, of `ttl` seconds, by the zone `test`.
pub(crate) fn denial(query: &[u8], ttl: u8) -> Vec<u8> {
    let mut response = message::response(&Message::from_vec(query).unwrap());
    let (zone, ttl) = (message::name("test"), ttl.into());
    // All names in it can be written as pointers to the question.
    let data = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, ttl);
    response.add_authority(Record::from_rdata(zone, ttl, RData::SOA(data)));
    with_flags(message::octets(&response), 3)
}
