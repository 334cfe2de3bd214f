//! Zones with every kind of data that an answer can hold: record types, names, sizes, DNSSEC.

use std::fmt::Write as _;

/// A zone of the upstream's.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// Its apex, without the last dot.
    pub(crate) domain: &'static str,
    /// Its zone file.
    pub(crate) text: String,
    /// How the upstream signs it.
    pub(crate) signing: Signing,
}

/// How a zone is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signing {
    /// Not at all.
    None,
    /// With NSEC for what does not exist (RFC 4034).
    Nsec,
    /// With NSEC3 (RFC 5155).
    Nsec3,
}

impl Zone {
    /// An unsigned zone.
    pub(crate) fn plain(domain: &'static str, text: String) -> Self {
        Self {
            domain,
            text,
            signing: Signing::None,
        }
    }

    /// The name of its file.
    pub(crate) fn file(&self) -> String {
        format!("{}.zone", self.domain)
    }
}

/// The zones: a large unsigned one, and two small signed ones.
pub(crate) fn zones() -> Vec<Zone> {
    let signed = |domain, signing| Zone {
        domain,
        text: signed_zone(domain),
        signing,
    };
    vec![
        Zone::plain("rich.example", rich_zone()),
        signed("signed.example", Signing::Nsec),
        signed("signed3.example", Signing::Nsec3),
    ]
}

/// Owner names in the zones, as a zone file writes them, and types to ask of them.
pub const OWNERS: &[(&str, &str)] = &[
    ("rich.example", "A AAAA MX NS SOA TXT CAA HTTPS DNSKEY DS"),
    ("ns.rich.example", "A"),
    ("mail.rich.example", "A AAAA"),
    ("txt.rich.example", "TXT"),
    ("strings.rich.example", "TXT"),
    ("_sip._tcp.rich.example", "SRV"),
    ("naptr.rich.example", "NAPTR"),
    ("svc.rich.example", "SVCB"),
    ("alias.rich.example", "HTTPS"),
    ("ssh.rich.example", "SSHFP"),
    ("_443._tcp.rich.example", "TLSA"),
    ("loc.rich.example", "LOC"),
    ("hinfo.rich.example", "HINFO"),
    ("rp.rich.example", "RP"),
    ("uri.rich.example", "URI"),
    ("unknown.rich.example", "TYPE65280 A"),
    ("c1.rich.example", "A AAAA CNAME"),
    ("c5.rich.example", "A CNAME MX"),
    ("loop.rich.example", "A CNAME"),
    ("dangling.rich.example", "A CNAME"),
    ("across.rich.example", "A CNAME"),
    ("away.rich.example", "A CNAME"),
    ("dname.rich.example", "DNAME A"),
    ("a.dname.rich.example", "A CNAME"),
    ("any.wild.rich.example", "A TXT AAAA"),
    ("one.two.wild.rich.example", "A"),
    ("delegated.rich.example", "NS DS A"),
    ("host.delegated.rich.example", "A TXT"),
    ("deep.in.ent.rich.example", "A"),
    ("in.ent.rich.example", "A TXT"),
    ("ent.rich.example", "A"),
    ("nul\\000byte.rich.example", "A"),
    ("dot\\.label.rich.example", "A"),
    ("\\255\\200high.rich.example", "A"),
    ("UPPER.rich.example", "A CNAME"),
    ("zero.rich.example", "A TXT"),
    ("short.rich.example", "A"),
    ("long.rich.example", "A"),
    ("longest.rich.example", "A"),
    ("many.rich.example", "A AAAA"),
    ("bulky.rich.example", "TXT"),
    ("huge.rich.example", "TXT"),
    ("signed.example", "A MX NS SOA DNSKEY CDS CDNSKEY NSEC DS"),
    ("host.signed.example", "A RRSIG NSEC"),
    ("alias.signed.example", "A CNAME"),
    ("any.wild.signed.example", "A TXT"),
    ("secure.signed.example", "NS DS"),
    ("insecure.signed.example", "NS DS"),
    ("large.signed.example", "TXT"),
    ("signed3.example", "A SOA DNSKEY NSEC3PARAM DS"),
    ("host.signed3.example", "A RRSIG"),
    ("any.wild.signed3.example", "A TXT"),
    ("insecure.signed3.example", "NS DS"),
    ("example.com", "A AAAA MX NS SOA"),
    ("www.example.com", "A CNAME"),
    ("text.example.com", "TXT"),
    ("big.example.com", "TXT"),
    ("x.wild.example.com", "A"),
    ("1.0.18.198.in-addr.arpa", "PTR"),
];

/// A name of 255 octets and one label of 63: the longest there are (RFC 1035 section 2.3.4).
pub fn longest_name() -> String {
    // 3 × 64 + 48 octets before `rich.example`, which has 14 with the root.
    let label = |letter: &str, len| letter.repeat(len);
    format!(
        "{}.{}.{}.{}.rich.example",
        label("a", 63),
        label("b", 63),
        label("c", 63),
        label("d", 48)
    )
}

/// A name with a label of 63 octets.
pub fn long_label() -> String {
    format!("{}.rich.example", "l".repeat(63))
}

const HEAD: &str = "$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 10.53.0.1\n\
     @ A 192.0.2.1\n@ AAAA 2001:db8::1\n@ MX 10 mail\n@ MX 20 mail.example.com.\nmail A 192.0.2.2\n\
     *.wild A 192.0.2.4\n*.wild TXT \"wild\"\n";

fn rich_zone() -> String {
    let digest = "0123456789ABCDEF".repeat(4);
    let mut zone = format!(
        "$ORIGIN rich.example.\n{HEAD}\
         @ TXT \"v=spf1 -all\"\n@ CAA 0 issue \"ca.example\"\n@ CAA 128 iodef \"mailto:ca@rich.example\"\n\
         @ HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1\nmail AAAA 2001:db8::2\n\
         txt TXT \"one\" \"two\" \"\" \"with \\\"quotes\\\" and \\000\\255\"\n\
         _sip._tcp SRV 0 5 5060 mail\n_sip._tcp SRV 1 5 5061 mail.example.com.\n\
         naptr NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:info@rich.example!\" .\n\
         svc SVCB 1 mail alpn=h2 port=8443\nalias HTTPS 0 svc\n\
         ssh SSHFP 4 2 {digest}\n_443._tcp TLSA 3 1 1 {digest}\n\
         loc LOC 52 22 23.000 N 4 53 32.000 E -2.00m 1m 10000m 10m\n\
         hinfo HINFO \"cpu\" \"os\"\nrp RP hostmaster txt\nuri URI 10 1 \"https://rich.example/\"\n\
         unknown TYPE65280 \\# 4 01020304\nunknown A 192.0.2.5\n\
         c1 CNAME c2\nc2 CNAME c3\nc3 CNAME c4\nc4 CNAME c5\nc5 CNAME mail\n\
         loop CNAME loop2\nloop2 CNAME loop\ndangling CNAME nowhere\nacross CNAME www.example.com.\n\
         away CNAME away.elsewhere.example.\n\
         dname DNAME target\na.target A 192.0.2.6\n\
         delegated NS ns.delegated\nns.delegated A 192.0.2.7\ndelegated DS 12345 13 2 {digest}\n\
         deep.in.ent A 192.0.2.8\n\
         nul\\000byte A 192.0.2.9\ndot\\.label A 192.0.2.10\n\\255\\200high A 192.0.2.11\n\
         UPPER CNAME MAIL.Rich.Example.\n\
         zero 0 A 192.0.2.12\nzero 0 TXT \"zero\"\nshort 2 A 192.0.2.13\n\
         long 172800 A 192.0.2.14\nlongest 2147483647 A 192.0.2.15\n\
         {}. A 192.0.2.16\n{}. A 192.0.2.17\n",
        longest_name(),
        long_label()
    );
    zone.push_str("strings TXT");
    for letter in 'a'..='j' {
        let _ = write!(zone, " \"{}\"", letter.to_string().repeat(255));
    }
    zone.push('\n');
    for i in 0..100 {
        let _ = writeln!(zone, "many A 10.9.0.{i}\nmany AAAA 2001:db8:9::{i}");
    }
    for i in 0..8 {
        let _ = writeln!(zone, "bulky TXT \"{i} {}\"", "b".repeat(180));
    }
    for i in 0..100 {
        let _ = writeln!(zone, "huge TXT \"{i} {}\"", "h".repeat(240));
    }
    zone
}

fn signed_zone(domain: &str) -> String {
    let digest = "0123456789ABCDEF".repeat(4);
    let mut zone = format!(
        "$ORIGIN {domain}.\n{HEAD}host A 192.0.2.20\nalias CNAME host\n\
         secure NS ns.secure\nns.secure A 192.0.2.21\nsecure DS 12345 13 2 {digest}\n\
         insecure NS ns.insecure\nns.insecure A 192.0.2.22\n"
    );
    for i in 0..8 {
        let _ = writeln!(zone, "large TXT \"{i} {}\"", "s".repeat(180));
    }
    zone
}
