//! The second-level cache: an answer for one front serves all of them.

use super::*;
use crate::forward::testing::{denial, of_type};

#[test]
fn an_answer_cached_by_one_front_costs_the_other_no_query() {
    let upstream = answers();
    let mut bench = Bench::new(ForwardOptions {
        threads: 3,
        ..options(vec![upstream.address])
    });
    for i in 0..20 {
        bench.submit(&query(9, &format!("name{i}"), None), i);
        bench.outcome();
        let request = bench.request(&query(9, &format!("NAME{i}"), None), 1, i);
        bench.handle.submit(request).unwrap();
        bench.handle.flush();
        let outcome = bench.outcomes(1, 1).remove(0);
        assert_eq!(outcome.token, i);
        assert!(answered(&outcome));
    }
    assert_eq!(upstream.seen().len(), 20);
    assert_eq!(bench.count("cache_hits"), 20);
    assert_eq!(bench.count("cache_entries"), 20);
    bench.finish();
}

#[test]
fn remembered_answers_age() {
    let upstream = answers();
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert_eq!(bench.outcome().answer.as_ref().as_ref().ttl(), 300);
    thread::sleep(Duration::from_millis(1_100));
    bench.submit(&query(9, "name", None), 2);
    let answer = bench.outcome().answer;
    let answer = answer.as_ref().as_ref();
    assert!((200..300).contains(&answer.ttl()));
    assert_eq!(answer.first_ttl(), Some(answer.ttl()));
    assert_eq!(upstream.seen().len(), 1);
    bench.finish();
}

#[test]
fn nxdomain_is_for_all_types() {
    let upstream = Upstream::start(|seen| vec![denial(&seen.msg, 60)]);
    let mut bench = Bench::new(ForwardOptions {
        threads: 3,
        ..options(vec![upstream.address])
    });
    for i in 0..10 {
        let label = format!("name{i}");
        for qtype in [16, 1, 28] {
            bench.submit(&of_type(query(9, &label, None), qtype), i);
            let answer = bench.outcome().answer;
            let answer = answer.as_ref().as_ref();
            assert_eq!(answer.rcode(), rcode::NXDOMAIN);
            assert!((1..=60).contains(&answer.ttl()));
        }
    }
    assert_eq!(upstream.seen().len(), 10);
    assert_eq!(bench.count("nxdomain_hits"), 20);
    let mut cd = query(9, "name0", None);
    cd[3] |= 0x10;
    bench.submit(&cd, 1);
    bench.outcome();
    assert_eq!(upstream.seen().len(), 11, "CD is part of the key");
    bench.finish();
}

#[test]
fn nxdomain_of_a_target_is_not_of_the_name() {
    let upstream = Upstream::start(|seen| {
        let mut msg = denial(&seen.msg, 60);
        // A CNAME to `test.` before the SOA.
        let end = end_of_question(&msg);
        let cname = [
            0xc0,
            12,
            0,
            5,
            0,
            1,
            0,
            0,
            0,
            60,
            0,
            2,
            0xc0,
            end as u8 - 10,
        ];
        msg.splice(end..end, cname);
        msg[7] = 1;
        vec![msg]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for qtype in [16, 1, 1] {
        bench.submit(&of_type(query(9, "name", None), qtype), 1);
        let answer = bench.outcome().answer;
        assert_eq!(answer.as_ref().as_ref().rcode(), rcode::NXDOMAIN);
    }
    assert_eq!(upstream.seen().len(), 2, "each type is asked for");
    bench.finish();
}

fn end_of_question(msg: &[u8]) -> usize {
    crate::dns::name::end_of_question_name(msg, 12).unwrap() + 4
}

#[test]
fn nxdomain_answers_for_names_below() {
    let below = |label: &str| {
        let mut msg = query(9, label, None);
        msg.splice(12..12, *b"\x03sub");
        msg
    };
    for cut in [false, true] {
        let upstream = Upstream::start(|seen| vec![denial(&seen.msg, 60)]);
        let mut bench = Bench::new(ForwardOptions {
            nxdomain_cut: cut,
            ..options(vec![upstream.address])
        });
        bench.submit(&query(9, "name", None), 1);
        bench.outcome();
        bench.submit(&below("NAME"), 2);
        let answer = bench.outcome().answer;
        let answer = answer.as_ref().as_ref();
        assert_eq!(answer.rcode(), rcode::NXDOMAIN);
        assert_eq!(answer.body()[..2], [0xc0, 12 + 4 + 5], "owner: test.");
        bench.submit(&below("other"), 3);
        bench.outcome();
        assert_eq!(upstream.seen().len(), if cut { 2 } else { 3 });
        assert_eq!(bench.count("nxdomain_cut_hits"), u64::from(cut));
        bench.finish();
    }
}

#[test]
fn a_cache_without_memory_is_an_error() {
    let options = ForwardOptions {
        cache_bytes: 1 << 60,
        ..options(vec![closed_address()])
    };
    let error = ForwarderBuilder::new(&options, Vec::new(), NameHasher::default()).unwrap_err();
    assert!(
        error.to_string().contains("the forwarder's cache"),
        "{error}"
    );
}
