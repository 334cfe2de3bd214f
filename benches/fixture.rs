//! Shared by the benches: packets, and a core that has the answers in its cache.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use heimdall_user::{
    answer::{Client, Core, Transport},
    cache::Cache,
    checksum,
    clock::Now,
    dns::{Answer, NameHasher, TtlLimits, answer::AnswerFields, reply::ReplySettings},
};

/// The client.
pub const CLIENT: Client = Client::new(
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    Transport::Udp {
        source_port: 40_000,
    },
);

/// A query for an A record, with EDNS or without.
pub fn query(name: &str, edns: bool) -> Vec<u8> {
    let mut dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        dns.push(label.len() as u8);
        dns.extend_from_slice(label.as_bytes());
    }
    dns.extend_from_slice(b"\0\0\x01\0\x01");
    if edns {
        dns[11] = 1;
        dns.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    }
    dns
}

/// The query in a frame of its own, with right checksums.
pub fn frame(name: &str, edns: bool) -> Vec<u8> {
    let dns = query(name, edns);
    let udp_len = ((8 + dns.len()) as u16).to_be_bytes();
    let ip_len = ((28 + dns.len()) as u16).to_be_bytes();
    let mut ip = [
        0x45, 0, ip_len[0], ip_len[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ];
    [ip[10], ip[11]] = checksum::finish(checksum::add(0, &ip));
    let mut udp = [&[0x9c, 0x40, 0, 53], &udp_len[..], &[0, 0], &dns].concat();
    let pseudo = checksum::add(checksum::add_u16(checksum::add(0, &ip[12..]), 17), &udp_len);
    [udp[6], udp[7]] = checksum::finish_udp(checksum::add(pseudo, &udp));
    let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], &ip[..], &udp].concat();
    frame.resize(1792, 0);
    frame
}

/// The name with this number.
pub fn name(i: usize) -> String {
    format!("host-{i}.some.example.com")
}

/// An answer with this many A records and a TTL of a day.
pub fn answer(records: u16) -> Answer {
    const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\x01\x51\x80\0\x04\x0a\x01\x02\x03";
    let ttl_offsets: Vec<u16> = (0..records).map(|i| i * RECORD.len() as u16 + 6).collect();
    Answer::new(&AnswerFields {
        counts: [records, 0, 0],
        body: &RECORD.repeat(records.into()),
        ttl_offsets: &ttl_offsets,
        ttl: 86_400,
        ..AnswerFields::default()
    })
}

/// A core that has an answer for each of the first `names` names.
pub fn core(names: usize) -> Core {
    core_for((0..names).map(name), Now::default())
}

/// Octets of a thread's cache, if nothing is configured.
const CACHE: usize = 64 << 20;

/// A core that got an answer for each of these names at `then`.
pub fn core_for(names: impl ExactSizeIterator<Item = String>, then: Now) -> Core {
    let mut core = Core::new(
        Cache::new((names.len() * 256).max(CACHE)).unwrap(),
        NameHasher::default(),
        ReplySettings::new(1232, false),
        Arc::default(),
        Arc::default(),
        Arc::default(),
    );
    core.populate();
    core.begin(then);
    for name in names {
        let mut message = query(&name, true);
        let query = core.read(&message).unwrap();
        message.truncate(usize::from(query.question_end));
        let question = message[12..].to_vec();
        message[2] = 0x81;
        message[7] = 1;
        message[11] = 0;
        message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\x01\x02\x03");
        let answer = Answer::from_response(&message, &question, 0, &TtlLimits::default()).unwrap();
        core.insert(&query, &message, &answer);
    }
    core
}
