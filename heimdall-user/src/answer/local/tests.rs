#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use hickory_proto::{op::Message, rr::RecordType, serialize::binary::BinDecodable};
use proptest::prelude::*;

use super::{
    super::hostname::wire,
    hosts::{HostsReport, Skipped},
    *,
};

fn records(records: &[&str]) -> Result<LocalData, LocalError> {
    let mut builder = LocalData::builder();
    for record in records {
        builder.record(record)?;
    }
    builder.build().map_err(|conflict| conflict.error)
}

/// What a question gets, as the oracle reads it: a record a line.
fn ask(data: &LocalData, name: &str, rtype: &str) -> Option<Vec<String>> {
    let qtype: RecordType = rtype.parse().unwrap();
    let qname = wire(name.as_bytes()).unwrap_or(vec![0]);
    let answer = data.lookup(&qname, qtype.into())?.as_ref();
    let mut msg = vec![0, 1, 0x80, answer.rcode(), 0, 1];
    msg.extend_from_slice(&answer.counts());
    msg.extend_from_slice(&qname);
    msg.extend_from_slice(&u16::from(qtype).to_be_bytes());
    msg.extend_from_slice(&[0, 1]);
    msg.extend_from_slice(answer.body());
    let read = Message::from_bytes(&msg).unwrap();
    let least = read.all_sections().map(|record| record.ttl).min();
    assert_eq!(Some(answer.ttl()), least);
    let show = |record: &hickory_proto::rr::Record| {
        let (rtype, data) = (record.record_type(), &record.data);
        format!("{} {} {rtype} {data}", record.name, record.ttl)
    };
    let authorities = read
        .authorities
        .iter()
        .map(|record| format!("({})", show(record)));
    Some(read.answers.iter().map(show).chain(authorities).collect())
}

const SOA: &str = "60 SOA . . 1 3600 600 86400 60";

#[test]
fn records_of_the_common_types() {
    let data = records(&[
        "printer.lan. 300 IN A 192.168.1.9",
        "printer.lan. 120 A 192.168.1.10",
        "Printer.Lan AAAA fd00::9",
        "printer.lan. TXT \"two words\" second",
        "lan. MX 10 Mail.lan.",
        "_ipp._tcp.lan. 60 IN SRV 0 5 631 printer.lan.",
        "lan. NS ns.lan.",
        "lan. CAA 0 issue \"ca.example\"",
        "web.lan. HTTPS 1 . alpn=h2",
        "odd.lan. TYPE65280 \\# 3 010203",
        "9.0.0.10.in-addr.arpa. PTR given.lan.",
        "derived.lan. A 10.0.0.9",
        "derived.lan. A 10.0.0.10",
    ])
    .unwrap();
    for (name, rtype, expected) in [
        (
            "PRINTER.lan",
            "A",
            &[
                "printer.lan. 120 A 192.168.1.9",
                "printer.lan. 120 A 192.168.1.10",
            ][..],
        ),
        ("printer.lan", "AAAA", &["printer.lan. 300 AAAA fd00::9"]),
        ("lan", "MX", &["lan. 300 MX 10 mail.lan."]),
        (
            "_ipp._tcp.lan",
            "SRV",
            &["_ipp._tcp.lan. 60 SRV 0 5 631 printer.lan."],
        ),
        ("lan", "NS", &["lan. 300 NS ns.lan."]),
        (
            "9.1.168.192.in-addr.arpa",
            "PTR",
            &["9.1.168.192.in-addr.arpa. 300 PTR printer.lan."],
        ),
        (
            "9.0.0.10.in-addr.arpa",
            "PTR",
            &["9.0.0.10.in-addr.arpa. 300 PTR given.lan."],
        ),
        (
            "10.0.0.10.in-addr.arpa",
            "PTR",
            &["10.0.0.10.in-addr.arpa. 300 PTR derived.lan."],
        ),
    ] {
        let got = ask(&data, name, rtype).unwrap();
        let got: Vec<String> = got.iter().map(|line| line.to_lowercase()).collect();
        let expected: Vec<String> = expected.iter().map(|line| line.to_lowercase()).collect();
        assert_eq!(got, expected, "{name} {rtype}");
    }
    for (name, rtype) in [("printer.lan", "TXT"), ("lan", "CAA"), ("web.lan", "HTTPS")] {
        assert_eq!(ask(&data, name, rtype).unwrap().len(), 1, "{name}");
    }
    let reverse = format!("9.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&data, &reverse, "PTR").unwrap().len(), 1);
    let odd = data.lookup(&wire(b"odd.lan").unwrap(), 65_280).unwrap();
    assert!(odd.as_ref().body().ends_with(&[0, 3, 1, 2, 3]));
    assert_eq!(
        ask(&data, "printer.lan", "MX").unwrap(),
        [format!("(printer.lan. {SOA})")]
    );
    for foreign in ["www.printer.lan", "example.com", "tcp.lan"] {
        assert_eq!(ask(&data, foreign, "A"), None, "{foreign}");
    }
    assert_eq!(data.lookup(&[0], 1), None, "the root");
    assert_eq!(LocalData::default().lookup(&[0], 1), None);
}

#[test]
fn an_alias_is_answered_with_its_target() {
    let data = records(&[
        "a.lan. 100 CNAME B.lan.",
        "b.lan. 200 CNAME c.lan.",
        "c.lan. 50 A 10.0.0.1",
    ])
    .unwrap();
    assert_eq!(
        ask(&data, "a.lan", "A").unwrap(),
        [
            "a.lan. 100 CNAME B.lan.",
            "B.lan. 200 CNAME c.lan.",
            "c.lan. 50 A 10.0.0.1"
        ]
    );
    assert_eq!(
        ask(&data, "a.lan", "CNAME").unwrap(),
        ["a.lan. 100 CNAME B.lan."]
    );
    assert_eq!(
        ask(&data, "b.lan", "AAAA").unwrap(),
        [
            "b.lan. 200 CNAME c.lan.".to_owned(),
            format!("(c.lan. {SOA})")
        ]
    );
    for (list, error) in [
        (
            &["a.lan. CNAME example.com."][..],
            "a.lan. is an alias of example.com., which is not local, or leads back to it; give example.com. local data, or a.lan. records of its own",
        ),
        (
            &["a.lan. CNAME b.lan.", "b.lan. CNAME a.lan."],
            "a.lan. is an alias of b.lan., which is not local, or leads back to it; give b.lan. local data, or a.lan. records of its own",
        ),
        (
            &[
                "a.lan. CNAME b.lan.",
                "a.lan. A 10.0.0.1",
                "b.lan. A 10.0.0.1",
            ],
            "a.lan. is an alias and has other data; a name with CNAME has nothing else",
        ),
        (
            &["a.lan. CNAME b.lan.", "a.lan. CNAME c.lan."],
            "a.lan. is an alias and has other data; a name with CNAME has nothing else",
        ),
    ] {
        assert_eq!(records(list).unwrap_err().to_string(), error);
    }
}

#[test]
fn bad_records_are_errors() {
    for (record, part) in [
        ("printer.lan. A 10.0.0", "is not a record"),
        ("printer.lan.", "is not a record"),
        ("", "there is none"),
        (
            "a.lan. A 10.0.0.1\nb.lan. A 10.0.0.2",
            "it has more than one line",
        ),
        ("a.lan. TXT \"n.y\"(z", "parentheses"),
        ("a.lan. TXT \"x\"y", "no blank behind"),
        ("a.lan. TXT x\"y\"", "no blank before"),
        ("a.lan. TXT \"x", "no end"),
        (
            "a.lan. CH TXT x",
            "not a record: different class: CH != IN; write",
        ),
        ("a.lan. TYPE255 \\# 0", "class IN"),
        ("$INCLUDE /etc/passwd", "there is none"),
        ("a.lan. 2147483648 A 10.0.0.1", "TTL is above 2147483647"),
        ("*.lan. A 10.0.0.1", "give each name a record"),
    ] {
        let error = records(&[record]).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let many: Vec<String> = (0..300)
        .map(|i| format!("big.lan. TXT \"{i}{}\"", "x".repeat(240)))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        records(&many).unwrap_err(),
        LocalError::TooLarge("big.lan.".to_owned())
    );
}

#[test]
fn hosts_files() {
    let text = b"127.0.0.1\tlocalhost\n\n# comment\n10.0.0.5 NAS.lan nas # the disks\r\n10.0.0.6 nas.lan\n\
                 10.0.0.5 again.lan\nfd00::5 nas.lan\n";
    let mut builder = LocalData::builder();
    assert_eq!(builder.hosts(text), HostsReport::default());
    let data = builder.build().unwrap();
    assert_eq!(
        ask(&data, "nas.lan", "A").unwrap(),
        ["nas.lan. 300 A 10.0.0.5", "nas.lan. 300 A 10.0.0.6"]
    );
    assert_eq!(ask(&data, "nas", "A").unwrap(), ["nas. 300 A 10.0.0.5"]);
    assert_eq!(
        ask(&data, "nas.lan", "AAAA").unwrap(),
        ["nas.lan. 300 AAAA fd00::5"]
    );
    assert_eq!(
        ask(&data, "5.0.0.10.in-addr.arpa", "PTR").unwrap(),
        ["5.0.0.10.in-addr.arpa. 300 PTR nas.lan."]
    );
}

/// Which of `asked` a hosts file defines, the number of skipped lines, and the warning.
fn hosts(text: &[u8], asked: &[&str]) -> (Vec<bool>, usize, String) {
    let mut builder = LocalData::builder();
    let HostsReport { skipped, first } = builder.hosts(text);
    let data = builder.build().unwrap();
    let found = asked.iter().map(|name| ask(&data, name, "A").is_some());
    let first = first.map(|(line, why)| format!("{line}: {why}"));
    (found.collect(), skipped, first.unwrap_or_default())
}

#[test]
fn invalid_lines_of_hosts_files_are_skipped() {
    const NAME: &str = "is not a host name; labels have 1 to 63 letters, digits, hyphens and \
                        underscores, a name up to 253 with the dots, and international ones are \
                        written as xn--";
    let long_label = "x".repeat(64);
    let long_name = format!("{0}.{0}.{0}.{0}", "x".repeat(63));
    for (line, why) in [
        (
            "fe80::1%lo0 odd",
            "\"fe80::1%lo0\" has a zone, which DNS cannot express",
        ),
        (
            "fe80::1%1 odd",
            "\"fe80::1%1\" has a zone, which DNS cannot express",
        ),
        ("%lo0 odd", "\"%lo0\" is not an address"),
        ("127.1 odd", "\"127.1\" is not an address"),
        ("127.0.0.01 odd", "\"127.0.0.01\" is not an address"),
        ("10.0.0.5/24 odd", "\"10.0.0.5/24\" is not an address"),
        ("[::1] odd", "\"[::1]\" is not an address"),
        ("odd 10.0.0.5", "\"odd\" is not an address"),
        (
            "\u{a0}10.0.0.5 odd",
            "\"\\xc2\\xa010.0.0.5\" is not an address",
        ),
        ("10.0.0.5", "the address has no name"),
        ("10.0.0.5 # odd", "the address has no name"),
        ("10.0.0.5\r", "the address has no name"),
        ("10.0.0.5 good a..b", &format!("\"a..b\" {NAME}")),
        ("10.0.0.5 .a good", &format!("\".a\" {NAME}")),
        ("10.0.0.5 . good\r", &format!("\".\" {NAME}")),
        ("10.0.0.5 *.lan a/b good", &format!("\"*.lan\" {NAME}")),
        (
            "10.0.0.5 b\u{fc}cher good",
            &format!("\"b\\xc3\\xbccher\" {NAME}"),
        ),
        ("10.0.0.5 na\0me good", &format!("\"na\\x00me\" {NAME}")),
        (
            &format!("10.0.0.5 good {long_label}"),
            &format!("\"{long_label}\" {NAME}"),
        ),
        (
            &format!("10.0.0.5 good {long_name}"),
            &format!("\"{}....\" {NAME}", "x".repeat(63)),
        ),
    ] {
        let text = format!("10.0.0.1 before\n{line}\n10.0.0.2 after\n");
        let (found, skipped, first) = hosts(text.as_bytes(), &["before", "after", "good", "odd"]);
        let good = line.contains("good");
        assert_eq!(found, [true, true, good, false], "{line:?}");
        assert_eq!((skipped, first), (1, format!("2: {why}")), "{line:?}");
    }
}

#[test]
fn a_hosts_file_counts_its_invalid_lines_and_names_the_first() {
    let text = b"\xef\xbb\xbf10.0.0.1 first\r\n\r\nfe80::1%lo0 localhost\r\nx y z\r\n10.0.0.2 last a..b c..d";
    let (found, skipped, first) = hosts(text, &["first", "last"]);
    assert_eq!(found, [true, true], "the byte order mark costs no line");
    assert_eq!(skipped, 3);
    assert!(first.starts_with("3: \"fe80::1%lo0\""), "{first}");
    // Another encoding: nothing of it is taken.
    let utf16: Vec<u8> = "10.0.0.1 a\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(hosts(&utf16, &["a"]).0, [false]);
}

#[test]
fn hosts_files_do_not_contradict_records() {
    let mut builder = LocalData::builder();
    builder.record("alias.lan. CNAME host.lan.").unwrap();
    let report = builder.hosts(b"10.0.0.1 host.lan\n10.0.0.2 ALIAS.lan other.lan\n");
    let why = Skipped::Alias("ALIAS.lan".to_owned());
    assert_eq!((report.skipped, report.first), (1, Some((2, why))));
    let data = builder.build().unwrap();
    assert_eq!(
        ask(&data, "alias.lan", "A").unwrap(),
        ["alias.lan. 300 CNAME host.lan.", "host.lan. 300 A 10.0.0.1"]
    );
    assert!(ask(&data, "other.lan", "A").is_some());
}

#[test]
fn a_name_with_too_many_addresses_keeps_those_that_fit() {
    let text: String = (0..=0xffff_u32)
        .map(|i| format!("10.1.{}.{} big.lan\nfd00::{i:x} big.lan\n", i >> 8, i & 255))
        .collect();
    let mut builder = LocalData::builder();
    for i in 0..8 {
        let target = if i == 0 {
            "big.lan.".to_owned()
        } else {
            format!("a{}.lan.", i - 1)
        };
        builder
            .record(&format!("a{i}.lan. CNAME {target}"))
            .unwrap();
    }
    let report = builder.hosts(text.as_bytes());
    assert_eq!(report.skipped, 2 * (0x1_0000 - MAX_ADDRESSES));
    let data = builder.build().unwrap();
    assert_eq!(
        ask(&data, "a7.lan", "AAAA").unwrap().len(),
        8 + MAX_ADDRESSES
    );
    assert_eq!(ask(&data, "big.lan", "A").unwrap().len(), MAX_ADDRESSES);
}

proptest! {
    #[test]
    fn any_octets_are_a_hosts_file(
        words in proptest::collection::vec(
            prop_oneof![
                Just(b"10.0.0.1".to_vec()),
                Just(b"fe80::1%lo0".to_vec()),
                Just(b"alias.lan".to_vec()),
                Just(b" ".to_vec()),
                Just(b"\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..40),
            ],
            0..60,
        ),
    ) {
        let text = words.concat();
        let mut builder = LocalData::builder();
        builder.record("alias.lan. CNAME host.lan.").unwrap();
        builder.record("host.lan. A 10.0.0.9").unwrap();
        let report = builder.hosts(&text);
        let lines = text.split(|octet| *octet == b'\n').count();
        prop_assert!(report.skipped <= lines);
        prop_assert_eq!(report.skipped > 0, report.first.is_some());
        let data = builder.build();
        prop_assert!(data.is_ok(), "{:?}", data);
    }
}

#[test]
fn conflicts_name_the_record() {
    for (records, number) in [
        (&["b.lan. A 10.0.0.1", "a.lan. CNAME example.com."][..], 1),
        (
            &[
                "x.lan. A 10.0.0.1",
                "b.lan. CNAME x.lan.",
                "b.lan. A 10.0.0.1",
            ],
            1,
        ),
        (&["a.lan. A 10.0.0.1", "a.lan. CNAME b.lan."], 1),
    ] {
        let mut builder = LocalData::builder();
        for record in records {
            builder.record(record).unwrap();
        }
        assert_eq!(
            builder.build().unwrap_err().record,
            Some(number),
            "{records:?}"
        );
    }
}

#[test]
fn record_data_keep_their_case() {
    // People read the names of services (RFC 6763 section 4.1.1).
    let data = records(&[
        "_ipp._tcp.lan. PTR Big\\032Printer._ipp._tcp.lan.",
        "Alias.lan. CNAME HOST.lan.",
        "host.LAN. A 10.0.0.1",
    ])
    .unwrap();
    let service = data.lookup(&wire(b"_ipp._tcp.lan").unwrap(), PTR).unwrap();
    let body = service.as_ref().body();
    assert!(body.ends_with(b"\x0bBig Printer\x04_ipp\x04_tcp\x03lan\0"));
    assert_eq!(
        ask(&data, "alias.lan", "A").unwrap(),
        ["alias.lan. 300 CNAME HOST.lan.", "HOST.lan. 300 A 10.0.0.1"]
    );
}
