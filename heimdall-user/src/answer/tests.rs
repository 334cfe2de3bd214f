#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::checksum;
use crate::{cache::MIN_BYTES, dns::answer::AnswerFields};

const UDP: Transport = Transport::Udp {
    source_port: 40_000,
};

/// The time on the wall when the core's clock says 0.
const UNIX: u32 = 1_800_000_000;

fn from(transport: Transport) -> Client {
    Client::new("10.0.0.2".parse().unwrap(), transport)
}

fn core() -> Core {
    core_with(Policy::default())
}

fn core_with(policy: Policy) -> Core {
    let server = Server::new(1232, true);
    Core::new(
        Cache::new(MIN_BYTES).unwrap(),
        NameHasher::default(),
        server,
        Arc::new(ArcSwap::from_pointee(policy)),
        Arc::default(),
        Arc::default(),
    )
}

/// A query for `a.` with these flags, type and class, and an OPT record if a payload size, version
/// and DO are given.
fn query(flags: u16, qtype: u16, qclass: u16, edns: Option<(u16, u8, bool)>) -> Vec<u8> {
    let mut msg = vec![0xab, 0xcd];
    msg.extend_from_slice(&flags.to_be_bytes());
    msg.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some()), 1, b'a', 0]);
    msg.extend_from_slice(&qtype.to_be_bytes());
    msg.extend_from_slice(&qclass.to_be_bytes());
    if let Some((size, version, dnssec_ok)) = edns {
        msg.extend_from_slice(&[0, 0, 41]);
        msg.extend_from_slice(&size.to_be_bytes());
        msg.extend_from_slice(&[0, version, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    msg
}

/// An upstream's answer to `query`, of so many octets of data, with AD.
fn answer_to(query: &[u8], octets: usize) -> Answer {
    let mut body = vec![0xc0, 12];
    body.extend_from_slice(&query[15..19]);
    body.extend_from_slice(&[0, 0, 0, 60]);
    body.extend_from_slice(&(octets as u16).to_be_bytes());
    body.extend(vec![0; octets]);
    Answer::new(&AnswerFields {
        counts: [1, 0, 0],
        body: &body,
        ttl_offsets: &[6],
        ttl: 60,
        authentic: true,
        ..AnswerFields::default()
    })
}

/// What a verdict says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Reply(usize),
    Drop,
    Miss,
}

impl Got {
    /// Checks that a reply's sum is that of its octets, too.
    fn new(verdict: Verdict, octets: &[u8]) -> Self {
        match verdict {
            Verdict::Reply(reply) => {
                let sum = checksum::add(0, &octets[..reply.len]);
                assert_eq!(checksum::finish_udp(reply.sum), checksum::finish_udp(sum));
                Self::Reply(reply.len)
            }
            Verdict::Drop => Self::Drop,
            Verdict::Miss => Self::Miss,
        }
    }
}

struct Reply {
    verdict: Got,
    octets: Vec<u8>,
}

impl Reply {
    fn flags(&self) -> u16 {
        u16::from_be_bytes([self.octets[2], self.octets[3]])
    }

    fn rcode(&self) -> u8 {
        self.octets[3] & 0xf
    }
}

fn ask(core: &mut Core, msg: &[u8], transport: Transport, now: u32) -> Reply {
    let mut octets = msg.to_vec();
    octets.resize(65_535, 0);
    core.begin(Now {
        seconds: now,
        unix: UNIX + now,
    });
    let verdict = match core.read(msg) {
        Ok(query) => core.answer(&query, &mut octets, from(transport)),
        Err(malformed) => core.reject(malformed, &mut octets, from(transport)),
    };
    let verdict = Got::new(verdict, &octets);
    if let Got::Reply(len) = verdict {
        octets.truncate(len);
    }
    Reply { verdict, octets }
}

fn learn(core: &mut Core, msg: &[u8], octets: usize) {
    let query = core.read(msg).unwrap();
    core.learn(&query, msg, &answer_to(msg, octets));
}

#[test]
fn want_of_room_is_told() {
    for (edns, end) in [
        (None, &[][..]),
        (Some((1232, 0, false)), &[0, 6, 0, 15, 0, 2, 0, 14][..]),
    ] {
        let mut core = core();
        let mut octets = query(0x0100, 1, 1, edns);
        let query = core.read(&octets).unwrap();
        octets.resize(512, 0);
        let verdict = core.overload(&query, &mut octets, from(UDP));
        let Got::Reply(len) = Got::new(verdict, &octets) else {
            panic!("{verdict:?}");
        };
        assert_eq!(octets[3] & 0xf, rcode::SERVFAIL);
        assert!(octets[..len].ends_with(end), "{:?}", &octets[..len]);
        assert_eq!(core.writer.counters.servfail.get(), 1);
    }
}

#[test]
fn what_cannot_be_forwarded_is_refused() {
    for (qtype, qclass) in [
        (1, 3),
        (1, 255),
        (251, 1),
        (252, 1),
        (249, 1),
        (250, 1),
        (253, 1),
        (254, 1),
        (41, 1),
        (0, 1),
    ] {
        let reply = ask(&mut core(), &query(0x0100, qtype, qclass, None), UDP, 0);
        assert_eq!(
            (reply.verdict, reply.rcode()),
            (Got::Reply(19), rcode::REFUSED),
            "{qtype} {qclass}"
        );
    }
    for qtype in [1, 28, 65, 257, 65_280] {
        assert_eq!(
            ask(&mut core(), &query(0x0100, qtype, 1, None), UDP, 0).verdict,
            Got::Miss,
            "{qtype}"
        );
    }
}

#[test]
fn other_edns_versions_are_badvers() {
    let reply = ask(
        &mut core(),
        &query(0x0100, 1, 1, Some((1232, 1, true))),
        UDP,
        0,
    );
    assert_eq!(reply.verdict, Got::Reply(30));
    // The lower four bits in the header, the upper eight in our OPT record of version 0.
    assert_eq!(
        (reply.rcode(), &reply.octets[19..]),
        (0, &[0, 0, 41, 4, 0xd0, 1, 0, 0x80, 0, 0, 0][..])
    );
}

#[test]
fn flags_of_a_hit() {
    let mut core = core();
    for (flags, edns, expected) in [
        (0x0100, None, 0x8180),
        (0x0000, None, 0x8080),
        (0x0120, None, 0x81a0),
        (0x0100, Some((1232, 0, true)), 0x81a0),
        (0x0110, None, 0x8190),
        (0x0140, None, 0x8180),
        (0x0780, None, 0x8180),
    ] {
        let msg = query(flags, 16, 1, edns);
        learn(&mut core, &msg, 10);
        let reply = ask(&mut core, &msg, UDP, 1);
        assert_eq!(reply.flags(), expected, "flags {flags:#06x}");
        assert_eq!(reply.octets[..2], [0xab, 0xcd]);
        assert_eq!(reply.octets[12..19], msg[12..19]);
    }
}

#[test]
fn do_and_cd_are_other_questions() {
    let mut core = core();
    learn(&mut core, &query(0x0100, 16, 1, None), 10);
    assert!(matches!(
        ask(
            &mut core,
            &query(0x0100, 16, 1, Some((512, 0, false))),
            UDP,
            0
        )
        .verdict,
        Got::Reply(_)
    ));
    assert_eq!(
        ask(
            &mut core,
            &query(0x0100, 16, 1, Some((512, 0, true))),
            UDP,
            0
        )
        .verdict,
        Got::Miss
    );
    assert_eq!(
        ask(&mut core, &query(0x0110, 16, 1, None), UDP, 0).verdict,
        Got::Miss
    );
}

#[test]
fn the_limit_is_the_least_of_client_server_and_room() {
    let mut core = core();
    let fixed = 19 + 12;
    for (edns, limit) in [
        (None, 512),
        (Some((100, 0, false)), 512),
        (Some((600, 0, false)), 600),
        (Some((4096, 0, false)), 1232),
    ] {
        let msg = query(0x0100, 16, 1, edns);
        let opt = if edns.is_some() { 11 } else { 0 };
        for (len, cut) in [(limit, false), (limit + 1, true)] {
            let mut core = self::core();
            learn(&mut core, &msg, len - fixed - opt);
            let reply = ask(&mut core, &msg, UDP, 0);
            let expected = if cut { 19 + opt } else { len };
            assert_eq!(reply.verdict, Got::Reply(expected), "{edns:?}");
            assert_eq!(reply.flags() & header::TC != 0, cut);
        }
    }
    let msg = query(0x0100, 16, 1, None);
    learn(&mut core, &msg, 60_000);
    assert_eq!(
        ask(&mut core, &msg, Transport::Tcp, 0).verdict,
        Got::Reply(fixed + 60_000)
    );
    let mut room = msg.clone();
    let query = core.read(&msg).unwrap();
    let verdict = core.answer(&query, &mut room, from(Transport::Tcp));
    assert_eq!(
        Got::new(verdict, &room),
        Got::Reply(19),
        "no room but for the question"
    );
}

#[test]
fn errors_do_not_go_where_they_could_loop() {
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

#[test]
fn without_an_answer_it_is_servfail() {
    let mut core = core();
    let msg = query(0x0110, 1, 1, Some((1232, 0, true)));
    let query = core.read(&msg).unwrap();
    let mut buf = msg.clone();
    let failure = Answer::failure(rcode::SERVFAIL, None, 0);
    let verdict = core.complete(&query, &mut buf, from(UDP), &failure);
    assert_eq!(Got::new(verdict, &buf), Got::Reply(30));
    assert_eq!((buf[2], buf[3]), (0x81, 0x92));
}

#[test]
fn an_answer_that_came_truncated_is_told_over_udp_and_not_kept() {
    let mut core = core();
    let failed = [0, 6, 0, 15, 0, 2, 0, 23];
    for (transport, code, flags) in [
        (UDP, rcode::NOERROR, [0x83, 0x90]),
        (UDP, rcode::NXDOMAIN, [0x83, 0x93]),
        (Transport::Tcp, rcode::NOERROR, [0x81, 0x92]),
    ] {
        let msg = query(0x0110, 16, 1, Some((1232, 0, false)));
        let query = core.read(&msg).unwrap();
        let mut buf = msg.clone();
        buf.resize(512, 0);
        let answer = Answer::truncated(code, 23);
        core.learn(&query, &msg, &answer);
        let verdict = core.complete(&query, &mut buf, from(transport), &answer);
        assert_eq!(Got::new(verdict, &buf), Got::Reply(36));
        assert_eq!(
            (&buf[2..4], &buf[4..12]),
            (&flags[..], &[0, 1, 0, 0, 0, 0, 0, 1][..])
        );
        assert_eq!(buf[28..36], failed);
        assert_eq!(ask(&mut core, &msg, transport, 0).verdict, Got::Miss);
        // It is no reason to give up what is known.
        let key = key(&query, &msg).unwrap();
        core.learn(&query, &msg, &answer_to(&msg, 9));
        core.relearn(&key, &answer);
        assert!(matches!(
            ask(&mut core, &msg, transport, 0).verdict,
            Got::Reply(_)
        ));
        core = self::core();
    }
}

/// Asks from an address, with a COOKIE option of these octets if there are any.
fn ask_from(core: &mut Core, address: &str, transport: Transport, cookie: &[u8]) -> Reply {
    let mut msg = query(0x0100, 16, 1, Some((1232, 0, false)));
    if !cookie.is_empty() {
        let at = msg.len() - 1;
        msg[at] = 4 + cookie.len() as u8;
        msg.extend_from_slice(&[0, 10, 0, cookie.len() as u8]);
        msg.extend_from_slice(cookie);
    }
    let mut octets = msg.clone();
    octets.resize(65_535, 0);
    let client = Client::new(address.parse().unwrap(), transport);
    let query = core.read(&msg).unwrap();
    let verdict = core.answer(&query, &mut octets, client);
    let verdict = Got::new(verdict, &octets);
    if let Got::Reply(len) = verdict {
        octets.truncate(len);
    }
    Reply { verdict, octets }
}

impl Reply {
    /// The octets of the reply's OPT record's options.
    fn options(&self) -> &[u8] {
        let at = self.octets.windows(3).rposition(|part| part == [0, 0, 41]);
        &self.octets[at.unwrap() + 11..]
    }

    fn is_truncated(&self) -> bool {
        self.flags() & header::TC != 0
    }
}

fn prefixes<const N: usize>(list: [&str; N]) -> Vec<access::Prefix> {
    list.map(|text| text.parse().unwrap()).to_vec()
}

#[test]
fn strangers_are_refused_and_told_why() {
    let core = &mut core_with(Policy {
        access: access::Access::new(
            &prefixes(["192.0.2.0/24", "2001:db8::/32"]),
            &prefixes(["192.0.2.64/26"]),
            &prefixes(["192.0.2.99"]),
        ),
        ..Policy::default()
    });
    learn(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 10);
    for transport in [UDP, Transport::Tcp] {
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
fn a_prefix_that_asks_too_much_gets_less_and_then_nothing() {
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
    learn(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 600);
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
fn nobody_is_answered_at_port_zero() {
    let core = &mut core();
    let msg = query(0x0100, 16, 1, None);
    learn(core, &msg, 10);
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
    assert!(matches!(verdict, Verdict::Reply(_)), "{verdict:?}");
}

#[test]
fn cookies_prove_an_address_and_are_demanded_under_load() {
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
    learn(core, &query(0x0100, 16, 1, Some((1232, 0, false))), 10);
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

/// A hit in whatever letters, after whatever time; [`ask`] checks the sum.
#[test]
fn hits_keep_the_letters_of_the_client() {
    for letters in [b"example", b"EXAMPLE", b"eXaMpLe"] {
        let core = &mut core();
        let mut msg = query(0x0100, 16, 1, Some((1232, 0, false)));
        learn(core, &msg, 20);
        msg.splice(13..14, letters.iter().copied());
        msg[12] = letters.len() as u8;
        assert_eq!(ask(core, &msg, UDP, 0).verdict, Got::Miss);
        let mut other = msg.clone();
        other[13..20].make_ascii_uppercase();
        let answer = answer_to(&query(0x0100, 16, 1, None), 20);
        let read = core.read(&other).unwrap();
        core.learn(&read, &other, &answer);
        for now in [0, 1, 30, 59] {
            let reply = ask(core, &msg, UDP, now);
            assert!(matches!(reply.verdict, Got::Reply(_)));
            assert_eq!(reply.octets[12..20], msg[12..20]);
        }
    }
}

#[test]
fn a_new_policy_starts_with_an_empty_cache() {
    let shared = Arc::new(ArcSwap::from_pointee(Policy::default()));
    let core = &mut core_with(Policy::default());
    core.shared_policy = Arc::clone(&shared);
    let msg = query(0x0100, 16, 1, None);
    learn(core, &msg, 10);
    assert_eq!(ask(core, &msg, UDP, 0).verdict, Got::Miss, "a new one");
    learn(core, &msg, 10);
    let verdict = ask(core, &msg, UDP, 0).verdict;
    assert!(matches!(verdict, Got::Reply(_)), "same second");
    let closed = Policy {
        access: access::Access::new(&prefixes(["192.0.2.0/24"]), &[], &[]),
        ..Policy::default()
    };
    shared.store(Arc::new(closed));
    assert_eq!(ask(core, &msg, UDP, 1).rcode(), rcode::REFUSED);
    shared.store(Arc::new(Policy::default()));
    assert_eq!(ask(core, &msg, UDP, 1).verdict, Got::Miss);
}

/// A query for `name`, with RD or not, and an OPT record.
fn query_for(name: &str, flags: u16) -> Vec<u8> {
    let mut msg = query(flags, 1, 1, Some((1232, 0, false)));
    let name = hostname::wire(name.as_bytes()).unwrap();
    msg.splice(12..15, name);
    msg
}

/// An upstream's answer: a chain of aliases to the last name's address.
fn aliased(targets: &[&str]) -> Answer {
    let mut body = body::Body::default();
    let mut owner = body::QUESTION.to_vec();
    for target in targets {
        let target = hostname::wire(target.as_bytes()).unwrap();
        body.answer(&owner, rrtype::CNAME, CLASS_IN, 300, &target);
        owner = target;
    }
    body.answer(&owner, 1, CLASS_IN, 300, &[192, 0, 2, 1]);
    body.into_answer(rcode::NOERROR, None).unwrap()
}

/// The response code and the info-code of the Extended DNS Error.
fn says(reply: &Reply) -> (u8, Option<u8>) {
    let ede = match reply.options() {
        [0, 15, 0, 2, 0, code, ..] => Some(*code),
        _ => None,
    };
    (reply.rcode(), ede)
}

fn lists(lists: &[(&str, blocklist::Action)]) -> blocklist::Blocklists {
    let lists = lists
        .iter()
        .map(|(text, action)| (text.as_bytes(), *action));
    blocklist::Blocklists::build(lists).unwrap().0
}

#[test]
fn a_query_without_rd_is_answered_from_what_is_here() {
    let policy = |non_recursive| {
        let mut data = local::LocalData::builder();
        data.record("local.lan. A 192.0.2.7").unwrap();
        Policy {
            local: data.build().unwrap(),
            blocklists: lists(&[("ads.ok", blocklist::Action::NxDomain)]),
            non_recursive,
            ..Policy::default()
        }
    };
    const RD: u16 = header::RD;
    let refused = (rcode::REFUSED, Some(20));
    for transport in [UDP, Transport::Tcp] {
        let core = &mut core_with(policy(NonRecursive::Cache));
        let ask = |core: &mut Core, name, flags| ask(core, &query_for(name, flags), transport, 0);
        assert_eq!(says(&ask(core, "a.ok", 0)), refused);
        assert_eq!(says(&ask(core, "a.ok", 0)), refused, "not cached");
        assert_eq!(ask(core, "a.ok", RD).verdict, Got::Miss);
        let msg = query_for("a.ok", RD);
        let read = core.read(&msg).unwrap();
        core.learn(&read, &msg, &aliased(&[]));
        assert_eq!(says(&ask(core, "a.ok", 0)), (rcode::NOERROR, None));
        assert_eq!(says(&ask(core, "local.lan", 0)), (rcode::NOERROR, None));
        assert_eq!(says(&ask(core, "ads.ok", 0)), (rcode::NXDOMAIN, Some(15)));
        assert_eq!(core.writer.counters.misses.get(), 1);

        let core = &mut core_with(policy(NonRecursive::Forward));
        assert_eq!(ask(core, "a.ok", 0).verdict, Got::Miss);

        let core = &mut core_with(policy(NonRecursive::Refuse));
        let msg = query_for("a.ok", RD);
        core.learn(&read, &msg, &aliased(&[]));
        for _ in 0..2 {
            assert_eq!(says(&ask(core, "a.ok", RD)), (rcode::NOERROR, None));
            assert_eq!(says(&ask(core, "a.ok", 0)), refused);
            assert_eq!(says(&ask(core, "local.lan", 0)), refused);
        }
        let chaos = query(0, 16, CLASS_CH, Some((1232, 0, false)));
        let reply = super::tests::ask(core, &chaos, transport, 0);
        assert_eq!(says(&reply), (rcode::REFUSED, Some(21)), "another class");
    }
    let core = &mut core_with(policy(NonRecursive::Cache));
    let msg = query_for("a.ok", 0);
    let read = core.read(&msg).unwrap();
    let client = from(Transport::Udp { source_port: 0 });
    let mut buf = [&msg[..], &[0; 500]].concat();
    assert_eq!(core.answer(&read, &mut buf, client), Verdict::Drop);
}

/// A popular answer near its end is refreshed for those who desire recursion, and only for them.
#[test]
fn a_query_without_rd_asks_for_no_refresh() {
    let core = &mut core();
    let (with, without) = (query_for("a.ok", header::RD), query_for("a.ok", 0));
    let read = core.read(&with).unwrap();
    core.begin(Now::default());
    core.learn(&read, &with, &aliased(&[]));
    let mut refresh = |msg: &[u8], now| {
        let reply = ask(core, msg, UDP, now);
        let query = core.read(msg).unwrap();
        assert_eq!(says(&reply), (rcode::NOERROR, None));
        core.take_refresh(&query, &reply.octets)
    };
    assert!(!refresh(&with, 1));
    assert!(!refresh(&with, 2));
    assert!(!refresh(&without, 290));
    assert!(refresh(&with, 291), "the query before has not used it up");
    assert!(!refresh(&with, 292), "once");
}

#[test]
fn an_alias_of_a_blocked_name_is_blocked() {
    use blocklist::Action;
    let policy = |blocklist_aliases| Policy {
        blocklists: lists(&[
            ("ads.ok\n", Action::NxDomain),
            ("0.0.0.0 tracker.ok\n", Action::NullAddress),
            ("malware.ok\n", Action::Refused),
            ("shop.ok\nfine.ads.ok\n", Action::Allow),
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
            assert_eq!(says(&fresh), expected, "{about}, from the upstream");
            // Learnt from the reply, as the workers do, or from the query.
            core.learn(&read, &fresh.octets, &answer);
            let cached = ask(core, &msg, UDP, 1);
            assert_eq!(says(&cached), expected, "{about}, from the cache");
            let blocked = core.writer.counters.blocked.get();
            assert_eq!(blocked, u64::from(expected != answered), "{about}");
            // A refresh is looked at as well.
            let key = key(&read, &msg).unwrap();
            core.relearn(&key, &answer);
            assert_eq!(
                says(&ask(core, &msg, UDP, 2)),
                expected,
                "{about}, refreshed"
            );
        }
    }
}

#[test]
fn what_the_operator_says_comes_before_special_names() {
    let mut data = local::LocalData::builder();
    data.record("nas.home.arpa. A 192.0.2.7").unwrap();
    let local = data.build().unwrap();
    let core = &mut core_with(Policy {
        special: special::SpecialNames::new(&["5.test".parse().unwrap()], &local),
        local,
        blocklists: lists(&[
            ("intranet.test", blocklist::Action::Allow),
            ("malware.test", blocklist::Action::Refused),
        ]),
        ..Policy::default()
    });
    let answered = (rcode::NOERROR, None);
    for (name, expected) in [
        ("a.localhost", answered),
        ("nas.home.arpa", answered),
        ("other.home.arpa", (rcode::NXDOMAIN, None)),
        ("a.test", (rcode::NXDOMAIN, None)),
        ("malware.test", (rcode::REFUSED, Some(15))),
    ] {
        for flags in [header::RD, 0] {
            let reply = ask(core, &query_for(name, flags), UDP, 0);
            assert_eq!(says(&reply), expected, "{name}");
        }
    }
    for name in ["www.intranet.test", "a.5.test", "local", "a.local"] {
        let reply = ask(core, &query_for(name, header::RD), UDP, 0);
        assert_eq!(reply.verdict, Got::Miss, "{name}");
    }
}

#[test]
fn every_response_code_is_counted() {
    let core = &mut core();
    let msg = query(header::RD, 1, 1, None);
    let read = core.read(&msg).unwrap();
    for code in [6, 8, 15, 5] {
        let mut buf = msg.clone();
        let answer = Answer::failure(code, None, 0);
        let verdict = core.complete(&read, &mut buf, from(UDP), &answer);
        assert_eq!(Got::new(verdict, &buf), Got::Reply(19));
        assert_eq!(buf[3] & 0xf, code);
    }
    let counters = &core.writer.counters;
    assert_eq!((counters.other.get(), counters.refused.get()), (3, 1));
}

#[test]
fn what_an_upstream_may_have_anew() {
    let answer = |rcode, ede| {
        Answer::new(&AnswerFields {
            rcode,
            ede,
            ttl: 60,
            ..AnswerFields::default()
        })
    };
    let refreshable = |answer: &Answer| is_refreshable(&answer.as_ref());
    for ede in [None, Some(ede::STALE), Some(ede::BLOCKED)] {
        assert!(refreshable(&answer(rcode::NOERROR, ede)), "{ede:?}");
        assert!(refreshable(&answer(rcode::NXDOMAIN, ede)), "{ede:?}");
        assert!(!refreshable(&answer(rcode::SERVFAIL, ede)), "{ede:?}");
        assert!(!refreshable(&answer(rcode::YXDOMAIN, ede)), "{ede:?}");
        let stale = answer(rcode::NOERROR, ede).as_ref().stale();
        assert!(!refreshable(&stale), "{ede:?}");
    }
}
