//! What sets an upstream aside, and what ends that.

use proptest::prelude::*;

use super::{
    super::health::{FIRST_PROBE, MAX_BACK_OFF},
    *,
};
use crate::forward::Condition;

fn problem(upstreams: &Upstreams, index: usize) -> Option<String> {
    let metrics = &upstreams.list[index].metrics;
    metrics.problem().map(|problem| problem.to_string())
}

#[test]
fn an_upstream_that_cannot_be_reached_is_set_aside_until_it_responds() {
    let now = Instant::now();
    let mut upstreams = some(2);
    let (address, reason) = upstreams.set_aside(0, Reason::Refused, now).unwrap();
    assert_eq!(address.to_string(), "192.0.2.1:1");
    assert_eq!(reason.to_string(), "its port is closed");
    assert!(
        upstreams.is_aside(0)
            && !upstreams.is_aside(1)
            && upstreams.any_aside(&all(&upstreams, Policy::Sequential))
    );
    assert_eq!(upstreams.set_aside(0, Reason::Refused, now), None, "again");
    let tls = Reason::Tls("it has expired".to_owned());
    assert_eq!(upstreams.set_aside(0, tls, now), None, "for another reason");
    let why = "TLS with it fails: it has expired".to_owned();
    assert_eq!(problem(&upstreams, 0), Some(why.clone()));
    let group = all(&upstreams, Policy::Sequential);
    let set_aside = |index| {
        let state = upstreams.state(&group, index, LEAST, now);
        state.unwrap().set_aside
    };
    assert_eq!(set_aside(0), Some((why, FIRST_PROBE)));
    assert_eq!(set_aside(1), None);
    let (_, time) = upstreams.heard(0, false, now + SECOND * 9).unwrap();
    assert_eq!(time, SECOND * 9);
    assert!(!upstreams.is_aside(0) && !upstreams.any_aside(&all(&upstreams, Policy::Sequential)));
    assert_eq!(problem(&upstreams, 0), None);
    assert_eq!(upstreams.heard(0, false, now + SECOND * 9), None);
}

#[test]
fn an_upstream_of_which_nothing_is_known_is_probed_at_once() {
    let now = Instant::now();
    let mut upstreams = some(2);
    upstreams.doubt(0, now, now);
    assert_eq!(problem(&upstreams, 0), None, "it is not certain");
    assert_eq!(upstreams.due_probe(now), Some(0));
    assert_eq!(upstreams.due_probe(now), None, "once");
    assert_eq!(upstreams.heard(0, true, now), None, "no news");
    assert!(!upstreams.is_aside(0));
    upstreams.doubt(1, now, now);
    assert_eq!(upstreams.due_probe(now), Some(1));
    let (_, reason) = upstreams.set_aside(1, Reason::Silent, now).unwrap();
    assert_eq!(reason, &Reason::Silent);
    upstreams.doubt(1, now + SECOND, now + SECOND);
    assert!(problem(&upstreams, 1).is_some(), "it is certain");
}

#[test]
fn different_names_in_a_row_have_an_upstream_probed_before_it_is_set_aside_for_certain() {
    let start = Instant::now();
    let at = |seconds| start + SECOND * seconds;
    let mut upstreams = some(2);
    for second in 1..9 {
        upstreams.gave_nothing(0, 7, at(second - 1), at(second));
    }
    upstreams.gave_nothing(0, 8, at(9), at(10));
    assert!(!upstreams.is_aside(0), "two names");
    upstreams.heard(0, false, at(11));
    upstreams.gave_nothing(0, 9, at(12), at(13));
    assert!(!upstreams.is_aside(0), "a response in between");
    upstreams.gave_nothing(0, 10, at(12), at(13));
    upstreams.gave_nothing(0, 11, at(10), at(13));
    assert!(!upstreams.is_aside(0), "sent before the response");
    assert_eq!(upstreams.due_probe(at(13)), None);
    upstreams.gave_nothing(0, 12, at(12), at(13));
    assert!(upstreams.is_aside(0));
    assert_eq!(problem(&upstreams, 0), None, "it is not certain");
    assert_eq!(upstreams.due_probe(at(13)), Some(0), "at once");
    let (_, reason) = upstreams.set_aside(0, Reason::Silent, at(15)).unwrap();
    assert_eq!(reason, &Reason::Silent);
    assert_eq!(
        problem(&upstreams, 0).as_deref(),
        Some("it does not respond")
    );
    // Names tell nothing more.
    upstreams.gave_nothing(0, 12, at(16), at(17));
    let (_, time) = upstreams.heard(0, false, at(20)).unwrap();
    assert_eq!(time, SECOND * 7, "since the first evidence");
}

#[test]
fn an_upstream_that_responds_to_probes_alone_is_last_for_longer_and_never_fails() {
    let mut now = Instant::now();
    let mut upstreams = some(1);
    let mut silence = |upstreams: &mut Upstreams| {
        now += SECOND * 60;
        for name in 0..3 {
            upstreams.gave_nothing(0, name, now, now);
        }
        assert!(upstreams.is_aside(0));
        let pause = upstreams.next_probe().unwrap() - now;
        // Neither logged nor published. The probe is answered.
        assert_eq!(problem(upstreams, 0), None);
        assert_eq!(upstreams.heard(0, true, now), None);
        assert!(!upstreams.is_aside(0));
        pause.as_secs()
    };
    let pauses: Vec<_> = (0..6).map(|_| silence(&mut upstreams)).collect();
    assert_eq!(pauses, [0, 1, 2, 4, 4, 4]);
    upstreams.heard(0, false, Instant::now());
    assert_eq!(silence(&mut upstreams), 0, "a name was answered");
}

#[test]
fn probes_of_several_are_due_in_turn() {
    let mut upstreams = two();
    let start = Instant::now();
    upstreams.set_aside(0, Reason::Refused, start);
    upstreams.set_aside(1, Reason::Refused, start + SECOND / 2);
    assert_eq!(upstreams.next_probe(), Some(start + SECOND));
    upstreams.heard(0, false, start);
    assert_eq!(upstreams.due_probe(start + SECOND), None, "not needed");
    assert_eq!(upstreams.next_probe(), Some(start + SECOND * 3 / 2));
    assert_eq!(upstreams.due_probe(start + SECOND * 3 / 2), Some(1));
    upstreams.set_aside(0, Reason::Refused, start + SECOND * 3 / 2);
    assert_eq!(upstreams.due_probe(start + SECOND * 5 / 2), Some(0));
    assert_eq!(upstreams.due_probe(start + SECOND * 5 / 2), None);
    assert_eq!(upstreams.next_probe(), Some(start + SECOND * 7 / 2));
}

/// When probes are due, in milliseconds, within 20 seconds, if none has a response.
fn probes(upstreams: &mut Upstreams, start: Instant) -> Vec<u64> {
    let mut due = Vec::new();
    for milli in 0..20_000 {
        let now = start + Duration::from_millis(milli);
        let is_due = upstreams.next_probe().is_some_and(|at| at <= now);
        assert_eq!(upstreams.due_probe(now).is_some(), is_due);
        if is_due {
            due.push(milli);
            assert_eq!(upstreams.due_probe(now), None, "one");
        }
    }
    due
}

#[test]
fn probes_are_seconds_apart_and_end_with_a_response() {
    let start = Instant::now();
    let mut upstreams = some(1);
    assert_eq!(upstreams.next_probe(), None);
    upstreams.set_aside(0, Reason::Refused, start);
    let due = probes(&mut upstreams, start);
    assert_eq!(due, [1_000, 3_000, 7_000, 11_000, 15_000, 19_000]);
    upstreams.heard(0, false, start + SECOND * 20);
    assert_eq!(upstreams.next_probe(), None);

    // Silence is confirmed first; a probe waits as long as the slowest upstream takes.
    let mut upstreams = some(1);
    for name in 0..3 {
        upstreams.gave_nothing(0, name, start, start);
    }
    let due = probes(&mut upstreams, start);
    assert_eq!(due, [0, 2_000, 4_000, 8_000, 12_000, 16_000]);

    let address: SocketAddr = ([192, 0, 2, 1], 853).into();
    let transport = UpstreamTransport::Tls(Default::default());
    let mut upstreams = of([UpstreamAddress { address, transport }]);
    upstreams.set_aside(0, Reason::Refused, start);
    let due = probes(&mut upstreams, start);
    assert_eq!(
        due,
        [1_000, 7_000, 13_000, 19_000],
        "a handshake takes time"
    );
    assert_eq!(upstreams.probe_time(0), SECOND * 6);
}

#[test]
fn a_probe_that_fails_at_once_is_not_waited_for() {
    let start = Instant::now();
    let address: SocketAddr = ([192, 0, 2, 1], 853).into();
    let transport = UpstreamTransport::Tls(Default::default());
    let mut upstreams = of([UpstreamAddress { address, transport }]);
    upstreams.set_aside(0, Reason::Refused, start);
    for seconds in [1, 3, 7, 11] {
        let due = start + SECOND * seconds;
        assert_eq!(upstreams.next_probe(), Some(due));
        assert_eq!(upstreams.due_probe(due), Some(0));
        assert_eq!(upstreams.due_probe(due), None);
        upstreams.set_aside(0, Reason::Refused, due);
        upstreams.probe_ended(0);
    }
    // This one is waited for.
    let due = start + SECOND * 15;
    assert_eq!(upstreams.due_probe(due), Some(0));
    assert_eq!(upstreams.due_probe(due + SECOND * 5), None);
    assert_eq!(upstreams.next_probe(), Some(due + SECOND * 6));
}

#[test]
fn what_is_published_follows() {
    let now = Instant::now();
    let mut upstreams = some(1);
    let metrics = [Arc::clone(&upstreams.list[0].metrics)];
    assert_eq!(metrics[0].condition(), Condition::Unknown, "no queries");
    metrics[0].counters.queries.add(1);
    assert_eq!(metrics[0].condition(), Condition::Works);
    upstreams.set_aside(0, Reason::NoRoute, now);
    assert_eq!(metrics[0].condition(), Condition::Failed);
    upstreams.heard(0, false, now);
    assert_eq!(metrics[0].condition(), Condition::Works);
}

#[test]
fn a_failure_knows_which_upstreams_were_missing() {
    let start = Instant::now();
    let at = |seconds| start + SECOND * seconds;
    let mut upstreams = some(3);
    let group = all(&upstreams, Policy::Sequential);
    let mut both = Tried::default();
    both.add(0);
    both.add(1);
    let missing = |silent, failing, is_outage| Missing {
        silent,
        failing,
        is_outage,
    };
    assert_eq!(
        upstreams.missing(&group, both, at(1)),
        missing(0b11, 0, true),
        "none responded; the third was not asked"
    );
    upstreams.heard(0, false, at(2));
    assert_eq!(
        upstreams.missing(&group, both, at(1)),
        missing(0b10, 0, false)
    );
    assert_eq!(
        upstreams.missing(&group, both, at(3)),
        missing(0b11, 0, true),
        "not since then"
    );
    upstreams.heard(1, false, at(4));
    assert_eq!(
        upstreams.missing(&group, both, at(3)),
        missing(0b01, 0, false)
    );
    assert!(!upstreams.missing(&group, both, at(2)).is_any());
    // Not asked because it is set aside.
    upstreams.set_aside(2, Reason::Refused, at(4));
    assert_eq!(
        upstreams.missing(&group, both, at(2)),
        missing(0b100, 0, false)
    );
    upstreams.heard(2, false, at(4));
    for name in 0..3 {
        assert!(!upstreams.missing(&group, both, at(2)).is_any());
        upstreams.gave_error(1, name);
    }
    assert_eq!(
        upstreams.missing(&group, both, at(2)),
        missing(0, 0b10, false),
        "errors only"
    );
    upstreams.answered(1);
    assert!(!upstreams.missing(&group, both, at(2)).is_any());
}

/// What may happen to an upstream.
#[derive(Clone, Debug)]
enum Event {
    Heard,
    Unreachable,
    Nothing(u64),
    ProbeTimedOut,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Heard),
        Just(Event::Unreachable),
        (0..4_u64).prop_map(Event::Nothing),
        Just(Event::ProbeTimedOut),
        (0..5_000_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    /// The state agrees with the events: set aside only after evidence, logged once for each time, never after a
    /// response; probes come only then, and never further apart than is promised.
    #[test]
    fn the_state_follows_the_evidence(events in proptest::collection::vec(event(), 0..60)) {
        let mut now = Instant::now();
        let mut upstreams = some(1);
        let mut names = std::collections::HashSet::new();
        let (mut aside, mut certain) = (false, false);
        for event in events {
            match event {
                Event::Heard => {
                    let said = upstreams.heard(0, false, now).is_some();
                    prop_assert_eq!(said, certain);
                    names.clear();
                    (aside, certain) = (false, false);
                }
                Event::Unreachable => {
                    let said = upstreams.set_aside(0, Reason::Refused, now).is_some();
                    prop_assert_eq!(said, !certain);
                    (aside, certain) = (true, true);
                }
                Event::Nothing(name) => {
                    now += Duration::from_millis(1);
                    upstreams.gave_nothing(0, name, now, now);
                    names.insert(name);
                    aside |= names.len() >= IN_A_ROW;
                }
                Event::ProbeTimedOut if aside => {
                    let said = upstreams.set_aside(0, Reason::Silent, now).is_some();
                    prop_assert_eq!(said, !certain);
                    certain = true;
                }
                Event::ProbeTimedOut => {}
                Event::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    let due = upstreams.due_probe(now);
                    prop_assert!(due.is_none() || aside);
                }
            }
            prop_assert_eq!(upstreams.is_aside(0), aside);
            prop_assert_eq!(upstreams.any_aside(&all(&upstreams, Policy::Sequential)), aside);
            prop_assert_eq!(problem(&upstreams, 0).is_some(), certain);
            let next = upstreams.next_probe();
            prop_assert_eq!(next.is_some(), aside);
            prop_assert!(next.is_none_or(|next| next <= now + MAX_BACK_OFF));
        }
    }
}
