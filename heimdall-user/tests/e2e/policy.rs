//! The operator's rules for clients: access, rate limits, cookies, and the identity that the server reports, or
//! itself.

use lab::{Heimdall, Kdig, Lab, SERVER_V4, ScriptedUpstream, UPSTREAM, sum};

use crate::{
    client::{CLOSED, DnsClient, NOTHING, Settings, TIMEOUT},
    lab, program,
    scenarios::language,
};

const QUERY: &str = "www.example A rd edns";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";
const CUT: &str = "NOERROR qr tc rd ra | www.example. A | | | | opt 1232";
/// EDE 18, Prohibited.
const REFUSED: &str = "REFUSED qr rd ra | www.example. A | | | | opt 1232 ede=18";

const CLIENT_COOKIE: &str = "0102030405060708";

/// Starts a server.
type Start = fn(&Settings, &Lab) -> Heimdall;

/// The backend for UDP.
const BACKENDS: [(&str, Start); 2] = [
    ("AF_XDP", Settings::on_xdp),
    ("sockets", Settings::on_sockets),
];

/// The counters of the front that answers over UDP.
fn datagrams(stats: &serde_json::Value) -> &serde_json::Value {
    match stats["backend"].as_str() {
        Some("xdp") => &stats["workers"][0],
        _ => &stats["sockets"],
    }
}

#[test]
fn clients_outside_the_access_list_are_refused_or_dropped() {
    let Some(lab) = lab("clients_outside_the_access_list") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = DnsClient::v4(&lab);
    let drop_us = "[access]\ndrop = [\"10.53.0.0/24\"]";
    for (backend, start) in BACKENDS {
        let with = |text: &str| start(&Settings::new(text), &lab);
        {
            let heimdall = with("");
            assert_eq!(client.udp(QUERY), ANSWER, "{backend}: a private address");
            assert_eq!(client.tcp(QUERY), ANSWER, "{backend}: a private address");
            let log = heimdall.process.output();
            assert!(!log.contains("WARN") && !log.contains("PUBLIC"), "{log}");
        }
        {
            let heimdall = with("[access]\nallow = [\"10.53.0.9/32\"]");
            assert_eq!(client.udp(QUERY), REFUSED, "{backend}");
            assert_eq!(client.tcp(QUERY), REFUSED, "{backend}");
            assert_eq!(DnsClient::v6(&lab).udp(QUERY), REFUSED, "{backend}");
            let stats = heimdall.stats().unwrap();
            let prohibited =
                sum(&stats, "prohibited") + stats["sockets"]["prohibited"].as_u64().unwrap();
            assert_eq!(prohibited, 3, "{backend}");
            assert_eq!(stats["forwarder"]["requests"], 0, "{backend}");
        }
        {
            let heimdall = with(drop_us);
            assert_eq!(client.udp_in_vain(QUERY), NOTHING, "{backend}");
            assert_eq!(client.tcp(QUERY), CLOSED, "{backend}");
            // Addresses outside of the prefix are answered as before.
            assert_eq!(DnsClient::v6(&lab).udp(QUERY), ANSWER, "{backend}");
            let stats = heimdall.stats().unwrap();
            assert!(
                datagrams(&stats)["dropped"]["access"].as_u64() >= Some(1),
                "{backend}"
            );
        }
        let heimdall = with("[access]\nallow = [\"10.0.0.0/8\", \"0.0.0.0/0\"]");
        let log = heimdall.process.output();
        let warning = log.lines().find(|line| line.contains("PUBLIC"));
        let warning = warning.unwrap_or_else(|| panic!("no warning: {log}"));
        assert!(
            warning.contains("WARN") && warning.contains(": 0.0.0.0/0;"),
            "{warning}"
        );
        assert_eq!(client.udp(QUERY), ANSWER, "{backend}");
    }
    let allow = |prefix| {
        let arguments = ["--upstream", UPSTREAM, "--allow", prefix];
        Heimdall::on_xdp(&lab, program(), &arguments).unwrap()
    };
    {
        let _heimdall = allow("10.53.0.9");
        assert_eq!(client.udp(QUERY), REFUSED);
    }
    let heimdall = allow("10.53.0.2");
    assert_eq!(client.udp(QUERY), ANSWER);
    assert_eq!(heimdall.stats().unwrap()["sockets"]["udp_received"], 0);
}

#[test]
fn a_flood_gets_no_more_than_its_allowance() {
    let Some(lab) = lab("a_flood_gets_no_more") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("[rate-limit]\nresponses-per-second = 5\nslip = 2");
    let (v4, v6) = (DnsClient::v4(&lab), DnsClient::v6(&lab));
    for (backend, start) in BACKENDS {
        let heimdall = start(&settings, &lab);
        let count = |name: &str| {
            let stats = heimdall.stats().unwrap();
            datagrams(&stats).pointer(name).unwrap().as_u64().unwrap()
        };
        // A burst is two seconds' allowance; as many again if a second begins meanwhile.
        let replies = v4.udp_at_once(QUERY, 100);
        let got = |expected: &str| replies.iter().filter(|reply| *reply == expected).count();
        let (whole, cut) = (got(ANSWER), got(CUT));
        assert!((10..=20).contains(&whole), "{backend}: {whole}");
        let limited = 100 - whole;
        assert!(
            cut.abs_diff(limited / 2) <= 1,
            "{backend}: {cut} of {limited}"
        );
        assert_eq!(replies.len(), whole + cut, "{backend}: nothing else");
        assert_eq!(count("/slipped"), cut as u64, "{backend}");
        assert_eq!(
            count("/dropped/rate_limited"),
            (limited - cut) as u64,
            "{backend}"
        );

        for _ in 0..30 {
            assert_eq!(v4.tcp(QUERY), ANSWER, "{backend}: TCP cannot be forged");
        }

        // Nor can an address that a valid cookie came from.
        let large = "len-1000.example TXT rd edns";
        let query = language::query(&format!("{large} option=10:{CLIENT_COOKIE}"));
        let given = v4.tcp_octets(&query).unwrap();
        let cookie = language::cookie(&given).unwrap();
        let proven = format!("{large} option=10:{cookie}");
        let is_large = |reply: &&String| reply.contains("| 300 TXT (");
        let replies = v4.udp_at_once(&proven, 50);
        assert_eq!(
            replies.iter().filter(is_large).count(),
            50,
            "{backend}: {replies:?}"
        );

        // Another client: once half of its allowance is used, it gets small replies only.
        let (truncated, slipped) = (count("/truncated"), count("/slipped"));
        let replies = v6.udp_at_once(large, 14);
        let whole = replies.iter().filter(is_large).count();
        let small = (count("/truncated") - truncated) - (count("/slipped") - slipped);
        assert!(
            (5..=10).contains(&whole) && small >= 4,
            "{backend}: {whole}, {small}"
        );
    }
}

/// A query with this COOKIE option; the COOKIE option of the reply.
fn cookie(client: &DnsClient<'_>, given: &str) -> Option<String> {
    let query = language::query(&format!("{QUERY} option=10:{given}"));
    let reply = client.udp_octets(&query, TIMEOUT).unwrap();
    let text = language::reply(&reply, &query);
    let expected = format!("{ANSWER} cookie=24");
    assert!(text == expected || text == ANSWER, "{text}");
    language::cookie(&reply)
}

#[test]
fn cookies_are_given_and_required_under_load() {
    let Some(lab) = lab("cookies_are_given") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = DnsClient::v4(&lab);
    for (backend, start) in BACKENDS {
        let settings = Settings::new("[cookies]\ndemand-above = 10");
        let heimdall = start(&settings, &lab);
        let given = cookie(&client, CLIENT_COOKIE).unwrap();
        assert!(given.starts_with(CLIENT_COOKIE), "{backend}: {given}");
        assert_eq!(cookie(&client, &given), Some(given.clone()), "{backend}");

        // The load is measured over this second and the one before.
        let busy = || assert_eq!(client.udp_at_once(QUERY, 30), [ANSWER; 30], "{backend}");
        busy();
        let without = format!("{QUERY} option=10:{CLIENT_COOKIE}");
        let bad = "BADCOOKIE qr rd ra | www.example. A | | | | opt 1232 cookie=24";
        assert_eq!(client.udp(&without), bad, "{backend}");
        assert_eq!(
            client.tcp(&without),
            format!("{ANSWER} cookie=24"),
            "{backend}"
        );
        assert_eq!(cookie(&client, &given), Some(given), "{backend}");

        // A real client retries with the cookie that it is given.
        busy();
        let server = format!("@{SERVER_V4}");
        let option = format!("+cookie={CLIENT_COOKIE}");
        let kdig = Kdig::ask(&lab, &[&server, "www.example", "A", &option]).unwrap();
        assert_eq!(kdig.status, "NOERROR", "{backend}");
        assert_eq!(kdig.transport, "UDP", "{backend}");
        let stats = heimdall.stats().unwrap();
        assert_eq!(datagrams(&stats)["rcodes"]["badcookie"], 2, "{backend}");
    }
}

#[test]
fn servers_with_the_same_secret_accept_each_others_cookies() {
    let Some(lab) = lab("servers_with_the_same_secret") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = DnsClient::v6(&lab);
    let [first, second, third] = ["11", "22", "33"].map(|octet| octet.repeat(16));
    let with = |text: &str| Settings::new(&format!("[cookies]\n{text}")).on_xdp(&lab);
    let secrets = |secrets: &[&String]| with(&format!("secrets = {secrets:?}"));
    let given = {
        let _heimdall = secrets(&[&first]);
        cookie(&client, CLIENT_COOKIE).unwrap()
    };
    {
        // During a change of secret: this server makes new cookies, and accepts old ones.
        let _heimdall = secrets(&[&second, &first]);
        assert_eq!(cookie(&client, &given).as_ref(), Some(&given));
        assert_ne!(cookie(&client, CLIENT_COOKIE).as_ref(), Some(&given));
    }
    {
        let _heimdall = secrets(&[&third]);
        let other = cookie(&client, &given).unwrap();
        assert_ne!(other, given, "not one of its own");
        assert!(other.starts_with(CLIENT_COOKIE));
        assert_eq!(cookie(&client, &other), Some(other.clone()));
    }
    let _heimdall = with("enabled = false");
    assert_eq!(cookie(&client, &given), None);
    assert_eq!(cookie(&client, CLIENT_COOKIE), None);
}

#[test]
fn the_identity_is_told_only_if_it_is_set() {
    let Some(lab) = lab("the_identity_is_told") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = DnsClient::v4(&lab);
    let _heimdall = Settings::new("").on_xdp(&lab);
    for name in [
        "version.bind",
        "version.server",
        "id.server",
        "hostname.bind",
    ] {
        // EDE 21, Not Supported.
        let expected = format!("REFUSED qr rd ra | {name}. TXT class=3 | | | | opt 1232 ede=21");
        let query = format!("{name} TXT rd edns class=3");
        assert_eq!(client.udp(&query), expected);
        assert_eq!(client.tcp(&query), expected);
    }
    let nsid = format!("{QUERY} option=3:");
    assert_eq!(client.udp(&nsid), ANSWER, "no NSID");
    assert_eq!(client.tcp(&nsid), ANSWER, "no NSID");
}
