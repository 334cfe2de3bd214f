#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{super::testing::*, *};
use crate::{
    answer::{Transport, access},
    dns::{answer::AnswerFields, header},
};

#[test]
fn overloaded_queries_get_servfail_and_not_ready() {
    for (edns, end) in [
        (None, &[][..]),
        (Some((1232, 0, false)), &[0, 6, 0, 15, 0, 2, 0, 14][..]),
    ] {
        let mut core = core();
        let mut octets = query(0x0100, 1, 1, edns);
        let query = core.read(&octets).unwrap();
        octets.resize(512, 0);
        let verdict = core.reply_overloaded(&query, &mut octets, from(UDP));
        let Got::Reply(len) = Got::new(verdict, &octets) else {
            panic!("{verdict:?}");
        };
        assert_eq!(octets[3] & 0xf, rcode::SERVFAIL);
        assert!(octets[..len].ends_with(end), "{:?}", &octets[..len]);
        assert_eq!(core.writer.counters.servfail.get(), 1);
    }
}

#[test]
fn unforwardable_questions_are_refused() {
    for (qtype, qclass) in [
        (1, 3),
        (1, 255),
        (251, 1),
        (252, 1),
        (249, 1),
        (250, 1),
        (253, 1),
        (254, 1),
        (41, 1),
        (0, 1),
    ] {
        let reply = ask(&mut core(), &query(0x0100, qtype, qclass, None), UDP, 0);
        assert_eq!(
            (reply.verdict, reply.rcode()),
            (Got::Reply(19), rcode::REFUSED),
            "{qtype} {qclass}"
        );
    }
    for qtype in [1, 28, 65, 257, 65_280] {
        assert_eq!(
            ask(&mut core(), &query(0x0100, qtype, 1, None), UDP, 0).verdict,
            Got::Miss,
            "{qtype}"
        );
    }
}

#[test]
fn other_edns_versions_are_badvers() {
    let reply = ask(
        &mut core(),
        &query(0x0100, 1, 1, Some((1232, 1, true))),
        UDP,
        0,
    );
    assert_eq!(reply.verdict, Got::Reply(30));
    // The lower four bits in the header, the upper eight in our OPT record of version 0.
    assert_eq!(
        (reply.rcode(), &reply.octets[19..]),
        (0, &[0, 0, 41, 4, 0xd0, 1, 0, 0x80, 0, 0, 0][..])
    );
}

#[test]
fn flags_of_a_hit() {
    let mut core = core();
    for (flags, edns, expected) in [
        (0x0100, None, 0x8180),
        (0x0000, None, 0x8080),
        (0x0120, None, 0x81a0),
        (0x0100, Some((1232, 0, true)), 0x81a0),
        (0x0110, None, 0x8190),
        (0x0140, None, 0x8180),
        (0x0780, None, 0x8180),
    ] {
        let msg = query(flags, 16, 1, edns);
        cache_answer(&mut core, &msg, 10);
        let reply = ask(&mut core, &msg, UDP, 1);
        assert_eq!(reply.flags(), expected, "flags {flags:#06x}");
        assert_eq!(reply.octets[..2], [0xab, 0xcd]);
        assert_eq!(reply.octets[12..19], msg[12..19]);
    }
}

#[test]
fn do_and_cd_are_part_of_the_key() {
    let mut core = core();
    cache_answer(&mut core, &query(0x0100, 16, 1, None), 10);
    assert!(matches!(
        ask(
            &mut core,
            &query(0x0100, 16, 1, Some((512, 0, false))),
            UDP,
            0
        )
        .verdict,
        Got::Reply(_)
    ));
    assert_eq!(
        ask(
            &mut core,
            &query(0x0100, 16, 1, Some((512, 0, true))),
            UDP,
            0
        )
        .verdict,
        Got::Miss
    );
    assert_eq!(
        ask(&mut core, &query(0x0110, 16, 1, None), UDP, 0).verdict,
        Got::Miss
    );
}

#[test]
fn the_limit_is_the_least_of_client_server_and_buffer() {
    let mut core = core();
    let fixed = 19 + 12;
    for (edns, limit) in [
        (None, 512),
        (Some((100, 0, false)), 512),
        (Some((600, 0, false)), 600),
        (Some((4096, 0, false)), 1232),
    ] {
        let msg = query(0x0100, 16, 1, edns);
        let opt = if edns.is_some() { 11 } else { 0 };
        for (len, cut) in [(limit, false), (limit + 1, true)] {
            let mut core = self::core();
            cache_answer(&mut core, &msg, len - fixed - opt);
            let reply = ask(&mut core, &msg, UDP, 0);
            let expected = if cut { 19 + opt } else { len };
            assert_eq!(reply.verdict, Got::Reply(expected), "{edns:?}");
            assert_eq!(reply.flags() & header::TC != 0, cut);
        }
    }
    let msg = query(0x0100, 16, 1, None);
    cache_answer(&mut core, &msg, 60_000);
    assert_eq!(
        ask(&mut core, &msg, Transport::Tcp, 0).verdict,
        Got::Reply(fixed + 60_000)
    );
    let mut room = msg.clone();
    let query = core.read(&msg).unwrap();
    let verdict = core.answer(&query, &mut room, from(Transport::Tcp));
    assert_eq!(
        Got::new(verdict, &room),
        Got::Reply(19),
        "the buffer ends after the question"
    );
}

#[test]
fn a_failure_is_sent_with_the_flags_of_the_query() {
    let mut core = core();
    let msg = query(0x0110, 1, 1, Some((1232, 0, true)));
    let query = core.read(&msg).unwrap();
    let mut buf = msg.clone();
    let failure = Answer::failure(rcode::SERVFAIL, None, 0);
    let verdict = core.complete(&query, &mut buf, from(UDP), &failure);
    assert_eq!(Got::new(verdict, &buf), Got::Reply(30));
    assert_eq!((buf[2], buf[3]), (0x81, 0x92));
}

#[test]
fn a_truncated_answer_is_sent_over_udp_and_not_cached() {
    let mut core = core();
    let failed = [0, 6, 0, 15, 0, 2, 0, 23];
    for (transport, code, flags) in [
        (UDP, rcode::NOERROR, [0x83, 0x90]),
        (UDP, rcode::NXDOMAIN, [0x83, 0x93]),
        (Transport::Tcp, rcode::NOERROR, [0x81, 0x92]),
    ] {
        let msg = query(0x0110, 16, 1, Some((1232, 0, false)));
        let query = core.read(&msg).unwrap();
        let mut buf = msg.clone();
        buf.resize(512, 0);
        let answer = Answer::truncated(code, 23);
        core.insert(&query, &msg, &answer);
        let verdict = core.complete(&query, &mut buf, from(transport), &answer);
        assert_eq!(Got::new(verdict, &buf), Got::Reply(36));
        assert_eq!(
            (&buf[2..4], &buf[4..12]),
            (&flags[..], &[0, 1, 0, 0, 0, 0, 0, 1][..])
        );
        assert_eq!(buf[28..36], failed);
        assert_eq!(ask(&mut core, &msg, transport, 0).verdict, Got::Miss);
        // It is no reason to give up what is known.
        let key = key(&query, &msg).unwrap();
        core.insert(&query, &msg, &answer_to(&msg, 9));
        core.insert_refreshed(&key, &answer);
        assert!(matches!(
            ask(&mut core, &msg, transport, 0).verdict,
            Got::Reply(_)
        ));
        core = self::core();
    }
}

/// Hits in each name case and of each age; [`ask`] checks the sum.
#[test]
fn hits_keep_the_name_case_of_the_query() {
    for letters in [b"example", b"EXAMPLE", b"eXaMpLe"] {
        let core = &mut core();
        let mut msg = query(0x0100, 16, 1, Some((1232, 0, false)));
        cache_answer(core, &msg, 20);
        msg.splice(13..14, letters.iter().copied());
        msg[12] = letters.len() as u8;
        assert_eq!(ask(core, &msg, UDP, 0).verdict, Got::Miss);
        let mut other = msg.clone();
        other[13..20].make_ascii_uppercase();
        let answer = answer_to(&query(0x0100, 16, 1, None), 20);
        let read = core.read(&other).unwrap();
        core.insert(&read, &other, &answer);
        for now in [0, 1, 30, 59] {
            let reply = ask(core, &msg, UDP, now);
            assert!(matches!(reply.verdict, Got::Reply(_)));
            assert_eq!(reply.octets[12..20], msg[12..20]);
        }
    }
}

#[test]
fn a_new_policy_invalidates_the_cache() {
    let shared = Arc::new(ArcSwap::from_pointee(Policy::default()));
    let core = &mut core_sharing(Arc::clone(&shared));
    let msg = query(0x0100, 16, 1, None);
    cache_answer(core, &msg, 10);
    shared.store(Arc::new(Policy::default()));
    assert_eq!(ask(core, &msg, UDP, 0).verdict, Got::Miss, "a new one");
    cache_answer(core, &msg, 10);
    let verdict = ask(core, &msg, UDP, 0).verdict;
    assert!(matches!(verdict, Got::Reply(_)), "same second");
    let closed = Policy {
        access: access::Access::new(&prefixes(["192.0.2.0/24"]), &[], &[]),
        ..Policy::default()
    };
    shared.store(Arc::new(closed));
    assert_eq!(ask(core, &msg, UDP, 1).rcode(), rcode::REFUSED);
    shared.store(Arc::new(Policy::default()));
    assert_eq!(ask(core, &msg, UDP, 1).verdict, Got::Miss);
}

/// A popular answer near its end is refreshed for those who desire recursion, and only for them.
#[test]
fn a_query_without_rd_does_not_refresh() {
    let core = &mut core();
    let (with, without) = (query_for("a.ok", header::RD), query_for("a.ok", 0));
    let read = core.read(&with).unwrap();
    core.begin(Now::default());
    core.insert(&read, &with, &aliased(&[]));
    let mut refresh = |msg: &[u8], seconds| {
        let mut octets = [msg, &[0; 512]].concat();
        core.begin(Now { seconds, unix: 0 });
        let query = core.read(msg).unwrap();
        match core.answer(&query, &mut octets, from(UDP)) {
            Verdict::Reply { refresh, .. } => refresh,
            other => panic!("{other:?}"),
        }
    };
    assert!(!refresh(&with, 1));
    assert!(!refresh(&with, 2));
    assert!(!refresh(&without, 290));
    assert!(refresh(&with, 291), "the query before has not used it up");
    assert!(!refresh(&with, 292), "once");
}

#[test]
fn every_response_code_is_counted() {
    let core = &mut core();
    let msg = query(header::RD, 1, 1, None);
    let read = core.read(&msg).unwrap();
    for code in [6, 8, 15, 5] {
        let mut buf = msg.clone();
        let answer = Answer::failure(code, None, 0);
        let verdict = core.complete(&read, &mut buf, from(UDP), &answer);
        assert_eq!(Got::new(verdict, &buf), Got::Reply(19));
        assert_eq!(buf[3] & 0xf, code);
    }
    let counters = &core.writer.counters;
    assert_eq!((counters.other.get(), counters.refused.get()), (3, 1));
}

#[test]
fn failures_and_stale_answers_are_not_refreshed() {
    let answer = |rcode, ede| {
        Answer::new(&AnswerFields {
            rcode,
            ede,
            ttl: 60,
            ..AnswerFields::default()
        })
    };
    let refreshable = |answer: &Answer| is_refreshable(&answer.as_ref());
    for ede in [None, Some(ede::STALE), Some(ede::BLOCKED)] {
        assert!(refreshable(&answer(rcode::NOERROR, ede)), "{ede:?}");
        assert!(refreshable(&answer(rcode::NXDOMAIN, ede)), "{ede:?}");
        assert!(!refreshable(&answer(rcode::SERVFAIL, ede)), "{ede:?}");
        assert!(!refreshable(&answer(rcode::YXDOMAIN, ede)), "{ede:?}");
        let stale = answer(rcode::NOERROR, ede).as_ref().stale();
        assert!(!refreshable(&stale), "{ede:?}");
    }
}

/// A query with an OPT record of these options.
fn query_with(options: &[u8]) -> Vec<u8> {
    let mut msg = query(0x0110, 16, 1, Some((1232, 0, false)));
    let at = msg.len() - 1;
    msg[at] = options.len() as u8;
    msg.extend_from_slice(options);
    msg
}

#[test]
fn replies_are_padded_over_tls_if_the_query_was() {
    let mut core = core();
    let padded = query_with(&[0, 12, 0, 3, 0, 0, 0]);
    let plain = query_with(&[]);
    cache_answer(&mut core, &plain, 9);
    for (msg, transport, len) in [
        (&padded, Transport::Tls, Some(468)),
        (&padded, Transport::Tcp, None),
        (&padded, UDP, None),
        (&plain, Transport::Tls, None),
    ] {
        let reply = ask(&mut core, msg, transport, 0);
        let expected = len.unwrap_or(reply.octets.len());
        assert_eq!(reply.verdict, Got::Reply(expected));
        match len {
            Some(_) => {
                let options = reply.options();
                assert_eq!(options[..2], [0, 12]);
                let data = usize::from(u16::from_be_bytes([options[2], options[3]]));
                assert_eq!(options.len(), 4 + data);
                assert!(options[4..].iter().all(|octet| *octet == 0));
            }
            None => assert!(reply.options().is_empty(), "{transport:?}"),
        }
    }
    // Several blocks, and errors.
    cache_answer(&mut core, &plain, 1000);
    let reply = ask(&mut core, &padded, Transport::Tls, 1);
    assert_eq!(reply.verdict, Got::Reply(3 * 468));
    let mut any = padded;
    any[16] = 255;
    let reply = ask(&mut core, &any, Transport::Tls, 1);
    assert_eq!(reply.verdict, Got::Reply(468));
}

#[test]
fn clients_over_a_stream_learn_how_long_it_is_kept() {
    let mut core = core();
    let msg = query_with(&[0, 11, 0, 0]);
    cache_answer(&mut core, &query_with(&[]), 9);
    for (transport, options) in [
        (Transport::Tcp, &[0, 11, 0, 2, 0, 100][..]),
        (Transport::Tls, &[0, 11, 0, 2, 0, 100]),
        (UDP, &[]),
    ] {
        let reply = ask(&mut core, &msg, transport, 0);
        assert_eq!(reply.options(), options, "{transport:?}");
    }
}
