//! Routes, and other ones while the threads run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::{
    answer::special::LocalOnly,
    dns::{TtlLimits, edns::ede},
    forward::testing::{denial, of_type, question},
    maintenance::wire,
};

/// A route for `zone`, with what the options say for others.
pub(super) fn route(zone: &str, upstreams: &[SocketAddr]) -> RouteOptions {
    let options = options(Vec::new());
    RouteOptions {
        zone: wire(zone).unwrap(),
        local_only: None,
        upstreams: upstreams
            .iter()
            .map(|upstream| (*upstream).into())
            .collect(),
        attempt_timeout: options.attempt_timeout,
        attempts: options.attempts,
        policy: options.policy,
        hedge: options.hedge,
        limits: options.limits,
    }
}

/// Answers with a text of so many octets, by which the upstream is known.
fn saying(fill: usize) -> Upstream {
    Upstream::start(move |seen| vec![response(&seen.msg, fill)])
}

/// The answer to a question: how many octets of text it has, or its response code.
fn ask(bench: &mut Bench, name: &str) -> Result<usize, u8> {
    ask_msg(bench, &question(9, name))
}

fn ask_msg(bench: &mut Bench, msg: &[u8]) -> Result<usize, u8> {
    bench.submit(msg, 1);
    said(&bench.outcome())
}

fn said(outcome: &Outcome) -> Result<usize, u8> {
    let answer = outcome.answer.as_ref().as_ref();
    match answer.rcode() {
        rcode::NOERROR => Ok(answer.body().len() - 13),
        code => Err(code),
    }
}

pub(super) fn reload(bench: &Bench, options: &ForwardOptions) {
    let plans = bench.forwarder.plans();
    let plan = plans.prepare(options).unwrap();
    plans.adopt(plan.expect("something changes"));
}

#[test]
fn the_route_with_the_most_labels_is_asked() {
    let [default, corp, lab] = [20, 30, 40].map(saying);
    let mut bench = Bench::new(ForwardOptions {
        threads: 2,
        routes: vec![
            route("corp.example", &[corp.address]),
            route("lab.corp.example", &[lab.address, corp.address]),
            RouteOptions {
                local_only: Some(LocalOnly::NxDomain),
                ..route("denied.example", &[])
            },
            RouteOptions {
                local_only: Some(LocalOnly::Refused),
                ..route("refused.example", &[])
            },
        ],
        ..options(vec![default.address])
    });
    for (name, expected) in [
        ("www.example", Ok(20)),
        ("corp.example", Ok(30)),
        ("WWW.Corp.Example", Ok(30)),
        ("xcorp.example", Ok(20)),
        ("a.lab.corp.example", Ok(40)),
        ("a.b.denied.example", Err(rcode::NXDOMAIN)),
        ("refused.example", Err(rcode::REFUSED)),
    ] {
        assert_eq!(ask(&mut bench, name), expected, "{name}");
    }
    // The DS records of a zone are its parent's.
    let ds = of_type(question(9, "lab.corp.example"), 43);
    bench.submit(&ds, 2);
    bench.outcome();
    assert_eq!(corp.seen().len(), 3);
    assert_eq!(lab.seen().len(), 1);
    bench.submit(&question(9, "x.refused.example"), 3);
    let refused = bench.outcome().answer;
    assert_eq!(refused.as_ref().as_ref().ede(), Some(ede::BLOCKED));
    bench.finish();
}

#[test]
fn a_route_has_attempts_timeouts_and_bounds_of_its_own() {
    let silent = Upstream::start(|_| Vec::new());
    let (default, short) = (answers(), answers());
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![
            RouteOptions {
                attempt_timeout: Duration::from_millis(50),
                attempts: 2,
                ..route("silent.example", &[silent.address])
            },
            RouteOptions {
                limits: TtlLimits {
                    max: 60,
                    ..TtlLimits::default()
                },
                ..route("short.example", &[short.address])
            },
        ],
        ..options(vec![default.address])
    });
    // By the default's timeout it would take longer than the test waits.
    assert_eq!(ask(&mut bench, "a.silent.example"), Err(rcode::SERVFAIL));
    assert_eq!(silent.seen().len(), 2);
    let mut ttl = |name| {
        bench.submit(&question(9, name), 1);
        bench.outcome().answer.as_ref().as_ref().ttl()
    };
    assert_eq!(ttl("a.short.example"), 60);
    assert_eq!(ttl("a.example"), 300);
    bench.finish();
}

/// What a name is denied by, and below it, ends at the next route.
#[test]
fn a_denial_holds_for_the_names_of_its_route() {
    let denies = Upstream::start(|seen| vec![denial(&seen.msg, 60)]);
    let corp = saying(30);
    let mut bench = Bench::new(ForwardOptions {
        nxdomain_cut: true,
        routes: vec![route("corp.test", &[corp.address])],
        ..options(vec![denies.address])
    });
    assert_eq!(ask(&mut bench, "test"), Err(rcode::NXDOMAIN));
    assert_eq!(ask(&mut bench, "a.test"), Err(rcode::NXDOMAIN));
    assert_eq!(denies.seen().len(), 1, "by the denial of test");
    let ds = of_type(question(9, "corp.test"), 43);
    assert_eq!(ask_msg(&mut bench, &ds), Err(rcode::NXDOMAIN));
    assert_eq!(ask(&mut bench, "corp.test"), Ok(30));
    assert_eq!(ask(&mut bench, "www.corp.test"), Ok(30));
    bench.finish();
}

#[test]
fn a_reload_changes_routes_and_drops_what_others_gave() {
    let [default, before, after] = [20, 30, 40].map(saying);
    let with = |corp: &Upstream, other: &Upstream| ForwardOptions {
        threads: 2,
        routes: vec![
            route("corp.example", &[corp.address]),
            route("other.example", &[other.address]),
        ],
        ..options(vec![default.address])
    };
    let mut bench = Bench::new(with(&before, &before));
    let names: Vec<String> = (0..200).map(|n| format!("n{n}.corp.example")).collect();
    for name in &names {
        assert_eq!(ask(&mut bench, name), Ok(30));
    }
    assert_eq!(ask(&mut bench, "a.other.example"), Ok(30));
    assert_eq!(ask(&mut bench, "a.example"), Ok(20));
    let asked = default.seen().len() + before.seen().len();
    let plans = bench.forwarder.plans();
    assert!(plans.prepare(&with(&before, &before)).unwrap().is_none());

    reload(&bench, &with(&after, &before));
    for name in &names {
        assert_eq!(ask(&mut bench, name), Ok(40), "{name}");
    }
    // The others are as they were, and still cached.
    assert_eq!(ask(&mut bench, "a.other.example"), Ok(30));
    assert_eq!(ask(&mut bench, "a.example"), Ok(20));
    assert_eq!(default.seen().len() + before.seen().len(), asked);
    let generation = |bench: &mut Bench| {
        bench.submit(&question(9, "a.example"), 1);
        bench.outcome().generation
    };
    assert_eq!(generation(&mut bench), 1);

    // Without a route, names have the default one again, whose upstreams change, too.
    let without = options(vec![after.address, default.address]);
    reload(&bench, &without);
    assert_eq!(ask(&mut bench, "n1.corp.example"), Ok(40));
    assert_eq!(
        ask(&mut bench, "a.example"),
        Ok(20),
        "cached: its upstream stays"
    );
    assert_eq!(ask(&mut bench, "b.example"), Ok(40));
    assert_eq!(generation(&mut bench), 2);
    let plan = plans.current();
    let addresses: Vec<_> = (plan.upstreams.iter())
        .map(|upstream| upstream.address.address)
        .collect();
    assert_eq!(addresses, [after.address, default.address]);
    bench.finish();
}

/// It ends as it began, whatever is in force by then, and is not cached.
#[test]
fn what_is_in_flight_ends_under_the_former_routes() {
    let (go, after) = (Arc::new(AtomicBool::new(false)), saying(40));
    let before = Upstream::start({
        let go = Arc::clone(&go);
        move |seen| {
            let end = Instant::now() + Duration::from_secs(20);
            while !go.load(Ordering::SeqCst) && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
            vec![response(&seen.msg, 30)]
        }
    });
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_secs(60),
        ..options(vec![before.address])
    });
    bench.submit(&question(9, "slow.example"), 1);
    while before.seen().is_empty() {
        thread::yield_now();
    }
    reload(&bench, &options(vec![after.address]));
    // It does not join the former one.
    bench.submit(&question(9, "slow.example"), 2);
    let outcome = bench.outcome();
    assert_eq!((outcome.token, said(&outcome)), (2, Ok(40)));
    assert_eq!(outcome.generation, 1);
    go.store(true, Ordering::SeqCst);
    let outcome = bench.outcome();
    assert_eq!((outcome.token, said(&outcome)), (1, Ok(30)));
    assert_eq!(outcome.generation, 0);
    // The cache has the answer of the later one.
    assert_eq!(ask(&mut bench, "slow.example"), Ok(40));
    assert_eq!(after.seen().len(), 1);
    bench.finish();
}

#[test]
fn failures_of_former_routes_are_forgotten() {
    let (broken, works) = (
        Upstream::start(|seen| vec![server_failure(&seen.msg)]),
        saying(40),
    );
    let mut bench = Bench::new(options(vec![broken.address]));
    for name in ["a.example", "b.example"] {
        assert_eq!(ask(&mut bench, name), Err(rcode::SERVFAIL));
    }
    reload(&bench, &options(vec![works.address]));
    for name in ["a.example", "b.example"] {
        assert_eq!(ask(&mut bench, name), Ok(40));
    }
    bench.finish();
}

/// Every query that was asked after a reload gets the answer of the upstream that is in force, or a later one.
#[test]
fn reloads_under_load_lose_no_query_and_leave_no_answer() {
    let upstreams = [20, 30].map(saying);
    let [first, second] = [0, 1].map(|at| {
        let address = upstreams[at].address;
        ForwardOptions {
            threads: 2,
            routes: vec![route("corp.example", &[address])],
            ..options(vec![upstreams[0].address])
        }
    });
    let mut bench = Bench::new(first.clone());
    let reloads = AtomicU64::new(0);
    let plans = bench.forwarder.plans();
    thread::scope(|scope| {
        let (reloads, plans) = (&reloads, &plans);
        let reloading = scope.spawn(move || {
            for reload in 1..=100 {
                let options = if reload % 2 == 0 { &first } else { &second };
                plans.adopt(plans.prepare(options).unwrap().unwrap());
                reloads.store(reload, Ordering::SeqCst);
            }
        });
        let mut asked = 0u32;
        while !reloading.is_finished() || asked < 500 {
            let before = reloads.load(Ordering::SeqCst);
            // Many twice, which the cache answers.
            let name = format!("n{}.corp.example", asked % 7);
            let answer = ask(&mut bench, &name);
            // One may be under way, so either of two.
            let after = reloads.load(Ordering::SeqCst) + 1;
            let expected = |reload: u64| Ok(20 + 10 * (reload % 2) as usize);
            assert!(
                (before..=after).any(|reload| answer == expected(reload)),
                "{answer:?} after {before} reloads"
            );
            asked += 1;
        }
    });
    assert_eq!(ask(&mut bench, "n1.corp.example"), Ok(20));
    bench.finish();
}
