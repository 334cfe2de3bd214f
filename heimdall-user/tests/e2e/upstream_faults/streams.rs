//! Faults of connections: TCP and TLS.

use std::{
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lab::{Authority, ScriptedUpstream, Step};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, socket,
};

use crate::recover::TIMEOUT;

use super::{
    After::{AtOnce, Within},
    Case,
    How::{AndGood, One, Own},
    STREAMS,
    Sees::{Answer, Servfail},
    TCP, TLS,
    rig::{NAME, Rig},
    script::{Query, Script, garbage, good, good_message, silent, wrong_id, wrong_question},
};

/// Each is run over each of its transports.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "tcp_refused",
        fault: "The connection is refused",
        over: STREAMS,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| refused(rig, false)),
    },
    Case {
        name: "tcp_refused_with_another",
        fault: "The connection is refused; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| refused(rig, true)),
    },
    Case {
        name: "tcp_not_accepted",
        fault: "The connection is never established; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: Within(2),
        how: Own(not_accepted),
    },
    Case {
        name: "tcp_reset_in_the_middle",
        fault: "The connection is reset in the middle of the first response",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: One(|query| {
            let msg = good_message(query);
            let framed = [&(msg.len() as u16).to_be_bytes()[..], &msg[..20]].concat();
            if query.nth == 1 {
                vec![Step::SendRaw(framed), Step::Reset]
            } else {
                vec![good(query)]
            }
        }),
    },
    Case {
        name: "tcp_always_reset",
        fault: "Each query is answered by a reset; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: AndGood(|_| vec![Step::Reset]),
    },
    Case {
        name: "tcp_closed_after_each",
        fault: "The connection is closed after each response",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| many_names(rig, |query| vec![good(query), Step::Close])),
    },
    Case {
        name: "tcp_reset_after_each",
        fault: "The connection is reset after each response",
        over: TCP,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| many_names(rig, |query| vec![good(query), Step::Reset])),
    },
    Case {
        name: "tcp_garbage",
        fault: "Octets that are no message, and the connection is closed; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: AndGood(|query| vec![Step::SendRaw(garbage(query)), Step::Close]),
    },
    Case {
        name: "tcp_wrong_id",
        fault: "A response with another ID on the connection; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: AndGood(|query| vec![wrong_id(query, 1)]),
    },
    Case {
        name: "tcp_wrong_question",
        fault: "A response to another question on the connection; there is another upstream",
        over: STREAMS,
        sees: Answer,
        after: AtOnce,
        how: AndGood(|query| vec![wrong_question(query)]),
    },
    Case {
        name: "tls_expired",
        fault: "The certificate has expired",
        over: TLS,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| bad_certificate(rig, false, "expired")),
    },
    Case {
        name: "tls_expired_with_another",
        fault: "The certificate has expired; there is another upstream",
        over: TLS,
        sees: Answer,
        after: AtOnce,
        how: Own(|rig| bad_certificate(rig, true, "expired")),
    },
    Case {
        name: "tls_wrong_name",
        fault: "The certificate is for another name",
        over: TLS,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| bad_certificate(rig, false, "is not for dns.example")),
    },
    Case {
        name: "tls_unknown_issuer",
        fault: "The certificate's issuer is unknown",
        over: TLS,
        sees: Servfail(23),
        after: AtOnce,
        how: Own(|rig| bad_certificate(rig, false, "no root certificate")),
    },
    Case {
        name: "tls_not_resumed",
        fault: "The connection is closed after each response, and no session is resumed",
        over: TLS,
        sees: Answer,
        after: AtOnce,
        how: Own(not_resumed),
    },
    Case {
        name: "tls_silent_handshake",
        fault: "No response to the TLS handshake; there is another upstream",
        over: TLS,
        sees: Answer,
        after: Within(2),
        how: Own(|rig| {
            // Without TLS, what begins a handshake is the beginning of a long message.
            let address = rig.address(1);
            let _upstream =
                ScriptedUpstream::with_script(rig.lab, &address, rig.steps(silent)).unwrap();
            rig.ask_server_of(rig.setting(&address), true);
        }),
    },
];

fn refused(rig: &Rig<'_>, and_good: bool) {
    let upstream = rig.upstream(silent);
    upstream.refuse_tcp();
    rig.ask_server_of(rig.setting(&rig.address(1)), and_good);
}

/// While a listener's queue is full, the kernel drops what would establish a connection.
fn not_accepted(rig: &Rig<'_>) {
    let port = rig.port(1);
    let full = || {
        let open = || {
            let (family, kind) = (AddressFamily::Inet, SockType::Stream);
            socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
        };
        let (listener, first) = (open(), open());
        let address = SockaddrIn::new(127, 0, 0, 1, port);
        bind(listener.as_raw_fd(), &address).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        connect(first.as_raw_fd(), &address).unwrap();
        (listener, first)
    };
    let _full = rig.lab.in_server(full).unwrap();
    rig.ask_server_of(rig.setting(&rig.address(1)), true);
}

/// One name after another, with an upstream that follows a script.
fn many_names(rig: &Rig<'_>, script: Script) {
    let _upstream = rig.upstream(script);
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    for number in 0..12 {
        rig.expect(&server, &format!("n{number}.example"));
    }
    let stats = server.heimdall.stats().unwrap();
    assert_eq!(stats["forwarder"]["servfail"], 0, "{stats:#}");
}

/// An upstream whose certificate has this fault: it gets no query, and the log says why.
fn bad_certificate(rig: &Rig<'_>, and_good: bool, said: &str) {
    let certified = match said {
        "expired" => rig.authority.issue_expired(NAME),
        "no root certificate" => Authority::new().issue(NAME),
        _ => rig.authority.issue("other.example"),
    };
    let steps = rig.steps(|query| vec![good(query)]);
    let sessions = vec![certified.server()];
    let upstream = ScriptedUpstream::over_tls(rig.lab, &rig.address(1), sessions, steps).unwrap();
    let second = and_good.then(|| rig.second());
    let mut upstreams = vec![rig.setting(&rig.address(1))];
    upstreams.extend(second.as_ref().map(|(_, setting)| setting.clone()));
    let server = rig.server(&upstreams);
    rig.expect(&server, "a.example");
    assert!(upstream.received().is_empty(), "it got a query");
    // A thread of its own writes the log.
    let end = Instant::now() + TIMEOUT;
    loop {
        let log = server.heimdall.process.output();
        let mut lines = log.lines();
        if lines.any(|line| line.contains(&upstreams[0]) && line.contains(said)) {
            return;
        }
        assert!(Instant::now() < end, "{log}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two servers behind one address, neither of which knows the other's sessions.
fn not_resumed(rig: &Rig<'_>) {
    let certified = rig.authority.issue(NAME);
    let sessions = vec![certified.server(), certified.server()];
    assert!(
        !Arc::ptr_eq(&sessions[0], &sessions[1]),
        "keys of their own"
    );
    let script: Script = |query: &Query<'_>| vec![good(query), Step::Close];
    let steps = rig.steps(script);
    let _upstream = ScriptedUpstream::over_tls(rig.lab, &rig.address(1), sessions, steps).unwrap();
    let server = rig.server(&[rig.setting(&rig.address(1))]);
    for number in 0..12 {
        rig.expect(&server, &format!("n{number}.example"));
    }
    let stats = server.heimdall.stats().unwrap();
    assert_eq!(stats["forwarder"]["tls_resumed"], 0, "{stats:#}");
}
