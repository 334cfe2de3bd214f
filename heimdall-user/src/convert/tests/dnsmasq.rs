//! dnsmasq.conf.

use super::*;

const ROUTER: &str = r#"
# of a router
port=5353
listen-address=192.0.2.1,::1
interface=br-lan          # the LAN
bind-interfaces
no-resolv
domain-needed
bogus-priv
server=9.9.9.9
server=149.112.112.112#5353
server=2620:fe::fe
server=/corp.example/vpn.example/10.0.0.53
server=/www.corp.example/#
server=/lab.example/10.0.1.53#5353@eth1
local=/lan/
rev-server=192.168.0.0/16,10.0.0.53
rev-server=192.168.0.0/20,10.0.0.53
address=/ads.example/0.0.0.0
address=/track.example/
address=/router.lan/192.168.1.1
addn-hosts=/etc/hosts.lan
host-record=nas.lan,nas,192.168.1.9,fd00::9,120
cname=files.lan,nas.lan
ptr-record=1.1.168.192.in-addr.arpa,router.lan
txt-record=lan,"v=1, x","y"
mx-host=lan,nas.lan,10
srv-host=_imap._tcp.lan,nas.lan,143
cache-size=10000
max-cache-ttl=3600
min-cache-ttl=60
strict-order
edns-packet-max=1232
proxy-dnssec
stop-dns-rebind
dnssec
dhcp-range=192.168.1.50,192.168.1.150,12h
dhcp-option=option:router,192.168.1.1
log-queries
no-such-thing=1
"#;

#[test]
fn a_router() {
    let (text, config) = convert(Kind::Dnsmasq, ROUTER);
    for (key, expected) in [
        ("listen", r#"["192.0.2.1:5353", "[::1]:5353"]"#),
        (
            "upstream",
            r#"["9.9.9.9:53", "149.112.112.112:5353", "[2620:fe::fe]:53"]"#,
        ),
        ("cache.max-ttl", "3600"),
        ("cache.min-ttl", "60"),
        ("max-udp-size", "1232"),
        ("forward.policy", r#""sequential""#),
        ("forward.trust-ad", "true"),
        ("local.hosts", r#"["/etc/hosts", "/etc/hosts.lan"]"#),
        ("query-log.sample", r#""1/1""#),
    ] {
        assert_eq!(value(&config, key), expected, "{text}");
    }
    let records = config.local.records.iter().map(String::as_str);
    let expected = [
        "router.lan IN A 192.168.1.1",
        "nas.lan 120 IN A 192.168.1.9",
        "nas.lan 120 IN AAAA fd00::9",
        "nas 120 IN A 192.168.1.9",
        "nas 120 IN AAAA fd00::9",
        "files.lan IN CNAME nas.lan",
        "1.1.168.192.in-addr.arpa IN PTR router.lan",
        "lan IN TXT \"v=1\" \"x\" \"y\"",
        "lan IN MX 10 nas.lan",
        "_imap._tcp.lan IN SRV 0 0 143 nas.lan",
    ];
    assert_eq!(records.collect::<Vec<_>>(), expected);
    let routes = config.routes.iter().map(|route| {
        let upstreams: Vec<_> = route.upstreams.iter().map(ToString::to_string).collect();
        format!("{} {}", route.zone, upstreams.join(" "))
    });
    let expected = [
        "168.192.in-addr.arpa 10.0.0.53:53",
        "corp.example 10.0.0.53:53",
        "lab.example 10.0.1.53:5353",
        "lan ",
        "vpn.example 10.0.0.53:53",
        "www.corp.example 9.9.9.9:53 149.112.112.112:5353 [2620:fe::fe]:53",
    ];
    assert_eq!(routes.collect::<Vec<_>>(), expected);
}

#[test]
fn statements_without_counterpart_are_named() {
    let (text, _) = convert(Kind::Dnsmasq, ROUTER);
    let noted = |start: &str| {
        let mut lines = (1..).zip(ROUTER.lines());
        let (line, _) = lines.find(|(_, line)| line.starts_with(start)).unwrap();
        noted(&text, &format!("/etc/dnsmasq.conf:{line}"))
    };
    for start in [
        "interface=",
        "domain-needed",
        "server=/lab.example/",
        "rev-server=192.168.0.0/20",
        "address=/router.lan/",
        "stop-dns-rebind",
        "dnssec",
        "no-such-thing",
    ] {
        let noted = noted(start);
        assert!(
            noted.is_some_and(|(is_lost, _)| is_lost),
            "{start}: {noted:?}\n{text}"
        );
    }
    for start in ["bogus-priv", "cache-size", "dhcp-range", "bind-interfaces"] {
        let noted = noted(start);
        assert!(
            noted.is_some_and(|(is_lost, _)| !is_lost),
            "{start}: {noted:?}\n{text}"
        );
    }
}

#[test]
fn files_that_it_reads_are_read() {
    let files = InMemory::new(&[
        (
            "/etc/resolv.conf",
            "nameserver 127.0.0.1\nnameserver 192.0.2.53\n",
        ),
        ("/etc/dnsmasq.d/a", "server=/a.example/10.0.0.1\n"),
        (
            "/etc/dnsmasq.d/b",
            "server=/b.example/10.0.0.1\nconf-dir=/etc/dnsmasq.d\n",
        ),
    ]);
    let outcome = convert_with(
        Kind::Dnsmasq,
        "no-hosts\nconf-dir=/etc/dnsmasq.d,.bak\n",
        &files,
    );
    let text = outcome.unwrap().text;
    let (is_lost, line) = noted(&text, "/etc/dnsmasq.d/b:2").unwrap();
    assert!(is_lost && line.contains("include one another"), "{text}");
    assert_eq!(check(&text).unwrap().routes.len(), 2);
    let outcome = convert_with(
        Kind::Dnsmasq,
        "no-hosts\nconf-file=/etc/dnsmasq.d/a\n",
        &files,
    );
    let outcome = outcome.unwrap();
    let config = check(&outcome.text).unwrap();
    assert_eq!(value(&config, "upstream"), "[\"192.0.2.53:53\"]");
    assert_eq!((config.routes.len(), config.local.hosts.len()), (1, 0));
    let none = convert_with(Kind::Dnsmasq, "resolv-file=/run/resolv.conf\n", &files).unwrap_err();
    assert!(matches!(none, ConvertError::NoUpstream { .. }), "{none}");
}

#[test]
fn a_directory_is_read_as_dnsmasq_reads_it() {
    let names = [
        "a",
        "a.conf",
        "a.conf.dpkg-old",
        "a.conf~",
        ".a.conf",
        "#a.conf#",
        "#a.conf",
        ".conf",
        "b.off.conf",
    ];
    let paths = names.map(|name| format!("/etc/d/{name}"));
    let texts = (1..).map(|number| format!("server=192.0.2.{}\n", 100 + number));
    let texts: Vec<String> = texts.take(names.len()).collect();
    let files: Vec<_> = paths
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(String::as_str))
        .collect();
    let files = InMemory::new(&files);
    for (endings, read) in [
        (
            "",
            &["a", "a.conf", "a.conf.dpkg-old", "#a.conf", "b.off.conf"][..],
        ),
        (
            ",*",
            &["a", "a.conf", "a.conf.dpkg-old", "#a.conf", "b.off.conf"],
        ),
        (
            ",.dpkg-dist,.dpkg-old",
            &["a", "a.conf", "#a.conf", "b.off.conf"],
        ),
        (",*.conf", &["a.conf", "#a.conf", "b.off.conf"]),
        (", *.conf , .off.conf", &["a.conf", "#a.conf"]),
        (
            ",a",
            &["a", "a.conf", "a.conf.dpkg-old", "#a.conf", "b.off.conf"],
        ),
        (",*.none", &[]),
    ] {
        let text = format!("no-hosts\nno-resolv\nserver=192.0.2.99\nconf-dir=/etc/d{endings}\n");
        let text = convert_with(Kind::Dnsmasq, &text, &files).unwrap().text;
        let of = |path: &str| text.contains(&format!("# {path}:1: server="));
        let found = names.iter().zip(&paths).filter(|(_, path)| of(path));
        let mut found: Vec<&str> = found.map(|(name, _)| *name).collect();
        let mut read = read.to_vec();
        found.sort_unstable();
        read.sort_unstable();
        assert_eq!(found, read, "{endings}\n{text}");
        let noted = noted(&text, "/etc/dnsmasq.conf:4");
        assert_eq!(
            noted.map(|(is_lost, _)| is_lost),
            read.is_empty().then_some(false),
            "{text}"
        );
    }
}

#[test]
fn only_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("[d]");
    std::fs::create_dir_all(files.join("disabled.conf")).unwrap();
    std::fs::write(files.join("a.conf"), "server=9.9.9.9\n").unwrap();
    std::fs::write(files.join("a.conf~"), "server=192.0.2.9\n").unwrap();
    let text = format!("no-hosts\nno-resolv\nconf-dir={}\n", files.display());
    let draft = Kind::Dnsmasq.convert(Path::new("/etc/dnsmasq.conf"), &text, &[], &OnDisk);
    let outcome = draft
        .unwrap()
        .finish(None, &|text| check(text).map(drop))
        .unwrap();
    let config = check(&outcome.text).unwrap();
    assert_eq!(value(&config, "upstream"), "[\"9.9.9.9:53\"]");
    assert_eq!(outcome.lost, 0, "{}", outcome.text);
}

#[test]
fn samples_give_settings_that_are_good() {
    for text in [
        "server=9.9.9.9\nport=0\n",
        "server=9.9.9.9\nlisten-address=x,0.0.0.0,192.0.2.1\n",
        "server=9.9.9.9\nport=53\n",
        "server=9.9.9.9\nserver=9.9.9.9\nserver=x\nserver=9.9.9.9#x\nserver=//10.0.0.1\nserver=/#/10.0.0.1\n",
        "server=9.9.9.9\nserver=/a\nserver=/*.a/10.0.0.1\nserver=/.a/10.0.0.1\nserver=/a/\nlocal=/b/\naddress=/b\n",
        "server=9.9.9.9\naddress=/#/192.0.2.1\naddress=//192.0.2.1\naddress=/a/x\naddress=/a b/0.0.0.0\n",
        "server=9.9.9.9\ncname=a\ncname=a,b,c,300\nhost-record=x\nmx-host=x\ntxt-record=x\nsrv-host=x\nptr-record=x\n",
        "server=9.9.9.9\ncname=a.lan,b.lan\n",
        "server=9.9.9.9\nmax-cache-ttl=5\nmin-cache-ttl=10\nuse-stale-cache\nno-negcache\nall-servers\n",
        "server=fe80::1%lo\nlog-queries=extra\ntxt-record=lan,\"a # b\" # a comment\n",
    ] {
        let (text, _) = convert(Kind::Dnsmasq, text);
        assert!(text.starts_with("# Made by"), "{text}");
    }
}

#[test]
fn what_applies_to_local_names_is_applied_or_named() {
    const TEXT: &str = "server=9.9.9.9\nlocal=/lan/\nexpand-hosts\ndomain=lan\nhost-record=a.lan,192.0.2.1\n\
        host-record=b.lan,192.0.2.2,60\naddress=/c.lan/192.0.2.3\nlocal-ttl=30\nneg-ttl=60\nmin-port=1024\n";
    let (text, config) = convert(Kind::Dnsmasq, TEXT);
    let records = config.local.records.iter().map(String::as_str);
    let expected = [
        "a.lan 30 IN A 192.0.2.1",
        "b.lan 60 IN A 192.0.2.2",
        "c.lan 30 IN A 192.0.2.3",
    ];
    assert_eq!(records.collect::<Vec<_>>(), expected, "{text}");
    let is_lost = |text: &str, line: usize| {
        let noted = noted(text, &format!("/etc/dnsmasq.conf:{line}"));
        noted.map(|(is_lost, _)| is_lost)
    };
    for line in [3, 4, 8, 9, 10] {
        assert_eq!(is_lost(&text, line), Some(true), "{line}\n{text}");
    }
    // Without hosts files they do nothing else.
    let (text, _) = convert(Kind::Dnsmasq, &format!("{TEXT}no-hosts\n"));
    for line in [3, 4, 8] {
        assert_eq!(is_lost(&text, line), Some(false), "{line}\n{text}");
    }
}
