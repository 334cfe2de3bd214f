//! Flags over file over defaults, and the checks that need more than one value or the host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use toml::Spanned;

use super::{
    Backend, Config, ConfigError, Flags, ForwardConfig, Host, InterfaceConfig, Place, Places,
    Problem, Size, SnapshotConfig, XdpConfig, Zoned,
    error::{MAX_SOCKET_PATH, wildcard},
    file::{CacheTable, File, ForwardTable, Key, List, XdpTable, place},
    policy,
};
use crate::{cache, dns::TtlLimits};

/// A value, and where it came from.
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T> Sourced<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced {
            value: f(self.value),
            place: self.place,
        }
    }

    pub(super) fn bad(&self, problem: Problem) -> ConfigError {
        bad(self.place.clone(), problem)
    }
}

impl Sourced<String> {
    fn parse<T: FromStr<Err: Into<Problem>>>(self) -> Result<Sourced<T>, ConfigError> {
        match self.value.parse() {
            Ok(value) => Ok(Sourced {
                value,
                place: self.place,
            }),
            Err(problem) => Err(bad(self.place, problem.into())),
        }
    }
}

fn bad(place: Place, problem: Problem) -> ConfigError {
    ConfigError::Bad { place, problem }
}

/// The file being read.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    pub(super) fn value<T>(&self, key: &str, spanned: Spanned<T>) -> Sourced<T> {
        Sourced {
            place: place(self.path, self.text, spanned.span(), key.to_owned()),
            value: spanned.into_inner(),
        }
    }

    /// The items of a list in the file.
    pub(super) fn items<T>(
        &self,
        key: &str,
        list: List<T>,
    ) -> Result<Vec<Sourced<T>>, ConfigError> {
        let Some(list) = list else {
            return Ok(Vec::new());
        };
        let list = self.value(key, list);
        if list.value.is_empty() {
            return Err(list.bad(Problem::Empty));
        }
        Ok(list
            .value
            .into_iter()
            .map(|item| self.value(key, item))
            .collect())
    }

    /// A list from the flags if they have any, or else from the file.
    pub(super) fn list<T: Clone + FromStr<Err: Into<Problem>>>(
        &self,
        (flag, given): (&'static str, &[T]),
        key: &str,
        list: List<String>,
    ) -> Result<Vec<Sourced<T>>, ConfigError> {
        if given.is_empty() {
            let items = self.items(key, list)?;
            return items.into_iter().map(Sourced::parse).collect();
        }
        let sourced = |value: &T| Sourced {
            value: value.clone(),
            place: Place::Flag(flag),
        };
        Ok(given.iter().map(sourced).collect())
    }

    /// A number within `min..=max`, or `default`.
    pub(super) fn number<N: TryFrom<i64>>(
        &self,
        key: &str,
        number: Key<i64>,
        default: N,
        min: i64,
        max: i64,
    ) -> Result<N, ConfigError> {
        let Some(number) = number else {
            return Ok(default);
        };
        let number = self.value(key, number);
        let value = number.value;
        N::try_from(value)
            .ok()
            .filter(|_| (min..=max).contains(&value))
            .ok_or_else(|| number.bad(Problem::Range { value, min, max }))
    }
}

pub(super) fn resolve(
    flags: &Flags,
    path: &Path,
    text: &str,
    mut file: File,
    host: &Host,
) -> Result<Config, ConfigError> {
    let source = Source { path, text };
    let policy = policy::resolve(&source, &flags.allow, &mut file)?;
    let interfaces = source.list(
        ("--interface", &flags.interface),
        "interface",
        file.interface,
    )?;
    let interface_places = interfaces.iter().map(|item| item.place.clone()).collect();
    let interfaces = interfaces_once(interfaces)?;
    let listen = source.list(("--listen", &flags.listen), "listen", file.listen)?;
    let listen = listen_addresses(listen.into_iter().map(|item| item.map(|listen| listen.0)))?;
    let upstreams = source.list(("--upstream", &flags.upstream), "upstream", file.upstream)?;
    let upstreams = upstream_addresses(
        upstreams
            .into_iter()
            .map(|item| item.map(|upstream| upstream.0)),
        &listen,
        host,
    )?;
    let control = control(&source, flags.control.clone(), file.control, host)?;
    let cache_size = cache_size(&source, flags.cache_size, &file.cache)?;
    let snapshot = snapshot(&source, flags.snapshot.clone(), &file.cache)?;
    Ok(Config {
        places: Places {
            interfaces: interface_places,
            control: control.place,
            cache_size: cache_size.place,
            snapshot: snapshot.place,
        },
        policy,
        backend: backend(&source, flags.backend, file.backend, &interfaces)?,
        interfaces,
        listen,
        upstreams,
        control: control.value,
        max_udp_size: source.number("max-udp-size", file.max_udp_size, 1232, 512, 4096)?,
        cache_bytes: cache_size.value,
        snapshot: snapshot.value,
        forward: forward(&source, file.forward, &file.cache)?,
        ttl: ttl(&source, file.cache)?,
        xdp: xdp(&source, file.xdp, host)?,
    })
}

fn interfaces_once(
    given: Vec<Sourced<InterfaceConfig>>,
) -> Result<Vec<InterfaceConfig>, ConfigError> {
    let mut interfaces: Vec<InterfaceConfig> = Vec::with_capacity(given.len());
    for item in given {
        if interfaces.iter().any(|other| other.name == item.value.name) {
            return Err(item.bad(Problem::InterfaceTwice(item.value.name.clone())));
        }
        interfaces.push(item.value);
    }
    Ok(interfaces)
}

fn listen_addresses(
    given: impl Iterator<Item = Sourced<SocketAddr>>,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let given: Vec<_> = given.collect();
    for item in &given {
        if is_group(item.value.ip()) {
            return Err(item.bad(Problem::ListenGroup(item.value)));
        }
        let wildcard = wildcard(item.value);
        if item.value != wildcard && given.iter().any(|other| other.value == wildcard) {
            return Err(item.bad(Problem::Overlap(item.value)));
        }
    }
    let mut listen = once(given.into_iter())?;
    if listen.is_empty() {
        listen.push((Ipv4Addr::UNSPECIFIED, 53).into());
        listen.push((Ipv6Addr::UNSPECIFIED, 53).into());
    }
    Ok(listen)
}

/// Whether it is the address of several hosts.
fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn upstream_addresses(
    given: impl Iterator<Item = Sourced<SocketAddr>>,
    listen: &[SocketAddr],
    host: &Host,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let given: Vec<_> = given.collect();
    for item in &given {
        let upstream = item.value;
        if upstream.ip().is_unspecified() || is_group(upstream.ip()) {
            return Err(item.bad(Problem::NotUnicast(upstream)));
        }
        if let Some(&listen) = listen.iter().find(|ours| reaches(**ours, upstream, host)) {
            return Err(item.bad(Problem::Loop { upstream, listen }));
        }
    }
    if given.is_empty() {
        return Err(bad(Place::Nowhere, Problem::NoUpstream));
    }
    once(given.into_iter())
}

/// Whether a query to `to` arrives at our own listener.
fn reaches(listener: SocketAddr, to: SocketAddr, host: &Host) -> bool {
    let ours = if listener.ip().is_unspecified() {
        listener.is_ipv4() == to.is_ipv4() && host.has(to)
    } else {
        listener.ip() == to.ip() && scope_id(listener) == scope_id(to)
    };
    ours && listener.port() == to.port()
}

fn scope_id(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// The values, if none is there twice.
fn once(given: impl Iterator<Item = Sourced<SocketAddr>>) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut seen = Vec::new();
    for item in given {
        if seen.contains(&item.value) {
            return Err(item.bad(Problem::Twice(Zoned(item.value).to_string())));
        }
        seen.push(item.value);
    }
    Ok(seen)
}

fn backend(
    source: &Source<'_>,
    flag: Option<Backend>,
    key: Key<String>,
    interfaces: &[InterfaceConfig],
) -> Result<Backend, ConfigError> {
    let backend = match (flag, key) {
        (Some(value), _) => Sourced {
            value,
            place: Place::Flag("--backend"),
        },
        (None, Some(key)) => source.value("backend", key).parse()?,
        (None, None) => return Ok(Backend::default()),
    };
    if backend.value == Backend::Xdp && interfaces.is_empty() {
        return Err(backend.bad(Problem::NoInterface));
    }
    Ok(backend.value)
}

fn control(
    source: &Source<'_>,
    flag: Option<PathBuf>,
    key: Key<String>,
    host: &Host,
) -> Result<Sourced<PathBuf>, ConfigError> {
    let given = path(source, ("--control", flag), "control", key);
    let default = || {
        let value = host.control.clone()?;
        let place = Place::Nowhere;
        Some(Sourced { value, place })
    };
    let control = given
        .or_else(default)
        .ok_or_else(|| bad(Place::Nowhere, Problem::NoControl))?;
    names_a_file(&control)?;
    match control.value.as_os_str().len() {
        len if len > MAX_SOCKET_PATH => Err(control.bad(Problem::SocketPath(len))),
        _ => Ok(control),
    }
}

/// A path from the flag, or else from the file.
fn path(
    source: &Source<'_>,
    (flag, given): (&'static str, Option<PathBuf>),
    name: &str,
    key: Key<String>,
) -> Option<Sourced<PathBuf>> {
    let place = Place::Flag(flag);
    let flag = given.map(|value| Sourced { value, place });
    flag.or_else(|| Some(source.value(name, key?).map(PathBuf::from)))
}

fn names_a_file(path: &Sourced<PathBuf>) -> Result<(), ConfigError> {
    let octets = path.value.as_os_str().as_bytes();
    if path.value.file_name().is_none() || octets.ends_with(b"/") || octets.contains(&0) {
        return Err(path.bad(Problem::NoFile(path.value.clone())));
    }
    Ok(())
}

fn cache_size(
    source: &Source<'_>,
    flag: Option<Size>,
    table: &CacheTable,
) -> Result<Sourced<usize>, ConfigError> {
    const DEFAULT: Size = Size(64 << 20);
    let size = match (flag, &table.size) {
        (Some(value), _) => Sourced {
            value,
            place: Place::Flag("--cache-size"),
        },
        (None, Some(key)) => source.value("cache.size", key.clone()),
        (None, None) => Sourced {
            value: DEFAULT,
            place: Place::Nowhere,
        },
    };
    let Size(bytes) = size.value;
    if bytes < cache::MIN_BYTES {
        return Err(size.bad(Problem::CacheSize(bytes)));
    }
    Ok(size.map(|Size(bytes)| bytes))
}

fn snapshot(
    source: &Source<'_>,
    flag: Option<PathBuf>,
    table: &CacheTable,
) -> Result<Sourced<Option<SnapshotConfig>>, ConfigError> {
    let key = table.snapshot.clone();
    let path = path(source, ("--snapshot", flag), "cache.snapshot", key);
    let interval = table.snapshot_interval.clone();
    let seconds: u64 = source.number("cache.snapshot-interval", interval, 300, 1, 86_400)?;
    let interval = Duration::from_secs(seconds);
    let Some(path) = path else {
        return Ok(Sourced {
            value: None,
            place: Place::Nowhere,
        });
    };
    names_a_file(&path)?;
    Ok(path.map(|path| Some(SnapshotConfig { path, interval })))
}

fn ttl(source: &Source<'_>, table: CacheTable) -> Result<TtlLimits, ConfigError> {
    /// A week: RFC 8767 section 4 suggests it as the cap.
    const WEEK: i64 = 604_800;
    let default = TtlLimits::default();
    let min_ttl = table.min_ttl.clone();
    let limits = TtlLimits {
        min: source.number("cache.min-ttl", table.min_ttl, default.min, 0, WEEK)?,
        max: source.number("cache.max-ttl", table.max_ttl, default.max, 1, WEEK)?,
        max_negative: source.number(
            "cache.max-negative-ttl",
            table.max_negative_ttl,
            default.max_negative,
            0,
            WEEK,
        )?,
    };
    match min_ttl {
        Some(min) if limits.min > limits.max => {
            Err(source.value("cache.min-ttl", min).bad(Problem::TtlOrder {
                min: limits.min,
                max: limits.max,
            }))
        }
        _ => Ok(limits),
    }
}

fn forward(
    source: &Source<'_>,
    table: ForwardTable,
    cache: &CacheTable,
) -> Result<ForwardConfig, ConfigError> {
    /// RFC 8767 section 5 suggests one to three days, and allows a week.
    const WEEK: i64 = 604_800;
    let patience: u64 = source.number(
        "forward.client-response-timeout-ms",
        table.client_response_timeout_ms,
        1800,
        10,
        60_000,
    )?;
    let timeout: u64 = source.number("forward.timeout-ms", table.timeout_ms, 1000, 10, 60_000)?;
    Ok(ForwardConfig {
        threads: source.number("forward.threads", table.threads, 1, 1, 64)?,
        timeout: Duration::from_millis(timeout),
        attempts: source.number("forward.attempts", table.attempts, 3, 1, 16)?,
        queue: source.number("forward.queue", table.queue, 4096, 16, 1 << 20)?,
        max_in_flight: source.number(
            "forward.max-in-flight",
            table.max_in_flight,
            4096,
            16,
            // One source port each.
            32_768,
        )?,
        trust_ad: table.trust_ad.unwrap_or(false),
        client_response_timeout: Duration::from_millis(patience),
        stale_max_age: source.number(
            "cache.stale-max-age",
            cache.stale_max_age.clone(),
            86_400,
            0,
            WEEK,
        )?,
        // RFC 9520 section 3.2.
        failure_ttl_max: source.number(
            "forward.failure-ttl-max",
            table.failure_ttl_max,
            300,
            1,
            300,
        )?,
        nxdomain_cut: cache.nxdomain_cut.unwrap_or(false),
        client_subnet: match table.client_subnet {
            None => None,
            Some(key) => {
                let prefix = source.value("forward.client-subnet", key).parse()?;
                Some(prefix.value)
            }
        },
    })
}

fn xdp(source: &Source<'_>, table: XdpTable, host: &Host) -> Result<XdpConfig, ConfigError> {
    /// The rings' sizes are powers of two (Linux, Documentation/networking/af_xdp.rst).
    const DEFAULT_FRAMES: u32 = 8192;
    let given = table.frames.clone();
    let frames: u32 = source.number("xdp.frames", table.frames, DEFAULT_FRAMES, 256, 1 << 18)?;
    if let Some(given) = given.filter(|_| !frames.is_power_of_two()) {
        let frames = source.value("xdp.frames", given);
        return Err(frames.bad(Problem::PowerOfTwo(frames.value)));
    }
    let spin: u64 = source.number("xdp.spin-us", table.spin_us, 50, 0, 1_000_000)?;
    let cpus = source.items("xdp.cpus", table.cpus)?;
    let mut cpus = cpus
        .iter()
        .map(|item| core(item, host))
        .collect::<Result<Vec<_>, _>>()?;
    if cpus.is_empty() {
        cpus.extend(&host.cores);
    }
    Ok(XdpConfig {
        cpus,
        frames,
        spin: Duration::from_micros(spin),
        verify_checksums: table.verify_checksums.unwrap_or(true),
    })
}

fn core(item: &Sourced<i64>, host: &Host) -> Result<usize, ConfigError> {
    usize::try_from(item.value)
        .ok()
        .filter(|core| host.cores.is_empty() || host.cores.contains(core))
        .ok_or_else(|| {
            let allowed: Vec<String> = host.cores.iter().map(usize::to_string).collect();
            item.bad(Problem::Core {
                core: item.value,
                allowed: allowed.join(", "),
            })
        })
}
