//! Every setting: the key, the type, the bounds, the default, and what it means. To add one, add it
//! here; all else that shows settings is made from these definitions.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueHint;

use super::{
    Backend, InterfaceConfig, Problem, SandboxMode, Settings, TierMode,
    definition::{Section, settings},
    error::MAX_SOCKET_PATH,
    spec::{
        Applied, auto_or, boolean, choice, integer, list, milliseconds, parsed, path, seconds,
        secret, size, text,
    },
    values::{self, Zone, listen_address, metrics_address, upstream_address, upstream_text, zoned},
};
use crate::{
    answer::{
        access::{Access, private},
        blocklist::BlockAction,
        limit::LimitSettings,
        policy::NonRecursive,
        prefix::Prefix,
        special::{Exception, LocalOnly},
    },
    cache,
    dns::TtlLimits,
    forward::{self, Policy, UpstreamAddress},
    log::LogFormat,
    tap::{DnstapTarget, MessageKind, Rate},
    worker::IdleMode,
};

/// A week in seconds: RFC 8767 sections 4 and 5 suggest it as the cap of TTLs and allow it for stale
/// answers.
const WEEK: i64 = 604_800;

/// Reads the name of an interface that is not for AF_XDP.
fn interface_name(text: &str) -> Result<String, Problem> {
    values::plain_interface(text).map_err(|problem| match problem {
        Problem::Interface(text) => Problem::InterfaceName(text),
        other => other,
    })
}

/// The forwarder's defaults.
fn forward() -> forward::ForwardOptions {
    forward::ForwardOptions::default()
}

/// Checks that a path can be that of a Unix socket.
fn socket_path(path: &Path) -> Result<(), Problem> {
    values::names_a_file(path)?;
    match path.as_os_str().len() {
        len if len > MAX_SOCKET_PATH => Err(Problem::SocketPath(len)),
        _ => Ok(()),
    }
}

settings! {
    /// All settings, checked: each value is in its range, and they agree with one another.
    "" => Config, take_over;

    /// Interfaces whose receive queues AF_XDP serves: "eth0" for all queues, "eth0:0-3" or
    /// "eth0:0,2" for some. A bond, a team, a VLAN or a macvlan is served on the interfaces below it; of a bridge, give the
    /// ports.
    "interface" => interfaces: Vec<InterfaceConfig> =
        list(parsed::<InterfaceConfig>("interfaces, IF or IF:QUEUES"))
            .default_from("none (kernel sockets serve all queries)", |_| Ok(Vec::new()))
            .example(r#"["eth0"]"#)
            .flag("--interface", "IF[:QUEUES]");
    /// Addresses and ports to answer on, by UDP and TCP. An address that the host does not have yet is
    /// served once it appears. A link-local address names its interface: "[fe80::53%eth0]:53".
    /// To AF_XDP, 0.0.0.0 and `[::]` stand for the addresses of the given interfaces and those of `[anycast]`; name others of lo
    /// and of dummy interfaces.
    "listen" => listen: Vec<SocketAddr> =
        list(text("addresses, ADDR:PORT", listen_address, zoned))
            .default(vec![
                (Ipv4Addr::UNSPECIFIED, 53).into(),
                (Ipv6Addr::UNSPECIFIED, 53).into(),
            ])
            .flag("--listen", "ADDR:PORT");
    /// Addresses and ports to answer on over TLS (DoT, RFC 7858), usually port 853, with `tls.certificate` and `tls.key`.
    /// If those cannot be used, or a port cannot be bound, the log says so, and all else is served.
    "listen-tls" => listen_tls: Vec<SocketAddr> =
        list(text("addresses, ADDR:PORT", listen_address, zoned))
            .default_from("none (no TLS)", |_| Ok(Vec::new()))
            .example(r#"["0.0.0.0:853", "[::]:853"]"#)
            .flag("--listen-tls", "ADDR:PORT");
    /// Resolvers that cache misses are forwarded to, in order of preference; the port is 53 unless given. `[[route]]` names
    /// others for some names.
    /// They are asked by UDP, and by TCP for what does not fit; "tcp://9.9.9.9" by TCP only;
    /// "tls://dns.quad9.net@9.9.9.9" by TLS, port 853, with a certificate for that name (or, without one, for
    /// the address). "#sha256=DIGEST,sha256=…" after it pins the key: the SHA-256 of its SPKI, in base64.
    /// A link-local address names its interface: "fe80::53%eth0", "[fe80::53%eth0]:5353".
    "upstream" => upstreams: Vec<UpstreamAddress> =
        list(text("resolvers, ADDR[:PORT], tcp://… or tls://[NAME@]ADDR[:PORT][#sha256=DIGEST]", upstream_address, upstream_text))
            .default(Vec::new())
            .required()
            .applied(Applied::InPlace)
            .example(r#"["9.9.9.9", "149.112.112.112"]"#)
            .flag("--upstream", "ADDR[:PORT]");
    /// How packets are received and sent. "auto": by AF_XDP on the given interfaces where that works, by
    /// kernel sockets otherwise; "xdp": the same, but AF_XDP has to work on all of them for a start;
    /// "socket": by kernel sockets only, which needs no privileges except for the port.
    "backend" => backend: Backend =
        choice(&[
            ("auto", Backend::Auto),
            ("xdp", Backend::Xdp),
            ("socket", Backend::Socket),
        ])
        .default(Backend::Auto)
        .flag("--backend", "BACKEND");
    /// Unix socket by which `heimdall stats`, `reload`, `flush`, `dump`, `trace` and `route` reach the server.
    "control" => control: PathBuf =
        path()
            .check(|path| socket_path(path))
            .default_from(
                "/run/heimdall/control.sock for root, otherwise $XDG_RUNTIME_DIR/heimdall.sock",
                |host| host.control.clone().ok_or(Problem::NoControl),
            )
            .applied(Applied::Restart)
            .example(r#""/run/heimdall/control.sock""#)
            .flag("--control", "PATH");
    /// Group that the control socket is given to, by its name or number. The server's user has to be a member of
    /// it, or root.
    "control-group" => control_group: Option<String> =
        text("a group", values::any_text, String::clone)
            .applied(Applied::Restart)
            .example(r#""adm""#)
            .optional("the server's group");
    /// Mode of the control socket: "0660" for the server's user and the group, "0600" for the user alone.
    "control-mode" => control_mode: u32 =
        choice(&[("0600", 0o600), ("0660", 0o660)]).default(0o660).applied(Applied::Restart);
    /// Largest UDP reply. 1232 octets pass every IPv6 path unfragmented.
    "max-udp-size" => max_udp_size: u16 = integer(512, 4096).unit(" octets").default(1232);
    /// Longest time that queries under way are given when the server stops, and when another takes over from it: those
    /// that upstreams have not answered by then get no reply, and connections that are still busy are closed.
    "stop-timeout" => stop_timeout: Duration =
        seconds(0, 50).default(Duration::from_secs(5)).applied(Applied::InPlace);

    tables:
    /// The caches.
    cache: CacheConfig;
    /// Forwarding to upstreams.
    forward: ForwardConfig;
    /// The socket front.
    socket: SocketConfig;
    /// The AF_XDP workers.
    xdp: XdpConfig;
    /// The hot tier.
    tier: TierConfig;
    /// Privileges.
    privileges: PrivilegesConfig;
    /// Service addresses.
    anycast: AnycastConfig;
    /// Metrics and the status page.
    metrics: MetricsConfig;
    /// The log.
    log: LogConfig;
    /// dnstap.
    dnstap: DnstapConfig;
    /// The query log.
    query_log: QueryLogConfig;
    /// Routes.
    routes: Vec<RouteConfig>;
    /// TLS towards clients.
    tls: TlsConfig;
    /// Who may query.
    access: AccessConfig;
    /// Response rate limiting.
    rate_limit: RateLimitConfig;
    /// DNS cookies.
    cookies: CookiesConfig;
    /// What the server tells about itself.
    identity: IdentityConfig;
    /// Local names.
    local: LocalConfig;
    /// Blocklists.
    blocklists: Vec<BlocklistConfig>;
    /// Each setting's value in TOML, and where it comes from.
    settings: Settings;
}

settings! {
    /// The caches: one for each AF_XDP worker, one for each socket thread, one for each forwarder thread.
    "cache" => CacheConfig, take_over;

    /// Memory of each cache.
    "size" => bytes: usize =
        size()
            .check(|bytes| match *bytes {
                bytes if bytes < cache::MIN_BYTES => Err(Problem::CacheSize(bytes)),
                _ => Ok(()),
            })
            .default(forward().cache_bytes)
            .flag("--cache-size", "BYTES");
    /// File that keeps the forwarder's caches over a restart: it is read at the start, and written from
    /// time to time and at the stop. The systemd unit makes /var/lib/heimdall for it.
    "snapshot" => snapshot: Option<PathBuf> =
        path()
            .check(|path| values::names_a_file(path))
            .example(r#""/var/lib/heimdall/cache.snapshot""#)
            .flag("--snapshot", "FILE")
            .optional("none (the caches start empty)");
    /// Time from one snapshot to the next.
    "snapshot-interval" => snapshot_interval: Duration =
        seconds(1, 86_400).default(Duration::from_secs(300));
    /// Lower TTLs are raised to this, except for TTL 0, which is never cached.
    "min-ttl" => min_ttl: u32 =
        integer(0, WEEK).unit(" seconds").default(forward().limits.min).applied(Applied::InPlace);
    /// Higher TTLs are lowered to this.
    "max-ttl" => max_ttl: u32 =
        integer(1, WEEK).unit(" seconds").default(forward().limits.max).applied(Applied::InPlace);
    /// The same for negative answers.
    "max-negative-ttl" => max_negative_ttl: u32 =
        integer(0, WEEK).unit(" seconds").default(forward().limits.max_negative).applied(Applied::InPlace);
    /// Time after its expiry for which an answer may be served while no upstream gives a newer one
    /// (RFC 8767). 0: never.
    "stale-max-age" => stale_max_age: u32 = integer(0, WEEK).unit(" seconds").default(forward().stale_max_age);
    /// NXDOMAIN for a name also answers queries for all names below it (RFC 8020).
    "nxdomain-cut" => nxdomain_cut: bool = boolean().default(forward().nxdomain_cut);
}

settings! {
    /// The forwarder, which gets from upstreams what the caches do not have.
    "forward" => ForwardConfig, take_over;

    /// Threads. One is enough for some ten thousand cache misses a second.
    "threads" => threads: usize = integer(1, 64).default(forward().threads);
    /// Time that an upstream has to respond before the next attempt. It is longer, up to two seconds, for
    /// an upstream whose round-trip times are longer, twice as long over TCP, and three times over TLS.
    "timeout-ms" => timeout: Duration =
        milliseconds(10, 60_000).default(forward().attempt_timeout).applied(Applied::InPlace);
    /// Attempts for a question. One that ends with an error at once does not count.
    "attempts" => attempts: u32 = integer(1, 16).default(forward().attempts).applied(Applied::InPlace);
    /// Which upstream is asked first. "sequential": the first that works; "round-robin": each in turn; "fastest":
    /// the one that responds soonest, while one query of 32 measures another one; "hash": by the name, so that
    /// each has the same names as long as it works.
    "policy" => policy: Policy =
        choice(POLICIES)
        .default(forward().policy)
        .applied(Applied::InPlace);
    /// Share of the questions for which a second upstream may be asked as soon as the first takes longer than
    /// it does for 95 of 100. 0: none.
    "hedge" => hedge: u32 = integer(0, 50).unit(" percent").default(forward().hedge).applied(Applied::InPlace);
    /// Questions that may wait for each thread. Beyond them clients get SERVFAIL.
    "queue" => queue: usize = integer(16, 1 << 20).default(forward().queue);
    /// Questions that each thread may have in flight. Beyond them the client prefix or the zone that holds
    /// most loses its oldest.
    "max-in-flight" => max_in_flight: usize = integer(16, 32_768).default(forward().max_in_flight);
    /// Ask upstreams for the target of an alias (CNAME) if their answer has the alias and nothing about the target, as
    /// that of a server which is authoritative for the alias alone.
    "follow-aliases" => follow_aliases: bool = boolean().default(forward().follow_aliases);
    /// Ask upstreams in upper and lower case letters chosen at random ("0x20"), which their responses have to repeat:
    /// up to 64 bits more for a forger to guess. For upstreams without cookies that keep the case of names; those that
    /// change it are found out, and asked in the client's letters.
    "randomize-case" => randomize_case: bool = boolean().default(forward().randomize_case);
    /// DNS cookies towards upstreams over UDP (RFC 7873): 64 bits for a forger to guess, where the upstream
    /// gives them.
    "cookies" => cookies: bool = boolean().default(forward().cookies);
    /// Pass on the AD bit of responses, by which an upstream says that it has validated them. Only for a
    /// validating resolver on a path on which others cannot change packets.
    "trust-ad" => trust_ad: bool = boolean().default(forward().trust_ad);
    /// Time after which a client gets a stale answer, if there is one, while upstreams are still queried.
    "client-response-timeout-ms" => client_response_timeout: Duration =
        milliseconds(10, 60_000).default(forward().client_response_timeout);
    /// Longest time for which a failure is cached (RFC 9520). The first is cached for a second, each
    /// further one in a row for twice as long as the one before.
    "failure-ttl-max" => failure_ttl_max: u32 = integer(1, 300).unit(" seconds").default(forward().failure_max);
    /// The client subnet (RFC 7871) that all queries to upstreams carry, whatever clients send.
    "client-subnet" => client_subnet: Option<Prefix> =
        parsed::<Prefix>("a prefix, ADDR/BITS").example(r#""192.0.2.0/24""#).optional("none");
    /// Whether upstreams over TLS have to prove who they are. "strict": one whose certificate is wrong or expired
    /// gets no query; "opportunistic": any certificate will do unless its key is pinned, which hides queries only from
    /// those who listen.
    "tls" => tls_opportunistic: bool =
        choice(&[("strict", false), ("opportunistic", true)]).default(forward().tls.opportunistic);
    /// File of the root certificates, in PEM, that upstreams' certificates are checked by.
    "tls-roots" => tls_roots: Option<PathBuf> =
        path()
            .check(|path| values::names_a_file(path))
            .example(r#""/etc/heimdall/roots.pem""#)
            .optional("those of the system");
}

settings! {
    /// The kernel sockets, which serve what AF_XDP does not.
    "socket" => SocketConfig, take_over;

    /// Threads, each with sockets and a cache of its own, among which the kernel distributes datagrams and
    /// connections at random. One answers some 150,000 queries a second from its cache; more are for hosts
    /// without AF_XDP that have cores to spare.
    "threads" => threads: usize = integer(1, 64).default(1);
}

settings! {
    /// TLS towards clients, on the addresses of `listen-tls`. A reload reads the files again; connections that are open
    /// stay open.
    "tls" => TlsConfig, in_place;

    /// File with the certificate in PEM, and those of the authorities between it and the root after it
    /// (certbot's fullchain.pem).
    "certificate" => certificate: Option<PathBuf> =
        path()
            .check(|path| values::names_a_file(path))
            .example(r#""/etc/heimdall/tls/certificate.pem""#)
            .flag("--tls-certificate", "FILE")
            .optional("none");
    /// File with its private key in PEM, without a passphrase: PKCS#8, SEC1 or PKCS#1 (certbot's privkey.pem).
    "key" => key: Option<PathBuf> =
        path()
            .check(|path| values::names_a_file(path))
            .example(r#""/etc/heimdall/tls/key.pem""#)
            .flag("--tls-key", "FILE")
            .optional("none");
}

settings! {
    /// The AF_XDP workers: threads that serve the queues of all interfaces, each with a cache of its own.
    "xdp" => XdpConfig, take_over;

    /// How many there are, but never more than queues. "auto": as many as `cpus` has cores. Each queue goes to a worker on the core
    /// of its interrupt, if there is one, else on the NIC's NUMA node, else to the one with the fewest queues.
    "workers" => workers: Option<usize> = auto_or(integer::<usize>(1, 256));
    /// Cores that workers are pinned to, in turn.
    "cpus" => cpus: Vec<usize> =
        list(integer(0, 1023).values("core numbers"))
            .default_from("all cores in the CPU affinity mask", |host| {
                Ok(host.cores.iter().copied().collect())
            })
            .example("[2, 3]");
    /// Frames in each queue's UMEM, 2 KiB each, or 4 KiB with an MTU above 1,770. Half as many queries of each worker may wait for an answer.
    "frames" => frames: u32 =
        integer(256, 1 << 18)
            .unit(", a power of two")
            .check(|frames: &u32| match frames.is_power_of_two() {
                true => Ok(()),
                false => Err(Problem::PowerOfTwo(*frames)),
            })
            .default(8192);
    /// What a worker does while its queues are empty. "sleep": it sleeps until a packet arrives, which costs
    /// least CPU time; "adaptive": before that it looks at its queues for up to 10 microseconds, as long as
    /// packets arrive meanwhile and no other thread wants its core, which saves the time of a wake-up;
    /// "busy-poll": it polls the NIC itself and sleeps after 10 ms without a packet, for cores that do
    /// nothing else. The log says what the interface needs for that.
    "idle" => idle: IdleMode =
        choice(&[
            ("sleep", IdleMode::Sleep),
            ("adaptive", IdleMode::Adaptive),
            ("busy-poll", IdleMode::BusyPoll),
        ])
        .default(IdleMode::Sleep)
        .flag("--idle", "MODE");
    /// Where replies are sent. "off": to the MAC address that the query came from; "on": to the next hop of the kernel's
    /// route to the client, policy rules included. Queries whose replies leave by another interface are then answered by
    /// the sockets. "on" is for load balancers with direct return, asymmetric routes and policy routing. It needs Linux 5.11,
    /// and the parameters net.ipv4.conf.lo.forwarding and net.ipv6.conf.lo.forwarding to be 1.
    "route-check" => route_check: bool =
        choice(&[("off", false), ("on", true)])
            .default(false)
            .flag("--route-check", "MODE");
    /// Drop packets whose IPv4 or UDP checksum is wrong.
    "verify-checksums" => verify_checksums: bool = boolean().default(true);
}

settings! {
    /// The hot tier: answers to popular questions that the XDP program gives itself, before a worker is woken.
    "tier" => TierConfig, take_over;

    /// On which interfaces the XDP program answers popular questions itself. "auto": where the driver runs it
    /// (native mode), but not on veth, whose peer needs an XDP program, too; "on": on all; "off": on none. Whether
    /// another driver than veth sends its replies (XDP_TX) is not checked. Clients get the same replies either way.
    "mode" => mode: TierMode =
        choice(&[
            ("auto", TierMode::Auto),
            ("on", TierMode::On),
            ("off", TierMode::Off),
        ])
        .default(TierMode::Auto)
        .flag("--tier", "MODE");
    /// Answers that it holds at most. Each takes 540 octets and 8 for each possible CPU (see
    /// `/sys/devices/system/cpu/possible`), for each interface, and some 900 octets in the server. 0: it is off.
    "entries" => entries: u32 = integer(0, 65_536).default(10_000);
}

settings! {
    /// What the server gives up before it starts: nothing that a start, a reload or a later repair needs.
    "privileges" => PrivilegesConfig, restart;

    /// Capabilities, files (Landlock) and system calls (seccomp) that the settings do not need are given up at the start,
    /// for good. "auto": as far as the kernel can; "require": all of that, which Linux 6.12 can, or the server does not start; "off":
    /// none of it. A reload that needs more than the start did is refused, and says so.
    "sandbox" => sandbox: SandboxMode =
        choice(&[
            ("auto", SandboxMode::Auto),
            ("require", SandboxMode::Require),
            ("off", SandboxMode::Off),
        ])
        .default(SandboxMode::Auto)
        .flag("--sandbox", "MODE");
    /// User, by its name or number, that the server changes to if it is started as root, with the user's groups. The
    /// systemd unit has a user of its own, and needs no such change.
    "user" => user: Option<String> =
        text("a user", values::any_text, String::clone)
            .example(r#""heimdall""#)
            .offered(ValueHint::Username)
            .flag("--user", "USER")
            .optional("the user that starts it");
}

settings! {
    /// Service addresses that several hosts have (anycast). They are on an interface of this host only while the server answers, so
    /// that a routing daemon announces them by that.
    "anycast" => AnycastConfig, take_over;

    /// The addresses, which `listen` has to cover. AF_XDP serves them on all interfaces of `interface`.
    "address" => addresses: Vec<IpAddr> =
        list(text("addresses", values::service_address, values::service_text))
            .check(|list| values::few_services(list))
            .default_from("none", |_| Ok(Vec::new()))
            .example(r#"["192.0.2.53/32", "2001:db8::53/128"]"#);
    /// Interface that has the addresses while they are announced: one that announces its addresses and nothing else. It is made, of the
    /// kind dummy, if there is none. "lo" will do where the routing daemon is told which of its addresses to announce.
    "interface" => interface: String =
        text("an interface", interface_name, String::clone).default("anycast0".to_owned());
    /// Whether the addresses are withdrawn while no upstream responds. "required": they are, and after the start they are announced once
    /// one has responded to a probe; "optional": cached and stale answers stand in,
    /// as is better where all hosts have the same upstreams.
    "upstreams" => needs_upstream: bool =
        choice(&[("required", true), ("optional", false)]).default(true);
    /// Time that no upstream responds, or that the server does not answer itself, before the addresses are withdrawn. If a thread
    /// is stuck or has ended, they are at once.
    "withdraw-after" => withdraw_after: Duration = seconds(0, 3600).default(Duration::from_secs(5));
    /// Time without such an obstacle before they are announced again. The first time after the start they are at once.
    "announce-after" => announce_after: Duration = seconds(0, 3600).default(Duration::from_secs(5));
    /// Time for which a server that ends goes on answering after it has withdrawn them: what routers take to send no more queries.
    "drain-wait" => drain_wait: Duration = seconds(0, 10).default(Duration::from_secs(2));
}

settings! {
    /// Metrics for Prometheus, health checks and the status page, over HTTP.
    "metrics" => MetricsConfig, take_over;

    /// Address and port to serve metrics, health checks and the status page on: "9453" or "localhost:9453" for
    /// 127.0.0.1, or ADDR:PORT. They are not authenticated, and show the names that are popular and the clients
    /// that ask for them: give a public address only behind a firewall.
    "listen" => listen: Option<SocketAddr> =
        text("an address and port, ADDR:PORT, or a port of 127.0.0.1", metrics_address, zoned)
            .example(r#""127.0.0.1:9453""#)
            .flag("--metrics-listen", "[ADDR:]PORT")
            .optional("none (they are not served)");
    /// Names by which requests may call this host, besides its addresses and localhost. Others are refused, so
    /// that a website cannot have its visitors' browsers read the page (DNS rebinding).
    "names" => names: Vec<String> =
        list(text("host names", values::host_name, String::clone))
            .default_from("addresses and localhost only", |_| Ok(Vec::new()))
            .example(r#"["dns1.example.net"]"#);
}

settings! {
    /// The log, on stderr.
    "log" => LogConfig, take_over;

    /// What is logged: error, warn, info, debug or trace, or a filter like
    /// "warn,heimdall_user::forward=debug".
    "level" => level: Option<String> =
        text("a level or a filter", values::log_filter, String::clone)
            .applied(Applied::InPlace)
            .example(r#""info""#)
            .flag("--log", "FILTER")
            .optional("the environment variable RUST_LOG, or else info");
    /// How it is written. "text": a line for people, or an entry with the journal's fields where stderr is
    /// systemd's journal; "json": a JSON object on a line.
    "format" => format: LogFormat =
        choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
            .default(LogFormat::Text)
            .applied(Applied::Restart)
            .flag("--log-format", "FORMAT");
}

settings! {
    /// A route: other resolvers, or none, for a zone and the names below it. There may be many; of the zones that a name is
    /// in, the one with the most labels decides. Names in none have the resolvers of the key `upstream`. A route for a
    /// special-use name, such as "local", takes that from `local.special-names`.
    "route" => RouteConfig, in_place;

    /// The zone. "." is for all names that no other route is for, in place of the key `upstream`. DS records of the
    /// zone itself belong to the route above.
    "zone" => zone: Zone = parsed::<Zone>("a domain name").example(r#""corp.example""#);
    /// Its resolvers, in order of preference, written as at the top of the file. One that several routes name is one
    /// resolver: its connections and what is known of it are shared.
    "upstream" => upstreams: Vec<UpstreamAddress> =
        list(text("resolvers, ADDR[:PORT], tcp://… or tls://[NAME@]ADDR[:PORT][#sha256=DIGEST]", upstream_address, upstream_text))
            .default_from("none: see `answer`", |_| Ok(Vec::new()))
            .example(r#"["10.1.0.53", "10.2.0.53"]"#);
    /// What its names get. "forward": the answers of its resolvers; "nxdomain": NXDOMAIN, and "refused": REFUSED, without
    /// a resolver. Local records and hosts files come before that.
    "answer" => local_only: Option<LocalOnly> =
        choice(&[
            ("forward", None),
            ("nxdomain", Some(LocalOnly::NxDomain)),
            ("refused", Some(LocalOnly::Refused)),
        ])
        .default(None);
    /// Which of them is asked first.
    "policy" => policy: Option<Policy> =
        choice(POLICIES).example(r#""fastest""#).optional("`forward.policy`");
    /// Time that its resolvers have to respond before the next attempt.
    "timeout-ms" => timeout: Option<Duration> =
        milliseconds(10, 60_000).example("500").optional("`forward.timeout-ms`");
    /// Attempts for a question.
    "attempts" => attempts: Option<u32> =
        integer::<u32>(1, 16).example("2").optional("`forward.attempts`");
    /// Lower TTLs are raised to this, except for TTL 0.
    "min-ttl" => min_ttl: Option<u32> =
        integer::<u32>(0, WEEK).unit(" seconds").example("0").optional("`cache.min-ttl`");
    /// Higher TTLs are lowered to this.
    "max-ttl" => max_ttl: Option<u32> =
        integer::<u32>(1, WEEK).unit(" seconds").example("300").optional("`cache.max-ttl`");
    /// The same for negative answers.
    "max-negative-ttl" => max_negative_ttl: Option<u32> =
        integer::<u32>(0, WEEK).unit(" seconds").example("60").optional("`cache.max-negative-ttl`");
}

settings! {
    /// Who may query. The most specific prefix decides; clients in none get REFUSED.
    "access" => AccessConfig, in_place;

    /// Clients that are answered. Prefixes that hold much of the Internet make an open resolver, which will
    /// be used for attacks: on a public address they need `allow-public`, too.
    "allow" => allow: Vec<Prefix> =
        list(parsed::<Prefix>("prefixes, ADDR/BITS")).default(private()).flag("--allow", "PREFIX");
    /// `allow` may have public prefixes shorter than /8, or /16 for IPv6, or more addresses than that in sum, although a
    /// listen address is public. Without this, such a server does not start.
    "allow-public" => allow_public: bool =
        boolean().default(false).flag("--allow-public", "BOOL");
    /// Clients that get REFUSED.
    "refuse" => refuse: Vec<Prefix> =
        list(parsed::<Prefix>("prefixes, ADDR/BITS")).default(Vec::new()).example(r#"["10.66.0.0/16"]"#);
    /// Clients that get no reply.
    "drop" => drop: Vec<Prefix> =
        list(parsed::<Prefix>("prefixes, ADDR/BITS")).default(Vec::new()).example(r#"["10.66.6.0/24"]"#);
    /// What queries without RD (recursion desired) get. "cache": an answer that is local or cached, or else
    /// REFUSED; "refuse": REFUSED; "forward": the same as queries with RD.
    "non-recursive" => non_recursive: NonRecursive =
        choice(&[
            ("cache", NonRecursive::Cache),
            ("refuse", NonRecursive::Refuse),
            ("forward", NonRecursive::Forward),
        ])
        .default(NonRecursive::Cache);
}

settings! {
    /// Response rate limiting: of UDP replies, by client prefix and by thread. Clients that show a valid
    /// server cookie are not limited.
    "rate-limit" => RateLimitConfig, in_place;

    /// Replies a second to the clients of one prefix. 0: no limit.
    "responses-per-second" => responses_per_second: u16 =
        integer(0, u16::MAX.into()).default(LimitSettings::default().per_second);
    /// Replies at once to a prefix that was quiet before: at least as many as a second.
    "burst" => burst: Option<u16> =
        integer::<u16>(0, u16::MAX.into()).example("400").optional("twice responses-per-second");
    /// Every Nth limited reply is sent truncated, so that real clients come back over TCP. 1: all of them;
    /// 0: none.
    "slip" => slip: u16 = integer(0, 100).default(LimitSettings::default().slip);
    /// Length of the prefix by which IPv4 clients are counted.
    "ipv4-prefix" => ipv4_prefix: u8 =
        integer(0, 32).unit(" bits").default(LimitSettings::default().v4_prefix);
    /// Length of the prefix by which IPv6 clients are counted.
    "ipv6-prefix" => ipv6_prefix: u8 =
        integer(0, 64).unit(" bits").default(LimitSettings::default().v6_prefix);
    /// Clients that are not limited.
    "exempt" => exempt: Vec<Prefix> =
        list(parsed::<Prefix>("prefixes, ADDR/BITS")).default(Vec::new()).example(r#"["10.0.0.0/8"]"#);
}

settings! {
    /// DNS cookies (RFC 7873), by which clients show that their address is not forged.
    "cookies" => CookiesConfig, in_place;

    /// Give cookies to clients and check theirs.
    "enabled" => enabled: bool = boolean().default(true);
    /// Secrets that cookies are made of: the first makes them, all are valid. Servers that share an address
    /// need the same ones. `openssl rand -hex 16` makes one.
    "secrets" => secrets: Vec<[u8; 16]> =
        list(secret())
            .default_from("random, new every day", |_| Ok(Vec::new()))
            .example(r#"["0123456789abcdef0123456789abcdef"]"#);
    /// Queries a second and thread above which clients that know cookies have to show a valid one. 0: never.
    "demand-above" => demand_above: u32 = integer(0, u32::MAX.into()).default(0);
}

settings! {
    /// What the server tells about itself.
    "identity" => IdentityConfig, in_place;

    /// Answer to version.bind and version.server.
    "version" => version: Option<String> =
        text("a text of 1 to 255 octets", values::short_text, String::clone)
            .example(r#""Heimdall""#)
            .optional("REFUSED");
    /// Answer to id.server and hostname.bind, and to the NSID option (RFC 5001).
    "server-id" => server_id: Option<String> =
        text("a text of 1 to 255 octets", values::short_text, String::clone)
            .example(r#""ams-1""#)
            .optional("REFUSED, and no NSID");
}

settings! {
    /// Names that are answered without an upstream.
    "local" => LocalConfig, in_place;

    /// Hosts files, whose names and addresses are answered. Regular files of up to 64 MiB; lines that
    /// cannot be used are skipped with a warning.
    "hosts" => hosts: Vec<PathBuf> =
        list(path().values("paths")).default(Vec::new()).example(r#"["/etc/hosts"]"#);
    /// Records in the format of zone files.
    "records" => records: Vec<String> =
        list(text("records", values::any_text, String::clone))
            .default(Vec::new())
            .example(r#"["printer.lan. 300 IN A 192.168.1.9", "lan. 300 IN MX 10 mail.lan."]"#);
    /// Answer special-use names here and never forward them: localhost, test, invalid, onion, local, home.arpa,
    /// resolver.arpa, and reverse names of private addresses.
    "special-names" => special_names: bool = boolean().default(true);
    /// Zones of special-use names that are forwarded all the same. A zone with a route needs no mention here.
    "special-names-except" => special_names_except: Vec<Exception> =
        list(parsed::<Exception>("zones")).default(Vec::new()).example(r#"["10.in-addr.arpa"]"#);
    /// Block a name, too, if an alias leads from it to a name on a blocklist.
    "blocklist-aliases" => blocklist_aliases: bool = boolean().default(true);
}

settings! {
    /// A blocklist. There may be many; the most specific name decides, then the first list.
    "blocklist" => BlocklistConfig, in_place;

    /// The list: a name a line, which stands for all names below it, too, or lines of a hosts file, which
    /// stand for exactly their names. A regular file of up to 1 GiB.
    "file" => file: PathBuf = path().example(r#""/etc/heimdall/blocked.txt""#);
    /// What its names get. "nxdomain": NXDOMAIN; "null": the address 0.0.0.0 or ::; "refused": REFUSED;
    /// "allow": the answer that they would have without blocklists.
    "action" => action: BlockAction =
        choice(&[
            ("nxdomain", BlockAction::NxDomain),
            ("null", BlockAction::NullAddress),
            ("refused", BlockAction::Refused),
            ("allow", BlockAction::Allow),
        ])
        .default(BlockAction::NxDomain);
}

settings! {
    /// dnstap: copies of queries and replies, for other programs (<https://dnstap.info>).
    "dnstap" => DnstapConfig, take_over;

    /// Where they go. "unix:PATH": to the Unix socket that a reader such as `fstrm_capture` listens on, which may come
    /// and go; "file:PATH": to a file, which each start begins again: an earlier one is kept as PATH.old.
    "output" => output: Option<DnstapTarget> =
        parsed::<DnstapTarget>("unix:PATH or file:PATH")
            .check(|target| match target {
                DnstapTarget::Socket(path) => socket_path(path),
                DnstapTarget::File(path) => values::names_a_file(path),
            })
            .example(r#""unix:/run/heimdall/dnstap.sock""#)
            .optional("none");
    /// How many of the queries of clients and to upstreams are taken, at random: one in N.
    "sample" => sample: Rate = parsed::<Rate>(RATE).default(Rate::one_in(100));
    /// Which messages are written.
    "messages" => messages: Vec<MessageKind> =
        list(choice(MESSAGES)).default(MESSAGES.iter().map(|(_, kind)| *kind).collect());
}

/// The names of policies.
const POLICIES: &[(&str, Policy)] = &[
    ("sequential", Policy::Sequential),
    ("round-robin", Policy::RoundRobin),
    ("fastest", Policy::Fastest),
    ("hash", Policy::Hash),
];

/// The values of a rate.
const RATE: &str = "1/N, N from 1 to 1000000";

/// dnstap's names of its message types.
const MESSAGES: &[(&str, MessageKind)] = &[
    ("client-query", MessageKind::ClientQuery),
    ("client-response", MessageKind::ClientResponse),
    ("forwarder-query", MessageKind::ForwarderQuery),
    ("forwarder-response", MessageKind::ForwarderResponse),
];

settings! {
    /// The query log: queries and what they got, as lines of JSON.
    "query-log" => QueryLogConfig, take_over;

    /// How many of the clients' queries are logged, at random: one in N. 1/1 is all of them.
    "sample" => sample: Option<Rate> =
        parsed::<Rate>(RATE)
            .example(r#""1/100""#)
            .flag("--log-queries", "1/N")
            .optional("none (queries are not logged)");
    /// File to append to. When it is renamed or removed, another one is begun within a second.
    "file" => file: Option<PathBuf> =
        path()
            .check(|path| values::names_a_file(path))
            .example(r#""/var/log/heimdall/queries.json""#)
            .optional("stdout");
}

/// The snapshot of the cache over a restart.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotConfig {
    /// The file.
    pub path: PathBuf,
    /// Time from one snapshot to the next.
    pub interval: Duration,
}

impl AnycastConfig {
    /// Where the addresses are served, beside these listeners' own addresses: a wildcard stands for them, too.
    pub(crate) fn served(&self, listen: &[SocketAddr]) -> Vec<SocketAddr> {
        let covered = |ip: &IpAddr| {
            let ip = *ip;
            let listeners = listen.iter();
            listeners
                .filter(move |one| {
                    let same = one.ip() == ip;
                    same || one.ip().is_unspecified() && one.is_ipv4() == ip.is_ipv4()
                })
                .map(move |one| SocketAddr::new(ip, one.port()))
        };
        self.addresses.iter().flat_map(covered).collect()
    }
}

impl Config {
    /// Sockets that each socket thread listens on.
    pub(crate) fn listening_sockets(&self) -> usize {
        // UDP and TCP on each address.
        2 * self.listen.len() + self.listen_tls.len()
    }
}

impl CacheConfig {
    /// The snapshot, if there is to be one.
    pub(crate) fn snapshot(&self) -> Option<SnapshotConfig> {
        Some(SnapshotConfig {
            path: self.snapshot.clone()?,
            interval: self.snapshot_interval,
        })
    }

    /// Bounds on the TTLs of answers.
    pub(crate) fn ttl_limits(&self) -> TtlLimits {
        TtlLimits {
            min: self.min_ttl,
            max: self.max_ttl,
            max_negative: self.max_negative_ttl,
        }
    }
}

impl XdpConfig {
    /// How many workers serve this many queues.
    pub(crate) fn workers(&self, queues: usize) -> usize {
        self.most_workers().min(queues)
    }

    /// How many there are at most: queues may come later.
    pub(crate) fn most_workers(&self) -> usize {
        self.workers.unwrap_or(self.cpus.len()).max(1)
    }

    /// The core of the worker with this number. `None`: it is not
    /// pinned, because the cores are unknown.
    pub(crate) fn cpu(&self, worker: usize) -> Option<usize> {
        let index = worker.checked_rem(self.cpus.len())?;
        self.cpus.get(index).copied()
    }
}

impl AccessConfig {
    /// The access list.
    pub(crate) fn access(&self) -> Access {
        Access::new(&self.allow, &self.refuse, &self.drop)
    }
}

impl RateLimitConfig {
    /// What the limiter needs.
    pub(crate) fn limits(&self) -> LimitSettings {
        let twice = self.responses_per_second.saturating_mul(2);
        LimitSettings {
            per_second: self.responses_per_second,
            burst: self.burst.unwrap_or(twice),
            slip: self.slip,
            v4_prefix: self.ipv4_prefix,
            v6_prefix: self.ipv6_prefix,
            exempt: self.exempt.clone(),
        }
    }
}
