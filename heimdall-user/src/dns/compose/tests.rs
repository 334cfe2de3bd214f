#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Record, RecordType},
    serialize::binary::BinDecodable,
};
use proptest::prelude::*;

use super::*;
use crate::dns::{
    Answer, BadResponse, KEY_FLAG_DO, ResponseReader, TtlLimits,
    testing::{address, alias, name, raw, signature, soa},
};

/// What an upstream answers: the question, and the answer.
fn answer(qname: &str, code: u8, [answers, authorities]: [&[Record]; 2]) -> (Vec<u8>, Answer) {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.metadata.response_code = ResponseCode::from(0, code);
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name(qname), RecordType::A));
    message.add_answers(answers.to_vec());
    message.add_authorities(authorities.to_vec());
    let msg = message.to_vec().unwrap();
    let end = crate::dns::name::end_of_question_name(&msg, header::LEN).unwrap() + 4;
    let question = msg[header::LEN..end].to_vec();
    let limits = TtlLimits::default();
    let answer = Answer::from_response(&msg, &question, KEY_FLAG_DO, &limits).unwrap();
    (question, answer)
}

fn wire(text: &str) -> Vec<u8> {
    use hickory_proto::serialize::binary::BinEncodable as _;
    name(text).to_bytes().unwrap()
}

/// The answer that steps add up to: answers with aliases to follow, each up to a target, and the last one.
fn compose(
    steps: &[(&(Vec<u8>, Answer), &str)],
    (asked, last): &(Vec<u8>, Answer),
) -> Result<(Answer, Message), BadResponse> {
    let mut composition = Composition::default();
    for ((question, answer), target) in steps {
        let added = composition.add_aliases(question, answer.as_ref(), &wire(target));
        added.unwrap();
    }
    let question = &steps[0].0.0;
    let msg = composition.finish(question, asked, last.as_ref()).unwrap();
    let mut answer = Answer::default();
    ResponseReader::default().read_composed(&msg, question, KEY_FLAG_DO, &mut answer)?;
    let view = answer.as_ref();
    let head = [0, 1, 0x81, 0x80 | view.rcode(), 0, 1];
    let reply = [&head[..], &view.counts(), question, view.body()].concat();
    let message = Message::from_bytes(&reply).unwrap();
    Ok((answer, message))
}

#[test]
fn the_records_of_all_steps_make_an_answer() {
    let first = [
        alias("www.corp.ok.", "a.corp.ok."),
        signature("www.corp.ok.", 5, b"\x02ok\0"),
        alias("a.corp.ok.", "cdn.net."),
    ];
    let proof = [
        raw("v.corp.ok.", rrtype::NSEC, 300, b"\x01x\x02ok\0\0\x01\x40"),
        signature("v.corp.ok.", 47, b"\x02ok\0"),
    ];
    let first = answer("WWW.corp.ok.", 0, [&first, &proof]);
    let last = [address("Cdn.net.", 1), address("cdn.net.", 2)];
    let last = answer("cdn.net.", 0, [&last, &[]]);
    let (composed, message) = compose(&[(&first, "cdn.net.")], &last).unwrap();
    let expected = [
        alias("www.corp.ok.", "a.corp.ok."),
        signature("www.corp.ok.", 5, b"\x02ok\0"),
        alias("a.corp.ok.", "cdn.net."),
        address("cdn.net.", 1),
        address("cdn.net.", 2),
    ];
    assert_eq!(message.answers, expected);
    assert_eq!(message.authorities, proof);
    let composed = composed.as_ref();
    assert_eq!(composed.ttl(), 300);
    assert!(composed.authentic() && composed.is_sound(first.0.len()));
    // Before the proofs: the last address, whose owner is a pointer.
    let name_at = composed
        .body()
        .windows(4)
        .position(|data| data == [192, 0, 2, 2]);
    assert_eq!(composed.body()[name_at.unwrap() - 12], 0xc0);
}

#[test]
fn a_denial_at_the_end_stays_one() {
    let first = answer("a.ok.", 0, [&[alias("a.ok.", "b.net.")], &[]]);
    for (code, ttl) in [(0, 60), (3, 60)] {
        let last = answer("b.net.", code, [&[], &[soa("net.")]]);
        let (composed, message) = compose(&[(&first, "b.net.")], &last).unwrap();
        assert_eq!(composed.as_ref().rcode(), code);
        assert_eq!(composed.as_ref().ttl(), ttl);
        assert_eq!(message.authorities.len(), 1);
    }
    let nothing = answer("b.net.", 0, [&[], &[]]);
    let (composed, _) = compose(&[(&first, "b.net.")], &nothing).unwrap();
    assert_eq!(composed.as_ref().ttl(), 0, "incomplete as before");
}

#[test]
fn what_an_answer_says_beyond_the_target_is_left_out() {
    let believed = [alias("a.ok.", "b.net.")];
    let beyond = [
        alias("b.net.", "b.evil."),
        raw("net.", rrtype::DNAME, 300, b"\x04evil\0"),
        signature("b.net.", 5, b"\x03net\0"),
        address("b.evil.", 66),
    ];
    let first = answer("a.ok.", 0, [&[&believed[..], &beyond].concat(), &[]]);
    let last = answer(
        "b.net.",
        0,
        [&[alias("b.net.", "c.net."), address("c.net.", 1)], &[]],
    );
    let (_, message) = compose(&[(&first, "b.net.")], &last).unwrap();
    let expected = [
        alias("a.ok.", "b.net."),
        alias("b.net.", "c.net."),
        address("c.net.", 1),
    ];
    assert_eq!(message.answers, expected);
    // The negative end of a chain that is not believed.
    let denied = answer("a.ok.", 3, [&believed, &[soa("net.")]]);
    let last = answer("b.net.", 0, [&[address("b.net.", 1)], &[]]);
    let (composed, message) = compose(&[(&denied, "b.net.")], &last).unwrap();
    assert_eq!(
        (composed.as_ref().rcode(), composed.as_ref().ttl()),
        (0, 300)
    );
    assert_eq!((message.answers.len(), message.authorities.len()), (2, 0));
}

#[test]
fn a_dname_goes_with_its_alias() {
    let dname = raw("ok.", rrtype::DNAME, 300, b"\x03net\0");
    let records = [
        dname.clone(),
        signature("ok.", 39, b"\x02ok\0"),
        alias("a.ok.", "a.net."),
    ];
    let first = answer("a.ok.", 0, [&records, &[]]);
    let last = answer("a.net.", 0, [&[address("a.net.", 1)], &[]]);
    let (_, message) = compose(&[(&first, "a.net.")], &last).unwrap();
    assert_eq!(message.answers[..3], records);
}

#[test]
fn loops_over_several_answers_are_found() {
    let there = answer("a.ok.", 0, [&[alias("a.ok.", "b.net.")], &[]]);
    let back = answer("b.net.", 0, [&[alias("b.net.", "A.ok.")], &[]]);
    let end = answer("a.ok.", 0, [&[address("a.ok.", 1)], &[]]);
    let composed = compose(&[(&there, "b.net."), (&back, "a.ok.")], &end);
    assert_eq!(composed.unwrap_err(), BadResponse::InvalidAnswer);
}

#[test]
fn the_first_extended_error_and_the_worst_proof_count() {
    let (question, first) = answer("a.ok.", 0, [&[alias("a.ok.", "b.net.")], &[]]);
    let (asked, _) = answer("b.net.", 0, [&[], &[]]);
    let mut composition = Composition::default();
    composition
        .add_aliases(&question, first.as_ref(), b"\x01b\x03net\0")
        .unwrap();
    let last = Answer::failure(0, Some(3), 0);
    let msg = composition
        .finish(&question, &asked, last.as_ref())
        .unwrap();
    let mut composed = Answer::default();
    let mut reader = ResponseReader::default();
    reader
        .read_composed(&msg, &question, 0, &mut composed)
        .unwrap();
    assert_eq!(composed.as_ref().ede(), Some(3));
    assert!(!composed.as_ref().authentic());
}

#[test]
fn a_message_that_is_too_large_is_refused() {
    let (question, first) = answer("a.ok.", 0, [&[alias("a.ok.", "b.net.")], &[]]);
    let string = [&[255u8][..], &[b'x'; 255]].concat();
    let text = |first: u8| {
        let mut data = string.repeat(63);
        data[1] = first;
        raw("b.net.", 16, 300, &data)
    };
    let (asked, _) = answer("b.net.", 0, [&[], &[]]);
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(name("b.net."), RecordType::TXT));
    message.add_answers((0..4).map(text));
    let msg = message.to_vec().unwrap();
    let of_text = [&asked[..asked.len() - 4], &[0, 16, 0, 1]].concat();
    let limits = TtlLimits::default();
    let mut last = Answer::from_response(&msg, &of_text, 0, &limits).unwrap();
    for fits in [true, false] {
        let mut composition = Composition::default();
        composition
            .add_aliases(&question, first.as_ref(), b"\x01b\x03net\0")
            .unwrap();
        let composed = composition.finish(&question, &of_text, last.as_ref());
        assert_eq!(composed.is_some(), fits);
        // Larger only once names are written in full.
        let view = last.as_ref();
        let fill = [
            view.body(),
            &b"\xc0\x0c\0\x10\0\x01\0\0\0\x09\0\x02\x01a".repeat(60),
        ]
        .concat();
        last = Answer::new(&crate::dns::answer::AnswerFields {
            counts: [4 + 60, 0, 0],
            body: &fill,
            ..Default::default()
        });
    }
}

proptest! {
    /// Whatever the octets: no panic.
    #[test]
    fn nothing_panics(counts: [u16; 3], body: Vec<u8>, target: Vec<u8>) {
        let answer = Answer::new(&crate::dns::answer::AnswerFields {
            counts,
            body: &body,
            ..Default::default()
        });
        let question = b"\x01a\x02ok\0\0\x01\0\x01";
        let mut composition = Composition::default();
        let _ = composition.add_aliases(question, answer.as_ref(), &target);
        let _ = composition.finish(question, question, answer.as_ref());
    }
}
