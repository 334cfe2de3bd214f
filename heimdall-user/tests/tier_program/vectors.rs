//! Packets that are answered, and packets that are passed on, for each reason.

use heimdall_ebpf::{
    MAX_STEERED,
    tier::{
        CLIENT_ANSWERED, CLIENT_PASSED, Config, Entry, Key, MAX_BODY,
        Outcome::{self, *},
        SAMPLE_INTERVAL, SLOTS, Slot, hit_counter,
    },
};
use lab::XDP_REDIRECT;

use crate::{
    frames::{
        ETHERNET, Opt, TAGGINGS, V4, V6, datagram, is_v4, make_partial, query, question, tag,
        udp_checksum_at,
    },
    kernel::{ENTRIES, Kernel, NOW, Run, SEED, config},
    worker::{self, Content, NXDOMAIN},
};

const RD: u16 = 0x0100;
const CD: u16 = 0x0010;

fn example() -> Vec<u8> {
    question(&[b"www", b"example", b"net"], 1)
}

/// A kernel that holds the address of [`example`].
fn kernel() -> Kernel {
    let mut kernel = Kernel::load();
    kernel.put(3, 0, &Content::address().entry(&example(), 0));
    kernel
}

#[track_caller]
fn expect(kernel: &Kernel, message: &[u8], outcome: Outcome) {
    for to in [V4, V6] {
        for tags in TAGGINGS {
            let frame = tag(&datagram(to, message), tags);
            assert_eq!(kernel.run(&frame), Run::Passed(outcome), "{to} {tags:x?}");
        }
    }
}

#[track_caller]
fn expect_answer(kernel: &Kernel, message: &[u8], content: &Content) {
    for to in [V4, V6] {
        for tags in TAGGINGS {
            let frame = tag(&datagram(to, message), tags);
            let expected = worker::reply(&frame, content, 1500);
            let counter = hit_counter(1, content.rcode == NXDOMAIN).into();
            let answered = Run::Answered(expected, counter);
            assert_eq!(kernel.run(&frame), answered, "{to} {tags:x?}");
        }
    }
}

#[test]
fn plain_queries_are_answered() {
    if !lab::available("plain_queries_are_answered") {
        return;
    }
    let kernel = kernel();
    let content = Content::address();
    for opt in [None, Some(Opt::new(1232, false)), Some(Opt::new(0, false))] {
        for flags in [0, RD, RD | 0x0020, 0x07ef & !CD] {
            expect_answer(&kernel, &query(flags, &example(), opt), &content);
        }
    }
    let mixed = question(&[b"WWW", b"eXAMPLe", b"nET"], 1);
    expect_answer(&kernel, &query(RD, &mixed, None), &content);
}

#[test]
fn without_a_tier_everything_is_steered() {
    if !lab::available("without_a_tier_everything_is_steered") {
        return;
    }
    let kernel = Kernel::load_sized(0, 0);
    let frame = datagram(V4, &query(RD, &example(), None));
    assert_eq!(kernel.run_uncounted(&frame), (XDP_REDIRECT, frame));
}

#[test]
fn until_it_is_configured_everything_is_passed_on() {
    if !lab::available("until_it_is_configured_everything_is_passed_on") {
        return;
    }
    let mut kernel = kernel();
    let message = query(RD, &example(), None);
    kernel.set_config(&Config::default());
    expect(&kernel, &message, Off);
    kernel.set_config(&Config {
        generation: 2,
        ..config()
    });
    expect(&kernel, &message, Outdated);
    kernel.set_config(&config());
    expect_answer(&kernel, &message, &Content::address());
}

#[test]
fn messages_that_are_not_plain_are_passed_on() {
    if !lab::available("messages_that_are_not_plain_are_passed_on") {
        return;
    }
    let kernel = kernel();
    let plain = query(RD, &example(), None);
    let changed = |at: usize, to: u8| {
        let mut message = plain.clone();
        message[at] = to;
        message
    };
    expect(&kernel, &changed(2, 0x10), NotPlain);
    // QDCOUNT to ARCOUNT.
    for (at, to) in [
        (5, 0),
        (5, 2),
        (4, 1),
        (7, 1),
        (6, 1),
        (9, 1),
        (8, 1),
        (11, 2),
        (10, 1),
    ] {
        expect(&kernel, &changed(at, to), NotPlain);
    }
    // ARCOUNT says that there is one, which is a part of the question.
    expect(&kernel, &changed(11, 1), NotPlain);
    for fields in [[0, 1, 0, 0], [0, 0xff, 0x80, 0]] {
        let opt = Opt { size: 1232, fields };
        expect(&kernel, &query(RD, &example(), Some(opt)), NotPlain);
    }
    let with_opt = query(RD, &example(), Some(Opt::new(1232, false)));
    let start = with_opt.len() - 11;
    for (at, to) in [(0, 1), (1, 1), (2, 40), (9, 1), (10, 4)] {
        let mut message = with_opt.clone();
        message[start + at] = to;
        expect(&kernel, &message, NotPlain);
    }
    // A cookie.
    let mut message = with_opt.clone();
    message[start + 10] = 12;
    message.extend(b"\0\x0a\0\x0812345678");
    expect(&kernel, &message, NotPlain);
    // A message that ends after its header, in its name, or before its class.
    for len in [12, 13, 16] {
        expect(&kernel, &plain[..len], NotPlain);
    }
    for len in [17, 20, plain.len() - 1] {
        expect(&kernel, &plain[..len], NotHeld);
    }
    // Octets at the end.
    expect(&kernel, &[&plain[..], &[0]].concat(), NotHeld);
}

#[test]
fn names_up_to_the_limit_are_answered() {
    if !lab::available("names_up_to_the_limit_are_answered") {
        return;
    }
    let mut kernel = Kernel::load();
    let label = [b'x'; 63];
    for len in 0..=63 {
        let labels: &[&[u8]] = if len == 0 { &[] } else { &[&label[..len]] };
        let question = question(labels, 1);
        let message = query(RD, &question, None);
        if question.len() > 64 + 4 {
            expect(&kernel, &message, LongName);
            continue;
        }
        kernel.clear();
        expect(&kernel, &message, NotHeld);
        kernel.put(0, 0, &Content::address().entry(&question, 0));
        expect_answer(&kernel, &message, &Content::address());
    }
    let long = question(&[&label, &label, &label, &label[..61]], 1);
    expect(&kernel, &query(RD, &long, None), LongName);
}

#[test]
fn only_the_same_question_is_answered() {
    if !lab::available("only_the_same_question_is_answered") {
        return;
    }
    let mut kernel = Kernel::load();
    // Of each length: with and without octets after the whole words.
    for len in 1..=62 {
        let label = &[b'q'; 62][..len];
        let held = question(&[label], 1);
        let entry = Content::address().entry(&held, 0);
        // Whatever the question is, the hash is made to lead to the entry.
        let pass = |kernel: &mut Kernel, other: &[u8]| {
            let key = Key::new(other, 0).unwrap();
            kernel.clear();
            kernel.put(0, 0, &entry);
            kernel.set_slot(key.hash(SEED), 1, Slot::new(key.hash(SEED), 0));
            let frame = datagram(V4, &query(RD, other, None));
            assert_eq!(kernel.run(&frame), Run::Passed(NotHeld), "{other:x?}");
        };
        for at in 0..held.len() {
            for change in [1, 0x20, 0x80] {
                let mut other = held.clone();
                other[at] ^= change;
                let same_name = at > 0 && at < held.len() - 5 && change == 0x20;
                if !same_name {
                    pass(&mut kernel, &other);
                }
            }
        }
        if len < 62 {
            pass(&mut kernel, &question(&[&[b'q'; 62][..len + 1]], 1));
        }
        pass(&mut kernel, &question(&[&label[1..]], 1));
    }
}

#[test]
fn answers_for_do_and_cd_are_held_apart() {
    if !lab::available("answers_for_do_and_cd_are_held_apart") {
        return;
    }
    let mut kernel = Kernel::load();
    for held in 0..4 {
        kernel.clear();
        kernel.put(0, 0, &Content::address().entry(&example(), held));
        for asked in 0..4 {
            let opt = Some(Opt::new(1232, asked & Key::DO != 0));
            let flags = if asked & Key::CD != 0 { RD | CD } else { RD };
            let message = query(flags, &example(), opt);
            if asked == held {
                expect_answer(&kernel, &message, &Content::address());
            } else {
                expect(&kernel, &message, NotHeld);
            }
        }
    }
}

#[test]
fn entries_are_found_in_every_slot() {
    if !lab::available("entries_are_found_in_every_slot") {
        return;
    }
    let mut kernel = Kernel::load();
    let entry = Content::address().entry(&example(), 0);
    let message = query(RD, &example(), None);
    for slot in 0..SLOTS {
        kernel.clear();
        kernel.put(ENTRIES - 1, slot, &entry);
        expect_answer(&kernel, &message, &Content::address());
    }
    // A slot beyond the entries.
    kernel.clear();
    let hash = entry.key.hash(SEED);
    kernel.set_slot(hash, 0, Slot::new(hash, ENTRIES));
    expect(&kernel, &message, NotHeld);
}

#[test]
fn answers_are_used_until_their_time_is_over() {
    if !lab::available("answers_are_used_until_their_time_is_over") {
        return;
    }
    let mut kernel = Kernel::load();
    let message = query(RD, &example(), None);
    let until = |kernel: &mut Kernel, until| {
        let entry = Content::address().entry(&example(), 0);
        kernel.put(0, 0, &Entry { until, ..entry });
    };
    until(&mut kernel, NOW + 1);
    expect_answer(&kernel, &message, &Content::address());
    for over in [NOW, NOW - 1, 0] {
        until(&mut kernel, over);
        expect(&kernel, &message, Due);
    }
    until(&mut kernel, NOW + 1);
    kernel.set_time(NOW + 1);
    expect(&kernel, &message, Due);
}

#[test]
fn ttls_are_lowered_to_0_at_least() {
    if !lab::available("ttls_are_lowered_to_0_at_least") {
        return;
    }
    let mut kernel = Kernel::load();
    let message = query(RD, &example(), None);
    for age in [1, 299, 300, 301, 100_000] {
        let content = Content {
            age,
            ..Content::address()
        };
        kernel.put(0, 0, &content.entry(&example(), 0));
        expect_answer(&kernel, &message, &content);
    }
    // The coarse clock may be behind the one that the answer was received by.
    let mut entry = Content::address().entry(&example(), 0);
    entry.received = NOW + 1;
    kernel.put(0, 0, &entry);
    expect_answer(&kernel, &message, &Content::address());
}

#[test]
fn where_recursion_is_not_for_all_rd_is_required() {
    if !lab::available("where_recursion_is_not_for_all_rd_is_required") {
        return;
    }
    let mut kernel = kernel();
    let mut config = config();
    config.flags |= Config::PASS_NON_RECURSIVE;
    kernel.set_config(&config);
    expect(&kernel, &query(0, &example(), None), NonRecursive);
    expect_answer(&kernel, &query(RD, &example(), None), &Content::address());
}

#[test]
fn the_longest_prefix_decides_over_a_client() {
    if !lab::available("the_longest_prefix_decides_over_a_client") {
        return;
    }
    let mut kernel = kernel();
    let message = query(RD, &example(), None);
    let frames = [V4, V6].map(|to| datagram(to, &message));
    let answered = |kernel: &Kernel| {
        frames
            .each_ref()
            .map(|frame| matches!(kernel.run(frame), Run::Answered(..)))
    };
    assert_eq!(answered(&kernel), [true, true]);
    kernel.set_client("10.7.0.99", 32, Some(CLIENT_PASSED));
    assert_eq!(answered(&kernel), [false, true]);
    kernel.set_client("fd00:2::99", 128, Some(CLIENT_PASSED));
    expect(&kernel, &message, Client);
    for (v4, v6) in [(24, 64), (31, 127)] {
        kernel.set_client("10.7.0.98", v4, Some(CLIENT_ANSWERED));
        kernel.set_client("fd00:2::98", v6, Some(CLIENT_ANSWERED));
    }
    expect(&kernel, &message, Client);
    kernel.set_client("10.7.0.99", 32, None);
    kernel.set_client("fd00:2::99", 128, None);
    assert_eq!(answered(&kernel), [true, true]);
    for (v4, v6) in [(24, 64), (31, 127), (0, 0)] {
        kernel.set_client("10.7.0.98", v4, None);
        kernel.set_client("fd00:2::98", v6, None);
    }
    expect(&kernel, &message, Client);
    // The first 32 bits of the IPv6 address as an IPv4 address.
    kernel.set_client("253.0.0.2", 32, Some(CLIENT_ANSWERED));
    assert_eq!(answered(&kernel), [false, false]);
}

#[test]
fn port_0_is_not_answered() {
    if !lab::available("port_0_is_not_answered") {
        return;
    }
    let kernel = kernel();
    for to in [V4, V6] {
        let mut frame = datagram(to, &query(RD, &example(), None));
        let at = udp_checksum_at(&frame) - 6;
        frame[at..at + 2].fill(0);
        assert_eq!(kernel.run(&frame), Run::Passed(Client));
        frame[at + 1] = 1;
        assert_eq!(kernel.run(&frame), Run::Passed(Checksum));
    }
}

#[test]
fn wrong_checksums_are_passed_on() {
    if !lab::available("wrong_checksums_are_passed_on") {
        return;
    }
    let mut kernel = kernel();
    let mut unverified = config();
    unverified.flags &= !Config::VERIFY_CHECKSUMS;
    for opt in [None, Some(Opt::new(1232, false))] {
        // A question of odd length and one of even length: of the name's whole words, and of what follows them.
        for labels in [
            &[&b"www"[..], b"example", b"net"][..],
            &[b"ww", b"example", b"net"],
        ] {
            let question = question(labels, 1);
            kernel.put(0, 1, &Content::address().entry(&question, 0));
            let message = query(RD, &question, opt);
            for to in [V4, V6] {
                let frame = datagram(to, &message);
                // Each octet of which the reply does not depend: those of the checksums, what is in the header beside
                // what the program reads, the ID, bits of the flags, the payload size.
                let opt_at = frame.len() - 11;
                let mut octets = vec![udp_checksum_at(&frame), udp_checksum_at(&frame) + 1];
                let message_at = frame.len() - message.len();
                octets.extend([message_at, message_at + 1, message_at - 8, message_at - 7]);
                if opt.is_some() {
                    octets.extend([opt_at + 3, opt_at + 4, opt_at + 5, opt_at + 8]);
                }
                if is_v4(&frame) {
                    octets.extend([1, 4, 5, 8, 10, 11, 15].map(|at| ETHERNET + at));
                } else {
                    octets.extend([15, 23].map(|at| ETHERNET + at));
                }
                for at in octets {
                    let mut wrong = frame.clone();
                    wrong[at] ^= 0x04;
                    kernel.set_config(&config());
                    assert_eq!(kernel.run(&wrong), Run::Passed(Checksum), "{to} {at}");
                    kernel.set_config(&unverified);
                    kernel.run(&wrong).reply();
                }
            }
        }
    }
}

#[test]
fn checksums_may_be_absent_over_ipv4_and_partial() {
    if !lab::available("checksums_may_be_absent_over_ipv4_and_partial") {
        return;
    }
    let kernel = kernel();
    for to in [V4, V6] {
        let frame = datagram(to, &query(RD, &example(), Some(Opt::new(4096, false))));
        let expected = kernel.run(&frame).reply();
        let at = udp_checksum_at(&frame);
        let mut absent = frame.clone();
        absent[at..at + 2].fill(0);
        if is_v4(&frame) {
            assert_eq!(kernel.run(&absent).reply(), expected);
        } else {
            assert_eq!(kernel.run(&absent), Run::Passed(Checksum));
        }
        let mut partial = frame.clone();
        make_partial(&mut partial);
        assert_ne!(partial, frame);
        assert_eq!(kernel.run(&partial).reply(), expected);
    }
}

#[test]
fn replies_are_as_long_as_is_allowed() {
    if !lab::available("replies_are_as_long_as_is_allowed") {
        return;
    }
    let mut kernel = Kernel::load();
    let question = question(&[&[b'x'; 62]], 1);
    for (len, opt, size) in [
        (512 - 12 - 68, None, 512),
        (512 - 12 - 68 - 11, Some(Opt::new(100, false)), 512),
        (300, Some(Opt::new(4096, false)), 12 + 68 + 300 + 11),
    ] {
        // The longest body does not reach 512 alone.
        let len = len.min(MAX_BODY);
        let content = Content::of_len(len);
        kernel.put(0, 0, &content.entry(&question, 0));
        let message = query(RD, &question, opt);
        let reply = 12 + 68 + len + if opt.is_some() { 11 } else { 0 };
        assert!(reply <= size);
        for (to, headers) in [(V4, 28), (V6, 48)] {
            let frame = datagram(to, &message);
            for (udp_size, mtu, fits) in [
                (reply, 1500, true),
                (reply - 1, 1500, false),
                (1232, reply + headers, true),
                (1232, reply + headers - 1, false),
            ] {
                kernel.set_config(&Config {
                    udp_size: udp_size as u32,
                    mtu: mtu as u32,
                    ..config()
                });
                match kernel.run(&frame) {
                    Run::Answered(frame, _) => assert!(fits && frame.len() == 14 + headers + reply),
                    Run::Passed(outcome) => assert!(!fits && outcome == TooLarge, "{outcome:?}"),
                }
            }
        }
    }
}

#[test]
fn one_hit_of_many_is_passed_on() {
    /// Samples to be expected: with a chance of 10⁻⁷, there is none.
    const SAMPLES: u32 = 16;
    if !lab::available("one_hit_of_many_is_passed_on") {
        return;
    }
    let mut kernel = kernel();
    let frame = datagram(V4, &query(RD, &example(), None));
    let expected = kernel.run(&frame);
    let mut sampled = 0;
    for _ in 0..SAMPLES * SAMPLE_INTERVAL {
        // Entries that are written often are sampled, too.
        kernel.set_hits(3, 0);
        let run = kernel.run_once(&frame);
        let is_sampled = run == Run::Passed(Sampled);
        assert!(is_sampled || run == expected, "{run:?}");
        assert_eq!(kernel.hits(3), u64::from(!is_sampled));
        sampled += u32::from(is_sampled);
    }
    assert!((1..4 * SAMPLES).contains(&sampled), "{sampled}");
    for index in (0..ENTRIES).filter(|index| *index != 3) {
        assert_eq!(kernel.hits(index), 0);
    }
}

/// Test packets have room to grow in any case, so no vector is for [`NoTailroom`].
#[test]
fn packets_get_the_length_of_the_reply() {
    if !lab::available("packets_get_the_length_of_the_reply") {
        return;
    }
    let mut kernel = Kernel::load();
    kernel.put(0, 0, &Content::of_len(MAX_BODY).entry(&example(), 0));
    let mut frame = datagram(V4, &query(RD, &example(), Some(Opt::new(4096, false))));
    let reply = kernel.run(&frame).reply();
    assert!(reply.len() > frame.len());
    for padded in [reply.len() - 1, reply.len(), reply.len() + 1, MAX_STEERED] {
        frame.resize(padded, 0xa5);
        assert_eq!(kernel.run(&frame).reply(), reply, "{padded}");
    }
    assert_eq!(kernel.hits(0), 5);
}
