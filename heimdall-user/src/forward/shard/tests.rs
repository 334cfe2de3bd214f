//! Steps of a thread that the forwarder as a whole cannot be brought to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{fs::File, os::fd::AsRawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::{
    dns::{DnsPacketView, Query},
    forward::{
        Outcome, Request,
        exchange::{ExchangeStatus, SendError, Transport},
        handle::Reload,
        plan::Plan,
        testing::{Upstream, query, response},
        udp::Outstanding,
    },
};

/// A thread that is run by hand, and its only upstream, which is silent.
struct Bench {
    shard: Shard,
    mailbox: Arc<Mailbox>,
    upstream: Upstream,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let upstream = Upstream::start(|_| Vec::new());
        let options = ForwardOptions {
            upstreams: vec![upstream.address.into()],
            cache_bytes: 1 << 20,
            ..ForwardOptions::default()
        };
        let plan = Plan::new(&options).unwrap();
        let mailbox = Arc::new(Mailbox::new(1024).unwrap());
        let mailboxes = [Arc::clone(&mailbox)].into();
        let clock = Clock::start();
        Self {
            shard: Shard::new(
                options,
                mailboxes,
                NameHasher::default(),
                clock,
                OverloadLog::default(),
                &plan,
                0,
            )
            .unwrap(),
            mailbox,
            upstream,
            now: Instant::now(),
        }
    }

    /// Begins the look-up of a name. Returns its query, and the number of the socket.
    fn ask(&mut self, name: &str) -> (Outstanding, usize) {
        let msg = query(9, name, None);
        let view = DnsPacketView::parse(&msg).unwrap();
        let query = Query::new(&view, &self.shard.hasher);
        let request = Request::new(&query, &msg, [192, 0, 2, 1].into(), 0, 1).unwrap();
        self.shard.begin(request, self.now);
        let mut lookups = self.shard.in_flight.iter();
        let (slot, lookup) = lookups
            .find(|(_, lookup)| lookup.request.hash == query.hash)
            .unwrap();
        let exchange = &lookup.exchanges[0];
        let Transport::Udp(number) = exchange.transport else {
            unreachable!()
        };
        let (id, serial) = (exchange.sent.id, exchange.sent.serial);
        (Outstanding { id, slot, serial }, number)
    }

    /// Ends the turn.
    fn send(&mut self) {
        self.shard.send_queries(&mut Batch::new(), self.now);
    }

    fn outcome(&self) -> Option<(Option<u16>, u32)> {
        let Outcome { answer, .. } = self.mailbox.take()?;
        let answer = Answer::as_ref(&answer);
        Some((answer.ede(), answer.ttl()))
    }
}

/// Neither is a failure cached, nor another upstream asked, which would need the same.
#[test]
fn a_query_without_room_is_no_failure_of_its_question() {
    let mut bench = Bench::new();
    for round in 1..=2 {
        // Its socket is closed to free a file.
        let (_, number) = bench.ask("name");
        bench.shard.udp.close(number);
        bench.send();
        assert_eq!(bench.outcome(), Some((Some(ede::NOT_READY), 0)));
        assert_eq!(bench.shard.counters.socket_errors.get(), round);
    }
    assert_eq!(bench.shard.counters.failure_hits.get(), 0);
    assert_eq!(bench.shard.counters.upstream_errors.get(), 0);
    assert!(bench.upstream.seen().is_empty());
}

#[test]
fn only_the_current_query_matters() {
    let mut bench = Bench::new();
    let (first, _) = bench.ask("name");
    let serial = first.serial;
    bench.send();
    // It times out, and the next attempt begins.
    bench.now += bench.shard.options.attempt_timeout * 2;
    bench.shard.time_out_attempts(bench.now);
    let current = bench.shard.in_flight.get(first.slot).unwrap().current;
    assert_ne!(current, serial);
    bench.shard.not_sent(first, SendError::Resources, bench.now);
    assert_eq!(bench.outcome(), None);
    let current = Outstanding {
        serial: current,
        ..first
    };
    bench
        .shard
        .not_sent(current, SendError::Resources, bench.now);
    assert_eq!(bench.outcome(), Some((Some(ede::NOT_READY), 0)));
}

#[test]
fn only_its_own_errors_count_for_an_upstream() {
    for (error, errors) in [(SendError::Address, 0), (SendError::Upstream, 1)] {
        let mut bench = Bench::new();
        let (query, _) = bench.ask("name");
        bench.shard.not_sent(query, error, bench.now);
        assert!(bench.outcome().is_some());
        let counters = bench.shard.upstreams.counters(0).unwrap();
        assert_eq!(counters.errors.get(), errors, "{error:?}");
        assert_eq!(bench.shard.counters.upstream_errors.get(), errors);
    }
}

#[test]
fn the_queries_that_wait_for_an_upstream_are_counted() {
    let mut bench = Bench::new();
    let count = |bench: &mut Bench| {
        bench.shard.count_by_upstream(bench.now);
        bench.shard.upstreams.counters(0).unwrap().in_flight.get()
    };
    let (first, _) = bench.ask("name");
    bench.now += COUNT_INTERVAL;
    assert_eq!(count(&mut bench), 1);
    let (second, _) = bench.ask("other");
    assert_eq!(count(&mut bench), 1, "once a second");
    bench.now += COUNT_INTERVAL;
    assert_eq!(count(&mut bench), 2);
    for query in [first, second] {
        bench.shard.not_sent(query, SendError::Resources, bench.now);
    }
    assert_eq!(count(&mut bench), 0, "at once when none is left");
}

#[test]
fn only_what_the_network_says_is_a_failure_of_the_question() {
    for (error, is_cached, is_aside) in [
        (SendError::Refused, true, true),
        (SendError::Upstream, true, true),
        (SendError::Route, false, true),
        (SendError::Address, false, false),
        (SendError::Resources, false, false),
    ] {
        let mut bench = Bench::new();
        let (query, _) = bench.ask("name");
        bench.shard.not_sent(query, error, bench.now);
        let (_, ttl) = bench.outcome().unwrap();
        assert_eq!(ttl > 0, is_cached, "{error:?}");
        assert_eq!(bench.shard.upstreams.is_aside(0), is_aside, "{error:?}");
        let failure = bench.shard.state(&subject("name"), bench.now).failure;
        assert_eq!(failure.is_some(), is_cached, "{error:?}");
    }
}

/// The inquiry about a name.
fn subject(name: &str) -> Subject {
    Subject {
        query: query(9, name, None).into(),
        client: None,
    }
}

#[test]
fn a_failed_upstream_is_probed_without_queries_of_clients() {
    let mut bench = Bench::new();
    let start = bench.now;
    bench.shard.send_probes(start);
    assert_eq!(bench.shard.time_left(), None, "nothing is to be done");
    let (query, _) = bench.ask("name");
    bench.shard.not_sent(query, SendError::Refused, start);
    bench.outcome().unwrap();
    let mut sent = Vec::new();
    for tenth in 0..100 {
        bench.now = start + Duration::from_millis(100) * tenth;
        bench.shard.time_out_attempts(bench.now);
        bench.shard.send_probes(bench.now);
        bench.send();
        let probes = bench.shard.counters.probes.get();
        if probes > sent.len() as u64 {
            sent.push(tenth);
        }
        assert_eq!(bench.shard.in_flight.len(), 0, "it is no look-up");
        assert!(bench.shard.time_left().is_some());
    }
    assert_eq!(sent, [10, 30, 70]);
    assert_eq!(bench.shard.counters.sent_udp.get(), 1);
    assert_eq!(bench.shard.counters.timeouts.get(), 0);
    assert_eq!(bench.outcome(), None);
}

#[test]
fn a_connection_gets_the_file_of_a_replaced_socket() {
    const NAME: &str = "forward::shard::tests::a_connection_gets_the_file_of_a_replaced_socket";
    // The limit is one of the process.
    if !lab::in_own_process(NAME).unwrap() {
        return;
    }
    let mut bench = Bench::new();
    for i in 0..200 {
        bench.ask(&format!("early{i}"));
        bench.send();
    }
    // The sockets of the pool are too old now.
    bench.now += Duration::from_secs(10);
    for i in 0..200 {
        bench.ask(&format!("late{i}"));
        bench.send();
    }
    let (query, _) = bench.ask("large");
    bench.send();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, next as u64, hard).unwrap();
    File::open("/dev/null").unwrap_err();
    let exchange = bench
        .shard
        .in_flight
        .take_exchange(query.slot, query.serial);
    let exchange = exchange.unwrap();
    bench.shard.udp.end(&exchange);
    let truncated = ExchangeStatus::Truncated(0);
    bench
        .shard
        .handle_status(query.slot, bench.now, exchange.sent, truncated);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(bench.shard.counters.socket_errors.get(), 1);
    assert_eq!(bench.shard.counters.sent_tcp.get(), 1);
    assert_eq!(bench.shard.in_flight.len(), 401, "none was shed");
    assert_eq!(bench.outcome(), None);
}

/// A plan with this upstream and one of a route.
fn plan(bench: &Bench, generation: u64, port: u16) -> Plan {
    let options = plan_options(&bench.shard.options, port);
    Plan::of_generation(&options, generation).unwrap()
}

fn plan_options(options: &ForwardOptions, port: u16) -> ForwardOptions {
    ForwardOptions {
        routes: vec![crate::forward::RouteOptions {
            zone: b"\x06routed\x04test\0".as_slice().into(),
            local_only: None,
            upstreams: vec![std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()],
            attempt_timeout: options.attempt_timeout,
            attempts: options.attempts,
            policy: options.policy,
            hedge: options.hedge,
            limits: options.limits,
        }],
        ..options.clone()
    }
}
/// Takes a plan as the loop does, until nothing is left to do of it but what look-ups keep.
fn reload(bench: &mut Bench, plan: Plan) {
    let (done, is_done) = std::sync::mpsc::sync_channel(0);
    bench.shard.inbox.reload(Reload {
        plan: plan.into(),
        done,
    });
    bench.shard.take_reload(bench.now);
    while bench.shard.flush_outdated() == Status::Busy {}
    assert!(is_done.recv().is_err());
    bench.shard.release(bench.now);
}

#[test]
fn a_thousand_reloads_leave_nothing() {
    let mut bench = Bench::new();
    for generation in 1..=1_000 {
        reload_once(&mut bench, generation);
        assert_eq!(bench.shard.upstreams.indices().count(), 2);
        assert!(bench.shard.by_upstream.len() <= 3);
        assert!(!bench.shard.routes.has_replaced());
        assert!(bench.shard.udp.open_sockets() <= 2);
    }
}

/// A reload, and a query to the upstream of its route, which ends.
fn reload_once(bench: &mut Bench, generation: u64) {
    let plan = plan(bench, generation, 1_000 + generation as u16);
    reload(bench, plan);
    let (query, _) = bench.ask("a.routed");
    bench.send();
    bench.shard.end(query.slot);
}

#[test]
fn an_upstream_is_removed_when_the_last_look_up_has_ended() {
    let mut bench = Bench::new();
    let first = plan(&bench, 1, 1_001);
    reload(&mut bench, first);
    let (query, _) = bench.ask("a.routed");
    let route = bench.shard.in_flight.get(query.slot).unwrap().route;
    let other = plan(&bench, 2, 1_002);
    reload(&mut bench, other);
    let count = |bench: &Bench| bench.shard.upstreams.indices().count();
    assert_eq!(count(&bench), 3, "a look-up asks it");
    assert!(bench.shard.routes.get(route).is_some());
    // An upstream that comes back meanwhile is the same one.
    let back = plan(&bench, 3, 1_001);
    reload(&mut bench, back);
    assert_eq!(count(&bench), 2);
    bench.now += Duration::from_secs(2);
    bench.shard.end(query.slot);
    bench.shard.release(bench.now);
    assert_eq!(count(&bench), 2);
    assert!(!bench.shard.routes.has_replaced());
}

/// Restores an answer for a name from a snapshot. Gives the request for it.
fn restore(bench: &mut Bench, name: &str) -> Request {
    let msg = query(9, name, None);
    let view = DnsPacketView::parse(&msg).unwrap();
    let read = Query::new(&view, &bench.shard.hasher);
    let request = Request::new(&read, &msg, [192, 0, 2, 1].into(), 0, 1).unwrap();
    let response = response(&msg, 20);
    let limits = crate::dns::TtlLimits::default();
    let answer = Answer::from_response(&response, request.question(), 0, &limits).unwrap();
    let record = Record {
        question: request.question(),
        flags: 0,
        age: 0,
        answer: answer.as_ref(),
    };
    let now = bench.shard.clock.seconds();
    bench.shard.restore(&request.key(), &record, 0, now);
    request
}

/// The time that answers have, and the records of a snapshot.
#[test]
fn a_snapshot_is_restored_within_the_bounds_of_each_route() {
    let mut bench = Bench::new();
    let options = &bench.shard.options;
    let mut routed = plan_options(options, 1_001);
    routed.routes[0].limits.max = 60;
    let other = Plan::of_generation(&routed, 1).unwrap();
    reload(&mut bench, other);
    for (name, restored) in [("name", true), ("a.routed", false)] {
        let request = restore(&mut bench, name);
        assert_eq!(bench.shard.has_stale(&request), restored, "{name}");
    }
}

/// It ends although the cache is written to all the time, and leaves what is new.
#[test]
fn a_reload_ends_under_load() {
    let mut bench = Bench::new();
    let first = plan(&bench, 1, 1_001);
    reload(&mut bench, first);
    let fill = |bench: &mut Bench, from: u32, count: u32| {
        for number in from..from + count {
            restore(bench, &format!("n{number}.routed"));
        }
    };
    fill(&mut bench, 0, 5_000);
    let (done, is_done) = std::sync::mpsc::sync_channel(0);
    bench.shard.inbox.reload(Reload {
        plan: plan(&bench, 2, 1_002).into(),
        done,
    });
    bench.shard.take_reload(bench.now);
    let mut turns = 0;
    while bench.shard.flush_outdated() == Status::Busy {
        turns += 1;
        assert!(turns < 1_000, "it does not end");
        // As many as a turn takes from the fronts, at most.
        fill(&mut bench, 10_000 + turns * 64, 64);
    }
    assert!(is_done.recv().is_err());

    // Another default route outdates all, at once.
    let options = &bench.shard.options;
    let mut other = plan_options(options, 1_002);
    other.upstreams = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 1_003)).into()];
    let (done, is_done) = std::sync::mpsc::sync_channel(0);
    bench.shard.inbox.reload(Reload {
        plan: Plan::of_generation(&other, 3).unwrap().into(),
        done,
    });
    bench.shard.take_reload(bench.now);
    assert!(is_done.recv().is_err());
}
