//! `heimdall check`: are the settings good, and what do they come to?

use std::{fmt::Display, net::SocketAddr};

use clap::Args;

use super::{print, table::Table};
use crate::config::{Backend, Config, Flags, Host, PolicyConfig, Size, Zoned};

const EXAMPLES: &str = "\
Examples:
  heimdall check --config /etc/heimdall/heimdall.toml
  heimdall check --config heimdall.toml --interface eth0:0-3 && systemctl restart heimdall

Exit code 0: the settings are good. 1: they are not, and a line on stderr says where and why.
It opens no socket and touches no interface.";

/// Check the settings, and say what would be used
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    #[command(flatten)]
    flags: Flags,
}

impl Check {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags, &Host::read())?;
        print(&describe(&config))
    }
}

/// What the settings come to, a line each.
fn describe(config: &Config) -> String {
    let seconds = |seconds: u32| format!("{seconds} s");
    let forward = &config.forward;
    let mut table = Table::default();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("backend", backend(config));
    row("listen", addresses(&config.listen));
    row("upstream", addresses(&config.upstreams));
    row("control", config.control.display().to_string());
    row("max UDP reply", format!("{} octets", config.max_udp_size));
    row("cache", format!("{} a thread", Size(config.cache_bytes)));
    row(
        "snapshot",
        match &config.snapshot {
            None => "none".to_owned(),
            Some(snapshot) => format!(
                "{}, every {} s and at the end",
                snapshot.path.display(),
                snapshot.interval.as_secs()
            ),
        },
    );
    row(
        "TTLs",
        format!(
            "{} to {}, negative to {}",
            seconds(config.ttl.min),
            seconds(config.ttl.max),
            seconds(config.ttl.max_negative)
        ),
    );
    row(
        "forwarder",
        format!(
            "{} thread(s), {} attempt(s) of {} ms, {} waiting and {} under way at most, upstream's AD bit {}",
            forward.threads,
            forward.attempts,
            forward.timeout.as_millis(),
            forward.queue,
            forward.max_in_flight,
            if forward.trust_ad {
                "trusted"
            } else {
                "cleared"
            },
        ),
    );
    row(
        "stale",
        match forward.stale_max_age {
            0 => "never".to_owned(),
            age => format!(
                "for {age} s after the end of their life, if no upstream answers within {} ms",
                forward.client_response_timeout.as_millis()
            ),
        },
    );
    row(
        "failures",
        format!("remembered for 1 s to {} s", forward.failure_ttl_max),
    );
    row("client subnet", or_none(forward.client_subnet.as_ref()));
    policy(&config.policy, &mut row);
    if config.backend != Backend::Socket && !config.interfaces.is_empty() {
        row("workers", workers(config));
    }
    format!("{table}\nThe settings are good.\n")
}

fn backend(config: &Config) -> String {
    let interfaces = join(&config.interfaces);
    match config.backend {
        Backend::Socket => "socket".to_owned(),
        Backend::Auto if config.interfaces.is_empty() => {
            "socket (auto, and no interface is given)".to_owned()
        }
        Backend::Auto => {
            format!("auto: AF_XDP on {interfaces} if it works there, sockets beside it")
        }
        Backend::Xdp => format!("xdp: AF_XDP on {interfaces}, sockets beside it"),
    }
}

fn policy(policy: &PolicyConfig, row: &mut impl FnMut(&str, String)) {
    row("allow", join(&policy.allow));
    for (name, prefixes) in [("refuse", &policy.refuse), ("drop", &policy.drop)] {
        if !prefixes.is_empty() {
            row(name, join(prefixes));
        }
    }
    let public = policy.access().public().len();
    if public > 0 {
        let warning = format!("{public} prefix(es) of public addresses may ask");
        row("WARNING", warning);
    }
    let limit = &policy.limit;
    row(
        "rate limit",
        match limit.per_second {
            0 => "none".to_owned(),
            per_second => format!(
                "{per_second} replies a second, {} at once, to each IPv4 /{} and IPv6 /{}; slip {}; not for: {}",
                limit.burst,
                limit.v4_prefix,
                limit.v6_prefix,
                limit.slip,
                join(&limit.exempt)
            ),
        },
    );
    let cookies = &policy.cookies;
    row(
        "cookies",
        match (cookies.enabled, cookies.secrets.len(), cookies.demand_above) {
            (false, ..) => "off".to_owned(),
            (true, 0, 0) => "on, with random secrets".to_owned(),
            (true, count, 0) => format!("on, with {count} secret(s)"),
            (true, count, rate) => {
                format!("on, with {count} secret(s) given; demanded above {rate} queries a second")
            }
        },
    );
    row("version", or_none(policy.identity.version.as_ref()));
    row("server ID", or_none(policy.identity.server_id.as_ref()));
    for hosts in &policy.hosts {
        row("hosts file", hosts.display().to_string());
    }
    if !policy.records.is_empty() {
        row("local records", policy.records.len().to_string());
    }
    for list in &policy.blocklists {
        let what = format!("{} ({:?})", list.file.display(), list.action);
        row("blocklist", what);
    }
}

fn or_none(value: Option<&impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn workers(config: &Config) -> String {
    let xdp = &config.xdp;
    format!(
        "pinned to core {} in turn; {} frames a queue; spin {} µs; checksums {}",
        join(&xdp.cpus),
        xdp.frames,
        xdp.spin.as_micros(),
        if xdp.verify_checksums {
            "verified"
        } else {
            "not verified"
        },
    )
}

fn addresses(list: &[SocketAddr]) -> String {
    join(&list.iter().copied().map(Zoned).collect::<Vec<_>>())
}

fn join(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
