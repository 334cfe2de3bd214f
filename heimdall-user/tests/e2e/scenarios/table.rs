//! The rules, a line each: title, query, reply. `language.rs` explains the words, `upstream.rs` the
//! names.

/// The transport of a scenario's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Any,
    /// Any transport, but only with a real forwarder.
    Path,
    Udp,
    Tcp,
}

/// A rule of the protocol, as a query and its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) rule: &'static str,
    pub(super) over: Over,
    pub(super) query: &'static str,
    /// The reply, or `nothing`.
    pub(super) reply: &'static str,
}

const fn rule(rule: &'static str, query: &'static str, reply: &'static str) -> Scenario {
    Scenario {
        rule,
        over: Over::Any,
        query,
        reply,
    }
}

const fn udp(rule: &'static str, query: &'static str, reply: &'static str) -> Scenario {
    Scenario {
        rule,
        over: Over::Udp,
        query,
        reply,
    }
}

/// One that takes a real forwarder.
const fn path(rule: &'static str, query: &'static str, reply: &'static str) -> Scenario {
    Scenario {
        rule,
        over: Over::Path,
        query,
        reply,
    }
}

const fn tcp(rule: &'static str, query: &'static str, reply: &'static str) -> Scenario {
    Scenario {
        rule,
        over: Over::Tcp,
        query,
        reply,
    }
}

/// The settings under which the scenarios hold; `{directory}` has the files of
/// [`FILES`].
pub(super) const SETTINGS: &str = r#"
upstream = ["127.0.0.1:5300"]
[forward]
trust-ad = true
follow-aliases = false
[identity]
version = "Heimdall"
server-id = "lab-1"
[cookies]
secrets = ["e5e973e5a6b2a43f48e7dc849e37bfcf"]
[local]
hosts = ["{directory}/hosts"]
records = [
    "printer.lan. 300 IN A 10.9.8.7",
    "printer.lan. 300 IN TXT \"two\" \"strings\"",
    "scanner.lan. 300 IN CNAME printer.lan.",
]
special-names-except = ["168.192.in-addr.arpa"]
[[blocklist]]
file = "{directory}/ads"
[[blocklist]]
file = "{directory}/malware"
action = "refused"
[[blocklist]]
file = "{directory}/trackers"
action = "null"
[[blocklist]]
file = "{directory}/exceptions"
action = "allow"
"#;

/// The files that the settings name.
pub(super) const FILES: [(&str, &str); 5] = [
    (
        "hosts",
        "10.9.8.6 nas.lan nas # the disks\nfd00::6 nas.lan\n",
    ),
    ("ads", "ads.ok\n# a comment\n"),
    ("malware", "malware.ok\n"),
    ("trackers", "0.0.0.0 tracker.ok\n"),
    ("exceptions", "fine.ads.ok\nshop.ok\n"),
];

#[rustfmt::skip] // a line a rule
pub(super) const SCENARIOS: &[Scenario] = &[
    // The header.
    rule("a reply is never answered", "h1.ok. A qr rd", "nothing"),
    rule("RD, CD and the letters of the name come back; Z, AA and TC do not", "H2.oK. A rd cd z aa tc", "NOERROR qr rd ra cd | H2.oK. A | 300 A 192.0.2.1"),
    rule("without RD nothing is looked up", "h3.ok. A edns", "REFUSED qr ra | h3.ok. A | | | | opt 1232 ede=20"),
    rule("recursion is available", "h3.ok. A rd", "NOERROR qr rd ra | h3.ok. A | 300 A 192.0.2.1"),
    rule("without RD, from the cache", "h3.ok. A", "NOERROR qr ra | h3.ok. A | 300 A 192.0.2.1"),
    rule("without RD, a local name", "printer.lan. A", "NOERROR qr ra | printer.lan. A | 300 A 10.9.8.7"),
    rule("without RD, a blocked name", "ads.ok. AAAA", "NXDOMAIN qr ra | ads.ok. AAAA | | 60 SOA . . 1 3600 600 86400 60"),
    rule("AD to a client that sets AD, from a trusted upstream", "ad.h4. A rd ad", "NOERROR qr rd ra ad | ad.h4. A | 300 A 192.0.2.1"),
    rule("AD to a client that sets DO", "ad.h5. A rd edns do", "NOERROR qr rd ra ad | ad.h5. A | 300 A 192.0.2.1 | | | opt 1232 do"),
    rule("no AD to others", "ad.h6. A rd", "NOERROR qr rd ra | ad.h6. A | 300 A 192.0.2.1"),
    rule("no AD if the upstream has not validated", "h7.ok. A rd ad", "NOERROR qr rd ra | h7.ok. A | 300 A 192.0.2.1"),
    rule("unknown opcodes: NOTIMP, header only", "h8.ok. A rd opcode=2", "NOTIMP qr rd"),
    rule("UPDATE and NOTIFY: NOTIMP", "h9.ok. A opcode=5", "NOTIMP qr"),
    rule("no question: FORMERR, header only", "h10.ok. A rd qdcount=0", "FORMERR qr rd"),
    rule("two questions: FORMERR, header only", "h11.ok. A rd qdcount=2", "FORMERR qr rd"),
    rule("shorter than a header: dropped", "h12.ok. A rd end=11", "nothing"),
    rule("the question is cut: FORMERR", "h13.ok. A rd end=20", "FORMERR qr rd"),
    rule("octets after the message: tolerated", "h14.ok. A rd more=0102030405", "NOERROR qr rd ra | h14.ok. A | 300 A 192.0.2.1"),
    rule("a count without its record: FORMERR with the question", "h15.ok. A rd set=10:0001", "FORMERR qr rd | h15.ok. A"),
    // Names.
    rule("a compression pointer in the question: FORMERR", "n1.ok. A rd set=12:c00c", "FORMERR qr rd"),
    rule("a label of type 0x40: FORMERR", "n2.ok. A rd set=12:42", "FORMERR qr rd"),
    rule("a label of type 0x80: FORMERR", "n3.ok. A rd set=12:82", "FORMERR qr rd"),
    rule("a label of 63 octets", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk.ok. A rd", "NOERROR qr rd ra | abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk.ok. A | 300 A 192.0.2.1"),
    rule("letters: one case is as good as the other", "N4.OK. AAAA rd", "NOERROR qr rd ra | N4.OK. AAAA | 300 AAAA 2001:db8::1"),
    rule("octets that are no letters are told apart", "n5\\000\\255.ok. A rd", "NOERROR qr rd ra | n5\\000\\377.ok. A | 300 A 192.0.2.1"),
    rule("the root", ". TXT rd", "NOERROR qr rd ra | . TXT | 300 TXT text"),
    // Types and classes.
    rule("unknown types are passed on as they are", "t1.ok. TYPE65280 rd", "NOERROR qr rd ra | t1.ok. TYPE65280 | 300 TYPE65280 cafe"),
    rule("HTTPS", "t2.ok. HTTPS rd", "NOERROR qr rd ra | t2.ok. HTTPS | 300 HTTPS 1 . alpn=h2,"),
    rule("ANY: one record that says no", "t3.ok. ANY rd", "NOERROR qr rd ra | t3.ok. ANY | 3600 HINFO RFC8482"),
    rule("AXFR: refused", "t4.ok. AXFR rd", "REFUSED qr rd ra | t4.ok. AXFR"),
    rule("IXFR: refused, and why", "t5.ok. TYPE251 rd edns", "REFUSED qr rd ra | t5.ok. IXFR | | | | opt 1232 ede=21"),
    rule("the OPT type as a question: refused", "t6.ok. TYPE41 rd", "REFUSED qr rd ra | t6.ok. OPT"),
    rule("type 0: refused", "t7.ok. TYPE0 rd", "REFUSED qr rd ra | t7.ok. ZERO"),
    rule("class ANY: refused", "t8.ok. A rd class=255", "REFUSED qr rd ra | t8.ok. A class=255"),
    rule("class HS: refused", "t9.ok. A rd class=4", "REFUSED qr rd ra | t9.ok. A class=4"),
    rule("version.bind", "version.bind. TXT class=3", "NOERROR qr ra | version.bind. TXT class=3 | 0 TXT Heimdall"),
    rule("version.server, in any case of letters", "VERSION.server. TXT class=3 rd", "NOERROR qr rd ra | VERSION.server. TXT class=3 | 0 TXT Heimdall"),
    rule("id.server", "id.server. TXT class=3", "NOERROR qr ra | id.server. TXT class=3 | 0 TXT lab-1"),
    rule("hostname.bind", "hostname.bind. TXT class=3", "NOERROR qr ra | hostname.bind. TXT class=3 | 0 TXT lab-1"),
    rule("other names of class CH: refused", "authors.bind. TXT class=3", "REFUSED qr ra | authors.bind. TXT class=3"),
    rule("other types of class CH: refused", "version.bind. A class=3", "REFUSED qr ra | version.bind. A class=3"),
    rule("version.bind of class IN is a name as any other", "version.bind. TXT rd", "NOERROR qr rd ra | version.bind. TXT | 300 TXT text"),
    // EDNS.
    rule("OPT for OPT, with our size", "e1.ok. A rd edns=4096", "NOERROR qr rd ra | e1.ok. A | 300 A 192.0.2.1 | | | opt 1232"),
    rule("DO comes back", "e2.ok. A rd edns do", "NOERROR qr rd ra | e2.ok. A | 300 A 192.0.2.1 | | | opt 1232 do"),
    rule("version 1: BADVERS, and our version is 0", "e3.ok. A rd edns version=1", "BADVERS qr rd ra | e3.ok. A | | | | opt 1232"),
    rule("two OPT: FORMERR", "e4.ok. A rd edns again", "FORMERR qr rd | e4.ok. A"),
    rule("OPT with an owner: FORMERR", "e5.ok. A rd edns owner", "FORMERR qr rd | e5.ok. A"),
    rule("an option past its end: FORMERR", "e6.ok. A rd edns more=00 set=32:0001", "FORMERR qr rd | e6.ok. A"),
    rule("unknown options are ignored", "e7.ok. A rd edns option=65001:0102 option=12:0000", "NOERROR qr rd ra | e7.ok. A | 300 A 192.0.2.1 | | | opt 1232"),
    rule("NSID", "e8.ok. A rd edns option=3:", "NOERROR qr rd ra | e8.ok. A | 300 A 192.0.2.1 | | | opt 1232 nsid=lab-1"),
    rule("no NSID to those who do not ask", "e9.ok. A rd edns", "NOERROR qr rd ra | e9.ok. A | 300 A 192.0.2.1 | | | opt 1232"),
    rule("the upstream's OPT and options, except for an Extended DNS Error, stay where they are", "chatty.e10. A rd edns", "NOERROR qr rd ra | chatty.e10. A | 300 A 192.0.2.1 | | | opt 1232"),
    rule("none to a client without OPT", "chatty.e11. A rd", "NOERROR qr rd ra | chatty.e11. A | 300 A 192.0.2.1"),
    rule("a client's subnet is not passed on, and not echoed", "e12.ok. A rd edns option=8:00011800c00002", "NOERROR qr rd ra | e12.ok. A | 300 A 192.0.2.1 | | | opt 1232"),
    // Cookies.
    rule("a client cookie gets a server cookie", "c1.ok. A rd edns option=10:2464c4abcf10c957", "NOERROR qr rd ra | c1.ok. A | 300 A 192.0.2.1 | | | opt 1232 cookie=24"),
    rule("a wrong server cookie gets a right one", "c2.ok. A rd edns option=10:2464c4abcf10c957010000005cf79f111f8130c3eee29480", "NOERROR qr rd ra | c2.ok. A | 300 A 192.0.2.1 | | | opt 1232 cookie=24"),
    rule("a cookie of no possible length: FORMERR", "c3.ok. A rd edns option=10:2464c4abcf10c9", "FORMERR qr rd | c3.ok. A"),
    rule("without a question, with a client cookie: a server cookie", ". A rd edns qdcount=0 bare option=10:2464c4abcf10c957", "NOERROR qr rd ra | | | | | opt 1232 cookie=24"),
    rule("without a question, with a wrong server cookie: BADCOOKIE", ". A rd edns qdcount=0 bare option=10:2464c4abcf10c957010000005cf79f111f8130c3eee29480", "BADCOOKIE qr rd ra | | | | | opt 1232 cookie=24"),
    // Sizes.
    udp("512 octets without EDNS: one too many", "big-473.s1. TXT rd", "NOERROR qr tc rd ra | big-473.s1. TXT"),
    udp("512 octets without EDNS: just so many", "big-472.s2. TXT rd", "NOERROR qr rd ra | big-472.s2. TXT | 300 TXT (470 octets)"),
    udp("the client's size: one too many", "big-550.s3. TXT rd edns=600", "NOERROR qr tc rd ra | big-550.s3. TXT | | | | opt 1232"),
    udp("the client's size: just so many", "big-549.s3. TXT rd edns=600", "NOERROR qr rd ra | big-549.s3. TXT | 300 TXT (546 octets) | | | opt 1232"),
    udp("sizes below 512 mean 512", "big-450.s4. TXT rd edns=100", "NOERROR qr rd ra | big-450.s4. TXT | 300 TXT (448 octets) | | | opt 1232"),
    udp("the server's size: one too many", "big-1181.s5. TXT rd edns=4096", "NOERROR qr tc rd ra | big-1181.s5. TXT | | | | opt 1232"),
    udp("the server's size: just so many", "big-1180.s5. TXT rd edns=4096", "NOERROR qr rd ra | big-1180.s5. TXT | 300 TXT (1175 octets) | | | opt 1232"),
    udp("larger than the server's size", "big-3000.s6. TXT rd edns=4096", "NOERROR qr tc rd ra | big-3000.s6. TXT | | | | opt 1232"),
    udp("additional records that do not fit are left out", "extra-30.s10. A rd", "NOERROR qr rd ra | extra-30.s10. A | 300 A 192.0.2.1 | 300 NS ns.ok."),
    udp("with options, too", "extra-40.s11. A rd edns=600 option=3: option=10:2464c4abcf10c957", "NOERROR qr rd ra | extra-40.s11. A | 300 A 192.0.2.1 | 300 NS ns.ok. | | opt 1232 nsid=lab-1 cookie=24"),
    udp("and then the servers", "servers-25.s12. A rd", "NOERROR qr rd ra | servers-25.s12. A | 300 A 192.0.2.1"),
    udp("but not the proof of a wildcard", "proof-25.s13. A rd edns=512 do", "NOERROR qr tc rd ra | proof-25.s13. A | | | | opt 1232 do"),
    udp("what is cut keeps its response code", "nxlong.s9. A rd", "NXDOMAIN qr tc rd ra | nxlong.s9. A"),
    tcp("whole over TCP", "big-3000.s7. TXT rd", "NOERROR qr rd ra | big-3000.s7. TXT | 300 TXT (2988 octets)"),
    tcp("whole over TCP, large", "big-60000.s8. TXT rd edns", "NOERROR qr rd ra | big-60000.s8. TXT | 300 TXT (59765 octets) | | | opt 1232"),
    // TTLs.
    rule("TTLs above the cap", "ttl-700000.l1. A rd", "NOERROR qr rd ra | ttl-700000.l1. A | 86400 A 192.0.2.1"),
    rule("TTL 0 is answered", "ttl-0.l2. A rd", "NOERROR qr rd ra | ttl-0.l2. A | 0 A 192.0.2.1"),
    rule("a TTL with its top bit set means 0", "msb.l3. A rd", "NOERROR qr rd ra | msb.l3. A | 0 A 192.0.2.1"),
    rule("a chain of two names", "alias.l4. A rd", "NOERROR qr rd ra | alias.l4. A | 300 CNAME target.ok., target.ok. 200 A 192.0.2.7"),
    // Negative answers.
    rule("NXDOMAIN: the SOA's MINIMUM bounds its TTL", "nx.g1. A rd", "NXDOMAIN qr rd ra | nx.g1. A | | g1. 60 SOA ns.soa. mail.soa. 1 3600 600 86400 60"),
    rule("no data: the SOA's TTL bounds it", "nodata.g2. A rd", "NOERROR qr rd ra | nodata.g2. A | | g2. 60 SOA ns.soa. mail.soa. 1 3600 600 86400 600"),
    rule("NXDOMAIN without SOA", "nxnosoa.g3. A rd", "NXDOMAIN qr rd ra | nxnosoa.g3. A"),
    rule("no data without SOA", "nodatanosoa.g4. A rd", "NOERROR qr rd ra | nodatanosoa.g4. A"),
    rule("an alias, and nothing at its end", "dangling.g5. A rd", "NOERROR qr rd ra | dangling.g5. A | 300 CNAME target.ok."),
    // What upstreams should not send.
    rule("records that do not belong to the question", "foreign.u1. A rd", "NOERROR qr rd ra | foreign.u1. A | 300 A 192.0.2.1"),
    rule("the same record twice", "twice.u2. A rd", "NOERROR qr rd ra | twice.u2. A | 200 A 192.0.2.1"),
    rule("aliases in a circle", "circle.u3. A rd", "SERVFAIL qr rd ra | circle.u3. A"),
    path("data that do not have the form of their type", "short.u4. A rd edns", "SERVFAIL qr rd ra | short.u4. A | | | | opt 1232 ede=22"),
    rule("the same data of a type without a form", "short.u5. TYPE65280 rd", "NOERROR qr rd ra | short.u5. TYPE65280 | 300 TYPE65280 c00002"),
    rule("other response codes are passed on", "notauth.u6. A rd", "9 qr rd ra | notauth.u6. A"),
    rule("YXDOMAIN, with the alias", "yx.u7. A rd", "6 qr rd ra | yx.u7. A | u7. 300 DNAME 046c6f6e6700"),
    rule("what the upstream says of an answer", "explained.u8. A rd edns", "NOERROR qr rd ra | explained.u8. A | 300 A 192.0.2.1 | | | opt 1232 ede=3"),
    rule("what it says of a denial", "nxexplained.u9. A rd edns", "NXDOMAIN qr rd ra | nxexplained.u9. A | | u9. 60 SOA ns.soa. mail.soa. 1 3600 600 86400 60 | | opt 1232 ede=17"),
    // Failures.
    rule("SERVFAIL of all upstreams", "servfail.f1. A rd", "SERVFAIL qr rd ra | servfail.f1. A"),
    path("REFUSED by all upstreams", "refused.f2. A rd edns", "SERVFAIL qr rd ra | refused.f2. A | | | | opt 1232 ede=22"),
    path("what the upstream says of its failure", "bogus.f3. A rd edns", "SERVFAIL qr rd ra | bogus.f3. A | | | | opt 1232 ede=6"),
    // DNSSEC.
    rule("RRSIG to a client that sets DO", "signed.d1. A rd edns do", "NOERROR qr rd ra ad | signed.d1. A | 300 A 192.0.2.1, 300 RRSIG 000108030000012c7f0000006000000000010009090909 | | | opt 1232 do"),
    rule("no RRSIG to others, whatever the upstream sends", "signed.d2. A rd edns", "NOERROR qr rd ra | signed.d2. A | 300 A 192.0.2.1 | | | opt 1232"),
    rule("RRSIG to those who ask for it", "signed.d3. RRSIG rd", "NOERROR qr rd ra | signed.d3. RRSIG | 300 RRSIG 000108030000012c7f0000006000000000010009090909"),
    rule("bogus data to those who check themselves", "bogus.d4. A rd cd", "NOERROR qr rd ra cd | bogus.d4. A | 300 A 192.0.2.1"),
    rule("and never to others after that", "bogus.d4. A rd", "SERVFAIL qr rd ra | bogus.d4. A"),
    // Local data.
    rule("a local address", "Printer.lan. A rd edns", "NOERROR qr rd ra | Printer.lan. A | 300 A 10.9.8.7 | | | opt 1232"),
    rule("a local name without this type", "printer.lan. MX rd", "NOERROR qr rd ra | printer.lan. MX | | 60 SOA . . 1 3600 600 86400 60"),
    rule("a local alias", "scanner.lan. A rd", "NOERROR qr rd ra | scanner.lan. A | 300 CNAME printer.lan., printer.lan. 300 A 10.9.8.7"),
    rule("a name of the hosts file", "nas.lan. AAAA rd", "NOERROR qr rd ra | nas.lan. AAAA | 300 AAAA fd00::6"),
    rule("its other name", "nas. A rd", "NOERROR qr rd ra | nas. A | 300 A 10.9.8.6"),
    rule("the name of a local address", "6.8.9.10.in-addr.arpa. PTR rd", "NOERROR qr rd ra | 6.8.9.10.in-addr.arpa. PTR | 300 PTR nas.lan."),
    rule("names below a local name are forwarded", "www.printer.lan. A rd", "NOERROR qr rd ra | www.printer.lan. A | 300 A 192.0.2.1"),
    // Special names.
    rule("localhost", "localhost. A rd", "NOERROR qr rd ra | localhost. A | 10800 A 127.0.0.1"),
    rule("names below it", "A.LocalHost. AAAA rd edns", "NOERROR qr rd ra | A.LocalHost. AAAA | 10800 AAAA ::1 | | | opt 1232"),
    rule("localhost has nothing else", "localhost. MX rd", "NOERROR qr rd ra | localhost. MX | | 10800 SOA localhost. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("test", "www.test. A rd edns", "NXDOMAIN qr rd ra | www.test. A | | test. 10800 SOA test. nobody.invalid. 1 3600 1200 604800 10800 | | opt 1232"),
    rule("invalid", "www.INVALID. A rd", "NXDOMAIN qr rd ra | www.INVALID. A | | invalid. 10800 SOA invalid. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("onion", "a.b.onion. AAAA rd edns do", "NXDOMAIN qr rd ra | a.b.onion. AAAA | | onion. 10800 SOA onion. nobody.invalid. 1 3600 1200 604800 10800 | | opt 1232 do"),
    rule("home.arpa", "nas.home.arpa. A rd", "NXDOMAIN qr rd ra | nas.home.arpa. A | | home.arpa. 10800 SOA home.arpa. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("the zone of a special name", "home.arpa. NS rd", "NOERROR qr rd ra | home.arpa. NS | 10800 NS home.arpa."),
    rule("its DS records are its parent's", "home.arpa. DS rd", "NOERROR qr rd ra | home.arpa. DS | 300 DS cafe08010707070707070707070707070707070707070707"),
    rule("discovery of resolvers", "_dns.resolver.arpa. SVCB rd", "NOERROR qr rd ra | _dns.resolver.arpa. SVCB | | resolver.arpa. 10800 SOA resolver.arpa. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("a private address without a name", "1.2.31.172.in-addr.arpa. PTR rd", "NXDOMAIN qr rd ra | 1.2.31.172.in-addr.arpa. PTR | | 31.172.in-addr.arpa. 10800 SOA 31.172.in-addr.arpa. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("a name above that of a local address", "8.9.10.in-addr.arpa. PTR rd", "NOERROR qr rd ra | 8.9.10.in-addr.arpa. PTR | | 10.in-addr.arpa. 10800 SOA 10.in-addr.arpa. nobody.invalid. 1 3600 1200 604800 10800"),
    rule("a private zone that is excepted", "1.168.192.in-addr.arpa. TXT rd", "NOERROR qr rd ra | 1.168.192.in-addr.arpa. TXT | 300 TXT text"),
    rule("other reverse zones", "1.2.0.198.in-addr.arpa. TXT rd", "NOERROR qr rd ra | 1.2.0.198.in-addr.arpa. TXT | 300 TXT text"),
    // Blocklists.
    rule("a blocked name, and why", "ads.ok. A rd edns", "NXDOMAIN qr rd ra | ads.ok. A | | 60 SOA . . 1 3600 600 86400 60 | | opt 1232 ede=15"),
    rule("a name below a blocked one", "a.b.ADS.ok. A rd", "NXDOMAIN qr rd ra | a.b.ADS.ok. A | | 60 SOA . . 1 3600 600 86400 60"),
    rule("blocked and refused", "malware.ok. A rd edns", "REFUSED qr rd ra | malware.ok. A | | | | opt 1232 ede=15"),
    rule("blocked with the null address", "tracker.ok. A rd edns", "NOERROR qr rd ra | tracker.ok. A | 60 A 0.0.0.0 | | | opt 1232 ede=15"),
    rule("blocked with the null address, IPv6", "tracker.ok. AAAA rd", "NOERROR qr rd ra | tracker.ok. AAAA | 60 AAAA ::"),
    rule("blocked with the null address, other types", "tracker.ok. MX rd", "NOERROR qr rd ra | tracker.ok. MX | | 60 SOA . . 1 3600 600 86400 60"),
    rule("a hosts line blocks no names below", "www.tracker.ok. A rd", "NOERROR qr rd ra | www.tracker.ok. A | 300 A 192.0.2.1"),
    rule("an alias of a blocked name", "cloaked.ok. A rd edns", "NXDOMAIN qr rd ra | cloaked.ok. A | | 60 SOA . . 1 3600 600 86400 60 | | opt 1232 ede=15"),
    rule("with its target compressed", "compressed.ok. AAAA rd", "NXDOMAIN qr rd ra | compressed.ok. AAAA | | 60 SOA . . 1 3600 600 86400 60"),
    rule("a blocked name at the end of a chain", "chained.ok. A rd edns do", "REFUSED qr rd ra | chained.ok. A | | | | opt 1232 do ede=15"),
    rule("an alias of a name with the null address", "tracked.ok. A rd edns", "NOERROR qr rd ra | tracked.ok. A | 60 A 0.0.0.0 | | | opt 1232 ede=15"),
    rule("an alias of an exception", "excepted.ok. A rd", "NOERROR qr rd ra | excepted.ok. A | 300 CNAME fine.ads.ok., fine.ads.ok. 200 A 192.0.2.7"),
    rule("an exception's alias of a blocked name", "cloaked.shop.ok. A rd", "NOERROR qr rd ra | cloaked.shop.ok. A | 300 CNAME CDN.ads.ok., CDN.ads.ok. 200 A 192.0.2.7"),
    rule("a name that only ends alike", "myads.ok. A rd", "NOERROR qr rd ra | myads.ok. A | 300 A 192.0.2.1"),
];
