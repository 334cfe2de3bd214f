//! unbound.conf.

use super::*;

/// As a site has it that forwards over TLS.
const FORWARDER: &str = r##"
# Local resolver
server:
    verbosity: 1
    num-threads: 4
    interface: 192.0.2.1
    interface: ::1
    interface: 192.0.2.1@853
    interface: eth0
    port: 53
    do-ip6: yes
    access-control: 10.1.2.3/8 allow
    access-control: 10.66.0.0/16 refuse
    access-control: 10.66.6.0/24 deny
    access-control: 192.0.2.0/24 allow_snoop
    msg-cache-size: 50m
    rrset-cache-size: 100m
    cache-max-ttl: 7200
    cache-min-ttl: 60
    serve-expired: yes
    serve-expired-ttl: 3600
    serve-expired-client-timeout: 500
    hide-identity: yes
    hide-version: yes
    identity: "secret"
    version: "1"
    prefetch: yes
    tls-cert-bundle: "/etc/ssl/certs/ca-certificates.crt"
    tls-service-key: "/etc/unbound/key.pem"
    tls-service-pem: "/etc/unbound/certificate.pem"
    private-address: 10.0.0.0/8
    auto-trust-anchor-file: "/var/lib/unbound/root.key"
    use-caps-for-id: yes
    local-zone: "lan." static
    local-data: "printer.lan. IN A 192.168.1.9"
    local-data: 'printer.lan. 60 IN TXT "a  b"'
    local-data-ptr: "192.168.1.9 printer.lan"
    local-data: "*.lan. IN A 192.168.1.1"
    local-zone: "168.192.in-addr.arpa." nodefault
    local-zone: "ads.example" always_nxdomain
    local-zone: "track.example" redirect
    local-data: "track.example A 0.0.0.0"
    local-zone: "all.example" redirect
    local-data: "all.example A 192.0.2.80"
    some-new-thing: 7
remote-control:
    control-enable: yes
forward-zone:
    name: "."
    forward-tls-upstream: yes
    forward-addr: 9.9.9.9@853#dns.quad9.net
    forward-addr: 2620:fe::fe@8853#dns.quad9.net
    forward-addr: 1.1.1.1
forward-zone:
    name: "corp.example."
    forward-addr: 10.0.0.53
    forward-addr: 10.0.1.53@5353
    forward-first: yes
    forward-host: dns.corp.example
stub-zone:
    name: "zone.example"
    stub-addr: 10.0.2.53
auth-zone:
    name: "."
    url: https://www.internic.net/domain/root.zone
"##;

#[test]
fn a_forwarder() {
    let (text, config) = convert(Kind::Unbound, FORWARDER);
    for (key, expected) in [
        ("listen", r#"["192.0.2.1:53", "[::1]:53"]"#),
        ("listen-tls", r#"["192.0.2.1:853"]"#),
        ("tls.key", r#""/etc/unbound/key.pem""#),
        ("tls.certificate", r#""/etc/unbound/certificate.pem""#),
        ("socket.threads", "4"),
        (
            "access.allow",
            r#"["10.0.0.0/8", "192.0.2.0/24", "127.0.0.0/8", "::1/128"]"#,
        ),
        ("access.refuse", r#"["10.66.0.0/16"]"#),
        ("access.drop", r#"["10.66.6.0/24"]"#),
        ("access.non-recursive", r#""cache""#),
        ("cache.size", "\"150M\""),
        ("cache.max-ttl", "7200"),
        ("cache.min-ttl", "60"),
        ("cache.stale-max-age", "3600"),
        ("forward.client-response-timeout-ms", "500"),
        ("forward.randomize-case", "true"),
        (
            "forward.tls-roots",
            r#""/etc/ssl/certs/ca-certificates.crt""#,
        ),
        (
            "upstream",
            r#"["tls://dns.quad9.net@9.9.9.9:853", "tls://dns.quad9.net@[2620:fe::fe]:8853", "tls://1.1.1.1:853"]"#,
        ),
        ("local.special-names-except", r#"["168.192.in-addr.arpa"]"#),
    ] {
        assert_eq!(value(&config, key), expected, "{text}");
    }
    let records = &config.local.records;
    let expected = [
        "printer.lan. 3600 IN A 192.168.1.9",
        "printer.lan. 60 IN TXT \"a  b\"",
        "9.1.168.192.in-addr.arpa 3600 IN PTR printer.lan",
        "all.example 3600 A 192.0.2.80",
    ];
    assert_eq!(
        records.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
    let routes = config.routes.iter().map(|route| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        (
            route.zone.to_string(),
            upstreams,
            route.local_only.is_some(),
        )
    });
    let expected = [
        (
            "corp.example".to_owned(),
            vec!["10.0.0.53:53".to_owned(), "10.0.1.53:5353".to_owned()],
            false,
        ),
        ("lan".to_owned(), Vec::new(), true),
        (
            "zone.example".to_owned(),
            vec!["10.0.2.53:53".to_owned()],
            false,
        ),
    ];
    assert_eq!(routes.collect::<Vec<_>>(), expected);
    assert_eq!(config.identity.server_id, None, "it is hidden");
}

#[test]
fn statements_without_counterpart_are_named() {
    let (text, _) = convert(Kind::Unbound, FORWARDER);
    let line = |statement: &str| {
        let mut lines = (1..).zip(FORWARDER.lines());
        let found = lines.find(|(_, line)| line.trim() == statement).unwrap();
        format!("/etc/unbound.conf:{}", found.0)
    };
    for statement in [
        "interface: eth0",
        "private-address: 10.0.0.0/8",
        r#"auto-trust-anchor-file: "/var/lib/unbound/root.key""#,
        r#"local-data: "*.lan. IN A 192.168.1.1""#,
        r#"local-zone: "all.example" redirect"#,
        "some-new-thing: 7",
        "forward-addr: 1.1.1.1",
        "forward-first: yes",
        "forward-host: dns.corp.example",
        "url: https://www.internic.net/domain/root.zone",
    ] {
        let noted = noted(&text, &line(statement));
        assert!(
            noted.is_some_and(|(is_lost, _)| is_lost),
            "{statement}: {noted:?}\n{text}"
        );
    }
    for statement in [
        "verbosity: 1",
        "prefetch: yes",
        r#"identity: "secret""#,
        "control-enable: yes",
    ] {
        let noted = noted(&text, &line(statement));
        assert!(
            noted.is_some_and(|(is_lost, _)| !is_lost),
            "{statement}: {noted:?}\n{text}"
        );
    }
    let of_lists = text
        .lines()
        .filter(|line| line.starts_with("# Blocklist, ") && line.contains("names: 1,"));
    assert_eq!(of_lists.count(), 2, "{text}");
}

#[test]
fn lists_are_files_beside_the_settings() {
    let path = Path::new("/etc/unbound.conf");
    let text = "
server:
  local-zone: b.example always_nxdomain
  local-zone: a.example. always_nxdomain
  local-zone: c.example always_null
  local-zone: ö.example always_null
forward-zone:
  name: .
  forward-addr: 9.9.9.9
";
    let draft = Kind::Unbound.convert(path, text, &[], &InMemory::default());
    let output = Path::new("/etc/heimdall/heimdall.toml");
    let outcome = draft
        .unwrap()
        .finish(Some(output), &|text| check(text).map(drop))
        .unwrap();
    let config = check(&outcome.text).unwrap();
    let files: Vec<_> = config
        .blocklists
        .iter()
        .map(|list| list.file.display().to_string())
        .collect();
    let beside = ["null", "nxdomain"].map(|action| format!("/etc/heimdall/heimdall.{action}.txt"));
    assert_eq!(files, beside);
    let texts: Vec<_> = outcome.lists.iter().map(NameList::text).collect();
    assert_eq!(texts, ["c.example\n", "a.example\nb.example\n"]);
    assert!(noted(&outcome.text, "/etc/unbound.conf:6").unwrap().0);
}

#[test]
fn a_resolver_stays_behind_heimdall() {
    let (text, config) = convert(
        Kind::Unbound,
        "server:\n  interface: 0.0.0.0\n  interface: ::0\n",
    );
    assert_eq!(value(&config, "upstream"), "[\"127.0.0.1:5335\"]");
    assert_eq!(value(&config, "listen"), "[\"0.0.0.0:53\", \"[::]:53\"]");
    assert!(text.contains("port: 5335"), "{text}");
    let (_, config) = convert(Kind::Unbound, "");
    assert_eq!(value(&config, "listen"), "[\"127.0.0.1:53\", \"[::1]:53\"]");
    assert_eq!(
        value(&config, "access.allow"),
        "[\"127.0.0.0/8\", \"::1/128\"]"
    );
}

#[test]
fn included_files_are_read_within_bounds() {
    let files = InMemory::new(&[
        (
            "/etc/unbound.conf.d/b.conf",
            "forward-zone:\n name: b.example\n forward-addr: 10.0.0.2\n",
        ),
        (
            "/etc/unbound.conf.d/a.conf",
            "server:\n  cache-max-ttl: 77\n",
        ),
        (
            "/etc/unbound.conf.d/a.txt",
            "server:\n  cache-max-ttl: 78\n",
        ),
        ("/etc/loop.conf", "include: loop.conf\n"),
    ]);
    let text = "
include: \"/etc/unbound.conf.d/*.conf\"
include: missing.conf
include-toplevel: /etc/loop.conf
forward-zone:
  name: .
  forward-addr: 9.9.9.9
";
    let outcome = convert_with(Kind::Unbound, text, &files).unwrap();
    let config = check(&outcome.text).unwrap();
    assert_eq!(value(&config, "cache.max-ttl"), "77");
    assert_eq!(config.routes.len(), 1);
    assert!(
        outcome
            .text
            .contains("# /etc/unbound.conf.d/b.conf:3: forward-addr: 10.0.0.2\n"),
        "{}",
        outcome.text
    );
    assert!(noted(&outcome.text, "/etc/unbound.conf:3").unwrap().0);
    assert!(
        noted(&outcome.text, "/etc/loop.conf:1")
            .unwrap()
            .1
            .contains("include one another")
    );
    let tree = InMemory::new(&[("/etc/tree.conf", "include: tree.conf\ninclude: tree.conf\n")]);
    let error = convert_with(Kind::Unbound, "include: tree.conf\n", &tree).unwrap_err();
    assert!(matches!(error, ConvertError::TooMuch { .. }), "{error}");
}

#[test]
fn samples_give_settings_that_are_good() {
    for (number, text) in [
        "server:\n  port: 5353\n  do-ip4: no\n",
        "server:\n  interface: 192.0.2.1@5353\n  interface: 192.0.2.1\n",
        "server:\n  tls-upstream: yes\nforward-zone:\n  name: .\n  forward-addr: 9.9.9.9#dns.quad9.net\n",
        "server:\n  tcp-upstream: yes\nforward-zone:\n  name: .\n  forward-addr: 9.9.9.9@5353\n",
        "forward-zone: name: \".\" forward-addr: fe80::1%lo@53\n",
        "forward-zone:\n  name: .\n  forward-addr: 9.9.9.9\nforward-zone:\n  name: .\n  forward-addr: 9.9.9.9\n",
        "forward-zone:\n  name: a\nforward-zone:\n  forward-addr: 9.9.9.9\nstub-zone:\n  name: *.x\n  stub-addr: x\n",
        "server:\n  access-control: 0.0.0.0/0 allow\n  access-control: ::0/0 allow\n  access-control: x allow\n",
        "server:\n  access-control: 10.0.0.0/8 allow_setrd\n  access-control: 10.0.0.0/8 refuse\n",
        "server:\n  msg-cache-size: 1\n  rrset-cache-size: x\n",
        "server:\n  cache-max-ttl: 0\n  cache-max-negative-ttl: 99999999\n  serve-expired-ttl: 0\n  serve-expired: yes\n",
        "server:\n  local-zone: \"10.in-addr.arpa\" transparent\n  unblock-lan-zones: yes\n",
        "server:\n  local-data: \"a.example. CNAME b.example.\"\n  local-data: \"a.example. A 192.0.2.1\"\n",
        "server:\n  local-zone: x deny\n  local-zone: y refuse\n  local-zone: z bogus\n  local-zone: . static\n",
        "server:\n  identity: \"a\"\n  nsid: ascii_b\n  version: \"c\"\n  cookie-secret: 000102030405060708090a0b0c0d0e0f\n",
        "server:\n  cookie-secret: no\n  nsid: 0102\n  num-threads: 0\n  max-udp-size: 65535\n",
        "dnstap:\n  dnstap-enable: yes\n  dnstap-socket-path: \"/run/dnstap.sock\"\n  dnstap-log-client-query-messages: yes\n",
        "dnstap:\n  dnstap-log-resolver-query-messages: yes\npython:\n  python-script: x\nview:\n  name: v\n",
        "rpz:\n  name: rpz.example\n  zonefile: x\ncachedb:\n  backend: redis\n",
        "server: interface: 127.0.0.1 port: 70000 tls-port: x",
        "not: a: key\nserver\n\"unterminated",
    ]
    .into_iter()
    .enumerate()
    {
        let (text, _) = convert(Kind::Unbound, text);
        assert!(text.starts_with("# Made by"), "{number}");
    }
}

/// The routes: zone, upstreams, and whether it answers by itself.
fn routes(config: &Config) -> Vec<String> {
    let routes = config.routes.iter().map(|route| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        let answer = route.local_only.map(|_| "answers".to_owned());
        format!("{} {}", route.zone, answer.unwrap_or(upstreams.join(" ")))
    });
    routes.collect()
}

#[test]
fn zones_are_taken_out_of_those_above_them() {
    let text = "
server:
  local-zone: lan static
  local-zone: open.lan transparent
  local-zone: below.open.lan always_transparent
  local-zone: 10.in-addr.arpa nodefault
  local-zone: corp.example static
  local-zone: www.corp.example typetransparent
  local-zone: ads.example always_nxdomain
  local-zone: fine.ads.example transparent
  local-zone: closed.ads.example refuse
  local-zone: open.closed.ads.example transparent
  local-zone: alone.example transparent
forward-zone:
  name: .
  forward-addr: 9.9.9.9
forward-zone:
  name: corp.example
  forward-addr: 10.0.0.53
";
    let outcome = convert_with(Kind::Unbound, text, &InMemory::default()).unwrap();
    let config = check(&outcome.text).unwrap();
    let expected = [
        "closed.ads.example answers",
        "corp.example answers",
        "lan answers",
        "open.closed.ads.example 9.9.9.9:53",
        "open.lan 9.9.9.9:53",
        "www.corp.example 10.0.0.53:53",
    ];
    assert_eq!(routes(&config), expected, "{}", outcome.text);
    let mut lists = outcome.lists.iter();
    let allowed = lists.find(|list| list.action == "allow").unwrap();
    assert_eq!(allowed.text(), "closed.ads.example\nfine.ads.example\n");
    assert_eq!(
        value(&config, "local.special-names-except"),
        r#"["10.in-addr.arpa"]"#
    );
    for (line, is_lost) in [(5, false), (8, true), (13, false), (19, false)] {
        let noted = noted(&outcome.text, &format!("/etc/unbound.conf:{line}"));
        assert!(
            noted.is_some_and(|(lost, _)| lost == is_lost),
            "{line}: {noted:?}\n{}",
            outcome.text
        );
    }
}

#[test]
fn names_that_are_allowed_stay_the_only_ones() {
    for kind in ["refuse", "always_refuse", "static", "always_nxdomain"] {
        let text = format!(
            "server:\n  local-zone: . {kind}\n  local-zone: good.example. transparent\n\
             forward-zone:\n  name: .\n  forward-addr: 9.9.9.9\n"
        );
        let (text, config) = convert(Kind::Unbound, &text);
        let expected = [". answers", "good.example 9.9.9.9:53"];
        assert_eq!(routes(&config), expected, "{kind}\n{text}");
        assert_eq!(config.upstreams.len(), 0, "{kind}\n{text}");
    }
    // Also if the resolvers are named by --upstream, or unbound is to stay.
    let (_, config) = convert(
        Kind::Unbound,
        "server:\n  local-zone: . refuse\n  local-zone: good.example transparent\n",
    );
    assert_eq!(
        routes(&config),
        [". answers", "good.example 127.0.0.1:5335"]
    );
}

#[test]
fn what_is_allowed_to_all_clients_for_some_is_noted() {
    for (some, value_of_all) in [("allow_snoop", "\"cache\""), ("allow_setrd", "\"forward\"")] {
        let text = |others: &str| {
            format!(
                "server:\n  access-control: 192.0.2.9 {some}\n  access-control: 192.0.2.0/24 {others}\n"
            )
        };
        let (mixed, config) = convert(Kind::Unbound, &text("allow"));
        assert_eq!(value(&config, "access.non-recursive"), value_of_all);
        let (is_lost, why) = noted(&mixed, "/etc/unbound.conf:2").unwrap();
        assert!(is_lost && why.contains("all clients"), "{mixed}");
        let (alike, config) = convert(Kind::Unbound, &text(some));
        assert_eq!(value(&config, "access.non-recursive"), value_of_all);
        assert_eq!(noted(&alike, "/etc/unbound.conf:2"), None, "{alike}");
    }
}

#[test]
fn more_threads_than_there_can_be_are_named() {
    for (threads, expected, is_named) in [(64, "64", false), (999, "64", true)] {
        let text = format!(
            "server:\n  num-threads: {threads}\nforward-zone:\n  name: .\n  forward-addr: 9.9.9.9\n"
        );
        let (text, config) = convert(Kind::Unbound, &text);
        assert_eq!(value(&config, "socket.threads"), expected);
        let noted = noted(&text, "/etc/unbound.conf:2");
        assert_eq!(
            noted.is_some_and(|(is_lost, _)| is_lost),
            is_named,
            "{text}"
        );
    }
}

#[test]
fn dns_over_https_does_not_become_plain_dns() {
    let text = "\
server:
  interface: 192.0.2.1
  interface: 192.0.2.1@443
  interface: 192.0.2.1@8853
  quic-port: 8853
";
    let (text, config) = convert(Kind::Unbound, text);
    assert_eq!(value(&config, "listen"), r#"["192.0.2.1:53"]"#, "{text}");
    for line in [3, 4] {
        let (is_lost, line) = noted(&text, &format!("/etc/unbound.conf:{line}")).unwrap();
        assert!(is_lost && line.contains("DNS over HTTPS"), "{line}");
    }
    let text = "server:\n  interface: 192.0.2.1@443\n  https-port: 8443\n";
    let (text, config) = convert(Kind::Unbound, text);
    assert_eq!(value(&config, "listen"), r#"["192.0.2.1:443"]"#, "{text}");
}

#[test]
fn a_value_that_cannot_be_read_is_called_that() {
    let text = "\
server:
  port: 99999
  num-threads: -1
  interface: 192.0.2.1@x
  interface: 300.1.1.1
  interface: eth0
";
    let (text, _) = convert(Kind::Unbound, text);
    for (line, why) in [
        (2, "its value cannot be read"),
        (3, "its value cannot be read"),
        (4, "its value cannot be read"),
        (5, "it is no address, and no name of an interface"),
        (6, "`interface` has AF_XDP serve it"),
    ] {
        let (is_lost, noted) = noted(&text, &format!("/etc/unbound.conf:{line}")).unwrap();
        assert!(is_lost && noted.ends_with(why), "{noted}");
    }
}

#[test]
fn lists_are_named_by_absolute_paths() {
    let path = Path::new("/etc/unbound.conf");
    let text = "server:\n  local-zone: a.example always_null\n";
    let draft = Kind::Unbound.convert(path, text, &[], &InMemory::default());
    let output = Path::new("heimdall.toml");
    let outcome = draft
        .unwrap()
        .finish(Some(output), &|text| check(text).map(drop));
    let outcome = outcome.unwrap();
    let list = check(&outcome.text).unwrap().blocklists.remove(0);
    let expected = std::env::current_dir().unwrap().join("heimdall.null.txt");
    assert_eq!(list.file, expected, "{}", outcome.text);
}
