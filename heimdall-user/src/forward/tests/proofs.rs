//! What responses have to repeat, besides the ID: the letters' case ("0x20"), and cookies.

use super::*;
use crate::dns::options;

/// A name with many letters: none of them is in the same case by chance.
fn long(number: usize) -> String {
    format!("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqr{number}")
}

/// The queried name, as it was asked.
fn name(msg: &[u8]) -> &[u8] {
    let end = msg[12..].iter().position(|octet| *octet == 0).unwrap();
    &msg[12..12 + end]
}

/// The COOKIE option of a query or a response.
fn cookie(msg: &[u8]) -> Option<&[u8]> {
    options::find(msg, 10)
}

/// `response` with an OPT record that holds a cookie, and the upper bits of a response code.
fn with_cookie(mut response: Vec<u8>, upper: u8, data: &[u8]) -> Vec<u8> {
    response[11] = 1;
    let len = data.len() as u8;
    response.extend_from_slice(&[0, 0, 41, 4, 208, upper, 0, 0, 0, 0, len + 4, 0, 10, 0, len]);
    response.extend_from_slice(data);
    response
}

/// The answer to a query, with a cookie of the upstream's.
fn giving(msg: &[u8]) -> Vec<u8> {
    match cookie(msg) {
        Some(sent) => with_cookie(response(msg, 20), 0, &[&sent[..8], &[9; 16]].concat()),
        None => with_opt(response(msg, 20)),
    }
}

fn ask(bench: &mut Bench, number: usize) -> bool {
    bench.submit(&query(9, &long(number), None), 1);
    answered(&bench.outcome())
}

fn with_letters(upstream: &Upstream) -> Bench {
    Bench::new(ForwardOptions {
        randomize_case: true,
        ..options(vec![upstream.address])
    })
}

fn with_cookies(upstream: &Upstream) -> Bench {
    Bench::new(ForwardOptions {
        cookies: true,
        ..options(vec![upstream.address])
    })
}

/// The response, its name in lower case.
fn lowered(mut response: Vec<u8>) -> Vec<u8> {
    let len = name(&response).len();
    response[12..12 + len].make_ascii_lowercase();
    response
}

#[test]
fn names_are_asked_in_random_case() {
    let upstream = answers();
    let mut bench = with_letters(&upstream);
    for number in 0..20 {
        assert!(ask(&mut bench, number));
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 20);
    let mut letters = HashSet::new();
    for (number, seen) in seen.iter().enumerate() {
        let asked = query(9, &long(number), None);
        assert!(name(&seen.msg).eq_ignore_ascii_case(name(&asked)));
        // Of 44 letters.
        let upper = seen.msg.iter().filter(|octet| octet.is_ascii_uppercase());
        assert!((5..40).contains(&upper.count()));
        letters.insert(name(&seen.msg)[..45].to_vec());
    }
    assert_eq!(letters.len(), 20, "others each time");
    assert_eq!(bench.count("rejected_case"), 0);
    bench.finish();
}

/// The response to a query, its owner in full, or with an alias that points into the question.
fn echoing(msg: &[u8], in_full: bool) -> Vec<u8> {
    let mut response = bare(msg, 0);
    let end = response.len();
    response[7] = 1;
    match in_full {
        true => {
            let name = response[12..end - 4].to_vec();
            response.extend_from_slice(&name);
            response.extend_from_slice(&[0, 16, 0, 1, 0, 0, 1, 0, 0, 2, 1, b'x']);
        }
        false => {
            // To `x.test`; it comes twice, and one is left out, so all are rewritten.
            let test = (end - 4 - 6) as u8;
            response[7] = 3;
            let alias = [192, 12, 0, 5, 0, 1, 0, 0, 1, 0, 0, 4, 1, b'x', 192, test];
            response.extend_from_slice(&alias.repeat(2));
            let target = (end + 12) as u8;
            response.extend_from_slice(&[192, target, 0, 16, 0, 1, 0, 0, 1, 0, 0, 2, 1, b'x']);
        }
    }
    response
}

#[test]
fn clients_get_their_own_letters_in_the_records_too() {
    for in_full in [true, false] {
        let upstream = Upstream::start(move |seen| vec![echoing(&seen.msg, in_full)]);
        let mut bench = with_letters(&upstream);
        for number in 0..8 {
            bench.submit(&query(9, &long(number), None), 1);
            let outcome = bench.outcome();
            assert!(answered(&outcome));
            let body = Answer::as_ref(&outcome.answer).body().to_vec();
            let is_label = |octets: &&[u8]| octets.eq_ignore_ascii_case(b"\x04test");
            let mut labels = body.windows(5).filter(is_label).peekable();
            assert!(labels.peek().is_some());
            assert!(
                labels.all(|label| label == b"\x04test"),
                "{in_full}: {body:?}"
            );
        }
        bench.finish();
    }
}

#[test]
fn an_upstream_that_changes_letters_is_asked_over_tcp_and_then_in_the_clients() {
    let upstream = Upstream::start(|seen| vec![lowered(response(&seen.msg, 20))]);
    let mut bench = with_letters(&upstream);
    for number in 0..5 {
        assert!(ask(&mut bench, number));
    }
    assert_eq!(bench.count("rejected_case"), 3);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (5, 3));
    assert_eq!(bench.count("timeouts") + bench.count("upstream_errors"), 0);
    let last = upstream.seen().pop().unwrap();
    assert_eq!(name(&last.msg), name(&query(9, &long(4), None)));
    bench.finish();
}

#[test]
fn one_without_tcp_is_asked_again_in_the_clients_letters() {
    let upstream = Upstream::without_tcp(|seen| vec![lowered(response(&seen.msg, 20))]);
    let mut bench = with_letters(&upstream);
    let mut sent = Vec::new();
    for number in 0..5 {
        assert!(ask(&mut bench, number));
        sent.push(upstream.seen().len());
    }
    // For the first name TCP is tried, too.
    assert_eq!(sent, [3, 5, 7, 8, 9]);
    assert_eq!(bench.count("sent_tcp"), 1);
    bench.finish();
}

#[test]
fn an_error_without_a_question_has_no_letters_to_check() {
    let upstream = Upstream::start(|seen| {
        let mut bare = seen.msg[..12].to_vec();
        bare[2..12].copy_from_slice(&[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        vec![match seen.msg[11] {
            0 => response(&seen.msg, 20),
            _ => bare,
        }]
    });
    let mut bench = with_letters(&upstream);
    assert!(ask(&mut bench, 0));
    assert_eq!(bench.count("rejected_case"), 0);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (2, 0));
    bench.finish();
}

#[test]
fn the_upstreams_cookie_is_sent_back() {
    let upstream = Upstream::start(|seen| vec![giving(&seen.msg)]);
    let mut bench = with_cookies(&upstream);
    for number in 0..3 {
        assert!(ask(&mut bench, number));
    }
    let seen = upstream.seen();
    let cookies: Vec<_> = seen.iter().map(|seen| cookie(&seen.msg).unwrap()).collect();
    assert_eq!(cookies[0].len(), 8);
    let both = [cookies[0], &[9; 16]].concat();
    assert_eq!(cookies[1..], [&both[..], &both]);
    assert_eq!(bench.count("rejected_cookie"), 0);
    bench.finish();
}

#[test]
fn a_response_with_another_cookie_is_rejected() {
    let upstream = Upstream::start(|seen| {
        let mut forged = response(&seen.msg, 20);
        *forged.last_mut().unwrap() = b'!';
        let sent = cookie(&seen.msg).unwrap();
        let mut other = sent[..8].to_vec();
        other[7] ^= 1;
        vec![
            with_cookie(forged.clone(), 0, &[&other[..], &[9; 16]].concat()),
            // No cookie has this length.
            with_cookie(forged, 0, &sent[..7]),
            giving(&seen.msg),
        ]
    });
    let mut bench = with_cookies(&upstream);
    bench.submit(&query(9, "name", None), 1);
    let answer = bench.outcome().answer;
    assert_eq!(Answer::as_ref(&answer).body().last(), Some(&b'x'));
    assert_eq!(bench.count("rejected_cookie"), 2);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (1, 0));
    bench.finish();
}

/// Only the response to a query without a server cookie has one.
fn giving_once(seen: &Seen) -> Vec<Vec<u8>> {
    vec![match cookie(&seen.msg).map(<[u8]>::len) {
        Some(8) => giving(&seen.msg),
        _ => with_opt(response(&seen.msg, 20)),
    }]
}

#[test]
fn a_response_without_a_cookie_of_one_that_gives_them_is_fetched_over_tcp() {
    let upstream = Upstream::start(giving_once);
    let mut bench = with_cookies(&upstream);
    for number in 0..6 {
        assert!(ask(&mut bench, number));
    }
    assert_eq!(bench.count("rejected_cookie"), 3);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (6, 3));
    let seen = upstream.seen();
    let over_tcp = seen.iter().filter(|seen| seen.tcp);
    assert!(over_tcp.clone().all(|seen| cookie(&seen.msg).is_none()));
    let last = seen.iter().rev().take(2);
    assert!(
        last.clone().all(|seen| cookie(&seen.msg).is_none()),
        "after three names"
    );
    bench.finish();
}

#[test]
fn without_tcp_a_missing_cookie_does_not_fail_the_name() {
    let upstream = Upstream::without_tcp(giving_once);
    let mut bench = with_cookies(&upstream);
    for number in 0..3 {
        assert!(ask(&mut bench, number));
    }
    assert_eq!(bench.count("sent_tcp"), 1);
    bench.finish();
}

#[test]
fn after_badcookie_the_query_is_sent_again_with_the_new_one() {
    let upstream = Upstream::start(|seen| {
        let sent = cookie(&seen.msg).unwrap();
        let given = [&sent[..8], &[9; 16]].concat();
        // 23 is 1 in the OPT record and 7 in the header.
        vec![match sent == given {
            true => with_cookie(response(&seen.msg, 20), 0, &given),
            false => with_cookie(bare(&seen.msg, 7), 1, &given),
        }]
    });
    let mut bench = with_cookies(&upstream);
    assert!(ask(&mut bench, 0) && ask(&mut bench, 1));
    assert_eq!(bench.count("retried_cookie"), 1);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (3, 0));
    assert_eq!(bench.count("upstream_errors"), 0);
    bench.finish();

    // One that is never content is asked over TCP.
    let upstream = Upstream::start(|seen| {
        vec![match cookie(&seen.msg) {
            Some(sent) => {
                let given = [&sent[..8], &[9; 16]].concat();
                with_cookie(bare(&seen.msg, 7), 1, &given)
            }
            None => response(&seen.msg, 20),
        }]
    });
    let mut bench = with_cookies(&upstream);
    assert!(ask(&mut bench, 0));
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (2, 1));
    bench.finish();
}

#[test]
fn one_that_gives_no_cookie_is_asked_without() {
    let plain = answers();
    let echoes = Upstream::start(|seen| {
        vec![match cookie(&seen.msg) {
            Some(sent) => with_cookie(response(&seen.msg, 20), 0, sent),
            None => response(&seen.msg, 20),
        }]
    });
    for (upstream, expected) in [(&plain, [true, false, false]), (&echoes, [true; 3])] {
        let mut bench = with_cookies(upstream);
        for number in 0..3 {
            assert!(ask(&mut bench, number));
        }
        let seen = upstream.seen();
        let with: Vec<_> = seen
            .iter()
            .map(|seen| cookie(&seen.msg).is_some())
            .collect();
        assert_eq!(with, expected);
        bench.finish();
    }
}

#[test]
fn one_that_cannot_read_the_option_is_asked_without_and_with_edns() {
    for code in [1, 4] {
        let upstream = Upstream::start(move |seen| {
            vec![match cookie(&seen.msg) {
                Some(_) => bare(&seen.msg, code),
                None => with_opt(response(&seen.msg, 20)),
            }]
        });
        let mut bench = with_cookies(&upstream);
        assert!(ask(&mut bench, 0) && ask(&mut bench, 1));
        let seen = upstream.seen();
        let with: Vec<_> = (seen.iter())
            .map(|seen| (seen.msg[11], cookie(&seen.msg).is_some()))
            .collect();
        assert_eq!(with, [(1, true), (1, false), (1, false)]);
        assert_eq!(
            bench.count("retried_plain") + bench.count("upstream_errors"),
            0
        );
        bench.finish();
    }
}

#[test]
fn one_that_drops_the_option_is_asked_without_at_the_second_attempt() {
    let upstream = Upstream::start(|seen| match cookie(&seen.msg) {
        Some(_) => Vec::new(),
        None => vec![with_opt(response(&seen.msg, 20))],
    });
    let mut bench = Bench::new(ForwardOptions {
        cookies: true,
        ..with_short_timeout(vec![upstream.address])
    });
    assert!(ask(&mut bench, 0) && ask(&mut bench, 1));
    let seen = upstream.seen();
    let with: Vec<_> = (seen.iter())
        .map(|seen| (seen.msg[11], cookie(&seen.msg).is_some()))
        .collect();
    assert_eq!(with, [(1, true), (1, false), (1, false)]);
    assert_eq!(bench.count("timeouts"), 1);
    bench.finish();
}

#[test]
fn letters_and_cookies_are_not_sent_over_tcp() {
    let upstream = Upstream::start(|seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => vec![response(&seen.msg, 2_000)],
    });
    let mut bench = Bench::new(ForwardOptions {
        cookies: true,
        randomize_case: true,
        ..options(vec![upstream.address])
    });
    assert!(ask(&mut bench, 0));
    let seen = upstream.seen();
    assert!(cookie(&seen[0].msg).is_some() && cookie(&seen[1].msg).is_none());
    assert_eq!(name(&seen[1].msg), name(&query(9, &long(0), None)));
    bench.finish();
}

#[test]
fn servers_of_one_address_that_do_not_all_give_cookies_cost_three_names() {
    let counter = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen| {
        let number = counter.fetch_add(usize::from(!seen.tcp), std::sync::atomic::Ordering::SeqCst);
        vec![match number % 2 {
            0 => giving(&seen.msg),
            _ => with_opt(response(&seen.msg, 20)),
        }]
    });
    let mut bench = with_cookies(&upstream);
    for number in 0..12 {
        assert!(ask(&mut bench, number));
    }
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (12, 3));
    bench.finish();
}

#[test]
fn one_without_tcp_that_is_never_content_with_its_cookies_is_asked_without() {
    let upstream = Upstream::without_tcp(|seen| {
        vec![match cookie(&seen.msg) {
            Some(sent) => {
                let given = [&sent[..8], &[9; 16]].concat();
                with_cookie(bare(&seen.msg, 7), 1, &given)
            }
            None => with_opt(response(&seen.msg, 20)),
        }]
    });
    let mut bench = with_cookies(&upstream);
    for number in 0..4 {
        assert!(ask(&mut bench, number));
    }
    let last = upstream.seen().pop().unwrap();
    assert_eq!(cookie(&last.msg), None);
    assert_eq!(bench.count("sent_tcp"), 1);
    bench.finish();

    // One that wants a cookie and takes none gets no queries without end.
    let upstream = Upstream::without_tcp(|seen| {
        let sent = cookie(&seen.msg).map_or([1; 8].to_vec(), <[u8]>::to_vec);
        vec![with_cookie(
            bare(&seen.msg, 7),
            1,
            &[&sent[..8], &[9; 16]].concat(),
        )]
    });
    let mut bench = with_cookies(&upstream);
    assert!(!ask(&mut bench, 0));
    assert!(upstream.seen().len() < 20);
    bench.finish();
}

/// An upstream that answers with EDNS and a cookie until it `drops` queries.
fn replaced(drops: fn(&[u8]) -> bool) {
    let replaced = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let upstream = Upstream::start({
        let replaced = Arc::clone(&replaced);
        move |seen| match replaced.load(std::sync::atomic::Ordering::SeqCst) && drops(&seen.msg) {
            true => Vec::new(),
            false => vec![giving(&seen.msg)],
        }
    });
    let mut bench = Bench::new(ForwardOptions {
        cookies: true,
        ..with_short_timeout(vec![upstream.address])
    });
    assert!(ask(&mut bench, 0) && ask(&mut bench, 1));
    replaced.store(true, std::sync::atomic::Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut number = 2;
    while !ask(&mut bench, number) {
        assert!(Instant::now() < deadline, "{number}");
        thread::sleep(Duration::from_millis(20));
        number += 1;
    }
    bench.finish();
}

#[test]
fn another_server_at_the_address_may_drop_cookies() {
    replaced(|msg| cookie(msg).is_some());
}

#[test]
fn another_server_at_the_address_may_drop_edns() {
    replaced(|msg| msg[11] > 0);
}
