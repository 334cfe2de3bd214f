//! What a worker makes of the same packet, with the same answer in its cache; and that answer as an entry.

use std::sync::Arc;

use heimdall_ebpf::tier::{Entry, Key, MAX_BODY, MAX_TTLS, hit_counter};
use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::{Cache, MIN_BYTES},
    checksum,
    clock::Now,
    dns::{Answer, NameHasher, answer::AnswerFields, reply::ReplySettings},
    packet::{Layout, SourceFilter},
};

use crate::kernel::{NOW, config};

pub(crate) const NOERROR: u8 = 0;
pub(crate) const NXDOMAIN: u8 = 3;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) body: Vec<u8>,
    pub(crate) ttl_offsets: Vec<u16>,
    pub(crate) counts: [u16; 3],
    pub(crate) rcode: u8,
    pub(crate) authentic: bool,
    /// Seconds since it was received.
    pub(crate) age: u32,
}

impl Content {
    /// One record of type A at the question's name, with a TTL of 300 seconds, received a moment ago.
    pub(crate) fn address() -> Self {
        Self {
            body: b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x07".to_vec(),
            ttl_offsets: vec![6],
            counts: [1, 0, 0],
            rcode: NOERROR,
            authentic: false,
            age: 0,
        }
    }

    /// A body of so many octets, with one TTL.
    pub(crate) fn of_len(len: usize) -> Self {
        let mut content = Self::address();
        content.body = (0..len).map(|at| (at * 7 + len) as u8).collect();
        // At even and at odd offsets.
        content.ttl_offsets = vec![(len % 5).min(len - 4) as u16];
        content
    }

    /// The entry for a question in wire form.
    pub(crate) fn entry(&self, question: &[u8], flags: u8) -> Entry {
        let mut body = [0xee; MAX_BODY];
        body[..self.body.len()].copy_from_slice(&self.body);
        let mut ttl_offsets = [0; MAX_TTLS];
        ttl_offsets[..self.ttl_offsets.len()].copy_from_slice(&self.ttl_offsets);
        Entry {
            generation: 1,
            until: u32::MAX,
            received: NOW - self.age,
            counter: hit_counter(1, self.rcode == NXDOMAIN),
            body_len: self.body.len() as u16,
            counts: self.counts.map(|count| count.try_into().unwrap()),
            ttl_offsets,
            ttl_count: self.ttl_offsets.len() as u8,
            rcode: self.rcode,
            authentic: self.authentic.into(),
            body_sum: u16::from_ne_bytes(checksum::fold(checksum::add(0, &self.body))),
            key: Key::new(question, flags).unwrap(),
            body,
        }
    }

    fn answer(&self) -> Answer {
        Answer::new(&AnswerFields {
            rcode: self.rcode,
            counts: self.counts,
            body: &self.body,
            ttl_offsets: &self.ttl_offsets,
            ttl: 1_000_000,
            authentic: self.authentic,
            ede: None,
        })
    }
}

/// The worker's reply to a query in a frame, with the answer in its cache.
pub(crate) fn reply(frame: &[u8], content: &Content, mtu: usize) -> Vec<u8> {
    let udp_size = config().udp_size as u16;
    let mut core = Core::new(
        Cache::new(MIN_BYTES).unwrap(),
        NameHasher::default(),
        ReplySettings::new(udp_size, true),
        Arc::default(),
        Arc::default(),
        Arc::default(),
    );
    let layout = Layout::read(frame, &SourceFilter::default(), true).unwrap();
    let message = layout.query(frame);
    let query = core.read(message).unwrap();
    core.begin(at(NOW - content.age));
    core.insert(&query, message, &content.answer());
    core.begin(at(NOW));
    let mut room = frame.to_vec();
    room.resize(4096, 0);
    let packet = layout.open(&mut room, mtu).unwrap();
    let source_port = packet.source_port();
    let client = Client::new(packet.source(), Transport::Udp { source_port });
    let verdict = core.answer(&query, packet.buf, client);
    let Verdict::Reply { reply, .. } = verdict else {
        panic!("{verdict:?}");
    };
    let len = packet.into_reply(reply.len, reply.sum).unwrap();
    room.truncate(len);
    room
}

fn at(seconds: u32) -> Now {
    Now {
        seconds,
        unix: 1_800_000_000,
    }
}
