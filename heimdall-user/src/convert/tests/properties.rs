//! Any text is converted to settings that are good, or gives an error.

use proptest::prelude::*;

use super::*;

/// What statements are made of.
fn words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            "server:", "forward-zone:", "stub-zone:", "name:", "forward-addr:", "stub-addr:", "interface:", "port:",
            "access-control:", "local-zone:", "local-data:", "local-data-ptr:", "include:", "forward-tls-upstream:",
            "tls-service-key:", "tls-service-pem:", "cache-max-ttl:", "cache-min-ttl:", "serve-expired-ttl:",
            "msg-cache-size:", "identity:", "dnstap:", "dnstap-socket-path:",
            "server=", "address=", "local=", "cname=", "host-record=", "txt-record=", "rev-server=", "listen-address=",
            "port=", "addn-hosts=", "min-cache-ttl=", "max-cache-ttl=", "conf-file=",
            "nameserver", "options", "search", "timeout:3",
            "binds:", "backends:", "- address:", "- listen_address:", "protocol:", "pools:", "acl:", "query_rules:",
        ]).prop_map(str::to_owned),
        4 => prop::sample::select(vec![
            ".", "a.example", "lan", "9.9.9.9", "192.0.2.1", "::1", "fe80::1%lo", "2620:fe::fe@853#dns.example",
            "10.0.0.0/8", "0.0.0.0", "0.0.0.0/0", "::/0", "/lan/10.0.0.1", "/a/b/", "//", "allow", "deny", "redirect",
            "static", "always_null", "\"a.example. IN A 192.0.2.1\"", "'a.example. 5 IN TXT \"x\"'", "yes", "no", "53",
            "853", "0", "99999999999", "DoT", "[a, b]", "{a: 1}", "\"", "'", "#", "\\", "\u{0}", "é", "\u{2028}",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ];
    let separator = prop::sample::select(vec![" ", "\n", "\n  ", ",", "=", "/", "\r", "\t"]);
    let words = prop::collection::vec((word, separator), 0..60);
    words.prop_map(|words| {
        words
            .into_iter()
            .flat_map(|(word, separator)| [word, separator.to_owned()])
            .collect()
    })
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Unbound,
        Kind::Dnsmasq,
        Kind::Dnsdist,
        Kind::ResolvConf,
    ])
}

proptest! {
    #[test]
    fn any_text_gives_good_settings_or_an_error(kind in kinds(), text in words()) {
        let files = InMemory::new(&[("/etc/resolv.conf", "nameserver 192.0.2.53\n"), ("/etc/a", &text)]);
        match convert_with(kind, &text, &files) {
            Ok(outcome) => {
                prop_assert_eq!(&outcome.rejected, &None, "{}", outcome.text);
                let checked = check(&outcome.text);
                prop_assert!(checked.is_ok(), "{:?}\n{}", checked, outcome.text);
            }
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error),
        }
    }

    #[test]
    fn a_kind_is_found_or_not(name in "\\PC{0,12}", text in words()) {
        let _ = Kind::detect(Path::new(&name), &text);
    }
}
