//! Shared by the tests of the core's modules: messages, clients, and a core.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    Client, Core, Transport, Verdict, blocklist, body, hostname, policy::Policy, prefix::Prefix,
};
use crate::{
    blocklist as builder,
    cache::{Cache, MIN_BYTES},
    checksum,
    clock::Now,
    dns::{
        Answer, CLASS_IN, NameHasher,
        answer::AnswerFields,
        header::{self, rcode},
        reply::ReplySettings,
        rrtype,
    },
};

pub(super) const UDP: Transport = Transport::Udp {
    source_port: 40_000,
};

/// The Unix time at second 0 of the core's clock.
pub(super) const UNIX: u32 = 1_800_000_000;

pub(super) fn from(transport: Transport) -> Client {
    Client::new("10.0.0.2".parse().unwrap(), transport)
}

pub(super) fn core() -> Core {
    core_with(Policy::default())
}

pub(super) fn core_with(policy: Policy) -> Core {
    core_sharing(Arc::new(ArcSwap::from_pointee(policy)))
}

/// A core with a policy that a test can replace.
pub(super) fn core_sharing(policy: Arc<ArcSwap<Policy>>) -> Core {
    let server = ReplySettings::new(1232, true);
    Core::new(
        Cache::new(MIN_BYTES).unwrap(),
        NameHasher::default(),
        server,
        policy,
        Arc::default(),
        Arc::default(),
    )
}

/// A query for `a.` with these flags, type and class, and an OPT record if a payload size, version
/// and DO are given.
pub(super) fn query(flags: u16, qtype: u16, qclass: u16, edns: Option<(u16, u8, bool)>) -> Vec<u8> {
    let mut msg = vec![0xab, 0xcd];
    msg.extend_from_slice(&flags.to_be_bytes());
    msg.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some()), 1, b'a', 0]);
    msg.extend_from_slice(&qtype.to_be_bytes());
    msg.extend_from_slice(&qclass.to_be_bytes());
    if let Some((size, version, dnssec_ok)) = edns {
        msg.extend_from_slice(&[0, 0, 41]);
        msg.extend_from_slice(&size.to_be_bytes());
        msg.extend_from_slice(&[0, version, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    msg
}

/// An upstream's answer to `query` with AD and `octets` octets of data.
pub(super) fn answer_to(query: &[u8], octets: usize) -> Answer {
    let mut body = vec![0xc0, 12];
    body.extend_from_slice(&query[15..19]);
    body.extend_from_slice(&[0, 0, 0, 60]);
    body.extend_from_slice(&(octets as u16).to_be_bytes());
    body.extend(vec![0; octets]);
    Answer::new(&AnswerFields {
        counts: [1, 0, 0],
        body: &body,
        ttl_offsets: &[6],
        ttl: 60,
        authentic: true,
        ..AnswerFields::default()
    })
}

/// A verdict without its reply's octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Reply(usize),
    Drop,
    Miss,
}

impl Got {
    /// Checks that a reply's sum is that of its octets, too.
    pub(super) fn new(verdict: Verdict, octets: &[u8]) -> Self {
        match verdict {
            Verdict::Reply { reply, .. } => {
                let sum = checksum::add(0, &octets[..reply.len]);
                assert_eq!(checksum::finish_udp(reply.sum), checksum::finish_udp(sum));
                Self::Reply(reply.len)
            }
            Verdict::Drop => Self::Drop,
            Verdict::Miss => Self::Miss,
        }
    }
}

pub(super) struct Reply {
    pub(super) verdict: Got,
    pub(super) octets: Vec<u8>,
}

impl Reply {
    pub(super) fn flags(&self) -> u16 {
        u16::from_be_bytes([self.octets[2], self.octets[3]])
    }

    pub(super) fn rcode(&self) -> u8 {
        self.octets[3] & 0xf
    }
}

pub(super) fn ask(core: &mut Core, msg: &[u8], transport: Transport, now: u32) -> Reply {
    let mut octets = msg.to_vec();
    octets.resize(65_535, 0);
    core.begin(Now {
        seconds: now,
        unix: UNIX + now,
    });
    let verdict = match core.read(msg) {
        Ok(query) => core.answer(&query, &mut octets, from(transport)),
        Err(malformed) => core.reject(malformed, &mut octets, from(transport)),
    };
    let verdict = Got::new(verdict, &octets);
    if let Got::Reply(len) = verdict {
        octets.truncate(len);
    }
    Reply { verdict, octets }
}

pub(super) fn cache_answer(core: &mut Core, msg: &[u8], octets: usize) {
    let query = core.read(msg).unwrap();
    core.insert(&query, msg, &answer_to(msg, octets));
}

/// Sends a query from an address, with a COOKIE option of these octets if there are any.
pub(super) fn ask_from(
    core: &mut Core,
    address: &str,
    transport: Transport,
    cookie: &[u8],
) -> Reply {
    let mut msg = query(0x0100, 16, 1, Some((1232, 0, false)));
    if !cookie.is_empty() {
        let at = msg.len() - 1;
        msg[at] = 4 + cookie.len() as u8;
        msg.extend_from_slice(&[0, 10, 0, cookie.len() as u8]);
        msg.extend_from_slice(cookie);
    }
    let mut octets = msg.clone();
    octets.resize(65_535, 0);
    let client = Client::new(address.parse().unwrap(), transport);
    let query = core.read(&msg).unwrap();
    let verdict = core.answer(&query, &mut octets, client);
    let verdict = Got::new(verdict, &octets);
    if let Got::Reply(len) = verdict {
        octets.truncate(len);
    }
    Reply { verdict, octets }
}

impl Reply {
    /// The octets of the reply's OPT record's options.
    pub(super) fn options(&self) -> &[u8] {
        let at = self.octets.windows(3).rposition(|part| part == [0, 0, 41]);
        &self.octets[at.unwrap() + 11..]
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.flags() & header::TC != 0
    }
}

pub(super) fn prefixes<const N: usize>(list: [&str; N]) -> Vec<Prefix> {
    list.map(|text| text.parse().unwrap()).to_vec()
}

/// A query for `name`, with RD or not, and an OPT record.
pub(super) fn query_for(name: &str, flags: u16) -> Vec<u8> {
    let mut msg = query(flags, 1, 1, Some((1232, 0, false)));
    let name = hostname::wire(name.as_bytes()).unwrap();
    msg.splice(12..15, name);
    msg
}

/// An upstream's answer: a chain of aliases to the last name's address.
pub(super) fn aliased(targets: &[&str]) -> Answer {
    let mut body = body::Body::default();
    let mut owner = body::QUESTION.to_vec();
    for target in targets {
        let target = hostname::wire(target.as_bytes()).unwrap();
        body.answer(&owner, rrtype::CNAME, CLASS_IN, 300, &target);
        owner = target;
    }
    body.answer(&owner, 1, CLASS_IN, 300, &[192, 0, 2, 1]);
    body.into_answer(rcode::NOERROR, None).unwrap()
}

/// The response code and the info-code of the Extended DNS Error.
pub(super) fn rcode_and_ede(reply: &Reply) -> (u8, Option<u8>) {
    let ede = match reply.options() {
        [0, 15, 0, 2, 0, code, ..] => Some(*code),
        _ => None,
    };
    (reply.rcode(), ede)
}

pub(super) fn lists(lists: &[(&str, blocklist::BlockAction)]) -> blocklist::Blocklists {
    let lists = lists
        .iter()
        .map(|(text, action)| (text.as_bytes(), *action));
    builder::build(lists).unwrap().0
}
