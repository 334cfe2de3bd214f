//! dnsdist.yml.

use super::*;

const BALANCER: &str = r#"---
binds:
  - listen_address: "192.0.2.1:53"
    protocol: Do53
    threads: 2
  - listen_address: "192.0.2.1:853"
    protocol: DoT
    tls:
      certificates:
        - certificate: "/etc/dnsdist/certificate.pem"
          key: "/etc/dnsdist/key.pem"
  - listen_address: "192.0.2.1:443"
    protocol: DoH
backends:
  - address: "10.0.0.1"
    protocol: Do53
  - address: "[fd00::1]:5300"
    protocol: Do53
    tcp_only: true
  - address: "10.0.0.2:853"
    protocol: DoT
    tls:
      validate_certificate: true
      subject_name: "dns.example"
  - address: "10.0.0.3:443"
    protocol: DoH
  - address: "10.0.9.1:53"
    protocol: Do53
    pools: ["corp"]
    queries_per_second: 100
acl: ["10.0.0.0/8", "!10.66.0.0/16", "x"]
load_balancing_policies:
  default_policy: "roundrobin"
packet_caches:
  - name: "cache"
    size: 100000
pools:
  - name: ""
    packet_cache: "cache"
query_rules:
  - name: "corp"
    selector:
      type: "QNameSuffix"
      suffixes: ["corp.example.", "vpn.example"]
    action:
      type: "Pool"
      pool_name: "corp"
  - name: "no ads"
    selector: {type: "QNameSuffix", suffixes: ["ads.example"]}
    action: {type: "RCode", rcode: "NXDomain"}
  - name: "no any"
    selector: {type: "QType", qtype: "ANY"}
    action: {type: "TC"}
webserver:
  listen_addresses: ["127.0.0.1:8083"]
  password: "secret"
edns_client_subnet:
  override_existing: true
"#;

#[test]
fn a_balancer() {
    let (text, config) = convert(Kind::Dnsdist, BALANCER);
    for (key, expected) in [
        ("listen", r#"["192.0.2.1:53"]"#),
        ("listen-tls", r#"["192.0.2.1:853"]"#),
        ("tls.key", r#""/etc/dnsdist/key.pem""#),
        ("tls.certificate", r#""/etc/dnsdist/certificate.pem""#),
        (
            "upstream",
            r#"["10.0.0.1:53", "tcp://[fd00::1]:5300", "tls://dns.example@10.0.0.2:853"]"#,
        ),
        ("access.allow", r#"["10.0.0.0/8"]"#),
        ("access.refuse", r#"["10.66.0.0/16"]"#),
        ("forward.policy", r#""round-robin""#),
        ("metrics.listen", r#""127.0.0.1:8083""#),
    ] {
        assert_eq!(value(&config, key), expected, "{text}");
    }
    let routes = config.routes.iter().map(|route| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        format!("{} {}", route.zone, upstreams.join(" "))
    });
    let expected = [
        "ads.example ",
        "corp.example 10.0.9.1:53",
        "vpn.example 10.0.9.1:53",
    ];
    assert_eq!(routes.collect::<Vec<_>>(), expected);
    assert!(!text.contains("secret"), "{text}");
    for (start, lost) in [
        ("  - listen_address: \"192.0.2.1:443\"", true),
        ("  - address: \"10.0.0.3:443\"", true),
        ("  - name: \"no any\"", true),
        ("    queries_per_second", false),
    ] {
        let mut lines = (1..).zip(BALANCER.lines());
        let (line, _) = lines.find(|(_, line)| line.starts_with(start)).unwrap();
        let noted = noted(&text, &format!("/etc/dnsdist.yml:{line}"));
        assert!(
            noted.is_some_and(|(is_lost, _)| is_lost == lost),
            "{start}: {noted:?}\n{text}"
        );
    }
}

#[test]
fn what_is_no_yaml_is_an_error_with_its_line() {
    let convert = |text: &str| convert_with(Kind::Dnsdist, text, &InMemory::default());
    let error = convert("binds:\n  - a: [\n").unwrap_err().to_string();
    assert!(error.starts_with("/etc/dnsdist.yml:"), "{error}");
    let alias = convert("a: &x [1]\nb: *x\n").unwrap_err().to_string();
    assert!(
        alias.starts_with("/etc/dnsdist.yml:2: ") && alias.contains("aliases"),
        "{alias}"
    );
    let deep = convert(&"[".repeat(100)).unwrap_err();
    assert!(
        matches!(
            deep,
            ConvertError::TooMuch { .. } | ConvertError::Yaml { .. }
        ),
        "{deep}"
    );
    let many = convert(&"- 1\n".repeat(300_000)).unwrap_err();
    assert!(matches!(many, ConvertError::TooMuch { .. }), "{many}");
    for text in ["", "---\n", "text", "- a\n"] {
        let none = convert(text).unwrap_err();
        assert!(matches!(none, ConvertError::NoUpstream { .. }), "{none}");
    }
}

#[test]
fn samples_give_settings_that_are_good() {
    for text in [
        "backends:\n  - address: 9.9.9.9\n",
        "backends:\n  - {address: 9.9.9.9, protocol: DoT}\n  - {address: x}\n  - {}\n  - 1\n",
        "backends:\n  - address: 9.9.9.9\nbinds:\n  - listen_address: 0.0.0.0:53\n  - listen_address: 192.0.2.1:53\n",
        "backends:\n  - address: 9.9.9.9\nbinds:\n  - {listen_address: '0.0.0.0:853', protocol: DoT}\n",
        "backends:\n  - address: 9.9.9.9\nquery_rules:\n  - {}\n  - 1\n  - {selector: {type: All}, action: {type: Drop}}\n",
        "backends:\n  - {address: 9.9.9.9, pools: [a, '']}\nquery_rules:\n  - selector: {type: QNameSuffix, suffixes: [a, 'a b']}\n    action: {type: Pool, pool_name: b}\n",
        "backends:\n  - address: 9.9.9.9\nwebserver:\n  listen_address: 0.0.0.0:8083\nunknown: {a: 1}\n",
    ] {
        let (text, _) = convert(Kind::Dnsdist, text);
        assert!(text.starts_with("# Made by"), "{text}");
    }
}

#[test]
fn clients_are_not_let_in_by_what_cannot_be_read() {
    for (acl, key) in [
        ("acl: ['10.1.0.0/33']", "allow"),
        ("acl: ['!10.1.0.0/16']", "allow"),
        ("acl: ['10.0.0.0/8', '!10.1.0.0/33']", "refuse"),
        ("acl_file: /etc/dnsdist/acl", "allow"),
    ] {
        let text = format!("backends:\n  - address: 9.9.9.9\n{acl}\n");
        let error = convert_with(Kind::Dnsdist, &text, &InMemory::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConvertError::LetsIn { .. }), "{text}");
        assert!(text.starts_with("/etc/dnsdist.yml:3: acl"), "{text}");
        assert!(text.contains(&format!("access.{key}")), "{text}");
    }
    let text = "backends:\n  - address: 9.9.9.9\nacl: ['10.0.0.0/8', '10.1.0.0/33']\n";
    let (text, config) = convert(Kind::Dnsdist, text);
    assert_eq!(
        value(&config, "access.allow"),
        r#"["10.0.0.0/8"]"#,
        "{text}"
    );
}

#[test]
fn backends_are_asked_in_their_order_and_weights_are_named() {
    let text = "\
backends:
  - {address: 192.0.2.3, order: 2}
  - {address: 192.0.2.1, weight: 1}
  - {address: 192.0.2.2, weight: 5}
  - {address: 192.0.2.9, order: 2, pools: [corp]}
  - {address: 192.0.2.8, order: -1, pools: [corp]}
load_balancing_policies:
  default_policy: wrandom
query_rules:
  - selector: {type: QNameSuffix, suffixes: [corp.example]}
    action: {type: Pool, pool_name: corp}
";
    let (text, config) = convert(Kind::Dnsdist, text);
    assert_eq!(
        value(&config, "upstream"),
        r#"["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]"#,
        "{text}"
    );
    let route = config.routes.first().unwrap();
    let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(upstreams, ["192.0.2.8:53", "192.0.2.9:53"], "{text}");
    assert_eq!(value(&config, "forward.policy"), r#""round-robin""#);
    assert_eq!(noted(&text, "/etc/dnsdist.yml:3"), None, "{text}");
    for line in [4, 8] {
        let (is_lost, line) = noted(&text, &format!("/etc/dnsdist.yml:{line}")).unwrap();
        assert!(is_lost && line.ends_with("no weights"), "{line}");
    }
}

#[test]
fn a_bind_has_more_than_one_address() {
    let text = "\
backends:
  - address: 9.9.9.9
binds:
  - listen_address: 192.0.2.1
    additional_addresses: ['192.0.2.2:5353', x]
    threads: 2
";
    let (text, config) = convert(Kind::Dnsdist, text);
    assert_eq!(
        value(&config, "listen"),
        r#"["192.0.2.1:53", "192.0.2.2:5353"]"#,
        "{text}"
    );
    assert!(noted(&text, "/etc/dnsdist.yml:5").unwrap().0, "{text}");
    assert!(!noted(&text, "/etc/dnsdist.yml:6").unwrap().0, "{text}");
}

#[test]
fn a_program_is_no_empty_configuration() {
    let path = Path::new("dnsdist.conf");
    let upstreams = ["9.9.9.9".to_owned()];
    for text in [
        "newServer({address='10.0.0.1'})\n",
        "-- resolvers\nnewServer(\"10.0.0.1\")\nsetLocal('0.0.0.0:53')\n",
    ] {
        let draft = Kind::Dnsdist.convert(path, text, &upstreams, &InMemory::default());
        let error = draft.map(drop).unwrap_err();
        assert!(matches!(error, ConvertError::Lua(_)), "{text}: {error}");
    }
}
