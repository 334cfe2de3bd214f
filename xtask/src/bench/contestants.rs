//! The servers that are measured, and how each is started: one thread, tuned as its documentation
//! advises, and a cache that holds every name of the load.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use lab::{Heimdall, Knot, Lab, Process, Resolver, SERVER_V4, UPSTREAM, run, wait_for_answer};

use super::{Cores, Napi, cpu::Meter, observed::Observers};

/// Room for a million answers of 256 octets. Heimdall reserves it for each cache: the queue's, the
/// sockets' and the forwarder's.
const CACHE: &str = "256M";

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Contestant {
    /// `heimdall run --backend xdp --tier off`
    HeimdallXdp,
    /// The same with `--idle adaptive`
    HeimdallXdpAdaptive,
    /// The same with `--idle busy-poll`
    HeimdallXdpBusyPoll,
    /// The same with `--tier on`: popular names are answered in the kernel
    HeimdallTier,
    /// The same with its metrics scraped each second, `heimdall top`, and dnstap 1/100
    HeimdallXdpObserved,
    /// `heimdall run --backend xdp --tier off --sandbox off`
    HeimdallXdpOpen,
    /// `heimdall run --backend socket`
    HeimdallSockets,
    /// The same with `--sandbox off`
    HeimdallSocketsOpen,
    /// The program `echo` of `benches`, over AF_XDP: the limit
    Echo,
    /// The same in the kernel, with XDP_TX
    EchoTx,
    /// Knot DNS in XDP mode: authoritative, for the same names
    KnotXdp,
    /// NSD: authoritative, for the same names
    Nsd,
    /// unbound
    Unbound,
    /// dnsdist with a packet cache
    Dnsdist,
    /// Knot Resolver
    Kresd,
    /// PowerDNS Recursor
    PdnsRecursor,
    /// dnsmasq
    Dnsmasq,
}

/// Programs built here.
pub(super) struct Programs {
    pub(super) heimdall: PathBuf,
    pub(super) echo: PathBuf,
    /// Clients on AF_XDP.
    pub(super) clients: PathBuf,
    /// An upstream and clients over TLS.
    pub(super) dot: PathBuf,
}

/// A contestant that answers, in a lab of its own.
pub(super) struct Running {
    pub(super) meter: Meter,
    _observers: Option<Observers>,
    server: Server,
    pub(super) upstream: Option<Process>,
    // Last, so that the namespaces are still there when processes stop in them.
    pub(super) lab: Lab,
}

/// A contestant's process.
pub(super) enum Server {
    Heimdall(Heimdall),
    Other(Process),
}

impl Server {
    pub(super) fn process(&self) -> &Process {
        match self {
            Self::Heimdall(heimdall) => &heimdall.process,
            Self::Other(process) => process,
        }
    }
}

impl Running {
    /// The server, if it is Heimdall.
    pub(super) fn heimdall(&self) -> Option<&Heimdall> {
        match &self.server {
            Server::Heimdall(heimdall) => Some(heimdall),
            Server::Other(_) => None,
        }
    }
}

impl Contestant {
    /// Its name, as `--only` takes it.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether its program is built here.
    pub(super) fn is_built(self) -> bool {
        self.echo().is_some() || self.heimdall().is_some()
    }

    /// The echo's mode.
    fn echo(self) -> Option<&'static str> {
        match self {
            Self::Echo => Some("xsk"),
            Self::EchoTx => Some("tx"),
            _ => None,
        }
    }

    /// Heimdall's front, and its options besides.
    fn heimdall(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::HeimdallXdp | Self::HeimdallXdpObserved => Some(("xdp", &["--tier", "off"])),
            Self::HeimdallXdpAdaptive => Some(("xdp", &["--tier", "off", "--idle", "adaptive"])),
            Self::HeimdallXdpBusyPoll => Some(("xdp", &["--tier", "off", "--idle", "busy-poll"])),
            Self::HeimdallTier => Some(("xdp", &["--tier", "on"])),
            Self::HeimdallXdpOpen => Some(("xdp", &["--tier", "off", "--sandbox", "off"])),
            Self::HeimdallSockets => Some(("socket", &[])),
            Self::HeimdallSocketsOpen => Some(("socket", &["--sandbox", "off"])),
            _ => None,
        }
    }

    /// Whether it has to be asked for every name before it knows them.
    pub(super) fn caches(self) -> bool {
        !matches!(self, Self::Echo | Self::EchoTx | Self::KnotXdp | Self::Nsd)
    }

    /// Answers a second on two ordinary cores, with which the first search begins.
    pub(super) fn typical(self) -> f64 {
        match self {
            Self::HeimdallXdp
            | Self::HeimdallXdpAdaptive
            | Self::HeimdallXdpBusyPoll
            | Self::HeimdallXdpObserved
            | Self::HeimdallXdpOpen => 400_000.0,
            Self::HeimdallTier | Self::Echo | Self::EchoTx => 400_000.0,
            Self::KnotXdp | Self::HeimdallSockets | Self::HeimdallSocketsOpen => 180_000.0,
            Self::Unbound | Self::Dnsdist | Self::Nsd => 110_000.0,
            Self::Kresd | Self::PdnsRecursor => 70_000.0,
            Self::Dnsmasq => 40_000.0,
        }
    }

    fn peer(self) -> Option<&'static Resolver> {
        match self {
            Self::Nsd => Some(&NSD),
            Self::Unbound => Some(&UNBOUND),
            Self::Dnsdist => Some(&DNSDIST),
            Self::Kresd => Some(&KRESD),
            Self::PdnsRecursor => Some(&RECURSOR),
            Self::Dnsmasq => Some(&DNSMASQ),
            _ => None,
        }
    }

    pub(super) fn is_installed(self) -> bool {
        let program = self.peer().map(|peer| peer.program);
        self.is_built() || Path::new(program.unwrap_or("/usr/sbin/knotd")).exists()
    }

    /// The version of its Debian package, or Heimdall's.
    pub(super) fn version(self) -> String {
        if self.is_built() {
            return env!("CARGO_PKG_VERSION").to_owned();
        }
        let package = self.peer().map_or("knot", |peer| peer.package);
        let mut query = Command::new("dpkg-query");
        run(query.args(["--show", "--showformat=${Version}", package]))
            .unwrap_or_else(|_| "unknown".to_owned())
    }

    /// Starts it on the server's cores of a new lab, and waits until it answers.
    pub(super) fn start(self, programs: &Programs, cores: &Cores) -> Result<Running> {
        // A new one each time: knotd of Debian 12 leaves its XDP program on the interface.
        let lab = Lab::with_queues(cores.queues)?;
        // Some send with XDP_TX; all have the same client.
        lab.receive_xdp_tx()?;
        match cores.napi {
            Napi::Softirq => {}
            Napi::Shared => lab.thread_napi(&cores.server, &cores.client)?,
            Napi::Separate => lab.thread_napi(&cores.client, &cores.client)?,
        }
        let upstream = if self.caches() {
            Some(Knot::upstream(&lab)?)
        } else {
            None
        };
        if let Some(upstream) = &upstream {
            let (cores, pid) = (Cores::list(&cores.client), upstream.pid().to_string());
            run(Command::new("taskset").args(["-a", "-p", "-c", &cores, &pid]))?;
        }
        let pinned = |program: &Path| {
            let mut command = lab.on_server("taskset");
            command
                .args(["-c", &Cores::list(&cores.server)])
                .arg(program);
            command
        };
        let is_observed = self == Self::HeimdallXdpObserved;
        let mut observers = is_observed.then(Observers::new).transpose()?;
        let settings = observers.as_ref().map(Observers::settings);
        let listen = format!("{SERVER_V4}:53");
        let server = match (self, self.peer(), self.heimdall()) {
            (_, Some(peer), _) => Server::Other(peer.start(pinned(Path::new(peer.program)))?),
            (_, _, Some((backend, options))) => {
                let mut arguments = vec!["--listen", &listen, "--backend", backend];
                arguments.extend(["--upstream", UPSTREAM, "--cache-size", CACHE]);
                if backend == "xdp" {
                    arguments.extend(["--interface", &lab.server_if]);
                }
                arguments.extend(options);
                arguments.extend(settings.iter().flat_map(|path| ["--config", path]));
                let program = &programs.heimdall;
                let heimdall = Heimdall::start(pinned(program), program, &arguments)?;
                if let Some(observers) = &mut observers {
                    observers.start(&lab, &heimdall, program, cores)?;
                }
                Server::Heimdall(heimdall)
            }
            (Self::KnotXdp, ..) => Server::Other(Knot::on_xdp(&lab, cores.server[0])?),
            _ => {
                let mut command = pinned(&programs.echo);
                command.args(["--mode", self.echo().unwrap_or_default()]);
                command.args(["--interface", &lab.server_if]);
                command.args(["--queues", &cores.queues.to_string()]);
                Server::Other(Process::start(&mut command)?)
            }
        };
        wait_for_answer(&lab, 53, server.process())
            .with_context(|| format!("{} does not start", self.name()))?;
        Ok(Running {
            meter: Meter {
                process: server.process().pid(),
                napi: lab.server_napi()?,
                cores: cores.server.clone(),
            },
            _observers: observers,
            server,
            upstream,
            lab,
        })
    }
}

const NSD: Resolver = Resolver {
    program: "/usr/sbin/nsd",
    package: "nsd",
    arguments: &["-d", "-c", "FILE"],
    port_separator: "@",
    file: "nsd.conf",
    configuration: include_str!("peers/nsd.conf"),
};

pub(super) const UNBOUND: Resolver = Resolver {
    program: "/usr/sbin/unbound",
    package: "unbound",
    arguments: &["-d", "-p", "-c", "FILE"],
    port_separator: "@",
    file: "unbound.conf",
    configuration: include_str!("peers/unbound.conf"),
};

pub(super) const DNSDIST: Resolver = Resolver {
    program: "/usr/bin/dnsdist",
    package: "dnsdist",
    arguments: &["--supervised", "--disable-syslog", "-C", "FILE"],
    port_separator: ":",
    file: "dnsdist.conf",
    configuration: include_str!("peers/dnsdist.conf"),
};

const KRESD: Resolver = Resolver {
    program: "/usr/sbin/kresd",
    package: "knot-resolver",
    arguments: &["-n", "-c", "FILE", "PLACE"],
    port_separator: "@",
    file: "kresd.conf",
    configuration: include_str!("peers/kresd.conf"),
};

const RECURSOR: Resolver = Resolver {
    program: "/usr/sbin/pdns_recursor",
    package: "pdns-recursor",
    arguments: &["--config-dir=PLACE"],
    port_separator: ":",
    file: "recursor.conf",
    configuration: include_str!("peers/recursor.conf"),
};

const DNSMASQ: Resolver = Resolver {
    program: "/usr/sbin/dnsmasq",
    package: "dnsmasq-base",
    arguments: &["--keep-in-foreground", "--conf-file=FILE"],
    port_separator: "#",
    file: "dnsmasq.conf",
    configuration: include_str!("peers/dnsmasq.conf"),
};
