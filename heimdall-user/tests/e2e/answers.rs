//! Answers to clients, from an empty cache and from a warm one.

use lab::{Frames, Kdig, Knot, Kxdpgun, QueryFrame, SERVER_V4, SERVER_V6, UPSTREAM, sum};

use crate::{heimdall, heimdall_without_tier, lab, recover::TIMEOUT};

/// Questions for each kind of answer.
const QUESTIONS: &[[&str; 2]] = &[
    ["example.com", "A"],
    ["example.com", "AAAA"],
    ["example.com", "MX"],
    ["example.com", "SOA"],
    ["www.example.com", "A"],
    ["text.example.com", "TXT"],
    ["_dns._udp.example.com", "SRV"],
    ["anything.wild.example.com", "A"],
    ["n4711.example.com", "A"],
    ["n4711.example.com", "AAAA"],
    ["nowhere.example.com", "A"],
    ["1.0.18.198.in-addr.arpa", "PTR"],
];

/// Records in a fixed order, without their TTLs, and the least of the TTLs.
fn sorted(records: &[String]) -> (Vec<String>, Option<u32>) {
    let split = |record: &String| {
        let mut fields: Vec<&str> = record.split(' ').collect();
        let ttl: u32 = fields.remove(1).parse().unwrap();
        (fields.join(" "), ttl)
    };
    let (mut records, ttls): (Vec<String>, Vec<u32>) = records.iter().map(split).unzip();
    records.sort();
    (records, ttls.into_iter().min())
}

#[test]
fn answers_are_the_upstreams_cold_and_warm_on_af_xdp() {
    let Some(lab) = lab("answers_are_the_upstreams") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let port = UPSTREAM.split(':').nth(1).unwrap();
    let mut asked = 0;
    for [name, rtype] in QUESTIONS {
        let question = ["@127.0.0.1", "-p", port, name, rtype];
        let expected = Kdig::run(lab.on_server("kdig"), &question).unwrap();
        for round in ["cold", "warm"] {
            for server in [SERVER_V4, SERVER_V6] {
                let got = Kdig::ask(&lab, &[&format!("@{server}"), name, rtype]).unwrap();
                asked += 1;
                assert_eq!(got.status, expected.status, "{name} {rtype} {round}");
                let (records, ttl) = sorted(&got.answer);
                let (expected_records, expected_ttl) = sorted(&expected.answer);
                assert_eq!(records, expected_records, "{name} {rtype} {round}");
                assert!(
                    ttl <= expected_ttl,
                    "{name} {rtype} {round}: TTLs never grow"
                );
                assert_eq!(
                    got.authority.len(),
                    expected.authority.len(),
                    "{name} {rtype} {round}"
                );
                assert_eq!(got.flags, "qr rd ra", "{name} {rtype} {round}");
                assert_eq!(got.transport, "UDP");
            }
        }
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(stats["interfaces"][0]["attach"], "native");
    assert_eq!(
        stats["interfaces"][0]["verdicts"]["steered"], asked,
        "the kernel's program steered them all"
    );
    assert_eq!(stats["workers"][0]["mode"], "copy");
    assert_eq!(sum(&stats, "received"), asked);
    assert_eq!(sum(&stats, "answered"), asked);
    assert_eq!(sum(&stats, "misses"), QUESTIONS.len() as u64);
    assert_eq!(sum(&stats, "hits"), asked - QUESTIONS.len() as u64);
    assert_eq!(
        stats["sockets"]["udp_received"], 0,
        "nothing went over sockets"
    );
    assert_eq!(stats["forwarder"]["requests"], QUESTIONS.len());
    assert!(lab.has_xdp().unwrap());
}

#[test]
fn the_question_keeps_the_clients_name_case() {
    let Some(lab) = lab("the_question_keeps") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let frames = Frames::open(&lab).unwrap();
    for (id, name) in [
        (1, "n1.example.com"),
        (2, "N1.eXample.COM"),
        (3, "n1.example.com"),
    ] {
        let query = QueryFrame {
            id,
            ..QueryFrame::new(frames.macs, name, 1)
        };
        let sent = query.bytes();
        frames.send(&sent).unwrap();
        // ID and question, behind the headers of Ethernet, IPv4 and UDP.
        let echoes = |frame: &Vec<u8>| {
            frame.len() > 74
                && frame[44] & 0x80 != 0
                && frame[42..44] == sent[42..44]
                && frame[54..74] == sent[54..74]
        };
        let reply = std::iter::from_fn(|| frames.receive()).find(echoes);
        assert!(reply.is_some(), "{name}");
    }
    assert_eq!(sum(&heimdall.stats().unwrap(), "hits"), 2);
}

#[test]
fn ttls_count_down_and_expire() {
    let Some(lab) = lab("ttls_count_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let server = format!("@{SERVER_V4}");
    let ttl = || -> u32 {
        let got = Kdig::ask(&lab, &[&server, "short.example.com", "A"]).unwrap();
        got.answer[0].split(' ').nth(1).unwrap().parse().unwrap()
    };
    let requests = || heimdall.stats().unwrap()["forwarder"]["requests"].as_u64();
    assert_eq!((ttl(), requests()), (2, Some(1)));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // The lifetime ends with a second of the clock, so it may have expired by then, and sooner on a busy machine.
    let (later, asked) = (ttl(), requests());
    assert!(later <= 1 || asked == Some(2), "{later} after a second");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(ttl(), 2, "queried again");
    assert!(requests() > asked, "{asked:?}");
}

#[test]
fn large_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let Some(lab) = lab("large_answers") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let server = format!("@{SERVER_V6}");
    for round in ["cold", "warm"] {
        let cut = Kdig::ask(
            &lab,
            &[
                &server,
                "big.example.com",
                "TXT",
                "+bufsize=4096",
                "+ignore",
            ],
        )
        .unwrap();
        assert_eq!(
            (cut.flags.as_str(), cut.answer.len()),
            ("qr tc rd ra", 0),
            "{round}"
        );
        // kdig retries over TCP by itself.
        let whole = Kdig::ask(&lab, &[&server, "big.example.com", "TXT"]).unwrap();
        assert_eq!(
            (whole.transport.as_str(), whole.answer.len()),
            ("TCP", 60),
            "{round}"
        );
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(sum(&stats, "truncated"), 4);
    assert_eq!(stats["sockets"]["tcp_answered"], 2);
}

#[test]
fn nothing_is_lost_under_load_and_every_frame_is_accounted_for() {
    let Some(lab) = lab("nothing_is_lost_under_load") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    // At rates that an unoptimised build on a busy machine can follow; each miss takes an upstream's response.
    for (round, rate) in [("cold", 2_000), ("warm", 8_000)] {
        let load = Kxdpgun::run(&lab, SERVER_V4, rate, 2).unwrap();
        assert!(
            load.answered() >= 0.999,
            "{round}: {load:?}\n{}",
            heimdall.stats_text().unwrap()
        );
        assert_eq!(load.noerror, load.replies, "{round}");
    }
    // Gauges are updated once a second.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    let stats = heimdall.stats().unwrap();
    assert_eq!(
        stats["interfaces"][0]["verdicts"]["steered"]
            .as_u64()
            .unwrap(),
        sum(&stats, "received")
    );
    assert_eq!(sum(&stats, "received"), sum(&stats, "answered"));
    assert_eq!(sum(&stats, "frames/missing"), 0);
    let places =
        ["fill", "tx", "pending", "free"].map(|place| sum(&stats, &format!("frames/{place}")));
    assert_eq!(
        places.iter().sum::<u64>(),
        sum(&stats, "frames/total"),
        "{places:?}"
    );
    assert_eq!(sum(&stats, "frames/pending"), 0);
    assert_eq!(
        sum(&stats, "ring/rx_invalid_descs") + sum(&stats, "ring/tx_invalid_descs"),
        0
    );
}

#[test]
fn follows_the_interfaces_addresses() {
    let Some(lab) = lab("follows_the_interfaces_addresses") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = lab::Heimdall::on_xdp_at(
        &lab,
        crate::program(),
        &["0.0.0.0:53"],
        &["--upstream", UPSTREAM],
    )
    .unwrap();
    let add = |address: &str, what: &str| {
        lab::run(
            lab.on_server("ip")
                .args(["addr", what, address, "dev", &lab.server_if]),
        )
        .unwrap()
    };
    let steered = || {
        heimdall.stats().unwrap()["interfaces"][0]["verdicts"]["steered"]
            .as_u64()
            .unwrap()
    };
    let ask = |server: &str| Kdig::ask(&lab, &[server, "n1.example.com", "A"]).unwrap();
    ask("@10.53.0.1");
    assert_eq!(steered(), 1, "a wildcard is the interface's addresses");
    add("10.53.0.77/24", "add");
    // The sockets answer until the server has seen it.
    let end = std::time::Instant::now() + TIMEOUT;
    while steered() < 2 {
        assert!(
            std::time::Instant::now() < end,
            "a new address is not steered"
        );
        assert_eq!(ask("@10.53.0.77").from, "10.53.0.77@53");
    }
    add("10.53.0.77/24", "del");
    std::thread::sleep(std::time::Duration::from_millis(300));
    ask("@10.53.0.1");
    assert_eq!(steered(), 3, "the others were not disturbed");
}
