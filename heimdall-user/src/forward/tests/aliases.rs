//! Aliases that an upstream does not follow.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, Record, RecordType},
    serialize::binary::BinEncodable as _,
};
use lab::message::{self, name, record};

use super::*;
use crate::{
    answer::special::LocalOnly,
    dns::{aliases::find_target, edns::ede},
    forward::testing::question,
};
use routes::route;

/// What is known about a name.
enum Known {
    Alias(&'static str),
    /// An alias, and a text of the target that is not true.
    Beyond(&'static str),
    /// An alias, and that the target does not exist.
    DeniedBeyond(&'static str),
    Text,
    /// The name does not exist.
    Denied,
    Code(ResponseCode),
    Silence,
}
use Known::{Alias, Beyond, Code, Denied, DeniedBeyond, Silence, Text};

fn alias(owner: &Name, target: &str) -> Record {
    record(
        owner,
        RecordType::CNAME,
        900,
        &name(target).to_bytes().unwrap(),
    )
}

/// An upstream that answers each question with what it knows about that name alone.
fn authoritative(known: impl Fn(&str) -> Known + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |seen| {
        let Some(query) = seen.message() else {
            return Vec::new();
        };
        let mut response = message::response(&query);
        let owner = query.queries[0].name().clone();
        match known(&message::lower_case(&owner)) {
            Alias(target) => {
                response.add_answer(alias(&owner, target));
            }
            Beyond(target) => {
                response.add_answer(alias(&owner, target));
                let target = name(target);
                response.add_answer(record(&target, RecordType::TXT, 300, b"\x04evil"));
            }
            DeniedBeyond(target) => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_answer(alias(&owner, target));
                response.add_authority(message::soa(&name(target).base_name(), 60, 30));
            }
            Text => {
                response.add_answer(record(&owner, RecordType::TXT, 300, b"\x04text"));
            }
            Denied => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(message::soa(&owner.base_name(), 60, 30));
            }
            Code(code) => response.metadata.response_code = code,
            Silence => return Vec::new(),
        }
        vec![message::octets(&response)]
    })
}

/// Names that each have an alias to the next, in zones of their own.
fn in_a_row(name: &str) -> Known {
    match name {
        "a.one" => Alias("b.two"),
        "b.two" => Alias("C.three"),
        "c.three" => Text,
        _ => Code(ResponseCode::Refused),
    }
}

fn asked(upstream: &Upstream) -> Vec<String> {
    let seen = upstream.seen();
    seen.iter().filter_map(|seen| seen.name()).collect()
}

/// The reply to `query` that the outcome makes, as the oracle reads it.
fn reply(query: &[u8], outcome: &Outcome) -> Message {
    let answer = Answer::as_ref(&outcome.answer);
    let mut msg = query.to_vec();
    msg[2..4].copy_from_slice(&[0x81, 0x80 | answer.rcode()]);
    msg[6..12].copy_from_slice(&answer.counts());
    msg.extend_from_slice(answer.body());
    Message::from_vec(&msg).unwrap()
}

#[test]
fn the_targets_of_aliases_are_asked_for() {
    let upstream = authoritative(in_a_row);
    let mut bench = Bench::new(options(vec![upstream.address]));
    let query = question(9, "A.one");
    for token in 0..2 {
        bench.submit(&query, token);
        let outcome = bench.outcome();
        let reply = reply(&query, &outcome);
        let expected = [
            alias(&name("a.one"), "b.two"),
            alias(&name("b.two"), "C.three"),
            record(&name("c.three"), RecordType::TXT, 300, b"\x04text"),
        ];
        assert_eq!(reply.answers.len(), 3);
        for (got, expected) in reply.answers.iter().zip(&expected) {
            assert_eq!((&got.name, got.ttl), (&expected.name, expected.ttl));
            assert_eq!(got.record_type(), expected.record_type());
        }
        assert_eq!(Answer::as_ref(&outcome.answer).ttl(), 300);
        // What the blocklists look at.
        let mut targets = Vec::new();
        find_target(&query[12..], Answer::as_ref(&outcome.answer), |target| {
            targets.push(target.to_ascii_lowercase());
            None::<()>
        });
        assert_eq!(targets, [&b"\x01b\x03two\0"[..], b"\x01c\x05three\0"]);
    }
    assert_eq!(asked(&upstream), ["a.one", "b.two", "c.three"], "cached");
    assert_eq!(bench.count("aliases_followed"), 2);
    assert_eq!(bench.count("requests"), 2);
    bench.finish();
}

#[test]
fn aliases_are_passed_on_alone_if_they_are_not_to_be_followed() {
    let upstream = authoritative(in_a_row);
    let mut bench = Bench::new(ForwardOptions {
        follow_aliases: false,
        ..options(vec![upstream.address])
    });
    let query = question(9, "a.one");
    bench.submit(&query, 1);
    let outcome = bench.outcome();
    assert_eq!(reply(&query, &outcome).answers.len(), 1);
    assert_eq!(Answer::as_ref(&outcome.answer).ttl(), 0);
    assert_eq!(asked(&upstream), ["a.one"]);
    bench.finish();
}

#[test]
fn a_denial_at_the_end_is_cached_with_its_soa() {
    let upstream = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        _ => Denied,
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    let query = question(9, "a.one");
    for token in 0..2 {
        bench.submit(&query, token);
        let outcome = bench.outcome();
        let reply = reply(&query, &outcome);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1));
        assert_eq!(Answer::as_ref(&outcome.answer).ttl(), 30);
    }
    assert_eq!(upstream.seen().len(), 2);
    bench.finish();
}

#[test]
fn another_upstream_may_know_the_target() {
    let first = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        _ => Code(ResponseCode::Refused),
    });
    let second = authoritative(|name| match name {
        "b.two" => Text,
        _ => Code(ResponseCode::Refused),
    });
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    bench.submit(&question(9, "a.one"), 1);
    assert_eq!(Answer::as_ref(&bench.outcome().answer).ttl(), 300);
    assert_eq!(asked(&first), ["a.one", "b.two"]);
    assert_eq!(asked(&second), ["b.two"]);
    bench.finish();
}

/// Half an answer is neither delivered nor cached.
#[test]
fn the_failure_of_a_later_step_is_one_of_the_question() {
    let upstream = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        _ => Code(ResponseCode::Refused),
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for token in 0..2 {
        bench.submit(&question(9, "a.one"), token);
        let outcome = bench.outcome();
        assert!(!answered(&outcome));
        assert_eq!(Answer::as_ref(&outcome.answer).counts(), [0; 6]);
    }
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(bench.count("failure_hits"), 1, "and it is remembered");
    assert_eq!(bench.count("cache_entries"), 0);
    bench.finish();
}

#[test]
fn a_stale_answer_takes_the_place_of_a_failed_chain() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let upstream = Upstream::start(|seen| {
        let query = seen.message().unwrap();
        let mut response = message::response(&query);
        let owner = query.queries[0].name().clone();
        match message::lower_case(&owner).as_str() {
            "a.one" => {
                response.add_answer(alias(&owner, "b.two"));
            }
            _ if ASKED.fetch_add(1, Ordering::SeqCst) == 0 => {
                response.add_answer(record(&owner, RecordType::TXT, 1, b"\x04text"));
            }
            _ => response.metadata.response_code = ResponseCode::Refused,
        }
        vec![message::octets(&response)]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    let query = question(9, "a.one");
    bench.submit(&query, 0);
    assert_eq!(Answer::as_ref(&bench.outcome().answer).ttl(), 1);
    thread::sleep(Duration::from_millis(2_500));
    bench.submit(&query, 1);
    let outcome = bench.outcome();
    assert!(Answer::as_ref(&outcome.answer).is_stale());
    assert_eq!(reply(&query, &outcome).answers.len(), 2);
    bench.finish();
}

#[test]
fn loops_and_chains_without_end_fail() {
    let upstream = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        "b.two" => Alias("c.three"),
        "c.three" => Alias("B.two"),
        _ => Code(ResponseCode::Refused),
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&question(9, "a.one"), 1);
    let outcome = bench.outcome();
    assert!(!answered(&outcome));
    assert_eq!(Answer::as_ref(&outcome.answer).ede(), Some(ede::OTHER));
    assert_eq!(asked(&upstream), ["a.one", "b.two", "c.three"]);
    bench.finish();

    // Each name has an alias to one that is longer.
    let upstream = Upstream::start(|seen| {
        let query = seen.message().unwrap();
        let owner = query.queries[0].name().clone();
        let target = owner.prepend_label("x").unwrap();
        let data = target.to_bytes().unwrap();
        let mut response = message::response(&query);
        response.add_answer(record(&owner, RecordType::CNAME, 900, &data));
        vec![message::octets(&response)]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&question(9, "a.one"), 1);
    assert!(!answered(&bench.outcome()));
    assert_eq!(upstream.seen().len(), 9, "the client's question, and eight");
    bench.finish();
}

/// The attempts at one step, and the time for all of them, are those of any question.
#[test]
fn a_silent_step_has_all_attempts() {
    let upstream = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        _ => Silence,
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    bench.submit(&question(9, "a.one"), 1);
    assert!(!answered(&bench.outcome()));
    assert_eq!(asked(&upstream), ["a.one", "b.two", "b.two", "b.two"]);
    bench.finish();
}

/// A response that comes late, to the question before, is no answer to the one after it.
#[test]
fn a_late_response_to_an_earlier_question_is_ignored() {
    static QUERIES: AtomicUsize = AtomicUsize::new(0);
    let slow = Upstream::start(|seen| {
        let query = seen.message().unwrap();
        let owner = query.queries[0].name().clone();
        let mut response = message::response(&query);
        match message::lower_case(&owner).as_str() {
            "a.one" => {
                // The second attempt is answered first.
                if QUERIES.fetch_add(1, Ordering::SeqCst) == 0 {
                    thread::sleep(Duration::from_millis(600));
                }
                response.add_answer(alias(&owner, "b.two"));
            }
            _ => {
                thread::sleep(Duration::from_millis(100));
                response.add_answer(record(&owner, RecordType::TXT, 300, b"\x04text"));
            }
        }
        vec![message::octets(&response)]
    });
    let quick = authoritative(|name| match name {
        "a.one" => Alias("b.two"),
        _ => Silence,
    });
    let mut bench = Bench::new(with_short_timeout(vec![slow.address, quick.address]));
    let query = question(9, "a.one");
    bench.submit(&query, 1);
    let outcome = bench.outcome();
    assert_eq!(reply(&query, &outcome).answers.len(), 2);
    assert_eq!(bench.count("rejected_question"), 0);
    assert_eq!(bench.count("rejected_id"), 0);
    bench.finish();
}

/// What an upstream says about names of another route is not believed, whether it has an answer or denies one, and
/// whatever `follow_aliases` says.
#[test]
fn a_target_of_another_route_is_asked_for_there() {
    for follow_aliases in [true, false] {
        let default = authoritative(|name| match name {
            "cdn.net" => Text,
            "portal.example" => DeniedBeyond("host.corp.example"),
            "back.net" => Beyond("host.corp.example"),
            _ => Code(ResponseCode::Refused),
        });
        let corp = authoritative(|name| match name {
            "www.corp.example" => Beyond("cdn.net"),
            "host.corp.example" => Text,
            "there.corp.example" => Alias("back.net"),
            _ => Code(ResponseCode::Refused),
        });
        let mut bench = Bench::new(ForwardOptions {
            follow_aliases,
            routes: vec![route("corp.example", &[corp.address])],
            ..options(vec![default.address])
        });
        for (name, names) in [
            (
                "www.corp.example",
                ["www.corp.example", "cdn.net"].as_slice(),
            ),
            ("portal.example", &["portal.example", "host.corp.example"]),
            // Back again.
            (
                "there.corp.example",
                &["there.corp.example", "back.net", "host.corp.example"],
            ),
        ] {
            let query = question(9, name);
            for token in 0..2 {
                bench.submit(&query, token);
                let outcome = bench.outcome();
                let reply = reply(&query, &outcome);
                assert_eq!(
                    reply.metadata.response_code,
                    ResponseCode::NoError,
                    "{name}"
                );
                let owners: Vec<String> = (reply.answers.iter())
                    .map(|record| message::lower_case(&record.name))
                    .collect();
                assert_eq!(owners, names);
                let body = Answer::as_ref(&outcome.answer).body();
                assert!(body.windows(4).any(|octets| octets == b"text"));
                assert_eq!(Answer::as_ref(&outcome.answer).ttl(), 300);
            }
        }
        assert_eq!(asked(&default), ["cdn.net", "portal.example", "back.net"]);
        let of_corp = [
            "www.corp.example",
            "host.corp.example",
            "there.corp.example",
        ];
        assert_eq!(asked(&corp), of_corp, "answers and targets are cached");
        bench.finish();
    }
}

#[test]
fn a_target_of_a_route_without_upstreams_has_its_answer() {
    let upstream = authoritative(|name| match name {
        "a.example" => Beyond("x.denied.example"),
        "b.example" => Beyond("x.refused.example"),
        _ => Code(ResponseCode::Refused),
    });
    let local = |zone, local_only| RouteOptions {
        local_only: Some(local_only),
        ..route(zone, &[])
    };
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![
            local("denied.example", LocalOnly::NxDomain),
            local("refused.example", LocalOnly::Refused),
        ],
        ..options(vec![upstream.address])
    });
    let query = question(9, "a.example");
    bench.submit(&query, 1);
    let denied = reply(&query, &bench.outcome());
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!((denied.answers.len(), denied.authorities.len()), (1, 1));
    bench.submit(&question(9, "b.example"), 2);
    let refused = bench.outcome();
    assert!(!answered(&refused));
    assert_eq!(Answer::as_ref(&refused.answer).ede(), Some(ede::BLOCKED));
    assert_eq!(asked(&upstream), ["a.example", "b.example"]);
    bench.finish();
}

/// The failure of another route's upstream is no half of an answer either.
#[test]
fn a_route_that_fails_fails_the_question() {
    let default = authoritative(|_| Beyond("host.corp.example"));
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![route("corp.example", &[closed_address()])],
        ..options(vec![default.address])
    });
    bench.submit(&question(9, "a.example"), 1);
    let outcome = bench.outcome();
    assert!(!answered(&outcome));
    assert_eq!(Answer::as_ref(&outcome.answer).counts(), [0; 6]);
    assert_eq!(bench.count("cache_entries"), 0);
    bench.finish();
}

/// It is cached under a name whose own route stays.
#[test]
fn a_reload_drops_what_an_alias_brought_from_another_route() {
    let first = authoritative(in_a_row);
    let [before, after] = [(); 2].map(|()| authoritative(|_| Text));
    let with = |other: &Upstream| ForwardOptions {
        routes: vec![route("two", &[other.address])],
        ..options(vec![first.address])
    };
    let mut bench = Bench::new(with(&before));
    for (reloaded, queries) in [(false, [1, 1, 0]), (false, [1, 1, 0]), (true, [2, 1, 1])] {
        if reloaded {
            routes::reload(&bench, &with(&after));
        }
        bench.submit(&question(9, "a.one"), 1);
        assert!(answered(&bench.outcome()));
        let seen = [&first, &before, &after].map(|upstream| upstream.seen().len());
        assert_eq!(seen, queries);
    }
    bench.finish();
}

/// What is known of a target, an answer or a failure, takes the place of a query.
#[test]
fn aliases_share_what_is_known_of_their_target() {
    let upstream = authoritative(|name| match name {
        "a.one" | "b.one" => Alias("good.two"),
        "c.one" | "d.one" => Alias("bad.two"),
        "good.two" => Text,
        _ => Code(ResponseCode::Refused),
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for (token, (name, is_good)) in [
        ("a.one", true),
        ("b.one", true),
        ("c.one", false),
        ("d.one", false),
    ]
    .into_iter()
    .enumerate()
    {
        bench.submit(&question(9, name), token as u64);
        assert_eq!(answered(&bench.outcome()), is_good, "{name}");
    }
    bench.submit(&question(9, "good.two"), 9);
    assert!(answered(&bench.outcome()));
    let names = ["a.one", "good.two", "b.one", "c.one", "bad.two", "d.one"];
    assert_eq!(asked(&upstream), names);
    assert_eq!(bench.count("aliases_followed"), 2);
    bench.finish();
}

/// Three names whose aliases lead to one that is not answered say no more about its upstream than that one.
#[test]
fn one_silent_target_is_one_name() {
    let default = authoritative(|_| Alias("dead.corp.example"));
    let corp = authoritative(|_| Silence);
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![RouteOptions {
            attempt_timeout: Duration::from_millis(200),
            attempts: 1,
            ..route("corp.example", &[corp.address])
        }],
        ..options(vec![default.address])
    });
    for token in 0..4 {
        let query = question(9, &format!("n{token}.example"));
        let request = bench.request(&query, 0, token);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    assert!(!bench.outcomes(0, 4).iter().any(answered));
    assert_eq!(corp.seen().len(), 4);
    assert_eq!(corp.probes(), 0, "it is not set aside");
    bench.finish();
}

/// A slow first step does not take the time of the second one, whose route has short time-outs.
#[test]
fn each_step_has_time() {
    let default = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(600));
        let mut response = message::response(&seen.message().unwrap());
        let owner = response.queries[0].name().clone();
        response.add_answer(alias(&owner, "host.corp.example"));
        vec![message::octets(&response)]
    });
    let corp = authoritative(|_| Text);
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![RouteOptions {
            attempt_timeout: Duration::from_millis(100),
            attempts: 2,
            ..route("corp.example", &[corp.address])
        }],
        ..options(vec![default.address])
    });
    bench.submit(&question(9, "a.example"), 1);
    assert!(answered(&bench.outcome()));
    bench.finish();
}

/// Special names are not forwarded for an alias either; the zone of a route without upstreams exists.
#[test]
fn special_targets_are_not_asked_for() {
    let upstream = authoritative(|name| match name {
        "a.example" => Alias("printer.local"),
        "b.example" => Alias("Denied.example"),
        _ => Code(ResponseCode::Refused),
    });
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![RouteOptions {
            local_only: Some(LocalOnly::NxDomain),
            ..route("denied.example", &[])
        }],
        ..options(vec![upstream.address])
    });
    let query = question(9, "a.example");
    bench.submit(&query, 1);
    let alone = reply(&query, &bench.outcome());
    assert_eq!(alone.metadata.response_code, ResponseCode::NoError);
    assert_eq!((alone.answers.len(), alone.authorities.len()), (1, 0));
    let query = question(9, "b.example");
    bench.submit(&query, 2);
    let apex = reply(&query, &bench.outcome());
    assert_eq!(apex.metadata.response_code, ResponseCode::NoError);
    assert_eq!((apex.answers.len(), apex.authorities.len()), (1, 1));
    assert_eq!(asked(&upstream), ["a.example", "b.example"]);
    bench.finish();
}
