//! The forwarder's cache: stale answers, failures, names that do not exist; and its report to the
//! upstreams about clients.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::op::{Message, ResponseCode};
use lab::{Heimdall, Lab, Received, ScriptedUpstream, UPSTREAM, by_label, message};

use crate::{
    client::{DnsClient, Settings},
    lab,
};

/// The behaviour of an upstream, which a test changes.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with an address whose last octet and TTL in seconds these are. Names with a label `gone`
    /// do not exist.
    Answer(u8, u32),
    /// As above, but only over TCP.
    AnswerOverTcp,
    /// Takes queries and stays silent.
    Nothing,
}

/// Lets the upstream behave so from now on.
fn behave(upstream: &ScriptedUpstream, does: Does) {
    upstream.set_script(move |received| {
        let query = received.message().unwrap();
        match does {
            Does::Answer(last, ttl) => vec![response(&query, last, ttl)],
            Does::AnswerOverTcp if received.tcp => vec![response(&query, 1, 60)],
            Does::AnswerOverTcp => vec![message::truncated(&query)],
            Does::Nothing => vec![],
        }
    });
}

/// An upstream that behaves so.
fn start(lab: &Lab, does: Does) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start(lab, UPSTREAM).unwrap();
    behave(&upstream, does);
    upstream
}

/// An A record 192.0.2.`last`, or NXDOMAIN, for `ttl` seconds.
fn response(query: &Message, last: u8, ttl: u32) -> Vec<u8> {
    let name = message::lower_case(query.queries[0].name());
    if !name.split('.').any(|label| label == "gone") {
        return message::address(query, ttl, [192, 0, 2, last]);
    }
    let mut denial = message::response(query);
    denial.metadata.response_code = ResponseCode::NXDomain;
    denial.add_authority(message::soa(&message::name("example"), ttl, ttl));
    message::octets(&denial)
}

/// The reply for a name: an A record 192.0.2.`last`.
fn address(name: &str, ttl: u32, last: u8) -> String {
    format!("NOERROR qr rd ra | {name}. A | {ttl} A 192.0.2.{last} | | | opt 1232")
}

/// TTLs are shown rounded up to tens, those of stale answers are 30.
const STALE: &str = "NOERROR qr rd ra | here.example. A | 30 A 192.0.2.1 | | | opt 1232 ede=3";
const HERE: &str = "here.example A rd edns";
const GONE: &str = "gone.example A rd edns";

/// Waits until an answer with a TTL of a second has expired.
fn expire() {
    thread::sleep(Duration::from_millis(2_100));
}

/// Waits until a counter has this value.
fn wait(heimdall: &Heimdall, place: &str, count: u64) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let stats = heimdall.stats().unwrap();
        if stats.pointer(place).unwrap().as_u64() == Some(count) {
            return;
        }
        assert!(Instant::now() < end, "{place} is not {count}: {stats:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn stale_answers_are_served_while_an_upstream_is_silent() {
    let Some(lab) = lab("stale_answers_are_served") else {
        return;
    };
    let upstream = start(&lab, Does::Answer(1, 1));
    let client = DnsClient::v4(&lab);
    let settings = Settings::new(
        "[forward]\ntimeout-ms = 5000\nattempts = 3\nclient-response-timeout-ms = 300",
    );
    let heimdall = settings.on_xdp(&lab);
    assert_eq!(client.udp(HERE), address("here.example", 10, 1));
    assert!(client.udp(GONE).starts_with("NXDOMAIN "));
    behave(&upstream, Does::Nothing);
    expire();

    let asked = Instant::now();
    assert_eq!(client.udp(HERE), STALE);
    let took = asked.elapsed();
    let expected = Duration::from_millis(250)..Duration::from_millis(4_900);
    assert!(expected.contains(&took), "{took:?}: before the try is over");
    let denied = client.udp(GONE);
    assert!(
        denied.starts_with("NXDOMAIN ") && denied.ends_with(" ede=19"),
        "{denied}"
    );
    // From then on at once, from every front.
    let asked = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.udp(HERE), STALE);
        assert_eq!(client.tcp(HERE), STALE);
    }
    // Half of the time that they take if each waits for the client's time-out.
    assert!(asked.elapsed() < 40 * Duration::from_millis(300) / 2);
    assert!(
        upstream.received().len() <= 2 + 3 + 3,
        "no more than the tries of one look-up for each name"
    );

    // The look-up has continued without a client. A reload empties the caches that hold the stale answer.
    behave(&upstream, Does::Answer(2, 60));
    wait(&heimdall, "/forwarder/answers", 4);
    assert!(heimdall.reload().unwrap().status.success());
    assert_eq!(client.udp(HERE), address("here.example", 60, 2));
    assert_eq!(client.tcp(HERE), address("here.example", 60, 2));
}

#[test]
fn an_upstream_that_is_gone_is_not_asked_again_at_once() {
    let Some(lab) = lab("an_upstream_that_is_gone") else {
        return;
    };
    let client = DnsClient::v4(&lab);
    let settings = Settings::new("[forward]\ntimeout-ms = 200");
    let heimdall = settings.on_xdp(&lab);
    let upstream = start(&lab, Does::Answer(1, 1));
    assert_eq!(client.udp(HERE), address("here.example", 10, 1));
    drop(upstream);
    expire();
    assert_eq!(client.udp(HERE), STALE);

    let queries = || heimdall.stats().unwrap()["upstreams"][0]["queries"].clone();
    let before = queries();
    for _ in 0..5 {
        // Without the fronts' caches.
        assert!(heimdall.reload().unwrap().status.success());
        assert_eq!(client.udp(HERE), STALE);
        assert_eq!(client.tcp(HERE), STALE);
        thread::sleep(Duration::from_millis(400));
    }
    assert_eq!(queries(), before);
    // A probe finds out that it is back.
    let _upstream = start(&lab, Does::Answer(2, 60));
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = client.udp(HERE);
        if reply == address("here.example", 60, 2) {
            break;
        }
        assert_eq!(reply, STALE);
        assert!(Instant::now() < end, "{}", heimdall.process.output());
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn without_stale_answers_there_is_servfail() {
    let Some(lab) = lab("without_stale_answers") else {
        return;
    };
    let upstream = start(&lab, Does::Answer(1, 1));
    let client = DnsClient::v4(&lab);
    let settings = "[cache]\nstale-max-age = 0\n[forward]\ntimeout-ms = 100\nattempts = 2";
    let _heimdall = Settings::new(settings).on_xdp(&lab);
    assert_eq!(client.udp(HERE), address("here.example", 10, 1));
    behave(&upstream, Does::Nothing);
    expire();
    let reply = client.udp(HERE);
    // EDE 22, No Reachable Authority; 23, Network Error.
    let with = |ede: u16| format!("SERVFAIL qr rd ra | here.example. A | | | | opt 1232 ede={ede}");
    assert!(reply == with(22) || reply == with(23), "{reply}");
}

#[test]
fn failures_are_cached_with_growing_pauses() {
    let Some(lab) = lab("failures_are_cached") else {
        return;
    };
    let (times, asked_at) = mpsc::channel();
    let script = move |received: &Received| {
        times.send(Instant::now()).unwrap();
        by_label(received)
    };
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, script).unwrap();
    let client = DnsClient::v4(&lab);
    let _heimdall = Settings::new("").on_xdp(&lab);
    const FAILING: &str = "servfail.example A rd edns";

    let replies = client.udp_at_once(FAILING, 20);
    assert_eq!(replies.len(), 20);
    assert!(
        replies.iter().all(|reply| reply.starts_with("SERVFAIL ")),
        "{replies:?}"
    );
    let mut last = asked_at.try_recv().unwrap();
    assert!(asked_at.try_recv().is_err(), "once for all of them");
    // For a second, and then for two, however often clients ask.
    for seconds in [1, 2] {
        let end = Instant::now() + Duration::from_secs(20);
        let next = loop {
            assert!(client.udp(FAILING).starts_with("SERVFAIL "));
            assert!(client.tcp(FAILING).starts_with("SERVFAIL "));
            if let Ok(next) = asked_at.try_recv() {
                break next;
            }
            assert!(Instant::now() < end, "not asked again");
            thread::sleep(Duration::from_millis(20));
        };
        // Its clock has ticks.
        let pause = Duration::from_millis(1_000 * seconds - 20);
        assert!(next - last >= pause, "{:?} after {seconds} s", next - last);
        last = next;
    }
}

#[test]
fn a_name_that_does_not_exist_is_asked_for_once() {
    let Some(lab) = lab("a_name_that_does_not_exist") else {
        return;
    };
    let upstream = start(&lab, Does::Answer(1, 60));
    let client = DnsClient::v4(&lab);
    let mut before = 0;
    for (cut, below) in [(false, 2), (true, 0)] {
        let heimdall = Settings::new(&format!("[cache]\nnxdomain-cut = {cut}")).on_xdp(&lab);
        let mut asked = |names: &[&str]| {
            for name in names {
                let reply = client.udp(&format!("{name} rd"));
                assert!(reply.starts_with("NXDOMAIN "), "{name}: {reply}");
            }
            let asked = upstream.received().len() - before;
            before += asked;
            asked
        };
        assert_eq!(
            asked(&["gone.example A", "gone.example AAAA", "GONE.example TXT"]),
            1,
            "{cut}"
        );
        assert_eq!(
            asked(&[
                "a.gone.example A",
                "b.c.gone.example A",
                "a.gone.example AAAA"
            ]),
            below,
            "{cut}"
        );
        let stats = heimdall.stats().unwrap();
        let cuts = if cut { 3 } else { 0 };
        assert_eq!(stats["forwarder"]["nxdomain_cut_hits"], cuts);
    }
}

#[test]
fn an_answer_cached_by_one_front_costs_no_query_on_another() {
    let Some(lab) = lab("an_answer_cached_by_one_front") else {
        return;
    };
    let upstream = start(&lab, Does::Answer(1, 60));
    let client = DnsClient::v4(&lab);
    let heimdall = Settings::new("").on_xdp(&lab);
    assert_eq!(client.udp(HERE), address("here.example", 60, 1));
    assert_eq!(client.tcp(HERE), address("here.example", 60, 1));
    assert_eq!(upstream.received().len(), 1);
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["workers"][0]["misses"], 1);
    assert_eq!(stats["sockets"]["misses"], 1);
    assert_eq!(stats["forwarder"]["cache"]["hits"], 1);
}

#[test]
fn upstreams_see_the_configured_subnet_and_never_a_clients() {
    let Some(lab) = lab("upstreams_see_the_configured_subnet") else {
        return;
    };
    let upstream = start(&lab, Does::AnswerOverTcp);
    let client = DnsClient::v4(&lab);
    // The rest of the OPT record, after its type, size and flags.
    for (settings, options) in [
        ("[forward]\ncookies = false", vec![0, 0]),
        (
            "[forward]\ncookies = false\nclient-subnet = \"192.0.2.0/23\"",
            vec![0, 11, 0, 8, 0, 7, 0, 1, 23, 0, 192, 0, 2],
        ),
        (
            "[forward]\ncookies = false\nclient-subnet = \"2001:db8::/32\"",
            vec![0, 12, 0, 8, 0, 8, 0, 2, 32, 0, 0x20, 1, 0xd, 0xb8],
        ),
    ] {
        let _heimdall = Settings::new(settings).on_xdp(&lab);
        let before = upstream.received().len();
        for (number, option) in ["", "option=8:000118000a3500", "option=8:00010000"]
            .iter()
            .enumerate()
        {
            let name = format!("n{number}.example");
            let reply = client.udp(&format!("{name} A rd edns {option}"));
            assert!(
                reply.starts_with(&address(&name, 60, 1)),
                "{settings}: {reply}"
            );
        }
        let asked = upstream.received().split_off(before);
        assert_eq!(asked.len(), 6, "three over UDP and again over TCP");
        for query in asked {
            let mut options = options.clone();
            if query.tcp {
                // RFC 7828: edns-tcp-keepalive.
                options[1] += 4;
                options.extend([0, 11, 0, 0]);
            }
            let opt = query.msg.len() - 9 - options.len();
            let opt = &query.msg[opt..];
            assert_eq!(&opt[..3], &[0, 0, 41], "{settings}: {query:?}");
            assert_eq!(&opt[9..], options, "{settings}");
        }
    }
}
