//! Faults of responses: most over UDP, some over every transport.

use std::{sync::Mutex, thread, time::Duration};

use lab::{Kdig, SERVER_V4, ScriptedUpstream, Step, message};

use super::{
    ALL,
    After::{AllAttempts, AtOnce, ByName, OneAndAHalf, Timeouts, Within},
    Case,
    How::{AndGood, One, Own},
    Over,
    Sees::{Answer, Servfail, Text, Truncated},
    UDP,
    rig::{Rig, is},
    script::{
        Query, Script, bare, code, forged, garbage, good, good_message, silent, truncated,
        wrong_id, wrong_question,
    },
};

/// Each is run over each of its transports.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "lost",
        fault: "The first query or its response is lost",
        over: ALL,
        sees: Answer,
        after: Timeouts(1),
        how: One(|query| {
            if query.nth == 1 {
                vec![]
            } else {
                vec![good(query)]
            }
        }),
    },
    Case {
        name: "silent",
        fault: "No response to anything",
        over: ALL,
        sees: Servfail(22),
        after: AllAttempts,
        how: One(silent),
    },
    Case {
        name: "silent_with_another",
        fault: "No response to anything; there is another upstream",
        over: ALL,
        sees: Answer,
        after: Within(2),
        how: AndGood(silent),
    },
    Case {
        name: "late",
        fault: "The response comes when the next try has begun, which gets none",
        over: ALL,
        sees: Answer,
        after: OneAndAHalf,
        how: One(|query| {
            if query.nth == 1 {
                vec![Step::Wait(query.timeout * 3 / 2), good(query)]
            } else {
                vec![]
            }
        }),
    },
    Case {
        name: "twice",
        fault: "The response comes twice",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| {
            let _upstream = rig.upstream(|query| vec![good(query), good(query)]);
            let server = rig.server(&[rig.setting(&rig.address(1))]);
            for number in 0..5 {
                rig.expect(&server, &format!("n{number}.example"));
            }
        }),
    },
    Case {
        name: "reordered",
        fault: "Responses come in another order than the queries",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(reordered),
    },
    Case {
        name: "silent_names",
        fault: "No response for some names, while others are answered",
        over: ALL,
        sees: Text("SERVFAIL, EDE 22, for those; the answer for others"),
        after: ByName,
        how: Own(silent_names),
    },
    Case {
        name: "wrong_id",
        fault: "A response with another ID, then the right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| vec![wrong_id(query, 1), good(query)]),
    },
    Case {
        name: "wrong_port",
        fault: "A response from another port, then the right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| vec![Step::FromOtherPort(forged(query)), good(query)]),
    },
    Case {
        name: "wrong_address",
        fault: "A response from another address, then the right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| vec![Step::FromOtherAddress(forged(query)), good(query)]),
    },
    Case {
        name: "wrong_question",
        fault: "A response to another question, then the right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| vec![wrong_question(query), good(query)]),
    },
    Case {
        name: "garbage",
        fault: "Octets that are no message, then the right response",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| vec![Step::Send(garbage(query)), Step::Send(vec![]), good(query)]),
    },
    Case {
        name: "cut",
        fault: "A response that ends too soon, then the right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| {
            let mut cut = good_message(query);
            cut.truncate(cut.len() - 3);
            vec![Step::Send(cut), good(query)]
        }),
    },
    Case {
        name: "malformed_data",
        fault: "An A record of three octets; there is another upstream",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: AndGood(|query| {
            let mut response = message::response(&query.message);
            let owner = query.message.queries[0].name();
            let short = message::record(owner, message::rtype("A"), 300, &[192, 0, 2]);
            response.add_answer(short);
            vec![Step::Send(message::octets(&response))]
        }),
    },
    Case {
        name: "flood_of_forgeries",
        fault: "Many responses with other IDs come before each right one",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| {
            if query.received.tcp {
                vec![good(query)]
            } else {
                (1..=20).map(|bits| wrong_id(query, bits)).collect()
            }
        }),
    },
    Case {
        name: "flood_of_forgeries_without_tcp",
        fault: "The same, TCP is refused, and there is another upstream",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| {
            let upstream =
                rig.upstream(|query| (1..=20).map(|bits| wrong_id(query, bits)).collect());
            upstream.refuse_tcp();
            rig.ask_server_of(rig.address(1), true);
        }),
    },
    Case {
        name: "truncated",
        fault: "An answer that does not fit into a datagram",
        over: UDP,
        sees: Text("TC, and the whole answer over TCP"),
        after: AtOnce,
        how: Own(large),
    },
    Case {
        name: "truncated_needlessly",
        fault: "TC over UDP; the answer over TCP is small",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: One(|query| {
            if query.received.tcp {
                vec![good(query)]
            } else {
                vec![truncated(query)]
            }
        }),
    },
    Case {
        name: "truncated_without_tcp",
        fault: "TC over UDP, and TCP is refused",
        over: UDP,
        sees: Truncated,
        after: AtOnce,
        how: Own(|rig| {
            let upstream = rig.upstream(truncated_only);
            upstream.refuse_tcp();
            let server = rig.server(&[rig.address(1)]);
            rig.expect(&server, "a.example");
            rig.expect_answer(&server, "whole.example");
        }),
    },
    Case {
        name: "truncated_with_silent_tcp",
        fault: "TC over UDP, and no response over TCP",
        over: UDP,
        sees: Truncated,
        // Over TCP an upstream has twice the time.
        after: Within(3),
        how: Own(|rig| {
            let _upstream = rig.upstream(truncated_only);
            let server = rig.server(&[rig.address(1)]);
            thread::scope(|scope| {
                let asked = scope.spawn(|| rig.ask(&server, "b.example", ""));
                thread::sleep(Duration::from_millis(50));
                rig.expect_answer(&server, "whole.example");
                assert!(is(&asked.join().unwrap().0, "b.example", Truncated));
            });
            rig.expect(&server, "a.example");
        }),
    },
    Case {
        name: "error_codes",
        fault: "FORMERR, SERVFAIL, NOTIMP or REFUSED to every query",
        over: ALL,
        sees: Text("SERVFAIL"),
        after: AtOnce,
        how: Own(|rig| error_codes(rig, false)),
    },
    Case {
        name: "error_codes_with_another",
        fault: "The same; there is another upstream",
        over: ALL,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| error_codes(rig, true)),
    },
    Case {
        name: "other_codes",
        fault: "Another response code: NXDOMAIN, YXDOMAIN, YXRRSET, NXRRSET, NOTAUTH, NOTZONE",
        over: ALL,
        sees: Text("this response code"),
        after: AtOnce,
        how: Own(other_codes),
    },
    Case {
        name: "formerr_to_edns",
        fault: "FORMERR to queries with EDNS, with the question",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| without_edns(rig, |query| vec![code(query, 1)])),
    },
    Case {
        name: "bare_formerr_to_edns",
        fault: "FORMERR to queries with EDNS, without the question",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| without_edns(rig, |query| vec![bare(query, 1)])),
    },
    Case {
        name: "notimp_to_edns",
        fault: "NOTIMP to queries with EDNS",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| without_edns(rig, |query| vec![code(query, 4)])),
    },
    Case {
        name: "badvers_to_edns",
        fault: "BADVERS to queries with EDNS",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| without_edns(rig, |query| vec![code(query, 16)])),
    },
    Case {
        name: "servfail_to_edns",
        fault: "SERVFAIL to queries with EDNS",
        over: UDP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| without_edns(rig, |query| vec![code(query, 2)])),
    },
    Case {
        name: "silent_to_edns",
        fault: "No response to queries with EDNS",
        over: UDP,
        sees: Answer,
        // Of the first names; the upstream is then known for it.
        after: Within(4),
        how: Own(|rig| without_edns(rig, silent)),
    },
];

/// Nothing but TC, except to one name.
fn truncated_only(query: &Query<'_>) -> Vec<Step> {
    match (query.name.as_str(), query.received.tcp) {
        ("whole.example", _) => vec![good(query)],
        (_, false) => vec![truncated(query)],
        (_, true) => vec![],
    }
}

/// Two names are asked for at the same time, and answered in reverse.
fn reordered(rig: &Rig<'_>) {
    // The first response is held until the second query is there, over UDP for some time.
    let held = Mutex::new(None);
    let steps = rig.steps(|query| vec![good(query)]);
    let upstream = rig.upstream(silent);
    let tcp = rig.over != Over::Udp;
    upstream.set_script(move |received| -> Vec<Step> {
        let first = received.name().as_deref() == Some("first.example");
        let good = steps(received);
        match (first, tcp) {
            (true, false) => [vec![Step::Wait(Duration::from_millis(200))], good].concat(),
            (true, true) => {
                *held.lock().unwrap() = Some(good);
                vec![]
            }
            (false, _) => [good, held.lock().unwrap().take().unwrap_or_default()].concat(),
        }
    });
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    thread::scope(|scope| {
        let first = scope.spawn(|| rig.ask(&server, "first.example", ""));
        while upstream.queries("first.example") == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        rig.expect(&server, "second.example");
        assert!(!first.is_finished() || tcp, "the second came first");
        let (reply, took) = first.join().unwrap();
        assert!(is(&reply, "first.example", Answer), "{reply}");
        assert!(took < rig.timeout(), "it was not asked again");
    });
}

/// Names that are never answered beside others.
fn silent_names(rig: &Rig<'_>) {
    let _upstream = rig.upstream(|query| {
        if query.name.starts_with("never") {
            vec![]
        } else {
            vec![good(query)]
        }
    });
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    rig.expect_answer(&server, "before.example");
    thread::scope(|scope| {
        let silent: Vec<_> = (0..4)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let name = format!("never{number}.z{number}.example");
                    rig.expect_as(server, &name, "", Servfail(22), AllAttempts);
                })
            })
            .collect();
        while silent.iter().any(|asked| !asked.is_finished()) {
            let name = format!("n{}.example", fastrand::u32(..));
            rig.expect_answer(&server, &name);
            thread::sleep(Duration::from_millis(100));
        }
    });
    let stats = server.heimdall.stats().unwrap();
    assert_ne!(stats["upstreams"][0]["state"], "failed", "{stats:#}");
}

/// A real client asks for an answer of 3,000 octets.
fn large(rig: &Rig<'_>) {
    let _upstream = rig.upstream(|query| {
        if query.received.tcp {
            let mut response = message::response(&query.message);
            let owner = query.message.queries[0].name();
            let text = message::record(owner, message::rtype("TXT"), 300, &message::text(3000));
            response.add_answer(text);
            vec![Step::Send(message::octets(&response))]
        } else {
            vec![truncated(query)]
        }
    });
    let server = rig.server(&[rig.address(1)]);
    let (at, port) = (format!("@{SERVER_V4}"), rig.port(0).to_string());
    let question = [&at, "-p", &port, "large.example", "TXT"];
    let got = Kdig::ask(rig.lab, &[&question[..], &["+ignore"]].concat()).unwrap();
    assert!(got.flags.contains("tc"), "{got:?}");
    let got = Kdig::ask(rig.lab, &question).unwrap();
    assert_eq!((got.transport.as_str(), got.answer.len()), ("TCP", 1));
    drop(server);
}

/// Response codes that stand for a fault of the upstream.
fn error_codes(rig: &Rig<'_>, and_good: bool) {
    let _upstream = rig.upstream(|query| {
        let number = query.name.split('.').next().unwrap_or_default();
        vec![code(query, number.parse().unwrap())]
    });
    let second = and_good.then(|| rig.second());
    let mut upstreams = vec![rig.setting(&rig.address(1))];
    upstreams.extend(second.as_ref().map(|(_, setting)| setting.clone()));
    let server = rig.server(&upstreams);
    for number in [1, 2, 4, 5] {
        let name = format!("{number}.example");
        if and_good {
            rig.expect(&server, &name);
            continue;
        }
        let (reply, took) = rig.ask(&server, &name, "");
        assert!(reply.starts_with("SERVFAIL qr rd ra"), "{reply}");
        assert!(took < rig.timeout(), "{took:?}");
    }
}

/// Response codes that answer the question.
fn other_codes(rig: &Rig<'_>) {
    let _upstream = rig.upstream(|query| {
        let number = query.name.split('.').next().unwrap_or_default();
        vec![code(query, number.parse().unwrap())]
    });
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    for (number, text) in (3..).zip(["NXDOMAIN", "", "", "6", "7", "8", "9", "10"]) {
        if !text.is_empty() {
            let (reply, took) = rig.ask(&server, &format!("{number}.example"), "");
            assert!(reply.starts_with(&format!("{text} qr rd ra")), "{reply}");
            assert!(took < rig.timeout(), "{took:?}");
        }
    }
}

/// An upstream that answers queries without EDNS, and responds to others in this way: clients with and without DO get
/// answers, and after some names at once.
fn without_edns(rig: &Rig<'_>, to_edns: Script) {
    let upstream: ScriptedUpstream = rig.upstream(silent);
    let (plain, edns) = (rig.steps(|query| vec![good(query)]), rig.steps(to_edns));
    upstream.set_script(move |received| -> Vec<Step> {
        let has_edns = received.message().is_some_and(|query| query.edns.is_some());
        if has_edns {
            edns(received)
        } else {
            plain(received)
        }
    });
    let server = rig.server(&[rig.address(1)]);
    for number in 0..4 {
        rig.expect(&server, &format!("n{number}.example"));
    }
    for (number, words) in (4..).zip(["", "do", "", "do"]) {
        rig.expect_as(
            &server,
            &format!("n{number}.example"),
            words,
            Answer,
            AtOnce,
        );
    }
}
