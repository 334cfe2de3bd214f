//! Responses from upstreams.

use heimdall_user::{
    checksum,
    dns::{
        Answer, AnswerRef, DnsPacketView, NameHasher, Query, TtlLimits, cut, options,
        reply::{self, Content, Reply, Server},
    },
};
use hickory_proto::{
    op::Message,
    rr::Record,
    serialize::binary::{BinDecodable, BinEncodable},
};

const QUESTION: &[u8] = b"\x03www\x07example\x03com\0\0\x01\0\x01";

/// A response that is taken and that the oracle reads becomes a reply that the oracle reads as the
/// same records; and nothing that an upstream sends does any harm.
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
    assert!(view.life() <= 86_400);
    let _ = cut::move_down(view, question.len(), question.len() + 7);
    let aged = view.aged(5);
    assert_eq!(aged.as_ref().life(), view.life().saturating_sub(5));
    assert_eq!(view.stale().as_ref().life(), 30);

    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(question);
    let Ok(parsed) = DnsPacketView::parse(&query) else {
        return;
    };
    let parsed = Query::new(&parsed, &NameHasher::default());
    let server = Server::new(1232, true);
    let Ok(theirs) = Message::from_bytes(msg) else {
        return;
    };
    for (answer, age) in [(answer, 0), (answer, 3), (&aged, 0), (&view.stale(), 0)] {
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
        same(&ours.answers, &theirs.answers, question, flags);
        same(&ours.authorities, &theirs.authorities, question, flags);
    }
}

/// Types of RFC 1035 and 1183 and the like whose names may be compressed, but that the oracle takes
/// as octets: Heimdall writes their names in full where it has to write records anew.
const NAMES_UNKNOWN_TO_THE_ORACLE: [u16; 12] = [3, 4, 7, 8, 9, 14, 17, 18, 21, 26, 36, 39];

/// A record's data. Names that point to the question have the letters of whoever asks.
fn data(record: &Record) -> Option<Vec<u8>> {
    record
        .data
        .to_bytes()
        .ok()
        .map(|data| data.to_ascii_lowercase())
}

/// Whether the records say the same, but for their TTLs, and for those of DNSSEC to those who have
/// not asked for them.
fn same(ours: &[Record], theirs: &[Record], question: &[u8], flags: u8) {
    let qtype = question[question.len() - 4..][..2].to_vec();
    let wanted = |record: &&Record| {
        let rtype = u16::from(record.record_type());
        let asked = flags & 1 != 0 || rtype.to_be_bytes() == qtype[..];
        asked || ![46, 47, 50].contains(&rtype)
    };
    let theirs: Vec<&Record> = theirs.iter().filter(wanted).collect();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours.name, theirs.name);
        assert_eq!(ours.record_type(), theirs.record_type());
        assert_eq!(ours.dns_class, theirs.dns_class);
        if !NAMES_UNKNOWN_TO_THE_ORACLE.contains(&u16::from(ours.record_type())) {
            assert_eq!(data(ours), data(theirs));
        }
    }
}
