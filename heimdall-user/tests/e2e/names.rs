//! Queries that are not forwarded: without RD, and for special names; by settings that a reload
//! changes.

use lab::{ScriptedUpstream, UPSTREAM};

use crate::{
    client::{DnsClient, Settings},
    lab,
};

/// The reply to a query with these flags for an address that the upstream has.
fn address(name: &str, flags: &str) -> String {
    format!("NOERROR qr {flags} | {name}. A | 300 A 192.0.2.1 | | | opt 1232")
}

/// EDE 20, Not Authoritative.
fn refused(name: &str) -> String {
    format!("REFUSED qr ra | {name}. A | | | | opt 1232 ede=20")
}

#[test]
fn nothing_is_looked_up_for_a_query_without_rd() {
    let Some(lab) = lab("nothing_is_looked_up_for_a_query_without_rd") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("");
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    let asker6 = DnsClient::v6(&lab);
    let set = |text: &str| {
        settings.write(text);
        assert!(heimdall.reload().unwrap().status.success());
    };
    // The replies to queries without RD before and after the name is cached; and how often the
    // upstream was queried for it.
    let ask = |name: &str| {
        let with = format!("{name} A rd edns");
        let without = format!("{name} A edns");
        let both = || {
            let replies = [
                client.udp(&without),
                asker6.udp(&without),
                client.tcp(&without),
            ];
            assert_eq!(replies, [&replies[0]; 3].map(String::clone), "{name}");
            replies[0].clone()
        };
        let cold = both();
        let asked = upstream.queries(name);
        assert_eq!(client.udp(&with), address(name, "rd ra"));
        assert_eq!(client.tcp(&with), address(name, "rd ra"));
        (cold, both(), asked)
    };
    let name = "a.example";
    assert_eq!(ask(name), (refused(name), address(name, "ra"), 0));
    set("[access]\nnon-recursive = \"refuse\"");
    let name = "b.example";
    assert_eq!(ask(name), (refused(name), refused(name), 0));
    set("[access]\nnon-recursive = \"forward\"");
    let name = "c.example";
    assert_eq!(ask(name), (address(name, "ra"), address(name, "ra"), 1));
}

#[test]
fn special_names_are_not_sent_upstream() {
    let Some(lab) = lab("special_names_are_not_sent_upstream") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("");
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    let set = |text: &str| {
        settings.write(text);
        assert!(heimdall.reload().unwrap().status.success());
    };
    let ask = |name: &str| {
        let query = format!("{name} A rd edns");
        let replies = [client.udp(&query), client.tcp(&query), client.udp(&query)];
        let codes = replies.map(|reply| reply.split_once(' ').unwrap().0.to_owned());
        assert_eq!(codes, [&codes[0]; 3].map(String::clone), "{name}");
        (codes[0].clone(), upstream.queries(name))
    };
    let code = |code: &str, asked| (code.to_owned(), asked);
    for (name, expected) in [
        ("a.test", "NXDOMAIN"),
        ("a.onion", "NXDOMAIN"),
        ("1.0.168.192.in-addr.arpa", "NXDOMAIN"),
        ("a.localhost", "NOERROR"),
        ("_dns.resolver.arpa", "NOERROR"),
    ] {
        assert_eq!(ask(name), code(expected, 0), "{name}");
    }
    set("[local]\nspecial-names-except = [\"a.test\"]");
    assert_eq!(ask("a.test"), code("NOERROR", 1));
    assert_eq!(ask("b.test"), code("NXDOMAIN", 0));
    set("[local]\nspecial-names = false");
    assert_eq!(ask("b.test"), code("NOERROR", 1));
    assert_eq!(ask("a.localhost"), code("NOERROR", 1));
}
