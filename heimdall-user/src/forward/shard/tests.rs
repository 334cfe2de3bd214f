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
        testing::{Upstream, query},
        tls::TlsClients,
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
                TlsClients::default(),
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
fn an_upstream_without_a_route_is_set_aside() {
    let mut bench = Bench::new();
    let (query, _) = bench.ask("name");
    bench.shard.not_sent(query, SendError::Upstream, bench.now);
    let (_, ttl) = bench.outcome().unwrap();
    assert!(ttl > 0, "all upstreams failed");
    assert_eq!(bench.shard.counters.socket_errors.get(), 0);
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
