//! DNS messages, made and read with hickory-proto.
//!
//! Its types are used as they are; here is what a test adds to them. Messages that the library
//! would refuse to write are made by changing octets afterwards.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{NULL, SOA},
    },
};

/// A name, from the form that zone files have: `\.` and `\065` are octets of a label.
/// (hickory-proto refuses some octets, and escapes in octal.)
pub fn name(text: &str) -> Name {
    let mut labels = vec![Vec::new()];
    let mut rest = text.trim_end_matches('.').as_bytes();
    while let [octet, after @ ..] = rest {
        let label = labels.last_mut().expect("there is one at least");
        rest = match (octet, after) {
            (b'.', _) => {
                labels.push(Vec::new());
                after
            }
            (b'\\', [a @ b'0'..=b'9', b, c, after @ ..]) => {
                let number = [a, b, c]
                    .iter()
                    .fold(0, |sum, digit| 10 * sum + u16::from(*digit - b'0'));
                label.push(number.try_into().expect("an octet"));
                after
            }
            (b'\\', [octet, after @ ..]) | (octet, after) => {
                label.push(*octet);
                after
            }
        };
    }
    labels.retain(|label| !label.is_empty());
    let name = Name::from_labels(labels.iter().map(Vec::as_slice));
    name.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A name in lower case, without the last dot: `a.example`.
pub fn lower_case(name: &Name) -> String {
    let labels = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_lowercase());
    labels.collect::<Vec<_>>().join(".")
}

/// A type, from its name: `A`, `TYPE65280`.
pub fn rtype(text: &str) -> RecordType {
    let number = match text {
        // hickory-proto does not know these names.
        "RP" => Some(17),
        "LOC" => Some(29),
        "DNAME" => Some(39),
        "URI" => Some(256),
        _ => text
            .strip_prefix("TYPE")
            .and_then(|number| number.parse().ok()),
    };
    let known = number.map(RecordType::from).or(text.parse().ok());
    known.unwrap_or_else(|| panic!("{text} is no type"))
}

/// A query of class IN with RD and without an OPT record.
pub fn query(id: u16, text: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), rtype));
    message
}

/// An OPT record with this payload size, without flags and options.
pub fn edns(size: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    edns
}

/// The response to a query with RA and without a record. RD, CD and the question are the query's.
pub fn response(query: &Message) -> Message {
    let mut message = Message::response(query.id, query.op_code);
    message.metadata.recursion_desired = query.recursion_desired;
    message.metadata.checking_disabled = query.checking_disabled;
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.iter().cloned());
    message
}

/// The response to a query that is truncated, with no record at all.
pub fn truncated(query: &Message) -> Vec<u8> {
    let mut message = response(query);
    message.metadata.truncation = true;
    octets(&message)
}

/// The response to a query with one A record of the queried name.
pub fn address(query: &Message, ttl: u32, address: [u8; 4]) -> Vec<u8> {
    let mut message = response(query);
    for question in &query.queries {
        message.add_answer(record(question.name(), RecordType::A, ttl, &address));
    }
    octets(&message)
}

/// A record of class IN with any data, which are written as they are.
pub fn record(owner: &Name, rtype: RecordType, ttl: u32, data: &[u8]) -> Record {
    let rdata = NULL::with(data.to_vec());
    let data = RData::Unknown { code: rtype, rdata };
    Record::from_rdata(owner.clone(), ttl, data)
}

/// The SOA record of a negative answer, which may be cached for `minimum` seconds.
pub fn soa(zone: &Name, ttl: u32, minimum: u32) -> Record {
    let (primary, mailbox) = (name("ns.soa"), name("mail.soa"));
    let data = SOA::new(primary, mailbox, 1, 3600, 600, 86_400, minimum);
    Record::from_rdata(zone.clone(), ttl, RData::SOA(data))
}

/// Data of a TXT record, of exactly `len` octets; at least one.
pub fn text(len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        let string = (len - data.len() - 1).min(255);
        data.push(string as u8);
        data.extend((0..string).map(|at| b'a' + (at % 26) as u8));
    }
    data
}

/// The message on the wire.
pub fn octets(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message that can be written")
}

/// Reads a message from a connection (RFC 7766, section 8).
///
/// # Errors
/// There is none, or only a part of one.
pub fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Sends a message on a connection, and reads the next one that comes back.
pub fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let len = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&len, message].concat())?;
    read_framed(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_any_octet() {
        let labels = |text: &str| name(text).iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert!(labels(".").is_empty());
        assert_eq!(labels("a.B."), [b"a", b"B"]);
        assert_eq!(labels("n\\000l.\\255"), [&b"n\0l"[..], b"\xff"]);
        assert_eq!(labels("d\\.t.b\\\\s"), [b"d.t", b"b\\s"]);
        assert_eq!(lower_case(&name("A.bC.")), "a.bc");
        for (_, types) in crate::rich::OWNERS {
            assert!(types.split(' ').all(|text| u16::from(rtype(text)) > 0));
        }
        assert_eq!(rtype("TYPE65280"), RecordType::Unknown(65_280));
        assert_eq!(rtype("TYPE1"), RecordType::A);
    }

    #[test]
    fn text_has_the_length_that_was_asked_for() {
        for len in [1, 2, 256, 257, 3000] {
            assert_eq!(text(len).len(), len);
        }
    }
}
