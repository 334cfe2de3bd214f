//! The query log: a sample as a line of JSON.

use std::time::UNIX_EPOCH;

use domain::base::iana::OptRcode;
use serde_json::{Map, Value, json};

use super::{
    popular::{name_text, type_text},
    sample::{Origin, Protocol, Sample},
    wall_clock::WallClock,
};

/// The line of a client's query, with its line feed. What a client sent is within strings, and escaped there.
pub(super) fn line(sample: &Sample, clock: &WallClock) -> String {
    let queried = clock.at(sample.queried);
    let since_epoch = queried.duration_since(UNIX_EPOCH).unwrap_or_default();
    let question = sample.question();
    let how = match (sample.replied, sample.origin) {
        (None, _) => "dropped",
        (_, Origin::Hit) => "hit",
        (_, Origin::Miss) => "miss",
        (_, Origin::Local) => "local",
        (_, Origin::Blocklist) => "blocklist",
        (_, Origin::Server) => "server",
    };
    let rcode = sample.replied.map(|_| rcode_text(sample.rcode));
    let mut fields = Map::new();
    let mut insert = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    insert("time", json!(since_epoch.as_micros() as f64 / 1e6));
    insert("client", json!(sample.peer().to_string()));
    insert("port", json!(sample.port));
    let protocol = match sample.protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
        Protocol::Tls => "tls",
    };
    insert("protocol", json!(protocol));
    insert(
        "name",
        json!(question.map(|question| name_text(question.name))),
    );
    insert(
        "type",
        json!(question.map(|question| type_text(question.qtype))),
    );
    insert("rcode", json!(rcode));
    insert("how", json!(how));
    insert(
        "latency_us",
        json!(sample.took().map(|took| took.as_micros() as u64)),
    );
    format!("{}\n", Value::Object(fields))
}

/// A response code's mnemonic, or its number.
fn rcode_text(rcode: u16) -> String {
    OptRcode::masked_from_int(rcode).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{
        net::Ipv4Addr,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::tap::sample::HEAD;

    fn sample(query: &[u8]) -> Sample {
        let mut sample = Sample::new(HEAD);
        sample.begin(4, query, Instant::now());
        sample.peer = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        sample.port = Some(4000);
        sample
    }

    /// The line of a sample whose query came at a quarter past a second.
    fn line(sample: &Sample) -> String {
        let day = UNIX_EPOCH + Duration::new(1_700_000_000, 250_000_000);
        super::line(sample, &WallClock::new(sample.queried, day))
    }

    const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05a\"\n\\\xff\0\0\x1c\0\x01";

    #[test]
    fn a_line_has_what_was_asked_and_what_came() {
        let mut sample = sample(QUERY);
        sample.replied = Some(sample.queried + Duration::from_micros(1500));
        sample.origin = Origin::Miss;
        sample.rcode = 3;
        assert_eq!(
            line(&sample),
            r#"{"time":1700000000.25,"client":"192.0.2.1","port":4000,"protocol":"udp","name":"a\"\\010\\\\\\255.","type":"AAAA","rcode":"NXDOMAIN","how":"miss","latency_us":1500}"#.to_owned() + "\n"
        );
        sample.rcode = 23;
        assert!(
            line(&sample).contains(r#""rcode":"BADCOOKIE""#),
            "{}",
            line(&sample)
        );
    }

    #[test]
    fn a_query_that_cannot_be_read_or_got_no_reply_is_a_line_too() {
        let line = line(&sample(&QUERY[..13]));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["how"], "dropped");
        assert_eq!(
            (&value["name"], &value["rcode"], &value["latency_us"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
    }

    proptest! {
        /// Whatever a name has: the line is one line of JSON, of printable characters, and its name is that of the
        /// query.
        #[test]
        fn names_are_escaped(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..6)) {
            let mut query = QUERY[..12].to_vec();
            let mut wire = Vec::new();
            for label in &labels {
                wire.push(label.len() as u8);
                wire.extend_from_slice(label);
            }
            wire.push(0);
            query.extend_from_slice(&wire);
            query.extend_from_slice(&[0, 1, 0, 1]);
            let line = line(&sample(&query));
            prop_assert!(line.strip_suffix('\n').unwrap().bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{}", line);
            let value: Value = serde_json::from_str(&line).unwrap();
            let name = value["name"].as_str().unwrap();
            let read: domain::base::Name<Vec<u8>> = name.parse().unwrap();
            prop_assert_eq!(read.as_slice(), &wire[..]);
        }
    }
}
