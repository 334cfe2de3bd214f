//! Records that a response itself shows to be untrue or of no use, and names that must not be compressed.

use super::*;

fn dname(owner: &str, target: &[u8]) -> Record {
    raw(owner, rrtype::DNAME, 300, target)
}

fn nsec(owner: &str) -> Record {
    raw(owner, rrtype::NSEC, 300, b"\x01n\x02ok\0\0\x01\x40")
}

fn nsec3(owner: &str) -> Record {
    raw(owner, rrtype::NSEC3, 300, b"\x01\0\0\x01\0\x01x\0\x01\x40")
}

/// A signature by a zone.
fn signed_by(owner: &str, covers: u8, zone: &[u8]) -> Record {
    let fixed = [0, covers, 13, 1, 0, 0, 0, 60, 0, 0, 0, 9, 0, 0, 0, 8, 0, 7];
    raw(
        owner,
        rrtype::RRSIG,
        300,
        &[&fixed, zone, b"signature"].concat(),
    )
}

/// The answer section that is left of these records.
fn left_of(qname: &str, qtype: u16, answers: &[Record]) -> Vec<Record> {
    let [left, ..] = left(&response(qname, qtype, [answers, &[], &[]]), 0);
    left
}

#[test]
fn a_dname_is_kept_if_an_alias_follows_from_it() {
    let alias_of_a = alias("A.b.ok.", "a.b.new.");
    let address = address("a.b.new.", 1);
    for (dname, kept) in [
        (dname("b.ok.", b"\x01b\x03new\0"), true),
        (dname("ok.", b"\x03NEW\0"), true),
        // The alias would be another one.
        (dname("b.ok.", b"\x03new\0"), false),
        (dname("ok.", b"\x01b\x03new\0"), false),
        (dname(".", b"\x03new\0"), false),
        (dname("ok.", b"\x04evil\0"), false),
        // Neither the name itself nor one beside it.
        (dname("a.b.ok.", b"\x01a\x01b\x03new\0"), false),
        (dname("c.ok.", b"\x03new\0"), false),
    ] {
        let records = [address.clone(), dname, alias_of_a.clone()];
        let expected: Vec<Record> = (records.iter().enumerate())
            .filter(|(at, _)| kept || *at != 1)
            .map(|(_, record)| record.clone())
            .collect();
        assert_eq!(left_of("a.b.ok.", A, &records), expected);
    }
    // To the root, and for a question about the alias or about a DNAME record.
    let records = [dname("ok.", b"\0"), alias("com.ok.", "com.")];
    for qtype in [A, rrtype::CNAME, rrtype::DNAME] {
        assert_eq!(left_of("com.ok.", qtype, &records), records);
    }
    let records = [dname("ok.", b"\x03new\0")];
    assert_eq!(left_of("ok.", rrtype::DNAME, &records), records);
    assert!(left_of("a.ok.", A, &records).is_empty(), "no alias");
}

/// As many DNAME records as a message holds, and as long an alias as there is.
#[test]
fn many_dnames_take_no_time() {
    let long = "a.".repeat(120);
    let mut records = vec![alias(&format!("{long}ok."), &format!("{long}new."))];
    records.extend((0..3000).map(|_| dname("ok.", b"\x03new\0")));
    let message = response(&format!("{long}ok."), A, [&records, &[], &[]]);
    let mut reader = ResponseReader::default();
    let msg = message.to_vec().unwrap();
    let mut answer = Answer::default();
    reader
        .read(&msg, question(&msg), 0, &LIMITS, &mut answer)
        .unwrap();
    assert_eq!(answer.as_ref().section_counts(), [2, 0, 0]);
    // One for each label that both names have.
    assert!(reader.scratch.len() <= 120);
}

#[test]
fn only_one_alias_of_a_name_is_an_answer() {
    let records = [alias("a.ok.", "b.ok."), alias("a.ok.", "evil.")];
    assert_eq!(left_of("a.ok.", rrtype::CNAME, &records), records[..1]);
    assert_eq!(left_of("a.ok.", A, &records), records[..1]);
}

#[test]
fn a_name_that_does_not_exist_has_no_data() {
    let answers = [alias("a.ok.", "b.ok."), address("b.ok.", 66)];
    let mut message = response("a.ok.", A, [&answers, &[soa("ok.")], &[]]);
    message.metadata.response_code = ResponseCode::NXDomain;
    let [answers_left, authorities, _] = left(&message, 0);
    assert_eq!((answers_left.len(), authorities.len()), (1, 1));
    assert_eq!(taken(&message, 0).as_ref().ttl(), 60);
}

#[test]
fn denials_are_kept_of_zones_that_the_chain_is_in() {
    let ok = b"\x02ok\0";
    // Of a zone that the queried name is in, and of one that the alias's target is in.
    let kept = [
        nsec("m.ok."),
        signed_by("m.ok.", 47, ok),
        nsec("x.sub.new."),
        signed_by("x.sub.new.", 47, b"\x03sub\x03new\0"),
        nsec3("hash.ok."),
        signed_by("hash.ok.", 50, ok),
        nsec3("hash.new."),
    ];
    let left_out = [
        // Without a signature nothing says of which zone it is.
        nsec("n.ok."),
        // Of another zone, of one below, and of one that the record is not in.
        nsec("bank."),
        signed_by("bank.", 47, b"\x04bank\0"),
        nsec("x.z.ok."),
        signed_by("x.z.ok.", 47, b"\x01z\x02ok\0"),
        nsec("m.evil."),
        signed_by("m.evil.", 47, ok),
        nsec3("hash.bank."),
        nsec3("hash.z.ok."),
        signed_by("hash.z.ok.", 50, ok),
    ];
    let answers = [alias("a.ok.", "b.sub.new."), address("b.sub.new.", 1)];
    for records in [
        [&kept[..], &left_out[..]].concat(),
        [&left_out[..], &kept[..]].concat(),
    ] {
        let message = response("a.ok.", A, [&answers, &records, &[]]);
        let [_, authorities, _] = left(&message, KEY_FLAG_DO);
        assert_eq!(authorities, kept);
        let [_, authorities, _] = left(&message, 0);
        assert!(authorities.is_empty());
    }
}

/// By type: the octets before a name, those behind it, and whether it may be compressed, or is written in full, or
/// must be so already.
const NAMES_IN_DATA: &[(u16, usize, usize, Compression)] = &[
    (2, 0, 0, Allowed),
    (5, 0, 0, Allowed),
    (12, 0, 0, Allowed),
    (15, 2, 0, Allowed),
    (17, 1, 0, Undone),
    (18, 2, 0, Undone),
    (21, 2, 0, Undone),
    (24, 18, 1, Undone),
    (30, 0, 1, Undone),
    (33, 6, 0, Undone),
    (35, 7, 0, Undone),
    (36, 2, 0, Refused),
    (39, 0, 0, Refused),
    (46, 18, 1, Refused),
    (47, 0, 0, Refused),
    (64, 2, 0, Refused),
    (65, 2, 0, Refused),
    (66, 5, 0, Refused),
    (107, 2, 0, Refused),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compression {
    Allowed,
    Undone,
    Refused,
}
use Compression::{Allowed, Refused, Undone};

#[test]
fn names_are_compressed_only_where_clients_can_read_them() {
    for &(rtype, before, behind, compression) in NAMES_IN_DATA {
        let data = |name: &[u8]| {
            // The first name of an RP record is the root, as are the strings of a NAPTR record.
            let (before, behind) = (vec![0; before], vec![7; behind]);
            [&before, name, &behind].concat()
        };
        let body = |name: &[u8]| {
            let answer = take_data(rtype, &data(name));
            answer.map(|answer| answer.as_ref().body().to_vec())
        };
        let in_full = body(b"\x01x\x01a\0").unwrap();
        assert_eq!(in_full[12..], data(b"\x01x\x01a\0"), "{rtype}");
        let expected = match compression {
            Allowed => Ok([&in_full[..11], &[before as u8 + 4], &data(b"\x01x\xc0\x0c")].concat()),
            Undone => Ok(in_full),
            Refused => Err(BadResponse::InvalidAnswer),
        };
        assert_eq!(body(b"\x01x\xc0\x0c"), expected, "{rtype}");
    }
}

/// A record that is rewritten, and others around it.
#[test]
fn a_name_that_is_expanded_moves_what_follows() {
    let mut msg = b"\0\x07\x81\x80\0\x01\0\x02\0\0\0\x01\x02ok\0\0\x21\0\x01".to_vec();
    for host in [&b"\x01m\xc0\x0c"[..], b"\xc0\x26"] {
        msg.extend_from_slice(b"\xc0\x0c\0\x21\0\x01\0\0\0\x09\0");
        msg.push(6 + host.len() as u8);
        msg.extend_from_slice(&[0, 1, 0, 1, 0, 53]);
        msg.extend_from_slice(host);
    }
    msg.extend_from_slice(b"\xc0\x26\0\x01\0\x01\0\0\0\x09\0\x04\xc0\0\x02\x01");
    let answer = take(&msg, 0, &LIMITS).unwrap();
    let read = read(answer.as_ref(), &msg);
    let targets: Vec<String> = (read.answers.iter())
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(targets, ["1 1 53 m.ok."], "the same data, once");
    assert_eq!(read.additionals.len(), 1);
    assert_eq!(read.additionals[0].name, name("m.ok."));
    assert!(answer.as_ref().is_sound(question(&msg).len()));
}

/// Composed or not, the records are the same, and owners that were written before are pointers.
#[test]
fn a_composed_message_is_rewritten() {
    let records = [
        alias("www.ok.", "host.ok."),
        address("host.ok.", 1),
        address("host.ok.", 2),
    ];
    let message = response("www.ok.", A, [&records, &[], &[]]);
    let msg = message.to_vec().unwrap();
    let mut answer = Answer::default();
    ResponseReader::default()
        .read_composed(&msg, question(&msg), 0, &mut answer)
        .unwrap();
    let body = answer.as_ref().body();
    assert_eq!(body[..2], [0xc0, 12]);
    // The alias has its target in full, and the first address its owner.
    let alias_len = 2 + 10 + 9;
    let owner_at = (0xc000 | (12 + question(&msg).len() + alias_len) as u16).to_be_bytes();
    assert_eq!(body[body.len() - 16..][..2], owner_at);
    assert_eq!(read(answer.as_ref(), &msg).answers, records);
}
