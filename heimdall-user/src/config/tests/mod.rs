#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod changes;
mod errors;
mod generated;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use proptest::prelude::*;

use super::{
    values::{upstream_address, upstream_text},
    *,
};
use crate::{
    answer::{
        access::private, blocklist::BlockAction, limit::LimitSettings, policy::NonRecursive,
        special::LocalOnly,
    },
    dns::TtlLimits,
};

fn host() -> Host {
    Host {
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        // Index 1 is the loopback interface of every network namespace.
        link_local: vec![
            ("fe80::1".parse().unwrap(), 1),
            ("fe80::2".parse().unwrap(), 2),
        ],
        cores: BTreeSet::from([0, 1]),
        control: Some(PathBuf::from("/run/heimdall/control.sock")),
    }
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    Config::from_text(&Flags::default(), text, &host())
}

fn flags(args: &[&str]) -> Flags {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }
    let args = std::iter::once("heimdall").chain(args.iter().copied());
    <Line as clap::Parser>::try_parse_from(args).unwrap().flags
}

#[test]
fn defaults() {
    // docs/settings.md has the defaults that are the same on all hosts.
    let config = from_file("upstream = [\"9.9.9.9\"]").unwrap();
    assert_eq!(Some(&config.control), host().control.as_ref());
    assert_eq!(config.xdp.cpus, [0, 1]);
    assert_eq!(config.access.allow, private());
    assert_eq!(config.cache.ttl_limits(), TtlLimits::default());
    assert_eq!(config.rate_limit.limits(), LimitSettings::default());
    for setting in config.settings.iter() {
        let given = setting.location() != Location::Unset;
        assert_eq!(given, setting.key == "upstream", "{}", setting.key);
    }
}

#[test]
fn metrics_are_served_on_loopback_unless_an_address_is_given() {
    for (text, address) in [
        ("9453", "127.0.0.1:9453"),
        (":9453", "127.0.0.1:9453"),
        ("localhost:9453", "127.0.0.1:9453"),
        ("192.0.2.1:9453", "192.0.2.1:9453"),
        ("0.0.0.0:9453", "0.0.0.0:9453"),
        ("[::1]:9453", "[::1]:9453"),
    ] {
        let given = flags(&["--metrics-listen", text, "--upstream", "9.9.9.9"]);
        let config = Config::from_text(&given, "", &host()).unwrap();
        assert_eq!(config.metrics.listen, Some(address.parse().unwrap()));
    }
    let off = from_file("upstream = [\"9.9.9.9\"]").unwrap();
    assert_eq!(off.metrics.listen, None);
}

#[test]
fn settings_in_force_are_objects_without_secrets() {
    let text = r#"
        upstream = ["9.9.9.9"]
        [cache]
        size = "1M"
        nxdomain-cut = false
        [cookies]
        secrets = ["0123456789abcdef0123456789abcdef"]
        [[blocklist]]
        file = "/a"
        [[blocklist]]
        file = "/b"
        action = "allow"
    "#;
    let json = from_file(text).unwrap().settings.json();
    assert_eq!(json["upstream"], serde_json::json!(["9.9.9.9:53"]));
    assert_eq!(json["cache"]["size"], "1M");
    assert_eq!(json["cache"]["nxdomain-cut"], false);
    assert_eq!(json["forward"]["threads"], 1);
    assert_eq!(json["cache"]["snapshot"], serde_json::Value::Null);
    assert_eq!(json["cookies"].get("secrets"), None);
    assert!(!json.to_string().contains("0123456789abcdef"), "{json}");
    assert_eq!(
        json["blocklist"],
        serde_json::json!([
            { "file": "/a", "action": "nxdomain" },
            { "file": "/b", "action": "allow" },
        ])
    );
}

#[test]
fn flags_override_the_file() {
    let text = r#"
        interface = ["eth0:0-3", "eth1"]
        listen = ["192.0.2.1:53"]
        upstream = ["9.9.9.9", "[2620:fe::fe]:5353"]
        backend = "socket"
        control = "/tmp/a"
        [cache]
        size = "1G"
        snapshot = "/a"
        snapshot-interval = 60
    "#;
    let config = from_file(text).unwrap();
    assert_eq!(
        config.interfaces[0].queues,
        Some(BTreeSet::from([0, 1, 2, 3]))
    );
    assert_eq!(config.interfaces[1].queues, None);
    assert_eq!(config.cache.bytes, 1 << 30);
    let location = |key, item| config.settings.item_location(key, item).to_string();
    for (line, key, item) in [
        (2, "interface", 1),
        (6, "control", 0),
        (8, "cache.size", 0),
        (9, "cache.snapshot", 0),
    ] {
        let expected = format!("heimdall.toml:{line}: key `{key}`: ");
        assert_eq!(location(key, item), expected);
    }
    let snapshot = config.cache.snapshot().unwrap();
    assert_eq!(snapshot.path, PathBuf::from("/a"));
    assert_eq!(snapshot.interval, Duration::from_secs(60));
    let args = [
        "--interface",
        "veth0:1",
        "--listen",
        "[::1]:5300",
        "--upstream",
        "2620:fe::9",
        "--backend",
        "auto",
        "--control",
        "/tmp/b",
        "--snapshot",
        "/b",
        "--cache-size",
        "512k",
    ];
    let config = Config::from_text(&flags(&args), text, &host()).unwrap();
    assert_eq!(config.interfaces, ["veth0:1".parse().unwrap()]);
    assert_eq!(config.listen, ["[::1]:5300".parse().unwrap()]);
    let address: SocketAddr = "[2620:fe::9]:53".parse().unwrap();
    assert_eq!(config.upstreams, [address.into()]);
    assert_eq!(config.backend, Backend::Auto);
    assert_eq!(config.control, PathBuf::from("/tmp/b"));
    assert_eq!(config.cache.bytes, 512 << 10);
    assert_eq!(config.cache.snapshot, Some(PathBuf::from("/b")));
    for (key, flag) in [
        ("interface", "--interface"),
        ("cache.snapshot", "--snapshot"),
    ] {
        assert_eq!(config.settings.location(key), Location::Flag(flag));
    }
}

#[test]
fn the_internet_may_be_answered_if_that_is_meant() {
    let open = ["--upstream", "9.9.9.9", "--allow", "0.0.0.0/0"];
    let with = |more: &[&str]| Config::from_text(&flags(&[&open, more].concat()), "", &host());
    // The host of these tests has a public address, which a wildcard stands for.
    assert!(with(&[]).is_err());
    for (more, opens) in [
        (["--listen", "192.0.2.9:53"].as_slice(), true),
        // Clients of the other family do not get there.
        (&["--listen", "[2001:db8::9]:53"], false),
        (&["--listen", "[2001:db8::9]:53", "--allow", "::/0"], true),
        (
            &["--listen", "[2001:db8::9]:53", "--listen", "192.0.2.9:53"],
            true,
        ),
        (&["--allow-public=false"], true),
        (&["--allow-public"], false),
        (&["--allow-public=true"], false),
        (&["--listen", "10.0.0.1:53", "--listen", "[::1]:53"], false),
    ] {
        assert_eq!(with(more).is_err(), opens, "{more:?}");
    }
    let meant = "upstream = [\"9.9.9.9\"]\n[access]\nallow = [\"::/0\"]\nallow-public = true";
    assert!(from_file(meant).unwrap().access.allow_public);
    // A provider's clients are not the Internet.
    let clients =
        "upstream = [\"9.9.9.9\"]\n[access]\nallow = [\"198.51.100.0/22\", \"2001:db8::/32\"]";
    assert!(from_file(clients).is_ok());
}

#[test]
fn a_service_address_is_the_hosts_before_it_has_it() {
    let private = Host {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..host()
    };
    let error = |text: &str| {
        let config = Config::from_text(&Flags::default(), text, &private);
        config.map(drop).map_err(|error| error.to_string())
    };
    let service = "[anycast]\naddress = [\"192.0.2.53\"]\n";
    let open = "upstream = [\"9.9.9.9\"]\naccess.allow = [\"0.0.0.0/0\"]\n";
    assert_eq!(error(open), Ok(()));
    let opened = error(&format!("{open}{service}")).unwrap_err();
    assert!(
        opened.contains("from where 192.0.2.53:53 can be reached"),
        "{opened}"
    );
    let own = "upstream = [\"192.0.2.53\"]\n";
    assert_eq!(error(own), Ok(()));
    let looped = error(&format!("{own}{service}")).unwrap_err();
    assert!(
        looped.contains("is our own listen address 192.0.2.53:53"),
        "{looped}"
    );
}

#[test]
fn a_policy() {
    let text = r#"
        upstream = ["9.9.9.9"]
        forward.client-subnet = "192.0.2.0/24"
        [access]
        allow = ["192.0.2.0/24"]
        drop = ["192.0.2.66"]
        non-recursive = "refuse"
        [rate-limit]
        responses-per-second = 100
        exempt = ["10.0.0.0/8"]
        [cookies]
        enabled = false
        secrets = ["000102030405060708090A0b0c0d0e0f"]
        [identity]
        server-id = "ams-1"
        [local]
        hosts = ["/etc/hosts"]
        records = [
            "a.lan. A 10.0.0.1",
            "b.lan. A 10.0.0.2",
        ]
        special-names-except = ["10.in-addr.arpa"]
        blocklist-aliases = false
        [[blocklist]]
        file = "one"
        [[blocklist]]
        file = "two"
        action = "allow"
    "#;
    let config = from_file(text).unwrap();
    assert_eq!(
        config.forward.client_subnet,
        Some("192.0.2.0/24".parse().unwrap())
    );
    assert_eq!(config.access.allow, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(config.access.drop, ["192.0.2.66/32".parse().unwrap()]);
    assert_eq!(config.access.non_recursive, NonRecursive::Refuse);
    let limits = config.rate_limit.limits();
    assert_eq!(
        (limits.per_second, limits.burst, limits.slip),
        (100, 200, 2)
    );
    assert_eq!(limits.exempt, ["10.0.0.0/8".parse().unwrap()]);
    assert!(!config.cookies.enabled);
    assert_eq!(
        config.cookies.secrets,
        [std::array::from_fn::<u8, 16, _>(|i| i as u8)]
    );
    let shown = |key: &str| {
        let mut settings = config.settings.iter();
        settings
            .find(|setting| setting.key == key)
            .unwrap()
            .value
            .as_str()
    };
    assert_eq!(shown("cookies.secrets"), "[(secret)]");
    assert_eq!(config.identity.version, None);
    assert_eq!(config.identity.server_id.as_deref(), Some("ams-1"));
    assert_eq!(config.local.hosts, [PathBuf::from("/etc/hosts")]);
    assert_eq!(config.local.records[1], "b.lan. A 10.0.0.2");
    let settings = &config.settings;
    for (key, item, line) in [
        ("local.records", 1, 20),
        ("blocklist.file", 0, 25),
        ("blocklist.file", 1, 27),
    ] {
        let location = settings.item_location(key, item).to_string();
        assert_eq!(location, format!("heimdall.toml:{line}: key `{key}`: "));
    }
    assert_eq!(config.blocklists[0].action, BlockAction::NxDomain);
    assert_eq!(config.blocklists[1].action, BlockAction::Allow);
    assert!(config.local.special_names);
    let exceptions = &config.local.special_names_except;
    assert_eq!(exceptions[0].to_string(), "10.in-addr.arpa");
    assert!(!config.local.blocklist_aliases);

    let args = ["--upstream", "9.9.9.9", "--allow", "198.51.100.0/24"];
    let config = Config::from_text(&flags(&args), text, &host()).unwrap();
    assert_eq!(config.access.allow, ["198.51.100.0/24".parse().unwrap()]);
}

#[test]
fn routes_take_what_they_do_not_say_from_the_rest() {
    let text = r#"
        upstream = ["192.0.2.2"]
        forward.timeout-ms = 700
        forward.attempts = 5
        cache.max-ttl = 1000
        [[route]]
        zone = "Corp.Example."
        upstream = ["10.1.0.53", "tls://dns.corp.example@10.2.0.53"]
        [[route]]
        zone = "10.in-addr.arpa"
        upstream = ["10.1.0.53"]
        timeout-ms = 300
        attempts = 2
        min-ttl = 7
        max-ttl = 60
        max-negative-ttl = 5
        [[route]]
        zone = "denied.example"
        answer = "nxdomain"
    "#;
    let config = from_file(text).unwrap();
    let routes = config.upstream_options().routes;
    let [corp, reverse, denied] = routes.as_slice() else {
        panic!("{routes:?}");
    };
    assert_eq!(&*corp.zone, b"\x04corp\x07example\0");
    assert_eq!(corp.upstreams.len(), 2);
    assert_eq!(corp.attempt_timeout, Duration::from_millis(700));
    assert_eq!((corp.attempts, corp.limits.max), (5, 1000));
    assert_eq!(reverse.attempt_timeout, Duration::from_millis(300));
    assert_eq!(reverse.attempts, 2);
    let limits = TtlLimits {
        min: 7,
        max: 60,
        max_negative: 5,
    };
    assert_eq!(reverse.limits, limits);
    assert_eq!(denied.local_only, Some(LocalOnly::NxDomain));
    assert_eq!(denied.upstreams, []);
    let place = config.settings.nested_location("route.upstream", 0, 1);
    assert_eq!(place.to_string(), "heimdall.toml:8: key `route.upstream`: ");
    let json = config.settings.json();
    assert_eq!(json["route"][0]["zone"], "corp.example");
    assert_eq!(json["route"][1]["max-ttl"], 60);
    assert_eq!(json["route"][2]["answer"], "nxdomain");
    assert_eq!(json["route"].as_array().unwrap().len(), 3);

    // The default route in place of the key.
    let only = from_file("[[route]]\nzone = \".\"\nanswer = \"refused\"").unwrap();
    assert_eq!(only.upstreams, []);
    assert_eq!(*only.upstream_options().routes[0].zone, [0]);
}

#[test]
fn workers_take_the_cores_in_turn() {
    let flags = flags(&["--upstream", "9.9.9.9"]);
    let all = Config::from_text(&flags, "", &host()).unwrap().xdp;
    assert_eq!(
        [0, 1, 2].map(|worker| all.cpu(worker)),
        [Some(0), Some(1), Some(0)]
    );
    let one = Config::from_text(&flags, "xdp.cpus = [1]", &host())
        .unwrap()
        .xdp;
    assert_eq!([0, 1].map(|worker| one.cpu(worker)), [Some(1), Some(1)]);
    let unknown = Config::from_text(
        &flags,
        "",
        &Host {
            cores: BTreeSet::new(),
            ..host()
        },
    );
    assert_eq!(unknown.unwrap().xdp.cpu(0), None);
}

#[test]
fn there_are_no_more_workers_than_cores_or_queues() {
    let flags = flags(&["--upstream", "9.9.9.9"]);
    let workers = |text: &str, host: &Host| {
        let config = Config::from_text(&flags, text, host).unwrap();
        [0, 1, 2, 64].map(|queues| config.xdp.workers(queues))
    };
    assert_eq!(workers("", &host()), [0, 1, 2, 2]);
    assert_eq!(workers("xdp.workers = \"auto\"", &host()), [0, 1, 2, 2]);
    assert_eq!(workers("xdp.workers = 4", &host()), [0, 1, 2, 4]);
    assert_eq!(workers("xdp.cpus = [1]", &host()), [0, 1, 1, 1]);
    let unknown = Host {
        cores: BTreeSet::new(),
        ..host()
    };
    assert_eq!(workers("", &unknown), [0, 1, 1, 1]);
}

#[test]
fn link_local_addresses_have_a_zone() {
    let text = r#"
        listen = ["[fe80::1%lo]:5300"]
        upstream = ["fe80::53%lo", "[fe80::53%1]:5353", "fe80::2%lo", "[2001:db8::53]"]
    "#;
    let error = from_file(text).unwrap_err().to_string();
    assert!(
        error.contains("\"[2001:db8::53]\" is not an address"),
        "{error}"
    );
    // fe80::2 is an address of this host, but on another link.
    let config = from_file(&text.replace(", \"[2001:db8::53]\"", "")).unwrap();
    let shown = |addresses: &[SocketAddr]| -> Vec<_> {
        let shown = addresses.iter().map(|&address| Zoned(address).to_string());
        shown.collect()
    };
    let upstreams = ["[fe80::53%lo]:53", "[fe80::53%lo]:5353", "[fe80::2%lo]:53"];
    let addresses: Vec<_> = (config.upstreams.iter())
        .map(|upstream| upstream.address)
        .collect();
    assert_eq!(shown(&addresses), upstreams);
    assert_eq!(shown(&config.listen), ["[fe80::1%lo]:5300"]);
    for address in addresses {
        assert!(matches!(address, SocketAddr::V6(v6) if v6.scope_id() == 1));
    }
    let others = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|text| text.parse().unwrap());
    assert_eq!(shown(&others), ["192.0.2.1:53", "[2001:db8::1]:53"]);
}

#[test]
fn upstreams_are_read_as_they_are_shown() {
    let pin = "sha256=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    for (written, shown) in [
        ("192.0.2.1", "192.0.2.1:53"),
        ("tcp://192.0.2.1", "tcp://192.0.2.1:53"),
        ("tcp://fe80::53%lo", "tcp://[fe80::53%lo]:53"),
        ("tls://192.0.2.1", "tls://192.0.2.1:853"),
        (
            "tls://dns.example@[2001:db8::1]:8853",
            "tls://dns.example@[2001:db8::1]:8853",
        ),
        (
            &format!("tls://192.0.2.1#{pin}"),
            &format!("tls://192.0.2.1:853#{pin}"),
        ),
        (
            &format!("tls://a.example@[fe80::1%lo]:853#{pin},{pin}"),
            &format!("tls://a.example@[fe80::1%lo]:853#{pin},{pin}"),
        ),
    ] {
        for text in [written, shown] {
            let upstream = upstream_address(text).unwrap();
            assert_eq!(upstream_text(&upstream), shown);
        }
    }
    // The same address may be asked in several ways.
    let text = r#"upstream = ["tls://192.0.2.2", "192.0.2.2", "tcp://192.0.2.2"]"#;
    assert_eq!(from_file(text).unwrap().upstreams.len(), 3);
}

#[test]
fn another_port_or_family_is_no_loop() {
    for args in [
        ["--listen", "127.0.0.1:5300", "--upstream", "127.0.0.1:53"],
        ["--listen", "127.0.0.2:53", "--upstream", "127.0.0.1:53"],
        ["--listen", "[::]:53", "--upstream", "127.0.0.1:53"],
    ] {
        assert!(
            Config::from_text(&flags(&args), "", &host()).is_ok(),
            "{args:?}"
        );
    }
}

proptest! {
    #[test]
    fn sizes_read_back(bytes in 0_usize..1 << 45) {
        let size = Size(bytes);
        prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
    }

    #[test]
    fn interfaces_read_back(
        name in "[a-z][a-z0-9._-]{0,14}",
        queues in proptest::option::of(proptest::collection::btree_set(0_u32..4096, 1..20)),
    ) {
        let interface = InterfaceConfig { name, queues };
        prop_assert_eq!(interface.to_string().parse::<InterfaceConfig>().unwrap(), interface);
    }

    #[test]
    fn any_text_gives_a_config_or_one_line(text in "(listen|upstream|\\[cache\\]|\\[\\[route\\]\\]\n|zone|answer|size|=|\\[|\\]|\"|\n|[ -~]){0,40}") {
        if let Err(error) = from_file(&text) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

#[test]
fn a_port_of_several_interfaces_has_the_queues_of_all() {
    for (settings, serves, queues) in [
        ("\"eth0\"", "eth0", None),
        ("\"eth0:1-2\"", "eth0", Some(vec![1, 2])),
        ("\"bond0:0,3\"", "bond0", Some(vec![0, 3])),
        ("\"eth0:1\", \"eth0.5:2\"", "eth0 eth0.5", Some(vec![1, 2])),
        ("\"eth0:1\", \"eth0.5\"", "eth0 eth0.5", None),
        ("\"eth0:1\", \"eth1:2\"", "eth0", Some(vec![1])),
    ] {
        let text = format!("upstream = [\"192.0.2.53\"]\ninterface = [{settings}]");
        let config = from_file(&text).unwrap();
        let serves: Vec<String> = serves.split(' ').map(str::to_owned).collect();
        let port = InterfaceConfig::of_port(&config.interfaces, "eth0", &serves);
        let queues = queues.map(BTreeSet::from_iter);
        let expected = InterfaceConfig {
            name: "eth0".to_owned(),
            queues,
        };
        assert_eq!(port, expected, "{settings}");
    }
}
