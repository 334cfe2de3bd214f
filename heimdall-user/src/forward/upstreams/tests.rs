//! Steps of the upstreams' state.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod choice;
mod health;

use super::{edns::PLAIN_FOR, *};

const SECOND: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(650);

/// Two upstreams over UDP.
pub(super) fn two() -> Upstreams {
    some(2)
}

/// So many upstreams over UDP.
fn some(count: u16) -> Upstreams {
    of((1..=count).map(|port| SocketAddr::from(([192, 0, 2, 1], port)).into()))
}

/// Those at these addresses.
fn of(addresses: impl IntoIterator<Item = UpstreamAddress>) -> Upstreams {
    let mut upstreams = Upstreams::default();
    for address in addresses {
        let index = upstreams.insert(address, Arc::default());
        upstreams.update(index, Arc::default(), LEAST, ROOT);
    }
    upstreams
}

#[test]
fn only_upstreams_of_a_group_count_as_set_aside_for_it() {
    let mut upstreams = some(2);
    upstreams.set_aside(0, Reason::Refused, Instant::now());
    let [first, second] = [0, 1].map(|index| Group::new(vec![index], Policy::Sequential, 0));
    assert!(upstreams.any_aside(&first) && !upstreams.any_aside(&second));
}

/// All of them, as one group.
fn all(upstreams: &Upstreams, policy: Policy) -> Group {
    Group::new((0..upstreams.list.len()).collect(), policy, 0)
}

/// A name in wire form.
fn name(number: usize) -> Vec<u8> {
    let label = format!("n{number}");
    [&[label.len() as u8], label.as_bytes(), &[0]].concat()
}

#[test]
fn timeouts_follow_round_trips_within_bounds() {
    let mut upstreams = some(2);
    let millis = Duration::from_millis;
    assert_eq!(upstreams.timeout(0, LEAST), LEAST);
    upstreams.measured(0, millis(5));
    assert_eq!(upstreams.timeout(0, LEAST), LEAST);
    upstreams.measured(1, millis(600));
    assert_eq!(
        upstreams.timeout(1, LEAST),
        millis(1_800),
        "three times the first"
    );
    upstreams.measured(1, millis(1_100));
    assert_eq!(upstreams.timeout(1, LEAST), MAX_TIMEOUT);
    for _ in 0..50 {
        upstreams.measured(1, millis(1_100));
    }
    assert!((millis(1_090)..millis(1_200)).contains(&upstreams.timeout(1, LEAST)));
    for _ in 0..50 {
        upstreams.measured(1, millis(1));
    }
    assert_eq!(upstreams.timeout(1, LEAST), LEAST);
    assert_eq!(
        upstreams.timeout(1, SECOND * 5),
        SECOND * 5,
        "as configured"
    );
}

#[test]
fn the_only_upstream_has_time_for_a_new_connection() {
    let address = SocketAddr::from(([192, 0, 2, 1], 53));
    let of_each = [
        UpstreamTransport::Udp,
        UpstreamTransport::Tcp,
        UpstreamTransport::Tls(Default::default()),
    ];
    let mut upstreams = of(of_each.map(|transport| UpstreamAddress { address, transport }));
    let now = Instant::now();
    let shown = |upstreams: &Upstreams, group: &Group, index| {
        let state = upstreams.state(group, index, LEAST, now);
        state.unwrap().timeout
    };
    let alone = |index| Group::new(vec![index], Policy::Sequential, 0);
    let whole = all(&upstreams, Policy::Sequential);
    for (index, tries) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(shown(&upstreams, &alone(index), index), LEAST * tries);
        assert_eq!(shown(&upstreams, &whole, index), LEAST, "others work");
    }
    let over_tcp = upstreams.try_timeout(&alone(0), 0, true, LEAST);
    assert_eq!(over_tcp, LEAST * 2, "of an upstream over UDP");
    upstreams.set_aside(2, Reason::Refused, now);
    assert_eq!(shown(&upstreams, &alone(2), 2), LEAST, "set aside");
}

#[test]
fn the_time_that_most_responses_keep_to_is_known() {
    let mut upstreams = some(1);
    assert_eq!(upstreams.hedge_after(0), None, "nothing is known");
    let millis = Duration::from_millis;
    // One in ten takes 100 ms, so that is more than 5 %; then one in fifty.
    for (slow, expected) in [(10, 90..=115), (50, 19..=60)] {
        for number in 0..5_000 {
            let time = if number % slow == 0 { 100 } else { 20 };
            upstreams.measured(0, millis(time));
        }
        let after = upstreams.hedge_after(0).unwrap().as_millis();
        assert!(expected.contains(&after), "{after} ms, one in {slow}");
    }
    for _ in 0..5_000 {
        upstreams.measured(0, Duration::from_micros(100));
    }
    assert_eq!(upstreams.hedge_after(0), Some(millis(5)), "at least");
}

#[test]
fn that_time_does_not_sink_if_slow_responses_are_not_awaited() {
    let mut upstreams = some(1);
    let millis = Duration::from_millis;
    for number in 0..5_000 {
        // One in ten takes 100 ms; another upstream answers soon after it is asked, too.
        let time = millis(if number % 10 == 0 { 100 } else { 20 });
        match upstreams.hedge_after(0) {
            Some(after) if after < time => upstreams.was_slower(0, after + millis(1)),
            _ => upstreams.measured(0, time),
        }
    }
    let after = upstreams.hedge_after(0).unwrap().as_millis();
    assert!((90..=115).contains(&after), "{after} ms");
}

#[test]
fn edns_is_left_out_after_plain_answers_in_a_row_and_used_again_later() {
    let start = Instant::now();
    let mut upstreams = some(2);
    for question in [1, 1, 1, 2] {
        upstreams.answered_plain(0, question, start);
    }
    assert!(!upstreams.is_plain(0, start), "two questions");
    upstreams.answered_edns(0);
    assert!(upstreams.answers_edns(0) && !upstreams.answers_edns(1));
    // One that reads EDNS may pass on the errors of servers that do not: a probe tells.
    upstreams.reads_no_edns(0, start);
    let probes = [3, 4, 5, 6].map(|name| upstreams.answered_plain(0, name, start));
    assert_eq!(probes, [false, false, true, false]);
    assert!(!upstreams.is_plain(0, start));
    upstreams.answered_edns(0);
    upstreams.reads_no_edns(0, start);
    assert!(!upstreams.is_plain(0, start), "it answered the probe");
    let probes = [3, 4, 5].map(|name| upstreams.answered_plain(0, name, start));
    assert_eq!(probes, [false, false, true]);
    upstreams.reads_no_edns(0, start);
    assert!(upstreams.is_plain(0, start) && !upstreams.is_plain(1, start));
    // Queries that go plain anyway do not put off the next try.
    upstreams.answered_plain(0, 6, start + PLAIN_FOR / 2);
    let end = start + PLAIN_FOR;
    assert!(!upstreams.is_plain(0, end));
    for name in [7, 8, 9] {
        assert!(!upstreams.answered_plain(0, name, end));
    }
    assert!(upstreams.is_plain(0, end), "it still cannot");
    upstreams.answered_edns(0);
    assert!(!upstreams.is_plain(0, end));
}

#[test]
fn the_index_of_an_upstream_that_was_removed_is_used_again() {
    let now = Instant::now();
    let mut upstreams = some(3);
    upstreams.set_aside(1, Reason::Refused, now);
    assert!(upstreams.any_aside(&all(&upstreams, Policy::Sequential)));
    let removed = upstreams.remove(1).map(|address| address.to_string());
    assert_eq!(removed.as_deref(), Some("192.0.2.1:2"));
    assert!(!upstreams.any_aside(&all(&upstreams, Policy::Sequential)));
    assert_eq!(upstreams.address(1), None);
    assert_eq!(upstreams.indices().collect::<Vec<_>>(), [0, 2]);
    let added: UpstreamAddress = SocketAddr::from(([192, 0, 2, 1], 9)).into();
    assert_eq!(upstreams.find(&added), None);
    assert_eq!(upstreams.insert(added.clone(), Arc::default()), 1);
    assert_eq!(upstreams.find(&added), Some(1));
    // Nothing is left of the former one.
    assert!(!upstreams.is_aside(1));
}
