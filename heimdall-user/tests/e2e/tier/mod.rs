//! The hot tier: what it answers, where it stays out of the way, and that it ends with the server.

mod coherence;

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{Frames, Heimdall, Kdig, QueryFrame, SERVER_V4, ScriptedUpstream, UPSTREAM, sum};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    client::{DnsClient, NOTHING, Settings},
    heimdall, lab, program,
    recover::{TIMEOUT, wait_for},
    scenarios::language,
};

pub(crate) const QUERY: &str = "www.example A rd edns";
pub(crate) const ANSWER: &str =
    "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";

/// Queries for an answer after which a worker has nearly certainly offered it to the tier: one hit in 32 does.
pub(crate) const OFTEN: usize = 256;

/// A count of the section `tier`.
fn count(stats: &Value, name: &str) -> u64 {
    let value = &stats["tier"][name];
    value.as_u64().unwrap_or_else(|| panic!("{name}: {value}"))
}

/// Queries that the tier has answered.
pub(crate) fn hits(heimdall: &Heimdall) -> u64 {
    count(&heimdall.stats().unwrap(), "hits")
}

/// Waits until the tier has taken all answers that it has been offered.
pub(crate) fn settle(heimdall: &Heimdall) {
    /// Longer than answers wait for the tier's thread.
    const PAUSE: Duration = Duration::from_millis(400);
    let promotions = || count(&heimdall.stats().unwrap(), "promotions");
    let mut before = promotions();
    loop {
        thread::sleep(PAUSE);
        let now = promotions();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Asks until the tier answers.
pub(crate) fn heat(heimdall: &Heimdall, client: &DnsClient<'_>, query: &str) {
    let query = language::query(query);
    let before = hits(heimdall);
    let end = Instant::now() + TIMEOUT;
    while hits(heimdall) == before {
        assert!(
            Instant::now() < end,
            "the tier does not answer: {:#}\n{}",
            heimdall.stats().unwrap()["tier"],
            heimdall.process.output()
        );
        client.udp_often(&query, OFTEN);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the tier has an answer for a name, as an operator sees it.
fn holds(heimdall: &Heimdall, name: &str) -> bool {
    let output = heimdall.command(&["dump", name]).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().contains("tier")
}

/// Why the tier is off, from its section of the statistics or an interface's; `None` if it is on.
fn reason(tier: &Value) -> Option<&str> {
    match tier["state"].as_str() {
        Some("on") => None,
        _ => Some(tier["reason"].as_str().expect("it says why")),
    }
}

/// A reply whose last record but an OPT record is an address: the octets but for its TTL, and that.
fn without_ttl(mut reply: Vec<u8>) -> (Vec<u8>, u32) {
    const OPT_LEN: usize = 11;
    let opt = if reply[11] == 0 { 0 } else { OPT_LEN };
    let at = reply.len() - opt - (4 + 2 + 4);
    let ttl = &mut reply[at..at + 4];
    let seconds = u32::from_be_bytes((*ttl).try_into().unwrap());
    ttl.fill(0);
    (reply, seconds)
}

#[test]
fn a_popular_name_is_answered_in_the_kernel_as_by_a_worker() {
    let Some(lab) = lab("a_popular_name_is_answered_in_the_kernel") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let mut from_tier = 0;
    for client in [DnsClient::v4(&lab), DnsClient::v6(&lab)] {
        for text in [
            "www.example A rd",
            "wWw.eXaMpLe A rd edns",
            "www.example A rd ad edns=4096",
            "www.example A rd cd edns do",
        ] {
            let query = language::query(text);
            let ask = || {
                let reply = client.udp_octets(&query, TIMEOUT);
                without_ttl(reply.unwrap_or_else(|| panic!("{text}: no reply")))
            };
            ask();
            let (by_worker, before) = ask();
            heat(&heimdall, &client, text);
            let hits_before = hits(&heimdall);
            let (by_tier, after) = ask();
            from_tier += hits(&heimdall) - hits_before;
            assert_eq!(by_tier, by_worker, "{text}");
            assert!(after <= before && after + 20 > before, "{text}: {after}");
        }
    }
    // The tier leaves one hit in 256, at random, to the worker.
    assert!((5..=8).contains(&from_tier), "{from_tier}");
    // Kdig has a mind of its own about messages.
    let before = heimdall.stats().unwrap();
    let server = format!("@{SERVER_V4}");
    for _ in 0..5 {
        let reply = Kdig::ask(&lab, &[&server, "www.example", "A", "+noedns"]).unwrap();
        assert_eq!(reply.status, "NOERROR");
        assert_eq!(reply.flags, "qr rd ra");
        let record = &reply.answer[0];
        assert!(record.ends_with(" IN A 192.0.2.1"), "{record}");
    }
    let after = heimdall.stats().unwrap();
    let grown = |name: &str| count(&after, name) - count(&before, name);
    assert!((2..=5).contains(&grown("hits")), "{}", after["tier"]);
    let of = |stats: &Value, pointer: &str| stats.pointer(pointer).unwrap().as_u64().unwrap();
    for pointer in ["/tier/types/a", "/tier/rcodes/noerror"] {
        assert_eq!(of(&after, pointer) - of(&before, pointer), grown("hits"));
    }
    let received = sum(&after, "received") - sum(&before, "received");
    assert_eq!(received + grown("hits"), 5, "each was answered once");
    let verdicts = &after["interfaces"][0]["verdicts"];
    assert_eq!(verdicts["answered"].as_u64(), Some(count(&after, "hits")));
    assert!(holds(&heimdall, "www.example"));
}

#[test]
fn popular_names_are_refreshed_though_the_tier_answers() {
    /// With this TTL the last second is for the refresh.
    const TTL: u32 = 10;
    let Some(lab) = lab("popular_names_are_refreshed_though") else {
        return;
    };
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, |query| {
        vec![lab::message::address(
            &query.message().unwrap(),
            TTL,
            [192, 0, 2, 1],
        )]
    })
    .unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    client.udp(QUERY);
    heat(&heimdall, &client, QUERY);
    let before = hits(&heimdall);
    let mut asked = 0;
    let end = Instant::now() + TIMEOUT;
    while upstream.queries("www.example") < 2 {
        assert!(Instant::now() < end, "{}", heimdall.stats_text().unwrap());
        let reply = client.udp(QUERY);
        let expected = format!("NOERROR qr rd ra | www.example. A | {TTL} A");
        assert!(reply.starts_with(&expected), "{reply}");
        asked += 1;
        thread::sleep(Duration::from_millis(2));
    }
    let by_tier = hits(&heimdall) - before;
    assert!(by_tier > asked / 2, "{by_tier} of {asked}");
    heat(&heimdall, &client, QUERY);
    let stats = heimdall.stats().unwrap();
    assert_eq!(sum(&stats, "misses"), 1, "it never expired");
    assert_eq!(stats["forwarder"]["refreshes"], 1);
}

#[test]
fn tags_padding_and_families_are_answered_alike() {
    let Some(lab) = lab("tags_padding_and_families") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    let frames = Frames::open(&lab).unwrap();
    // Replies of many lengths: the name's, and a text's.
    let names: Vec<String> = (1..60)
        .step_by(7)
        .map(|len| "a".repeat(len))
        .chain((60..400).step_by(23).map(|len| format!("len-{len}.x")))
        .collect();
    let qtype = |name: &str| if name.starts_with("len") { 16 } else { 1 };
    for name in &names {
        let query = QueryFrame::new(frames.macs, name, qtype(name));
        client.udp_often(&query.dns(), OFTEN);
    }
    settle(&heimdall);
    let before = hits(&heimdall);
    let mut asked = 0;
    for (number, name) in names.iter().enumerate() {
        for (v6, udp_size) in [
            (false, None),
            (false, Some(1232)),
            (true, None),
            (true, Some(512)),
        ] {
            // The kernel takes the outermost tag out of what this socket receives.
            for tags in [vec![], vec![[0x81, 0]]] {
                let query = QueryFrame {
                    v6,
                    udp_size,
                    tags,
                    id: number as u16,
                    padded_to: 700,
                    ..QueryFrame::new(frames.macs, name, qtype(name))
                };
                asked += 1;
                let reply = frames.exchange(&query).unwrap();
                let reply = reply.unwrap_or_else(|| panic!("no reply to {query:?}"));
                let text = language::reply(&reply, &query.dns());
                let expected = format!("NOERROR qr rd ra | {name}. ");
                assert!(text.starts_with(&expected), "{query:?}: {text}");
                assert_eq!(text.ends_with("opt 1232"), udp_size.is_some(), "{text}");
            }
        }
    }
    let hits = hits(&heimdall) - before;
    assert!(hits * 100 >= asked * 95, "{hits} of {asked}");
    assert_eq!(
        sum(&heimdall.stats().unwrap(), "dropped/bad_checksum"),
        0,
        "these frames are right"
    );
}

#[test]
fn rate_limits_and_demanded_cookies_keep_the_tier_out_of_the_way() {
    let Some(lab) = lab("rate_limits_and_demanded_cookies") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("");
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    for (text, key) in [
        (
            "[rate-limit]\nresponses-per-second = 5\nslip = 0",
            "rate-limit.responses-per-second",
        ),
        ("[cookies]\ndemand-above = 10", "cookies.demand-above"),
    ] {
        heat(&heimdall, &client, QUERY);
        assert_eq!(reason(&heimdall.stats().unwrap()["tier"]), None);
        settings.write(text);
        assert!(heimdall.reload().unwrap().status.success());
        let before = hits(&heimdall);
        let begin = Instant::now();
        let replies = client.udp_at_once(QUERY, OFTEN);
        if text.starts_with("[rate") {
            // Those at once, and five in each second that it took.
            let most = 15 + 5 * begin.elapsed().as_secs() as usize;
            assert!((10..=most).contains(&replies.len()), "{}", replies.len());
        }
        assert_eq!(hits(&heimdall), before, "{text}");
        let stats = heimdall.stats().unwrap();
        let reason = reason(&stats["tier"]).expect("it is off");
        assert!(reason.contains(key), "{reason}");
        settings.write("");
        assert!(heimdall.reload().unwrap().status.success());
    }
    heat(&heimdall, &client, QUERY);
}

#[test]
fn a_kill_leaves_nothing_of_the_tier() {
    let Some(lab) = lab("a_kill_leaves_nothing_of_the_tier") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    heat(&heimdall, &client, QUERY);
    heimdall.process.signal(Signal::SIGKILL).unwrap();
    heimdall.process.wait(TIMEOUT).unwrap();
    // The kernel drops the last reference to the link asynchronously.
    let end = Instant::now() + TIMEOUT;
    while lab.has_xdp().unwrap() {
        assert!(Instant::now() < end, "{}", lab.server_link().unwrap());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(DnsClient::v4(&lab).udp_in_vain(QUERY), NOTHING);
}

#[test]
fn the_tier_is_off_on_a_veth_unless_it_is_switched_on() {
    let Some(lab) = lab("the_tier_is_off_on_a_veth") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = DnsClient::v4(&lab);
    for mode in ["auto", "off"] {
        let arguments = ["--upstream", UPSTREAM, "--tier", mode];
        let heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
        client.udp_often(&language::query(QUERY), 4 * OFTEN);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(client.udp(QUERY), ANSWER, "{mode}");
        let stats = heimdall.stats().unwrap();
        let interface = &stats["interfaces"][0];
        assert_eq!(interface["verdicts"]["answered"], 0, "{mode}");
        assert!(reason(&interface["tier"]).is_some(), "{mode}");
        let lines = heimdall.process.output();
        let lines = lines.lines().filter(|line| line.contains(": hot tier off"));
        assert_eq!(lines.count(), usize::from(mode == "auto"), "{mode}");
    }
}

#[test]
fn the_tier_returns_with_its_interface() {
    let Some(lab) = lab("the_tier_returns_with_its_interface") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    heat(&heimdall, &DnsClient::v4(&lab), QUERY);
    lab.server_ip(&format!("link del {}", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "gone", |stats| stats["backend"] == "socket");
    lab.connect(1).unwrap();
    wait_for(&heimdall, "back", |stats| stats["backend"] == "xdp");
    heat(&heimdall, &DnsClient::v4(&lab), QUERY);
    let stats = heimdall.stats().unwrap();
    assert_eq!(reason(&stats["interfaces"][0]["tier"]), None);
}
