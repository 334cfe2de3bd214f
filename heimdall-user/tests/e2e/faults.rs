//! Upstreams that misbehave.

use lab::{Heimdall, Kdig, Lab, QueryFrame, SERVER_V4, ScriptedUpstream, sum};

use crate::{client::DnsClient, lab, program, recover::wait_for};

const FIRST: &str = "127.0.0.1:5301";
const SECOND: &str = "127.0.0.1:5302";
const DEAD: &str = "127.0.0.1:5309";

fn ask(lab: &Lab, name: &str, rtype: &str) -> Kdig {
    Kdig::ask(lab, &[&format!("@{SERVER_V4}"), name, rtype]).unwrap()
}

#[test]
fn forged_and_malformed_responses_are_ignored() {
    let Some(lab) = lab("forged_and_malformed_responses") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    for label in ["wrongid", "wrongquestion", "cut"] {
        let name = format!("{label}.example");
        let got = ask(&lab, &name, "A");
        assert_eq!(got.answer, [format!("{name}. 300 IN A 192.0.2.1")]);
        assert_eq!(
            upstream.queries(&name),
            1,
            "the right reply to the same query was waited for"
        );
    }
    let rejected = &heimdall.stats().unwrap()["forwarder"]["rejected"];
    assert_eq!(
        (
            &rejected["id"],
            &rejected["question"],
            &rejected["malformed"]
        ),
        (&1.into(), &1.into(), &1.into())
    );
}

#[test]
fn a_truncated_response_is_retried_over_tcp() {
    let Some(lab) = lab("a_truncated_response") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let got = ask(&lab, "truncate.example", "TXT");
    assert_eq!(
        (got.transport.as_str(), got.answer.len()),
        ("TCP", 1),
        "3000 octets"
    );
    // The worker forwarded the query; the socket front then got the answer from the forwarder's cache.
    let forwarder = &heimdall.stats().unwrap()["forwarder"];
    assert_eq!(forwarder["sent_tcp"], 1);
    assert_eq!(forwarder["cache"]["hits"], 1);
}

#[test]
fn the_second_upstream_answers_when_the_first_does_not() {
    let Some(lab) = lab("the_second_upstream") else {
        return;
    };
    let first = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let second = ScriptedUpstream::start(&lab, SECOND).unwrap();
    let heimdall =
        Heimdall::on_xdp(&lab, program(), &["--upstream", DEAD, "--upstream", SECOND]).unwrap();
    assert_eq!(
        ask(&lab, "plain.example", "A").status,
        "NOERROR",
        "the first has no listener"
    );
    assert_eq!(second.queries("plain.example"), 1);
    drop(heimdall);
    let _heimdall = Heimdall::on_xdp(
        &lab,
        program(),
        &["--upstream", FIRST, "--upstream", SECOND],
    )
    .unwrap();
    // Both refuse this name; the first upstream is asked first.
    assert_eq!(ask(&lab, "refused.example", "A").status, "SERVFAIL");
    assert_eq!(
        (
            first.queries("refused.example"),
            second.queries("refused.example")
        ),
        (1, 1)
    );
}

#[test]
fn servfail_without_an_upstream_and_hits_are_still_served() {
    let Some(lab) = lab("servfail_without_an_upstream") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall =
        Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST, "--tier", "off"]).unwrap();
    assert_eq!(ask(&lab, "warm.example", "A").status, "NOERROR");
    let (silent, warm) = std::thread::scope(|scope| {
        let silent = scope.spawn(|| ask(&lab, "drop.example", "A"));
        let warm: Vec<Kdig> = (0..20).map(|_| ask(&lab, "warm.example", "A")).collect();
        (silent.join().unwrap(), warm)
    });
    assert_eq!(silent.status, "SERVFAIL");
    assert!(warm.iter().all(|reply| reply.status == "NOERROR"));
    assert!(upstream.queries("drop.example") >= 2, "it was tried again");
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["forwarder"]["servfail"], 1);
    assert_eq!(sum(&stats, "hits"), 20);
}

#[test]
fn the_same_question_is_asked_upstream_once() {
    let Some(lab) = lab("the_same_question") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let frames = lab::Frames::open(&lab).unwrap();
    for id in 0..50 {
        let query = QueryFrame {
            id,
            port: 41_000 + id,
            ..QueryFrame::new(frames.macs, "slow-500.example", 1)
        };
        frames.send(&query.bytes()).unwrap();
    }
    // Over sockets, too, at once: a process that asks would take time to start.
    let over_tcp = DnsClient::v4(&lab).tcp("slow-500.example A rd");
    assert!(over_tcp.starts_with("NOERROR "), "{over_tcp}");
    let stats = wait_for(&heimdall, "answered", |stats| sum(stats, "answered") == 50);
    assert_eq!(upstream.queries("slow-500.example"), 1);
    assert_eq!(stats["forwarder"]["coalesced"], 50);
}
