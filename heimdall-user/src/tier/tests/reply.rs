//! Entries give the core's replies: what the program is to make of an entry, written plainly, against the core.

use std::sync::Arc;

use heimdall_ebpf::tier::MAX_BODY;
use proptest::prelude::*;

use super::*;
use crate::{
    answer::{Client, Core, Transport, Verdict},
    cache::{Cache, MIN_BYTES},
    checksum,
    clock::Now,
    dns::{NameHasher, reply::ReplySettings},
    stats::AnswerCounters,
    tier::entry,
};

const UDP_SIZE: u16 = 600;

/// What a client asks with.
#[derive(Clone, Debug)]
struct Asked {
    flags: u16,
    /// Payload size and DO.
    edns: Option<(u16, bool)>,
    upper: Vec<bool>,
}

fn arb_asked() -> impl Strategy<Value = Asked> {
    let flags = prop::sample::subsequence(vec![0x0100, 0x0020, 0x0010], 0..=3);
    let flags = flags.prop_map(|flags| flags.into_iter().sum());
    let edns = prop::option::of((prop_oneof![0..700u16, Just(4096)], any::<bool>()));
    let upper = prop::collection::vec(any::<bool>(), 70);
    (flags, edns, upper).prop_map(|(flags, edns, upper)| Asked { flags, edns, upper })
}

impl Asked {
    fn query(&self, question: &[u8]) -> Vec<u8> {
        let mut msg = vec![0xab, 0xcd];
        msg.extend_from_slice(&self.flags.to_be_bytes());
        msg.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, self.edns.is_some().into()]);
        let (name, fixed) = question.split_at(question.len() - 4);
        let upper = self.upper.iter().chain(std::iter::repeat(&false));
        msg.extend(name.iter().zip(upper).map(|(octet, upper)| match upper {
            true => octet.to_ascii_uppercase(),
            false => *octet,
        }));
        msg.extend_from_slice(fixed);
        if let Some((size, dnssec_ok)) = self.edns {
            msg.extend_from_slice(&[0, 0, 41]);
            msg.extend_from_slice(&size.to_be_bytes());
            msg.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        }
        msg
    }

    fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    fn key_flags(&self) -> u8 {
        u8::from(self.dnssec_ok()) | u8::from(self.flags & 0x10 != 0) << 1
    }
}

/// The reply that the program makes of an entry at this second. `None`: it passes the query on.
fn render(entry: &Entry, asked: &Asked, question: &[u8], now: u32) -> Option<Vec<u8>> {
    let query = asked.query(question);
    let end = 12 + question.len();
    if Key::new(&query[12..end], asked.key_flags())? != entry.key || now >= entry.until {
        return None;
    }
    let wants_ad = asked.flags & 0x20 != 0 || asked.dnssec_ok();
    let ad = u16::from(wants_ad && entry.authentic == 1) << 5;
    let flags = 0x8080 | asked.flags & 0x0110 | ad | u16::from(entry.rcode);
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&flags.to_be_bytes());
    let [answers, authorities, additionals] = entry.counts;
    let additionals = additionals + u8::from(asked.edns.is_some());
    reply.extend_from_slice(&[0, 1, 0, answers, 0, authorities, 0, additionals]);
    reply.extend_from_slice(&query[12..end]);
    let mut body = entry.body[..usize::from(entry.body_len)].to_vec();
    assert_eq!(
        checksum::fold(checksum::add(0, &body)),
        entry.body_sum.to_ne_bytes()
    );
    for at in &entry.ttl_offsets[..usize::from(entry.ttl_count)] {
        let field = &mut body[usize::from(*at)..][..4];
        let ttl = u32::from_be_bytes(field.try_into().unwrap());
        let aged = ttl.saturating_sub(now - entry.received);
        field.copy_from_slice(&aged.to_be_bytes());
    }
    reply.extend_from_slice(&body);
    if asked.edns.is_some() {
        let [s0, s1] = UDP_SIZE.to_be_bytes();
        let dnssec_ok = if asked.dnssec_ok() { 0x80 } else { 0 };
        reply.extend_from_slice(&[0, 0, 41, s0, s1, 0, 0, dnssec_ok, 0, 0, 0]);
    }
    let limit = asked
        .edns
        .map_or(512, |(size, _)| size.max(512))
        .min(UDP_SIZE);
    (reply.len() <= limit.into()).then_some(reply)
}

/// An answer of any kind that a cache may hold, with more TTLs and octets than fit, too.
#[derive(Clone, Debug)]
struct Made {
    rcode: u8,
    /// Octets of data of each record.
    records: Vec<usize>,
    authentic: bool,
    ede: Option<u16>,
    stale: bool,
    ttl: u32,
}

fn arb_made() -> impl Strategy<Value = Made> {
    let rcode = prop_oneof![6 => Just(0), 2 => Just(3), 1 => Just(2)];
    let records = prop::collection::vec(0..120usize, 0..11);
    let ede = prop_oneof![8 => Just(None), 1 => Just(Some(15))];
    let stale = prop::bool::weighted(0.1);
    (rcode, records, any::<bool>(), ede, stale, 1..400u32).prop_map(
        |(rcode, records, authentic, ede, stale, ttl)| Made {
            rcode,
            records,
            authentic,
            ede,
            stale,
            ttl,
        },
    )
}

impl Made {
    fn answer(&self) -> Answer {
        let (mut body, mut ttl_offsets) = (Vec::new(), Vec::new());
        for (number, len) in self.records.iter().enumerate() {
            body.extend_from_slice(b"\xc0\x0c\0\x10\0\x01");
            ttl_offsets.push(body.len() as u16);
            // Some are lower than the age may get.
            body.extend_from_slice(&(self.ttl + 7 * number as u32 - 1).to_be_bytes());
            body.extend_from_slice(&(*len as u16).to_be_bytes());
            body.extend(std::iter::repeat_n(number as u8 + 1, *len));
        }
        let answer = Answer::new(&AnswerFields {
            rcode: self.rcode,
            counts: [self.records.len() as u16, 0, 0],
            body: &body,
            ttl_offsets: &ttl_offsets,
            ttl: self.ttl,
            authentic: self.authentic,
            ede: self.ede,
        });
        if self.stale {
            answer.as_ref().stale()
        } else {
            answer
        }
    }

    /// Whether the tier has to hold it: nothing but its kind and size decides.
    fn fits(&self) -> bool {
        let octets: usize = self.records.iter().map(|len| 12 + len).sum();
        matches!(self.rcode, 0 | 3)
            && self.ede.is_none()
            && !self.stale
            && (1..=8).contains(&self.records.len())
            && octets <= MAX_BODY
    }
}

fn core(counters: &Arc<AnswerCounters>) -> Core {
    Core::new(
        Cache::new(MIN_BYTES).unwrap(),
        NameHasher::default(),
        ReplySettings::new(UDP_SIZE, true),
        Arc::default(),
        Arc::clone(counters),
        Arc::default(),
    )
}

/// The core's reply.
fn ask(core: &mut Core, msg: &[u8]) -> Option<Vec<u8>> {
    let mut room = msg.to_vec();
    room.resize(4096, 0);
    let transport = Transport::Udp { source_port: 4000 };
    let client = Client::new([10, 0, 0, 2].into(), transport);
    let query = core.read(msg).unwrap();
    match core.answer(&query, &mut room, client) {
        Verdict::Reply { reply, .. } => Some(room[..reply.len].to_vec()),
        Verdict::Drop | Verdict::Miss => None,
    }
}

fn at(core: &mut Core, seconds: u32) {
    core.begin(Now { seconds, unix: 0 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn entries_give_the_cores_replies(
        label in prop_oneof![4 => 1..20usize, 1 => 55..=63usize],
        made in arb_made(),
        first in arb_asked(),
        others in prop::collection::vec((arb_asked(), 0..400u32), 1..6),
    ) {
        let counters = Arc::default();
        let mut core = core(&counters);
        let question = question(&"x".repeat(label));
        let answer = made.answer();
        at(&mut core, BEGIN);
        let msg = first.query(&question);
        let query = core.read(&msg).unwrap();
        core.insert(&query, &msg, &answer);
        for _ in 0..2 {
            ask(&mut core, &msg);
        }
        let popular = core.popular(&query, &msg);
        let entry = popular.and_then(|(key, popular)| {
            let offer = Offer {
                question: key.question,
                flags: key.flags,
                answer: popular.answer,
                received: popular.received,
                refresh: popular.refresh,
            };
            let mut entry = Entry::EMPTY;
            entry::write(&mut entry, &offer).map(|()| entry)
        });
        prop_assert_eq!(entry.is_some(), made.fits() && label + 2 <= 64);
        let Some(entry) = entry else { return Ok(()) };
        prop_assert_eq!(entry.received, BEGIN);
        prop_assert!(entry.until <= BEGIN + made.ttl && entry.until >= BEGIN + made.ttl - made.ttl / 10);
        for (asked, later) in others {
            let now = BEGIN + later;
            let Some(rendered) = render(&entry, &asked, &question, now) else { continue };
            at(&mut core, now);
            let reply = ask(&mut core, &asked.query(&question));
            prop_assert_eq!(Some(rendered), reply, "{:?} after {}", asked, later);
        }
    }
}

#[test]
fn only_popular_answers_whose_refresh_is_not_requested_are_nominated() {
    let counters = Arc::default();
    let mut core = core(&counters);
    let question = question("a");
    let asked = Asked {
        flags: 0x0100,
        edns: None,
        upper: Vec::new(),
    };
    let msg = asked.query(&question);
    let query = core.read(&msg).unwrap();
    at(&mut core, BEGIN);
    assert!(core.popular(&query, &msg).is_none(), "not cached");
    core.insert(&query, &msg, &answer([1; 4]));
    ask(&mut core, &msg);
    assert!(core.popular(&query, &msg).is_none(), "hit once");
    ask(&mut core, &msg);
    let (key, popular) = core.popular(&query, &msg).unwrap();
    assert_eq!((key.question, key.flags), (&question[..], 0));
    assert_eq!((popular.received, popular.refresh), (BEGIN, BEGIN + 270));
    // This query starts a refresh.
    at(&mut core, BEGIN + 270);
    ask(&mut core, &msg);
    assert!(core.popular(&query, &msg).is_none());
    core.insert(&query, &msg, &answer([2; 4]));
    assert_eq!(core.popular(&query, &msg).unwrap().1.received, BEGIN + 270);
    core.maintain(Cache::invalidate);
    assert!(core.popular(&query, &msg).is_none(), "flushed");
}

#[test]
fn nothing_is_nominated_once_the_policy_was_replaced() {
    let policy = Arc::<arc_swap::ArcSwap<crate::answer::policy::Policy>>::default();
    let mut core = Core::new(
        Cache::new(MIN_BYTES).unwrap(),
        NameHasher::default(),
        ReplySettings::new(UDP_SIZE, true),
        Arc::clone(&policy),
        Arc::default(),
        Arc::default(),
    );
    let asked = Asked {
        flags: 0x0100,
        edns: None,
        upper: Vec::new(),
    };
    let msg = asked.query(&question("a"));
    let query = core.read(&msg).unwrap();
    at(&mut core, BEGIN);
    core.insert(&query, &msg, &answer([1; 4]));
    for _ in 0..2 {
        ask(&mut core, &msg);
    }
    assert!(core.popular(&query, &msg).is_some());
    policy.store(Arc::default());
    assert!(core.popular(&query, &msg).is_none());
    at(&mut core, BEGIN);
    assert!(core.popular(&query, &msg).is_none(), "the cache is invalid");
}
