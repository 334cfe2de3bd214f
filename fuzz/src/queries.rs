//! Messages from clients.

use std::{cell::RefCell, sync::Arc};

use arc_swap::ArcSwap;
use heimdall_user::{
    answer::{
        Client, Core, Transport, Verdict,
        cookie::{CookieMaker, Secrets},
        identity::Identity,
        limit::LimitSettings,
        policy::{Cookies, Policy},
    },
    cache::{Cache, MIN_BYTES},
    checksum,
    clock::Now,
    dns::{
        Answer, DnsPacketView, NameHasher,
        answer::AnswerFields,
        reply::{Reply, ReplySettings},
    },
};
use hickory_proto::{op::Message, serialize::binary::BinDecodable};

/// What is read as a query is read as the oracle reads it, and every reply is one that the oracle
/// reads and that answers it.
pub fn dns_view(msg: &[u8]) {
    let msg = &msg[..msg.len().min(4096)];
    let parsed = DnsPacketView::parse(msg);
    if let Some(plain) = DnsPacketView::parse_plain(msg) {
        assert_eq!(parsed, Ok(plain));
    }
    if let (Ok(view), Ok(oracle)) = (parsed, Message::from_bytes(msg))
        && !view.question().is_empty()
    {
        let question = &oracle.queries[0];
        assert_eq!(view.qtype(), u16::from(question.query_type()));
        assert_eq!(view.qclass(), u16::from(question.query_class()));
        let mut name = Vec::new();
        for label in question.name().iter() {
            name.push(label.len() as u8);
            name.extend_from_slice(label);
        }
        name.push(0);
        assert_eq!(view.qname(), name);
        assert_eq!(view.edns().is_some(), oracle.edns.is_some());
    }
    CORE.with_borrow_mut(|core| {
        for transport in [
            Transport::Udp {
                source_port: 40_000,
            },
            Transport::Tcp,
            Transport::Tls,
        ] {
            ask(core, msg, transport);
        }
    });
}

thread_local! {
    static CORE: RefCell<Core> = RefCell::new(core());
}

/// A core that is set up to send everything that a reply can have.
fn core() -> Core {
    let policy = Policy {
        limit: LimitSettings {
            per_second: 50,
            burst: 100,
            ..LimitSettings::default()
        },
        cookies: Some(Cookies {
            maker: CookieMaker::new(Secrets::configured(&[[7; 16]])),
            demand_above: 60,
        }),
        identity: Identity::new(Some("version"), Some("server")),
        ..Policy::default()
    };
    let server = ReplySettings::new(1232, true);
    Core::new(
        Cache::new(MIN_BYTES).expect("memory"),
        NameHasher::default(),
        server,
        Arc::new(ArcSwap::from_pointee(policy)),
        Arc::default(),
        Arc::default(),
    )
}

fn ask(core: &mut Core, msg: &[u8], transport: Transport) {
    thread_local! {
        static SECONDS: RefCell<u32> = const { RefCell::new(0) };
    }
    // Time passes, so that the rate limit lets some through and drops some.
    let seconds = SECONDS.with_borrow_mut(|seconds| {
        *seconds = seconds.wrapping_add(1);
        *seconds / 90
    });
    core.begin(Now {
        seconds,
        unix: 1_800_000_000,
    });
    let client = Client::new([10, 0, 0, 1].into(), transport);
    let limit = match transport {
        Transport::Udp { .. } => 1232,
        Transport::Tcp | Transport::Tls => 65_535,
    };
    let mut buf = msg.to_vec();
    buf.resize(msg.len() + 600, 0xee);
    match core.read(msg) {
        Err(malformed) => {
            let verdict = core.reject(malformed, &mut buf, client);
            check(msg, &buf, verdict, limit);
        }
        Ok(query) => {
            let verdict = core.answer(&query, &mut buf, client);
            check(msg, &buf, verdict, limit);
            if verdict == Verdict::Miss {
                let answer = Answer::new(&AnswerFields {
                    counts: [1, 0, 0],
                    body: &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1],
                    ttl_offsets: &[6],
                    ttl: 9,
                    ..AnswerFields::default()
                });
                core.insert(&query, &buf, &answer);
                let mut hit = buf.clone();
                let hint = core.prefetch_entry(&query);
                let verdict = core.answer_at(hint, &query, &mut hit, client);
                check_frame(msg, &hit, verdict, limit);
                let mut fresh = buf.clone();
                let verdict = core.complete(&query, &mut fresh, client, &answer);
                assert_ne!(verdict, Verdict::Miss);
                // The cached record need not have the queried type: only the frame is checked.
                check_frame(msg, &fresh, verdict, limit);
                let verdict = core.reply_overloaded(&query, &mut buf, client);
                check(msg, &buf, verdict, limit);
            }
        }
    }
}

fn check_frame<'a>(msg: &[u8], buf: &'a [u8], verdict: Verdict, limit: usize) -> Option<&'a [u8]> {
    let Verdict::Reply {
        reply: Reply { len, sum },
        ..
    } = verdict
    else {
        return None;
    };
    let reply = &buf[..len];
    let expected = checksum::finish_udp(checksum::add(0, reply));
    assert_eq!(checksum::finish_udp(sum), expected, "the sum");
    assert!((12..=limit.max(msg.len())).contains(&len));
    assert_eq!(reply[..2], msg[..2], "the ID");
    assert_eq!(reply[2] & 0x80, 0x80, "a response");
    assert_eq!(msg[2] & 0x80, 0, "to a query");
    assert_eq!(reply[2] & 0x79, msg[2] & 0x79, "opcode and RD");
    Some(reply)
}

/// Whether a reply is one that the oracle reads.
fn check(msg: &[u8], buf: &[u8], verdict: Verdict, limit: usize) {
    let Some(reply) = check_frame(msg, buf, verdict, limit) else {
        return;
    };
    // A hit has the cached address record, whatever type was queried.
    if reply[6..8] != [0, 0] && reply[5] == 1 {
        return;
    }
    let read = Message::from_bytes(reply).unwrap_or_else(|error| panic!("{error}: {reply:02x?}"));
    if let Some(question) = read.queries.first() {
        let asked = DnsPacketView::parse(msg).map(|view| view.question().len());
        if let Ok(len) = asked {
            assert_eq!(reply[12..12 + len], msg[12..12 + len], "{question}");
        }
    }
}
