#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::answer::{blocklist::BlockAction, policy::NonRecursive};

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

/// Text of a file, and the one line that it gets.
const BAD: &[(&str, &str)] = &[
    // Not TOML, or not our keys.
    (
        "[forward\n",
        "heimdall.toml:1: unclosed table, expected `]`",
    ),
    (
        "\nbackend = \"a",
        "heimdall.toml:2: invalid basic string, expected `\"`",
    ),
    (
        "backend = \"xdp\"\nbackend = \"xdp\"",
        "heimdall.toml:2: duplicate key",
    ),
    (
        "[forward]\nthread = 3",
        "heimdall.toml:2: key `forward`: unknown key `thread`, expected one of `threads`, `timeout-ms`, `attempts`, `queue`, `max-in-flight`, `trust-ad`, `client-response-timeout-ms`, `failure-ttl-max`, `client-subnet`",
    ),
    (
        "listen = \"0.0.0.0:53\"",
        "heimdall.toml:1: key `listen`: invalid type: string \"0.0.0.0:53\", expected a list",
    ),
    (
        "upstream = [\n  \"192.0.2.53\",\n  5,\n]",
        "heimdall.toml:3: key `upstream`: invalid type: integer `5`, expected a string",
    ),
    (
        "cache = 5",
        "heimdall.toml:1: key `cache`: invalid type: integer `5`, expected a table",
    ),
    (
        "[forward]\ntrust-ad = 1",
        "heimdall.toml:2: key `forward.trust-ad`: invalid type: integer `1`, expected a boolean",
    ),
    (
        "max-udp-size = \"big\"",
        "heimdall.toml:1: key `max-udp-size`: invalid type: string \"big\", expected a whole number",
    ),
    // The policy.
    (
        "[access]\nallow = [\n\"10.0.0.1/8\"]",
        "heimdall.toml:3: key `access.allow`: 10.0.0.1/8 has bits set beyond its length; write 10.0.0.0/8, or the address alone if one is meant",
    ),
    (
        "[access]\ndrop = [\"lan\"]",
        "heimdall.toml:2: key `access.drop`: \"lan\" is not a prefix; write ADDR/BITS, like 192.0.2.0/24 or 2001:db8::/32, or ADDR",
    ),
    (
        "[access]\nnon-recursive = \"drop\"",
        "heimdall.toml:2: key `access.non-recursive`: \"drop\" is no treatment of queries without RD; write cache, refuse or forward",
    ),
    (
        "[local]\nspecial-names-except = [\n\"test\",\n\"lan\"]",
        "heimdall.toml:4: key `local.special-names-except`: \"lan\" is no special name, nor has it one below; write a zone like \"10.in-addr.arpa\"",
    ),
    (
        "[rate-limit]\nresponses-per-second = 100\nburst = 99",
        "heimdall.toml:3: key `rate-limit.burst`: 99 is out of range; choose 100 to 65535",
    ),
    (
        "[cookies]\nsecrets = [\"00\"]",
        "heimdall.toml:2: key `cookies.secrets`: a secret is 32 hexadecimal digits; `openssl rand -hex 16` makes one",
    ),
    (
        "identity.version = \"\"",
        "heimdall.toml:1: key `identity.version`: 0 octets are none that fit; give 1 to 255",
    ),
    (
        "[[blocklist]]\nfile = \"a\"\naction = \"drop\"",
        "heimdall.toml:3: key `blocklist.action`: \"drop\" is no action; write nxdomain, null, refused or allow",
    ),
    (
        "[[blocklist]]\naction = \"null\"",
        "heimdall.toml:1: key `blocklist`: missing field `file`",
    ),
    // Addresses.
    (
        "listen = [\n  \"0.0.0.0:53\",\n  \"10.0.0.1:99999\",\n]",
        "heimdall.toml:3: key `listen`: \"10.0.0.1:99999\" is not an address and port; write ADDR:PORT, an IPv6 address in [brackets]",
    ),
    (
        "listen = [\"10.0.0.1:53\", \"10.0.0.1:53\"]",
        "heimdall.toml:1: key `listen`: 10.0.0.1:53 is given twice; name it once",
    ),
    (
        "listen = [\n  \"127.0.0.1:53\",\n  \"0.0.0.0:53\",\n]",
        "heimdall.toml:2: key `listen`: 127.0.0.1:53 is one of the addresses that 0.0.0.0:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen = [\"[::]:53\", \"[fe80::1%lo]:53\"]",
        "heimdall.toml:1: key `listen`: [fe80::1%lo]:53 is one of the addresses that [::]:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen = [\"127.0.0.1:53\",\n\"[::ffff:0.0.0.0]:53\"]",
        "heimdall.toml:1: key `listen`: 127.0.0.1:53 is one of the addresses that 0.0.0.0:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen = [\"224.0.0.1:53\"]",
        "heimdall.toml:1: key `listen`: 224.0.0.1:53 is a multicast or broadcast address; name an address of this host",
    ),
    (
        "listen = [\n\"[ff02::53]:53\"]",
        "heimdall.toml:2: key `listen`: [ff02::53]:53 is a multicast or broadcast address; name an address of this host",
    ),
    (
        "upstream = []",
        "heimdall.toml:1: key `upstream`: the list is empty; leave the key out for the default",
    ),
    (
        "upstream = [\"dns.example\"]",
        "heimdall.toml:1: key `upstream`: \"dns.example\" is not an address; write ADDR or ADDR:PORT, an IPv6 address with a port in [brackets]",
    ),
    (
        "upstream = [\"0.0.0.0\"]",
        "heimdall.toml:1: key `upstream`: 0.0.0.0:53 is the address of no one host; name a resolver's address",
    ),
    (
        "upstream = [\"192.0.2.53\",\n\"192.0.2.53:53\"]",
        "heimdall.toml:2: key `upstream`: 192.0.2.53:53 is given twice; name it once",
    ),
    (
        "\n\nupstream = [\"192.0.2.1\"]",
        "heimdall.toml:3: key `upstream`: upstream 192.0.2.1:53 is our own listen address 0.0.0.0:53: queries would go round for ever; name another resolver, or listen elsewhere",
    ),
    (
        "listen = [\"192.0.2.7:53\"]\nupstream = [\"::ffff:192.0.2.7\"]",
        "heimdall.toml:2: key `upstream`: upstream 192.0.2.7:53 is our own listen address 192.0.2.7:53: queries would go round for ever; name another resolver, or listen elsewhere",
    ),
    (
        "\nupstream = [\"fe80::53\"]",
        "heimdall.toml:2: key `upstream`: fe80::53 is link-local and holds on one link only; add its interface, like fe80::53%eth0",
    ),
    (
        "upstream = [\"[fe80::53%nowhere]:5353\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"nowhere\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"fe80::53%4294967295\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"4294967295\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"fe80::53%\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"2001:db8::53%lo\"]",
        "heimdall.toml:1: key `upstream`: 2001:db8::53 is not link-local; leave out the % and what follows it",
    ),
    (
        "upstream = [\"192.0.2.53%lo:53\"]",
        "heimdall.toml:1: key `upstream`: 192.0.2.53 is not link-local; leave out the % and what follows it",
    ),
    (
        "upstream = [\"[fe80::53%lo:53\"]",
        "heimdall.toml:1: key `upstream`: \"[fe80::53%lo:53\" is not an address; write ADDR or ADDR:PORT, an IPv6 address with a port in [brackets]",
    ),
    (
        "upstream = [\"fe80::53%lo\", \"[fe80::53%1]:53\"]",
        "heimdall.toml:1: key `upstream`: [fe80::53%lo]:53 is given twice; name it once",
    ),
    (
        "upstream = [\"fe80::1%lo\"]",
        "heimdall.toml:1: key `upstream`: upstream [fe80::1%lo]:53 is our own listen address [::]:53: queries would go round for ever; name another resolver, or listen elsewhere",
    ),
    (
        "upstream = [\"192.0.2.53\"]\nlisten = [\"[fe80::1]:53\"]",
        "heimdall.toml:2: key `listen`: fe80::1 is link-local and holds on one link only; add its interface, like fe80::1%eth0",
    ),
    (
        "upstream = [\"192.0.2.53\"]\nlisten = [\"fe80::1%lo\"]",
        "heimdall.toml:2: key `listen`: \"fe80::1%lo\" is not an address and port; write ADDR:PORT, an IPv6 address in [brackets]",
    ),
    (
        "",
        "no upstream to forward to; give --upstream ADDR, or the key `upstream` in a file",
    ),
    // Interfaces and backend.
    (
        "interface = [\"eth0:0-x\"]",
        "heimdall.toml:1: key `interface`: \"0-x\" is not a list of queues; write numbers and ranges, like 0 or 0-3 or 0,2",
    ),
    (
        "interface = [\"eth0:0-3,2\"]",
        "heimdall.toml:1: key `interface`: queue 2 is given twice; name each queue once",
    ),
    (
        "interface = [\"a-very-long-name\"]",
        "heimdall.toml:1: key `interface`: \"a-very-long-name\" is not an interface name; write IF or IF:QUEUES, like eth0 or eth0:0-3",
    ),
    (
        "interface = [\"eth0:0\", \"eth0:1\"]",
        "heimdall.toml:1: key `interface`: interface eth0 is given twice; name it once, with all its queues, like eth0:0,1",
    ),
    (
        "backend = \"dpdk\"",
        "heimdall.toml:1: key `backend`: \"dpdk\" is not a backend; write auto, xdp or socket",
    ),
    (
        "backend = \"xdp\"",
        "heimdall.toml:1: key `backend`: backend xdp needs an interface; give --interface IF, or use backend socket",
    ),
    // Numbers.
    (
        "max-udp-size = 4097",
        "heimdall.toml:1: key `max-udp-size`: 4097 is out of range; choose 512 to 4096",
    ),
    (
        "[cache]\nsize = \"64Q\"",
        "heimdall.toml:2: key `cache.size`: \"64Q\" is not a size; write octets, with K, M or G for powers of 1024, like 64M",
    ),
    (
        "[cache]\nsize = true",
        "heimdall.toml:2: key `cache.size`: invalid type: boolean `true`, expected a size like 67108864 or \"64M\"",
    ),
    (
        "[cache]\nsize = 5",
        "heimdall.toml:2: key `cache.size`: 5 octets are too few for a cache; give at least 262144",
    ),
    (
        "[cache]\nmax-ttl = 60\nmin-ttl = 61",
        "heimdall.toml:3: key `cache.min-ttl`: min-ttl 61 is above max-ttl 60; lower the one or raise the other",
    ),
    (
        "[cache]\nsnapshot = \"/\"",
        "heimdall.toml:2: key `cache.snapshot`: \"/\" is no path of a file",
    ),
    (
        "[cache]\nsnapshot = \"a/\"",
        "heimdall.toml:2: key `cache.snapshot`: \"a/\" is no path of a file",
    ),
    (
        "control = \"\"",
        "heimdall.toml:1: key `control`: \"\" is no path of a file",
    ),
    (
        "control = \"/run/..\"",
        "heimdall.toml:1: key `control`: \"/run/..\" is no path of a file",
    ),
    (
        "control = \"/run/a\\u0000b\"",
        "heimdall.toml:1: key `control`: \"/run/a\\0b\" is no path of a file",
    ),
    (
        "\ncontrol = \"/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a2345678\"",
        "heimdall.toml:2: key `control`: the path has 109 octets, and that of a Unix socket has at most 107; choose a shorter one",
    ),
    (
        "[cache]\nsnapshot-interval = 0",
        "heimdall.toml:2: key `cache.snapshot-interval`: 0 is out of range; choose 1 to 86400",
    ),
    (
        "[forward]\ntimeout-ms = 0",
        "heimdall.toml:2: key `forward.timeout-ms`: 0 is out of range; choose 10 to 60000",
    ),
    (
        "[xdp]\nframes = 5000",
        "heimdall.toml:2: key `xdp.frames`: 5000 is not a power of two; choose 4096, or twice or half of it",
    ),
    (
        "[xdp]\ncpus = [0,\n 9]",
        "heimdall.toml:3: key `xdp.cpus`: core 9 is not ours to run on; choose from 0, 1",
    ),
];

#[test]
fn bad_files_get_one_line_that_names_the_place() {
    for (text, line) in BAD {
        let about_upstreams = text.is_empty() || text.contains("upstream");
        let flags = if about_upstreams {
            Flags::default()
        } else {
            flags(&["--upstream", "192.0.2.53"])
        };
        let error = Config::from_text(&flags, text, &host()).unwrap_err();
        assert_eq!(error.to_string(), *line, "for {text:?}");
    }
}

/// Flags, and the one line that they get.
const BAD_FLAGS: &[(&[&str], &str)] = &[
    (
        &["--upstream", "[::1]:53"],
        "--upstream: upstream [::1]:53 is our own listen address [::]:53: queries would go round for ever; name another resolver, or listen elsewhere",
    ),
    (
        &["--upstream", "192.0.2.53", "--backend", "xdp"],
        "--backend: backend xdp needs an interface; give --interface IF, or use backend socket",
    ),
    (
        &["--upstream", "192.0.2.53", "--cache-size", "1K"],
        "--cache-size: 1024 octets are too few for a cache; give at least 262144",
    ),
    (
        &["--interface", "eth0", "--interface", "eth0:1"],
        "--interface: interface eth0 is given twice; name it once, with all its queues, like eth0:0,1",
    ),
];

#[test]
fn bad_flags_are_named() {
    for (args, line) in BAD_FLAGS {
        let error = Config::from_text(&flags(args), "", &host()).unwrap_err();
        assert_eq!(error.to_string(), *line, "for {args:?}");
    }
}

#[test]
fn defaults() {
    let config = from_file("upstream = [\"9.9.9.9\"]").unwrap();
    let expected = Config {
        interfaces: Vec::new(),
        listen: vec!["0.0.0.0:53".parse().unwrap(), "[::]:53".parse().unwrap()],
        upstreams: vec!["9.9.9.9:53".parse().unwrap()],
        backend: Backend::Auto,
        control: PathBuf::from("/run/heimdall/control.sock"),
        max_udp_size: 1232,
        cache_bytes: 64 << 20,
        snapshot: None,
        ttl: TtlLimits::default(),
        forward: ForwardConfig {
            threads: 1,
            timeout: Duration::from_secs(1),
            attempts: 3,
            queue: 4096,
            max_in_flight: 4096,
            trust_ad: false,
            client_response_timeout: Duration::from_millis(1800),
            stale_max_age: 86_400,
            failure_ttl_max: 300,
            nxdomain_cut: false,
            client_subnet: None,
        },
        policy: PolicyConfig {
            allow: crate::answer::access::private(),
            special_names_except: Some(Vec::new()),
            blocklist_aliases: true,
            ..PolicyConfig::default()
        },
        xdp: XdpConfig {
            cpus: vec![0, 1],
            frames: 8192,
            spin: Duration::from_micros(50),
            verify_checksums: true,
            echo: false,
        },
        places: Places {
            interfaces: Vec::new(),
            control: Place::Nowhere,
            cache_size: Place::Nowhere,
            snapshot: Place::Nowhere,
        },
    };
    assert_eq!(config, expected);
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
    assert_eq!(config.cache_bytes, 1 << 30);
    let places: Vec<String> = [
        &config.places.interfaces[1],
        &config.places.control,
        &config.places.cache_size,
        &config.places.snapshot,
    ]
    .map(ToString::to_string)
    .into();
    let keys = [
        (2, "interface"),
        (6, "control"),
        (8, "cache.size"),
        (9, "cache.snapshot"),
    ];
    assert_eq!(
        places,
        keys.map(|(line, key)| format!("heimdall.toml:{line}: key `{key}`: "))
    );
    let snapshot = |path: &str| SnapshotConfig {
        path: path.into(),
        interval: Duration::from_secs(60),
    };
    assert_eq!(config.snapshot, Some(snapshot("/a")));
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
    assert_eq!(config.upstreams, ["[2620:fe::9]:53".parse().unwrap()]);
    assert_eq!(config.backend, Backend::Auto);
    assert_eq!(config.control, PathBuf::from("/tmp/b"));
    assert_eq!(config.cache_bytes, 512 << 10);
    assert_eq!(config.snapshot, Some(snapshot("/b")));
    assert_eq!(config.places.interfaces, [Place::Flag("--interface")]);
    assert_eq!(config.places.snapshot, Place::Flag("--snapshot"));
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
    let policy = config.policy;
    assert_eq!(policy.allow, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(policy.drop, ["192.0.2.66/32".parse().unwrap()]);
    let limit = &policy.limit;
    assert_eq!((limit.per_second, limit.burst, limit.slip), (100, 200, 2));
    assert_eq!(limit.exempt, ["10.0.0.0/8".parse().unwrap()]);
    assert!(!policy.cookies.enabled);
    assert_eq!(
        policy.cookies.secrets,
        [std::array::from_fn::<u8, 16, _>(|i| i as u8)]
    );
    assert_eq!(policy.identity.version, None);
    assert_eq!(policy.identity.server_id.as_deref(), Some("ams-1"));
    assert_eq!(policy.hosts[0].file, PathBuf::from("/etc/hosts"));
    assert_eq!(policy.records[1].text, "b.lan. A 10.0.0.2");
    assert_eq!(
        policy.records[1].place.to_string(),
        "heimdall.toml:20: key `local.records`: "
    );
    assert_eq!(policy.blocklists[0].action, BlockAction::NxDomain);
    assert_eq!(policy.blocklists[1].action, BlockAction::Allow);
    assert_eq!(policy.non_recursive, NonRecursive::Refuse);
    let exceptions = policy.special_names_except.unwrap();
    assert_eq!(exceptions[0].to_string(), "10.in-addr.arpa");
    assert!(!policy.blocklist_aliases);
    let off = "upstream = [\"9.9.9.9\"]\n[local]\nspecial-names = false";
    assert_eq!(from_file(off).unwrap().policy.special_names_except, None);

    let args = ["--upstream", "9.9.9.9", "--allow", "198.51.100.0/24"];
    let config = Config::from_text(&flags(&args), text, &host()).unwrap();
    assert_eq!(config.policy.allow, ["198.51.100.0/24".parse().unwrap()]);
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
    assert_eq!(shown(&config.upstreams), upstreams);
    assert_eq!(shown(&config.listen), ["[fe80::1%lo]:5300"]);
    for address in config.upstreams {
        assert!(matches!(address, SocketAddr::V6(v6) if v6.scope_id() == 1));
    }
    let others = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|text| text.parse().unwrap());
    assert_eq!(shown(&others), ["192.0.2.1:53", "[2001:db8::1]:53"]);
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

#[test]
fn the_example_file_is_good_and_shows_the_defaults() {
    let text = include_str!("../../../deploy/heimdall.toml");
    let config = from_file(text).unwrap();
    // Its commented keys are the defaults: with them the outcome is the same.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#= ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_ne!(text, uncommented);
    let mut explicit = from_file(&uncommented).unwrap();
    explicit.places = config.places.clone();
    assert_eq!(explicit, config);
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
    fn any_text_gives_a_config_or_one_line(text in "(listen|upstream|\\[cache\\]|size|=|\\[|\\]|\"|\n|[ -~]){0,40}") {
        if let Err(error) = from_file(&text) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}
