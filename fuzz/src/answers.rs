//! Responses from upstreams.

#[path = "../../heimdall-user/src/dns/response/oracle.rs"]
mod oracle;

use heimdall_user::{
    checksum,
    dns::{
        Answer, AnswerRef, DnsPacketView, NameHasher, Query, ResponseReader, TtlLimits,
        compose::Composition,
        denial, options,
        reply::{self, Content, Reply, ReplySettings},
    },
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Record, RecordType},
    serialize::binary::{BinDecodable, BinEncodable},
};

const QUESTION: &[u8] = b"\x03www\x07example\x03com\0\0\x01\0\x01";

/// A response that is accepted and that the oracle reads becomes a reply that the oracle reads as those of
/// its records that belong to the question; without an answer or a SOA record it is not cached; and nothing
/// that an upstream sends makes Heimdall panic.
pub fn upstream_answer(msg: &[u8]) {
    let _ = options::extended_error(msg);
    let own = question(msg);
    for question in [QUESTION, own.unwrap_or(QUESTION)] {
        for flags in 0..4 {
            let limits = TtlLimits {
                min: 0,
                max: 86_400,
                max_negative: 3600,
            };
            if let Ok(answer) = Answer::from_response(msg, question, flags, &limits) {
                check(msg, question, flags, &answer);
            }
        }
    }
}

/// The question of the message itself, if it has one in plain form.
fn question(msg: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    while *msg.get(at)? != 0 {
        at += 1 + usize::from(*msg.get(at)?);
    }
    (at < 12 + 255).then(|| msg.get(12..at + 5)).flatten()
}

fn check(msg: &[u8], question: &[u8], flags: u8, answer: &Answer) {
    let view = answer.as_ref();
    assert_eq!(
        AnswerRef::read(answer.as_bytes())
            .expect("whole")
            .flat_len(),
        answer.as_bytes().len()
    );
    assert!(view.ttl() <= 86_400);
    let _ = denial::for_descendant(view, question.len(), question.len() + 7);
    let aged = view.aged(5);
    assert_eq!(aged.as_ref().ttl(), view.ttl().saturating_sub(5));
    assert_eq!(view.stale().as_ref().ttl(), 30);

    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(question);
    let Ok(parsed) = DnsPacketView::parse(&query) else {
        return;
    };
    let parsed = Query::new(&parsed, &NameHasher::default());
    let server = ReplySettings::new(1232, true);
    let Ok(theirs) = Message::from_bytes(msg) else {
        return;
    };
    let qtype = parsed.qtype();
    let expected = oracle::belonging(&theirs, qtype, flags & 1 != 0);
    let expected = expected.unwrap_or_else(|| panic!("an alias loop: {msg:02x?}"));
    let [answers, authorities, _] = &expected;
    let answered = answers
        .iter()
        .any(|record| u16::from(record.record_type()) == qtype);
    let denied = theirs.metadata.response_code == ResponseCode::NXDomain || !answered;
    if denied
        && !authorities
            .iter()
            .any(|record| record.record_type() == RecordType::SOA)
    {
        assert_eq!(view.ttl(), 0, "{msg:02x?}");
    }
    let composed = composed(question, flags, view);
    let answers_of = [(answer, 0), (answer, 3), (&aged, 0), (&view.stale(), 0)];
    for (answer, age) in answers_of.into_iter().chain(composed.as_ref().map(|it| (it, 0))) {
        let mut buf = query.clone();
        buf.resize(65_535, 0xee);
        let content = Content {
            answer: answer.as_ref(),
            age,
            question_sum: None,
        };
        let reply = reply::answer(&mut buf, &parsed, content, 65_535, &server, None);
        let Some(Reply { len, sum }) = reply else {
            continue;
        };
        let expected = checksum::finish_udp(checksum::add(0, &buf[..len]));
        assert_eq!(checksum::finish_udp(sum), expected, "the sum");
        if buf[2] & 2 != 0 {
            continue;
        }
        let ours = Message::from_bytes(&buf[..len])
            .unwrap_or_else(|error| panic!("{error}: {:02x?} of {msg:02x?}", &buf[..len]));
        same(&ours.answers, answers);
        same(&ours.authorities, authorities);
        let ttls = [&ours.answers, &ours.authorities, &ours.additionals];
        assert!(
            ttls.into_iter()
                .flatten()
                .all(|record| record.ttl + age >= answer.as_ref().ttl())
        );
    }
}

/// The answer, written with names in full and read again. `None`: no message can hold that.
fn composed(question: &[u8], flags: u8, answer: AnswerRef<'_>) -> Option<Answer> {
    let msg = Composition::default().finish(question, question, answer)?;
    let mut composed = Answer::default();
    let read = ResponseReader::default().read_composed(&msg, question, flags, &mut composed);
    read.unwrap_or_else(|error| panic!("{error}: {msg:02x?}"));
    assert_eq!(composed.as_ref().ttl(), answer.ttl());
    assert_eq!(composed.as_ref().ede(), answer.ede());
    Some(composed)
}

/// Types with names that the oracle takes as octets, and that Heimdall decompresses where it has to rewrite
/// records.
const NAMES_UNKNOWN_TO_THE_ORACLE: [u16; 12] = [3, 4, 7, 8, 9, 14, 17, 18, 21, 24, 26, 30];

/// A record's data in lower case: names that point to the question have the name case of the query.
fn data(record: &Record) -> Option<Vec<u8>> {
    record
        .data
        .to_bytes()
        .ok()
        .map(|data| data.to_ascii_lowercase())
}

/// Whether two records are the same, except for their TTLs.
fn same_but_for_ttl(ours: &Record, theirs: &Record) -> bool {
    ours.name == theirs.name
        && ours.record_type() == theirs.record_type()
        && ours.dns_class == theirs.dns_class
        && (NAMES_UNKNOWN_TO_THE_ORACLE.contains(&u16::from(ours.record_type()))
            || data(ours) == data(theirs))
}

/// Checks that the records are theirs in the same order, without duplicates.
fn same(ours: &[Record], theirs: &[Record]) {
    let mut rest = theirs.iter();
    for ours in ours {
        assert!(
            rest.any(|theirs| same_but_for_ttl(ours, theirs)),
            "{ours} is new"
        );
    }
    for theirs in theirs {
        let is_there = ours.iter().any(|ours| same_but_for_ttl(ours, theirs));
        assert!(is_there, "{theirs} is missing");
    }
}
