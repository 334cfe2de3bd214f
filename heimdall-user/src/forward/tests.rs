//! The forwarder against upstreams on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod acknowledgements;
mod aliases;
mod answers;
mod attempts;
mod choice;
mod dead_zones;
mod failing;
mod overload;
mod probes;
mod proofs;
mod routes;
mod shared_cache;
mod slow;
mod stale;
mod streams;
mod tls;
mod tls_faults;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{
    testing::{Seen, Upstream, bare, closed_address, query, response, server_failure, with_opt},
    *,
};
use crate::dns::{Answer, DnsPacketView, NameHasher, Query, header::rcode};

/// A forwarder with two fronts.
struct Bench {
    forwarder: Forwarder,
    handle: Handle,
    mailboxes: Vec<Arc<Mailbox>>,
    hasher: NameHasher,
}

impl Bench {
    fn new(options: ForwardOptions) -> Self {
        Self::with_capacity(4096, options)
    }

    /// With fronts that may have `capacity` queries under way.
    fn with_capacity(capacity: usize, options: ForwardOptions) -> Self {
        let mailboxes: Vec<_> = (0..2)
            .map(|_| Arc::new(Mailbox::new(capacity).unwrap()))
            .collect();
        let hasher = NameHasher::default();
        let forwarder = ForwarderBuilder::new(&options, mailboxes.clone(), hasher.clone()).unwrap();
        let forwarder = forwarder.start().unwrap();
        Self {
            handle: forwarder.handle(),
            forwarder,
            mailboxes,
            hasher,
        }
    }

    fn request(&self, msg: &[u8], front: u16, token: u64) -> Request {
        self.request_of([192, 0, 2, 1].into(), msg, front, token)
    }

    fn request_of(&self, client: IpAddr, msg: &[u8], front: u16, token: u64) -> Request {
        let query = Query::new(&DnsPacketView::parse(msg).unwrap(), &self.hasher);
        Request::new(&query, msg, client, front, token).unwrap()
    }

    fn submit(&mut self, msg: &[u8], token: u64) {
        let request = self.request(msg, 0, token);
        self.handle.submit(request).unwrap();
        self.handle.flush();
    }

    /// The next outcomes of a front; fails when they do not come at all.
    fn outcomes(&self, front: usize, count: usize) -> Vec<Outcome> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            assert!(
                Instant::now() < deadline,
                "{} of {count} outcomes",
                outcomes.len()
            );
            match self.mailboxes[front].take() {
                Some(outcome) => outcomes.push(outcome),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        outcomes
    }

    fn outcome(&self) -> Outcome {
        self.outcomes(0, 1).remove(0)
    }

    fn count(&self, name: &str) -> u64 {
        let sets = self.forwarder.counters();
        let lists = sets.iter().flat_map(|set| set.list());
        lists
            .filter(|(n, _)| *n == name)
            .map(|(_, value)| value)
            .sum()
    }

    /// No outcome came twice.
    fn finish(self) {
        drop(self.forwarder);
        assert!(
            self.mailboxes
                .iter()
                .all(|mailbox| mailbox.take().is_none())
        );
    }
}

fn options(upstreams: Vec<SocketAddr>) -> ForwardOptions {
    ForwardOptions {
        upstreams: upstreams.into_iter().map(Into::into).collect(),
        // Long enough for a loaded machine: only what is meant to time out does.
        attempt_timeout: Duration::from_secs(5),
        // Their tests are in `proofs`; others compare queries octet by octet.
        cookies: false,
        cache_bytes: 1 << 20,
        ..ForwardOptions::default()
    }
}

fn with_short_timeout(upstreams: Vec<SocketAddr>) -> ForwardOptions {
    ForwardOptions {
        attempt_timeout: Duration::from_millis(300),
        ..options(upstreams)
    }
}

/// Whether an upstream gave an answer.
fn answered(outcome: &Outcome) -> bool {
    Answer::as_ref(&outcome.answer).rcode() != rcode::SERVFAIL
}

fn answers() -> Upstream {
    Upstream::start(|seen| vec![response(&seen.msg, 20)])
}

#[test]
fn sends_the_question_and_nothing_else_of_the_client() {
    let upstream = answers();
    let mut bench = Bench::new(ForwardOptions {
        trust_ad: true,
        ..options(vec![upstream.address])
    });
    let mut msg = query(7, "NaMe", Some(4096));
    msg[3] |= 0x10; // CD
    let at = msg.len() - 4;
    msg[at] = 0x80; // DO
    let end = msg.len() - 11;
    let options = [0, 8, 0, 4, 0, 1, 0, 0]; // a client subnet
    let len = msg.len();
    msg[len - 1] = options.len() as u8;
    msg.extend_from_slice(&options);
    bench.submit(&msg, 1);
    let outcome = bench.outcome();
    assert_eq!(outcome.token, 1);
    assert_eq!(Answer::as_ref(&outcome.answer).ttl(), 300);
    let seen = &upstream.seen()[0].msg;
    assert_eq!(seen[2..4], [1, 0x30], "RD, AD, CD");
    assert_eq!(seen[12..end], msg[12..end]);
    assert_eq!(
        seen[end..],
        [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0],
        "1232 octets, DO"
    );
    assert_eq!(bench.count("sent_udp"), 1);
    bench.finish();
}

#[test]
fn identical_questions_share_one_query_across_fronts() {
    let upstream = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(100));
        vec![response(&seen.msg, 20)]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for token in 0..50 {
        let label = if token % 2 == 0 { "same" } else { "SAME" };
        let request = bench.request(&query(9, label, None), (token % 2) as u16, token);
        bench.handle.submit(request).unwrap();
    }
    let mut cd = query(9, "same", None);
    cd[3] |= 0x10;
    let request = bench.request(&cd, 0, 50);
    bench.handle.submit(request).unwrap();
    bench.handle.flush();
    let even = bench.outcomes(0, 26);
    let odd = bench.outcomes(1, 25);
    assert!(even.iter().chain(&odd).all(answered));
    assert!(odd.iter().all(|outcome| outcome.token % 2 == 1));
    assert_eq!(upstream.seen().len(), 2, "one for each of CD set and not");
    assert_eq!(bench.count("coalesced"), 49);
    bench.finish();
}

#[test]
fn wrong_responses_are_ignored() {
    let upstream = Upstream::start(|seen| {
        let right = response(&seen.msg, 20);
        let mut wrong_id = right.clone();
        wrong_id[0] ^= 1;
        let mut wrong_question = right.clone();
        wrong_question[13] = b'z';
        let mut not_a_response = right.clone();
        not_a_response[2] &= 0x7f;
        let mut bad_record = right.clone();
        bad_record.truncate(right.len() - 1);
        vec![
            wrong_id,
            wrong_question,
            not_a_response,
            bad_record,
            vec![seen.msg[0]],
            right,
        ]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(bench.count("rejected_id"), 1);
    assert_eq!(bench.count("rejected_question"), 1);
    assert_eq!(bench.count("rejected_malformed"), 3);
    bench.finish();
}

#[test]
fn after_many_wrong_ids_the_query_goes_over_another_port_and_then_over_tcp() {
    let upstream = Upstream::start(|seen| {
        let right = response(&seen.msg, 20);
        if seen.tcp {
            return vec![right];
        }
        let guess = |n: u8| {
            let mut wrong = right.clone();
            wrong[1] ^= n;
            wrong
        };
        (1..50).map(guess).collect()
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(bench.count("rejected_id"), 16);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (2, 1));
    let seen = upstream.seen();
    assert_ne!(seen[0].from.port(), seen[1].from.port());
    bench.finish();
}

#[test]
fn a_response_from_another_address_is_ignored() {
    let upstream = Upstream::start(|seen| {
        let mut forged = response(&seen.msg, 20);
        *forged.last_mut().unwrap() = b'!';
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(&forged, seen.from).unwrap();
        let other = UdpSocket::bind("127.0.0.2:0").unwrap();
        other.send_to(&forged, seen.from).unwrap();
        vec![response(&seen.msg, 20)]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    let answer = bench.outcome().answer;
    assert_eq!(Answer::as_ref(&answer).body().last(), Some(&b'x'));
    bench.finish();
}

#[test]
fn truncated_responses_are_fetched_over_tcp() {
    let upstream = Upstream::start(|seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => vec![response(&seen.msg, 20_000)],
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(Answer::as_ref(&bench.outcome().answer).body().len() > 20_000);
    let seen = upstream.seen();
    assert_eq!(
        seen.iter().map(|seen| seen.tcp).collect::<Vec<_>>(),
        [false, true]
    );
    assert_ne!(seen[0].msg[..2], seen[1].msg[..2], "a fresh ID");
    bench.finish();
}

#[test]
fn a_silent_upstream_is_given_up_and_then_skipped() {
    let silent = Upstream::start(|_| Vec::new());
    let good = answers();
    let mut bench = Bench::new(with_short_timeout(vec![silent.address, good.address]));
    bench.submit(&query(9, "one", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(bench.count("timeouts"), 1);
    for (token, label) in [(2, "two"), (3, "three"), (4, "four")] {
        bench.submit(&query(9, label, None), token);
        assert!(answered(&bench.outcome()));
    }
    assert_eq!(silent.seen().len(), 3, "not asked a fourth time so soon");
    assert_eq!(good.seen().len(), 4);
    bench.finish();
}

#[test]
fn errors_lead_to_the_next_upstream_at_once() {
    let bare_formerr = |seen: &Seen| {
        let mut msg = seen.msg[..12].to_vec();
        msg[2..12].copy_from_slice(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        vec![msg]
    };
    for failing in [
        Upstream::start(|seen| vec![server_failure(&seen.msg)]),
        Upstream::start(|seen| vec![bare(&seen.msg, 5)]),
        Upstream::start(bare_formerr),
        Upstream::start(|seen| {
            vec![if seen.tcp {
                vec![0; 5]
            } else {
                bare(&seen.msg, 0x200)
            }]
        }),
    ] {
        let good = answers();
        let mut bench = Bench::new(options(vec![failing.address, good.address]));
        bench.submit(&query(9, "name", None), 1);
        assert!(answered(&bench.outcome()));
        assert_eq!(bench.count("upstream_errors"), 1);
        assert_eq!(bench.count("timeouts"), 0);
        bench.finish();
    }
    let good = answers();
    let mut bench = Bench::new(options(vec![closed_address(), good.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(bench.count("upstream_errors"), 1);
    bench.finish();
}

#[test]
fn servfail_when_nothing_works() {
    let refusing = Upstream::start(|seen| vec![bare(&seen.msg, 5)]);
    let mut bench = Bench::new(options(vec![closed_address(), refusing.address]));
    bench.submit(&query(9, "one", None), 1);
    assert!(!answered(&bench.outcome()));
    assert_eq!(refusing.seen().len(), 1);
    bench.finish();

    let silent = Upstream::start(|_| Vec::new());
    let mut bench = Bench::new(with_short_timeout(vec![silent.address]));
    bench.submit(&query(9, "two", None), 2);
    assert!(!answered(&bench.outcome()));
    assert_eq!(silent.seen().len(), 3, "all attempts");
    assert_eq!(bench.count("servfail"), 1);
    bench.finish();
}

#[test]
fn full_tables_and_queues_are_reported() {
    let silent = Upstream::start(|_| Vec::new());
    let mut bench = Bench::new(ForwardOptions {
        queue: 4,
        max_in_flight: 2,
        ..options(vec![silent.address])
    });
    // Without a flush no thread takes them out, unless the forwarder's is awake because it has just started.
    let mut taken = 0;
    loop {
        let request = bench.request(&query(9, &format!("n{taken}"), None), 0, taken);
        if bench.handle.submit(request).is_err() {
            break;
        }
        taken += 1;
        assert!(taken < 1000, "it is never full");
    }
    assert!(taken >= 4, "{taken}");
    bench.handle.flush();
    let turned_down = bench.outcomes(0, taken as usize - 2);
    assert!(turned_down.iter().all(|outcome| !answered(outcome)));
    let late = bench.request(&query(9, "late", None), 0, 9);
    let mailbox = bench.mailboxes[0].clone();
    let counters = bench.forwarder.counters();
    drop(bench.forwarder);
    assert_eq!(counters[0].queue_full.get(), 1);
    let mut left: Vec<_> = std::iter::from_fn(|| mailbox.take().map(|o| o.token)).collect();
    left.extend(turned_down.iter().map(|outcome| outcome.token));
    left.sort_unstable();
    assert_eq!(
        left,
        (0..taken).collect::<Vec<_>>(),
        "each request that was taken has one outcome"
    );
    assert_eq!(
        bench.handle.submit(late),
        Err(handle::QueueFull),
        "after the end"
    );
}

#[test]
fn stopping_under_fire_loses_no_request() {
    let upstream = Upstream::start(|seen| vec![response(&seen.msg, 20)]);
    let bench = Bench::new(ForwardOptions {
        threads: 2,
        ..options(vec![upstream.address])
    });
    let requests: Vec<_> = (0..3000)
        .map(|token| bench.request(&query(9, &format!("n{token}"), None), 0, token))
        .collect();
    let mut handle = bench.handle;
    let sender = thread::spawn(move || {
        let mut taken = 0;
        for request in requests {
            taken += usize::from(handle.submit(request).is_ok());
            handle.flush();
        }
        taken
    });
    thread::sleep(Duration::from_millis(20));
    drop(bench.forwarder);
    let taken = sender.join().unwrap();
    let mut tokens = HashSet::new();
    while let Some(outcome) = bench.mailboxes[0].take() {
        assert!(tokens.insert(outcome.token));
    }
    assert_eq!(tokens.len(), taken);
}

#[test]
fn ports_and_ids_are_random() {
    let upstream = answers();
    let mut bench = Bench::new(options(vec![upstream.address]));
    for token in 0..500 {
        bench.submit(&query(9, &format!("n{token}"), None), token);
        bench.outcome();
    }
    let seen = upstream.seen();
    let ports: Vec<_> = seen.iter().map(|seen| seen.from.port()).collect();
    let ids: Vec<_> = seen.iter().map(|seen| [seen.msg[0], seen.msg[1]]).collect();
    // Of 65,536 IDs, 500 draws hit some 2 twice; of 16 sockets, no series of draws misses many.
    assert!(ids.iter().collect::<HashSet<_>>().len() > 450);
    assert!(ports.iter().collect::<HashSet<_>>().len() > 12);
    let changes = ports.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 400, "a socket for each turn");
    let steps: HashSet<_> = ports.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    assert!(steps.len() > 40, "not in sequence");
    bench.finish();
}
