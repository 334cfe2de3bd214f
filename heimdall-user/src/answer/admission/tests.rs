#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{super::testing::*, *};
use crate::{
    answer::{Transport, access, cookie, limit, policy},
    dns::Malformed,
};

#[test]
fn clients_that_are_not_allowed_are_refused_or_dropped() {
    let core = &mut core_with(Policy {
        access: access::Access::new(
            &prefixes(["192.0.2.0/24", "2001:db8::/32"]),
            &prefixes(["192.0.2.64/26"]),
            &prefixes(["192.0.2.99"]),
        ),
        ..Policy::default()
    });
    cache_answer(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 10);
    for transport in [UDP, Transport::Tcp, Transport::Tls] {
        for (address, expected) in [
            ("192.0.2.1", Some(rcode::NOERROR)),
            ("192.0.2.63", Some(rcode::NOERROR)),
            ("192.0.2.64", Some(rcode::REFUSED)),
            ("192.0.2.99", None),
            ("192.0.2.100", Some(rcode::REFUSED)),
            ("192.0.2.128", Some(rcode::NOERROR)),
            ("10.0.0.1", Some(rcode::REFUSED)),
            ("2001:db8::1", Some(rcode::NOERROR)),
            ("::1", Some(rcode::REFUSED)),
            ("192.0.2.99", None),
        ] {
            let reply = ask_from(core, address, transport, &[]);
            match expected {
                None => assert_eq!(reply.verdict, Got::Drop, "{address}"),
                Some(code) => assert_eq!(reply.rcode(), code, "{address}"),
            }
            if expected == Some(rcode::REFUSED) {
                assert_eq!(reply.options(), [0, 15, 0, 2, 0, 18], "{address}");
            }
        }
        let stranger = Client::new("10.0.0.1".parse().unwrap(), transport);
        let mut unreadable = vec![0; 12];
        assert_eq!(
            core.reject(Malformed::Question, &mut unreadable, stranger),
            Verdict::Drop,
            "no FORMERR to strangers"
        );
    }
}

#[test]
fn a_prefix_over_its_limit_gets_small_replies_and_then_none() {
    let limit = limit::LimitSettings {
        per_second: 4,
        burst: 4,
        slip: 2,
        ..limit::LimitSettings::default()
    };
    let core = &mut core_with(Policy {
        limit,
        ..Policy::default()
    });
    cache_answer(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 600);
    let outcome = |reply: &Reply| match reply.verdict {
        Got::Drop => "nothing",
        _ if reply.is_truncated() => "TC",
        _ => "whole",
    };
    let got = ["10.0.0.1", "10.0.0.2"].repeat(4);
    let got: Vec<_> = got
        .into_iter()
        .map(|address| outcome(&ask_from(core, address, UDP, &[])))
        .collect();
    let expected = [
        "whole", "whole", "TC", "TC", "nothing", "TC", "nothing", "TC",
    ];
    assert_eq!(got, expected, "600 octets are too large for the third");
    for _ in 0..10 {
        let tcp = ask_from(core, "10.0.0.1", Transport::Tcp, &[]);
        assert_eq!(outcome(&tcp), "whole", "a stream cannot be forged");
        let malformed = Malformed::Question;
        let client = Client::new("10.0.0.1".parse().unwrap(), UDP);
        assert_eq!(
            core.reject(malformed, &mut [0; 12], client),
            Verdict::Drop,
            "errors count, too"
        );
    }
}

#[test]
fn port_zero_gets_no_reply() {
    let core = &mut core();
    let msg = query(0x0100, 16, 1, None);
    cache_answer(core, &msg, 10);
    let read = core.read(&msg).unwrap();
    let mut buf = [&msg[..], &[0; 500]].concat();
    let client = from(Transport::Udp { source_port: 0 });
    assert_eq!(core.answer(&read, &mut buf, client), Verdict::Drop);
    assert_eq!(
        core.reject(Malformed::Question, &mut buf, client),
        Verdict::Drop
    );
    assert_eq!(core.writer.drops.bad_source.get(), 2);
    let verdict = core.answer(&read, &mut buf, from(UDP));
    assert!(matches!(verdict, Verdict::Reply { .. }), "{verdict:?}");
}

#[test]
fn valid_cookies_lift_the_limit_and_are_demanded_under_load() {
    let policy = Policy {
        limit: limit::LimitSettings {
            per_second: 1,
            burst: 1,
            slip: 0,
            ..limit::LimitSettings::default()
        },
        cookies: Some(policy::Cookies {
            maker: cookie::CookieMaker::new(cookie::Secrets::configured(&[[7; 16]])),
            demand_above: 10,
        }),
        ..Policy::default()
    };
    let core = &mut core_with(policy);
    cache_answer(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 10);
    let first = ask_from(core, "10.0.0.1", UDP, &[9; 8]);
    let both = first.options()[4..].to_vec();
    assert_eq!(first.options()[..4], [0, 10, 0, 24]);
    assert_eq!(both[..9], [9, 9, 9, 9, 9, 9, 9, 9, 1]);
    // The allowance of one is used up; but not for those who are known.
    assert_eq!(ask_from(core, "10.0.0.1", UDP, &[9; 8]).verdict, Got::Drop);
    for _ in 0..20 {
        let known = ask_from(core, "10.0.0.1", UDP, &both);
        assert_eq!((known.rcode(), known.options()), (0, first.options()));
    }
    // More than ten in this second: who has a cookie needs one of ours, who has none does not.
    let other = ask_from(core, "10.1.0.1", UDP, &[9; 8]);
    assert_eq!(other.rcode(), rcode::BADCOOKIE & 0xf);
    assert_eq!(other.octets[19 + 5], rcode::BADCOOKIE >> 4);
    let retry = other.options()[4..].to_vec();
    assert_eq!(ask_from(core, "10.1.0.1", UDP, &retry).rcode(), 0);
    assert_eq!(ask_from(core, "10.2.0.1", UDP, &[]).rcode(), 0);
    assert_eq!(
        ask_from(core, "10.3.0.1", Transport::Tcp, &[9; 8]).rcode(),
        0
    );
    // Two seconds later all is quiet.
    core.begin(Now {
        seconds: 2,
        unix: 2,
    });
    assert_eq!(ask_from(core, "10.1.0.1", UDP, &[9; 8]).rcode(), 0);
}

#[test]
fn errors_are_not_sent_to_service_ports() {
    let core = &mut core();
    let mut notimp = query(0x2800, 1, 1, None);
    for port in [7, 19, 53, 123, 5353] {
        let from = Transport::Udp { source_port: port };
        assert_eq!(ask(core, &notimp, from, 0).verdict, Got::Drop, "{port}");
        assert_eq!(
            ask(core, &query(0x0100, 252, 1, None), from, 0).verdict,
            Got::Drop,
            "{port}"
        );
    }
    assert_eq!(ask(core, &notimp, UDP, 0).verdict, Got::Reply(12));
    assert_eq!(
        ask(core, &notimp, Transport::Tcp, 0).verdict,
        Got::Reply(12)
    );
    notimp[2] = 0x80;
    assert_eq!(ask(core, &notimp, UDP, 0).verdict, Got::Drop, "a response");
    assert_eq!(
        ask(core, &notimp[..11], UDP, 0).verdict,
        Got::Drop,
        "a runt"
    );
}
