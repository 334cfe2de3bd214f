//! Policies, and hedging.

use super::*;

/// Asks for so many names, one after the other.
fn ask(bench: &mut Bench, names: std::ops::Range<usize>) {
    for number in names {
        bench.submit(&query(9, &format!("n{number}"), None), 1);
        assert!(answered(&bench.outcome()), "n{number}");
    }
}

fn with_policy(policy: Policy, upstreams: &[&Upstream]) -> ForwardOptions {
    let addresses = upstreams.iter().map(|upstream| upstream.address).collect();
    ForwardOptions {
        policy,
        ..options(addresses)
    }
}

fn slow(time: u64) -> Upstream {
    Upstream::start(move |seen| {
        thread::sleep(Duration::from_millis(time));
        vec![response(&seen.msg, 20)]
    })
}

#[test]
fn each_policy_has_its_order() {
    let upstreams = [slow(3), slow(30), answers()];
    let [first, second, third] = &upstreams;
    let all = [first, second, third];
    let mut before = [0; 3];
    let mut asked = |policy| {
        let mut bench = Bench::new(with_policy(policy, &all));
        ask(&mut bench, 0..66);
        bench.finish();
        let now = all.map(|upstream| upstream.seen().len());
        let grown = [0, 1, 2].map(|index| now[index] - before[index]);
        before = now;
        grown
    };
    assert_eq!(asked(Policy::Sequential), [66, 0, 0]);
    assert_eq!(asked(Policy::RoundRobin), [22, 22, 22]);
    // The other two were measured once.
    let fastest = asked(Policy::Fastest);
    assert_eq!(fastest[1..], [1, 3], "{fastest:?}");
    let hash = asked(Policy::Hash);
    assert_eq!(hash.iter().sum::<usize>(), 66);
    assert!(hash.iter().all(|share| *share > 5), "{hash:?}");
}

#[test]
fn errors_lead_to_each_of_the_others_with_every_policy() {
    let fails = || Upstream::start(|seen| vec![server_failure(&seen.msg)]);
    for policy in [Policy::RoundRobin, Policy::Fastest, Policy::Hash] {
        let (one, two, good) = (fails(), fails(), answers());
        let mut bench = Bench::new(with_policy(policy, &[&one, &two, &good]));
        ask(&mut bench, 0..30);
        assert_eq!(good.seen().len(), 30, "{policy:?}");
        assert!(one.seen().len() <= 30 && two.seen().len() <= 30);
        bench.finish();
    }
}

/// An upstream that answers at once until it is told to be silent.
fn switchable() -> (Upstream, Arc<std::sync::atomic::AtomicBool>) {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let upstream = Upstream::start({
        let silent = Arc::clone(&silent);
        move |seen| match silent.load(std::sync::atomic::Ordering::SeqCst) {
            true => Vec::new(),
            false => vec![response(&seen.msg, 20)],
        }
    });
    (upstream, silent)
}

#[test]
fn a_slow_response_is_hedged_within_the_share() {
    let ((first, silent), second) = (switchable(), answers());
    let mut bench = Bench::new(ForwardOptions {
        hedge: 2,
        ..options(vec![first.address, second.address])
    });
    // It is known how long its responses take, and two hedges are saved up.
    ask(&mut bench, 0..100);
    let (hedged, second_asked) = (bench.count("hedged"), second.seen().len());
    assert_eq!(hedged, second_asked as u64);
    silent.store(true, std::sync::atomic::Ordering::SeqCst);
    // The timeout is 5 s.
    let begin = Instant::now();
    let left = 2 - hedged.min(2) as usize;
    ask(&mut bench, 100..100 + left);
    assert_eq!(bench.count("timeouts"), 0);
    assert_eq!(bench.count("hedged"), hedged + left as u64);
    assert!(bench.count("hedges_won") >= left as u64);
    assert!(left == 0 || begin.elapsed() < Duration::from_secs(5));
    // Nothing is left for one more.
    ask(&mut bench, 102..103);
    assert_eq!(bench.count("timeouts"), 1);
    bench.finish();
}

#[test]
fn without_hedging_nobody_else_is_asked() {
    let (first, second) = (slow(10), answers());
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    ask(&mut bench, 0..20);
    assert_eq!(bench.count("hedged"), 0);
    assert!(second.seen().is_empty());
    bench.finish();
}

/// An upstream that answers at once until it is told to be slow.
fn slowing() -> (Upstream, Arc<std::sync::atomic::AtomicBool>) {
    let slow_now = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let upstream = Upstream::start({
        let slow_now = Arc::clone(&slow_now);
        move |seen| {
            if slow_now.load(std::sync::atomic::Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(200));
            }
            vec![response(&seen.msg, 20)]
        }
    });
    (upstream, slow_now)
}

#[test]
fn a_hedge_to_a_slower_upstream_loses() {
    // The first becomes slow, the second is slower.
    let (first, slow_now) = slowing();
    let second = slow(1_000);
    let mut bench = Bench::new(ForwardOptions {
        hedge: 50,
        ..options(vec![first.address, second.address])
    });
    ask(&mut bench, 0..20);
    let won = bench.count("hedges_won");
    let hedged = bench.count("hedged");
    slow_now.store(true, std::sync::atomic::Ordering::SeqCst);
    ask(&mut bench, 20..21);
    assert_eq!(bench.count("hedged"), hedged + 1);
    assert_eq!(bench.count("hedges_won"), won, "the first came first");
    bench.finish();
}

#[test]
fn a_hedge_that_fails_does_not_prolong_the_first_query() {
    let (first, silent) = switchable();
    let second = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(2_500));
        vec![server_failure(&seen.msg)]
    });
    let mut bench = Bench::new(ForwardOptions {
        hedge: 50,
        attempts: 1,
        attempt_timeout: Duration::from_secs(3),
        ..options(vec![first.address, second.address])
    });
    ask(&mut bench, 0..20);
    silent.store(true, std::sync::atomic::Ordering::SeqCst);
    let begin = Instant::now();
    bench.submit(&query(9, "n20", None), 1);
    assert!(!answered(&bench.outcome()));
    assert_eq!(bench.count("timeouts"), 1);
    // Three seconds in all, not three more.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    bench.finish();
}

#[test]
fn tcp_in_place_of_udp_is_not_hedged() {
    let first = Upstream::start(|seen| match (seen.msg[13].to_ascii_lowercase(), seen.tcp) {
        (b't', false) => vec![bare(&seen.msg, 0x200)],
        (_, is_tcp) => {
            if is_tcp {
                thread::sleep(Duration::from_millis(200));
            }
            vec![response(&seen.msg, 20)]
        }
    });
    let second = answers();
    let mut bench = Bench::new(ForwardOptions {
        hedge: 50,
        ..options(vec![first.address, second.address])
    });
    ask(&mut bench, 0..20);
    let hedged = bench.count("hedged");
    for number in 0..5 {
        bench.submit(&query(9, &format!("t{number}"), None), 1);
        assert!(answered(&bench.outcome()));
    }
    // One over UDP may take long on a loaded machine.
    assert!(bench.count("hedged") < hedged + 5);
    bench.finish();
}

#[test]
fn a_hedge_that_fails_leaves_the_first_query_waiting() {
    let (first, silent) = slowing();
    let fails = Upstream::start(|seen| vec![bare(&seen.msg, 2)]);
    for second in [fails.address, closed_address()] {
        let mut bench = Bench::new(ForwardOptions {
            hedge: 50,
            ..options(vec![first.address, second])
        });
        silent.store(false, std::sync::atomic::Ordering::SeqCst);
        ask(&mut bench, 0..20);
        let hedged = bench.count("hedged");
        silent.store(true, std::sync::atomic::Ordering::SeqCst);
        let before = first.seen().len();
        ask(&mut bench, 20..21);
        // Unless the closed port was met before.
        assert!(bench.count("hedged") <= hedged + 1);
        assert_eq!(first.seen().len(), before + 1, "once");
        assert_eq!(bench.count("timeouts"), 0);
        bench.finish();
    }
    assert!(!fails.seen().is_empty());
}
