#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{super::testing::*, *};
use crate::{
    answer::{Core, Transport, Verdict, blocklist, local, special, steps::key},
    dns::{
        CLASS_CH,
        header::{self, rcode},
    },
};

#[test]
fn a_query_without_rd_is_answered_from_cache_and_policy() {
    let policy = |non_recursive| {
        let mut data = local::LocalData::builder();
        data.record("local.lan. A 192.0.2.7").unwrap();
        Policy {
            local: data.build().unwrap(),
            blocklists: lists(&[("ads.ok", blocklist::BlockAction::NxDomain)]),
            non_recursive,
            ..Policy::default()
        }
    };
    const RD: u16 = header::RD;
    let refused = (rcode::REFUSED, Some(20));
    for transport in [UDP, Transport::Tcp] {
        let core = &mut core_with(policy(NonRecursive::Cache));
        let ask = |core: &mut Core, name, flags| ask(core, &query_for(name, flags), transport, 0);
        assert_eq!(rcode_and_ede(&ask(core, "a.ok", 0)), refused);
        assert_eq!(rcode_and_ede(&ask(core, "a.ok", 0)), refused, "not cached");
        assert_eq!(ask(core, "a.ok", RD).verdict, Got::Miss);
        let msg = query_for("a.ok", RD);
        let read = core.read(&msg).unwrap();
        core.insert(&read, &msg, &aliased(&[]));
        assert_eq!(rcode_and_ede(&ask(core, "a.ok", 0)), (rcode::NOERROR, None));
        assert_eq!(
            rcode_and_ede(&ask(core, "local.lan", 0)),
            (rcode::NOERROR, None)
        );
        assert_eq!(
            rcode_and_ede(&ask(core, "ads.ok", 0)),
            (rcode::NXDOMAIN, Some(15))
        );
        assert_eq!(core.writer.counters.misses.get(), 1);

        let core = &mut core_with(policy(NonRecursive::Forward));
        assert_eq!(ask(core, "a.ok", 0).verdict, Got::Miss);

        let core = &mut core_with(policy(NonRecursive::Refuse));
        let msg = query_for("a.ok", RD);
        core.insert(&read, &msg, &aliased(&[]));
        for _ in 0..2 {
            assert_eq!(
                rcode_and_ede(&ask(core, "a.ok", RD)),
                (rcode::NOERROR, None)
            );
            assert_eq!(rcode_and_ede(&ask(core, "a.ok", 0)), refused);
            assert_eq!(rcode_and_ede(&ask(core, "local.lan", 0)), refused);
        }
        let chaos = query(0, 16, CLASS_CH, Some((1232, 0, false)));
        let reply = super::tests::ask(core, &chaos, transport, 0);
        assert_eq!(
            rcode_and_ede(&reply),
            (rcode::REFUSED, Some(21)),
            "another class"
        );
    }
    let core = &mut core_with(policy(NonRecursive::Cache));
    let msg = query_for("a.ok", 0);
    let read = core.read(&msg).unwrap();
    let client = from(Transport::Udp { source_port: 0 });
    let mut buf = [&msg[..], &[0; 500]].concat();
    assert_eq!(core.answer(&read, &mut buf, client), Verdict::Drop);
}

#[test]
fn an_alias_of_a_blocked_name_is_blocked() {
    use blocklist::BlockAction;
    let policy = |blocklist_aliases| Policy {
        blocklists: lists(&[
            ("ads.ok\n", BlockAction::NxDomain),
            ("0.0.0.0 tracker.ok\n", BlockAction::NullAddress),
            ("malware.ok\n", BlockAction::Refused),
            ("shop.ok\nfine.ads.ok\n", BlockAction::Allow),
        ]),
        blocklist_aliases,
        ..Policy::default()
    };
    let answered = (rcode::NOERROR, None);
    let null = (rcode::NOERROR, Some(15));
    let nothing = (rcode::NXDOMAIN, Some(15));
    let refused = (rcode::REFUSED, Some(15));
    for (name, targets, expected) in [
        ("www.ok", &["ads.ok"][..], nothing),
        ("www.ok", &["a.b.ADS.ok"], nothing),
        ("www.ok", &["a.ok", "b.ok", "ads.ok", "c.ok"], nothing),
        ("www.ok", &["tracker.ok"], null),
        ("www.ok", &["a.tracker.ok"], answered),
        ("www.ok", &["a.ok", "malware.ok", "ads.ok"], refused),
        ("www.ok", &["fine.ads.ok"], answered),
        ("www.ok", &["fine.ads.ok", "malware.ok"], refused),
        ("shop.ok", &["ads.ok"], answered),
        ("www.shop.ok", &["a.ok", "malware.ok"], answered),
        ("www.ok", &["myads.ok", "b.ok"], answered),
        ("www.ok", &[], answered),
    ] {
        for on in [true, false] {
            let core = &mut core_with(policy(on));
            let msg = query_for(name, header::RD);
            let expected = if on { expected } else { answered };
            let about = format!("{name} {targets:?} {on}");
            assert_eq!(ask(core, &msg, UDP, 0).verdict, Got::Miss, "{about}");
            let answer = aliased(targets);
            let read = core.read(&msg).unwrap();
            let mut octets = msg.clone();
            octets.resize(65_535, 0);
            let verdict = core.complete(&read, &mut octets, from(UDP), &answer);
            let verdict = Got::new(verdict, &octets);
            let Got::Reply(len) = verdict else {
                panic!("{verdict:?}");
            };
            octets.truncate(len);
            let fresh = Reply { verdict, octets };
            assert_eq!(
                rcode_and_ede(&fresh),
                expected,
                "{about}, from the upstream"
            );
            // The question is read from the reply, as the workers do.
            core.insert(&read, &fresh.octets, &answer);
            let cached = ask(core, &msg, UDP, 1);
            assert_eq!(rcode_and_ede(&cached), expected, "{about}, from the cache");
            let blocked = core.writer.counters.blocked.get();
            assert_eq!(blocked, u64::from(expected != answered), "{about}");
            // A refresh is looked at as well.
            let key = key(&read, &msg).unwrap();
            core.insert_refreshed(&key, &answer);
            assert_eq!(
                rcode_and_ede(&ask(core, &msg, UDP, 2)),
                expected,
                "{about}, refreshed"
            );
        }
    }
}

#[test]
fn local_data_and_blocklists_come_before_special_names() {
    let mut data = local::LocalData::builder();
    data.record("nas.home.arpa. A 192.0.2.7").unwrap();
    let local = data.build().unwrap();
    let core = &mut core_with(Policy {
        special: special::SpecialNames::new(
            Some(&["5.test".parse().unwrap()]),
            std::iter::empty(),
            &local,
        ),
        local,
        blocklists: lists(&[
            ("intranet.test", blocklist::BlockAction::Allow),
            ("malware.test", blocklist::BlockAction::Refused),
        ]),
        ..Policy::default()
    });
    let answered = (rcode::NOERROR, None);
    for (name, expected) in [
        ("a.localhost", answered),
        ("nas.home.arpa", answered),
        ("other.home.arpa", (rcode::NXDOMAIN, None)),
        ("a.test", (rcode::NXDOMAIN, None)),
        ("printer.local", (rcode::NXDOMAIN, None)),
        ("malware.test", (rcode::REFUSED, Some(15))),
    ] {
        for flags in [header::RD, 0] {
            let reply = ask(core, &query_for(name, flags), UDP, 0);
            assert_eq!(rcode_and_ede(&reply), expected, "{name}");
        }
    }
    for name in ["www.intranet.test", "a.5.test"] {
        let reply = ask(core, &query_for(name, header::RD), UDP, 0);
        assert_eq!(reply.verdict, Got::Miss, "{name}");
    }
}
