//! Nothing is answered by the tier that the core would not answer at that moment.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use lab::{Received, ScriptedUpstream, UPSTREAM, message};

use super::{ANSWER, OFTEN, QUERY, heat, hits, holds};
use crate::{
    client::{DnsClient, Settings},
    heimdall, lab,
    recover::{Off, TIMEOUT},
    scenarios::language,
};

/// EDE 18, Prohibited.
const REFUSED: &str = "REFUSED qr rd ra | www.example. A | | | | opt 1232 ede=18";

/// An upstream's script: the last octet of the address is the version of the answer.
fn versions(version: Arc<AtomicU8>) -> impl Fn(&Received) -> Vec<Vec<u8>> {
    move |query| {
        let address = [192, 0, 2, version.load(SeqCst)];
        vec![message::address(&query.message().unwrap(), 300, address)]
    }
}

/// A reply's text without the TTL of its record: caches keep answers while policies come and go.
fn ageless(reply: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), reply.split(' ').peekable());
    while let Some(word) = rest.next() {
        let is_ttl = word.parse::<u32>().is_ok() && matches!(rest.peek(), Some(&("A" | "SOA")));
        words.push(if is_ttl { "TTL" } else { word });
    }
    words.join(" ")
}

#[test]
fn what_is_flushed_is_not_answered_by_the_tier_from_then_on() {
    let Some(lab) = lab("what_is_flushed_is_not_answered_by_the_tier") else {
        return;
    };
    let version = Arc::new(AtomicU8::new(0));
    let _upstream =
        ScriptedUpstream::with_script(&lab, UPSTREAM, versions(version.clone())).unwrap();
    let heimdall = heimdall(&lab);
    // No reply to a query that is sent now may be of an older version.
    let oldest = AtomicU8::new(0);
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        let _off = Off(&on);
        for client in [DnsClient::v4(&lab), DnsClient::v6(&lab)] {
            let (oldest, on) = (&oldest, &on);
            scope.spawn(move || {
                while on.load(SeqCst) {
                    let oldest = oldest.load(SeqCst);
                    let reply = client.udp("a.www.example A rd");
                    let address = reply.rsplit(' ').next().unwrap_or_default();
                    let version = address.strip_prefix("192.0.2.").map(str::parse::<u8>);
                    let Some(Ok(version)) = version else {
                        panic!("{reply}");
                    };
                    assert!(version >= oldest, "version {version} after {oldest}");
                }
            });
        }
        let client = DnsClient::v4(&lab);
        let (query, other) = ("a.www.example A rd", "b.www.example A rd");
        let promote_other = || {
            let end = Instant::now() + TIMEOUT;
            while !holds(&heimdall, "b.www.example") {
                assert!(Instant::now() < end, "{}", heimdall.process.output());
                client.udp_often(&language::query(other), OFTEN);
            }
        };
        promote_other();
        for round in 1..=12 {
            heat(&heimdall, &client, query);
            version.store(round, SeqCst);
            let what: &[&str] = match round % 3 {
                0 => &["--all"],
                1 => &["a.WWW.example"],
                _ => &["--zone", "a.www.example"],
            };
            let output = heimdall.command(&[&["flush"], what].concat()).unwrap();
            assert!(output.status.success(), "{output:?}");
            oldest.store(round, SeqCst);
            let reply = client.udp(query);
            assert!(
                reply.ends_with(&format!("192.0.2.{round}")),
                "{round}: {reply}"
            );
            // Another name stays where it is.
            let is_all = what == ["--all"];
            assert_eq!(holds(&heimdall, "b.www.example"), !is_all, "{round}");
            if is_all {
                promote_other();
            }
        }
    });
}

#[test]
fn a_new_policy_holds_for_the_tier_at_once() {
    let Some(lab) = lab("a_new_policy_holds_for_the_tier") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    fs::write(&list, "www.example\n").unwrap();
    let settings = Settings::new("");
    let heimdall = settings.on_xdp(&lab);
    let (v4, v6) = (DnsClient::v4(&lab), DnsClient::v6(&lab));
    let blocked =
        "NXDOMAIN qr rd ra | www.example. A | | 60 SOA . . 1 3600 600 86400 60 | | opt 1232 ede=15";
    let local = ANSWER.replace("192.0.2.1 ", "192.0.2.99 ");
    for round in 0..3 {
        for (text, to_v4, to_v6) in [
            (
                "[access]\nallow = [\"fd00::/8\"]".to_owned(),
                REFUSED,
                ANSWER,
            ),
            (
                "[access]\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]\nrefuse = [\"fd53::2\"]"
                    .to_owned(),
                ANSWER,
                REFUSED,
            ),
            (format!("[[blocklist]]\nfile = {list:?}"), blocked, blocked),
            (
                "[local]\nrecords = [\"www.example. 300 IN A 192.0.2.99\"]".to_owned(),
                local.as_str(),
                local.as_str(),
            ),
        ] {
            heat(&heimdall, &v4, QUERY);
            heat(&heimdall, &v6, QUERY);
            settings.write(&text);
            assert!(heimdall.reload().unwrap().status.success());
            for _ in 0..3 {
                assert_eq!(ageless(&v4.udp(QUERY)), ageless(to_v4), "{round}: {text}");
                assert_eq!(ageless(&v6.udp(QUERY)), ageless(to_v6), "{round}: {text}");
            }
            // Whom the access list refuses is refused although the tier has the answer, and others get it from there.
            let refused = [(&v4, &v6, to_v4), (&v6, &v4, to_v6)];
            for (client, other, _) in refused.iter().filter(|(_, _, reply)| *reply == REFUSED) {
                heat(&heimdall, other, QUERY);
                let before = hits(&heimdall);
                for _ in 0..20 {
                    assert_eq!(client.udp(QUERY), REFUSED, "{round}: {text}");
                }
                assert_eq!(hits(&heimdall), before, "{round}: {text}");
            }
            settings.write("");
            assert!(heimdall.reload().unwrap().status.success());
            assert_eq!(ageless(&v4.udp(QUERY)), ageless(ANSWER), "{round}");
            assert_eq!(ageless(&v6.udp(QUERY)), ageless(ANSWER), "{round}");
        }
    }
}
