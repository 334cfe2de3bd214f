//! The servers that are measured, and how each is started: one thread, tuned as its documentation
//! advises, and a cache that holds every name of the load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, UPSTREAM, run};
use tempfile::TempDir;

use super::{Cores, cpu::Meter};

/// Room for a million answers of 256 octets. Heimdall reserves it for each cache: the queue's, the
/// sockets' and the forwarder's.
const CACHE: &str = "256M";

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Contestant {
    /// `heimdall run --backend xdp`
    HeimdallXdp,
    /// `heimdall run --backend socket`
    HeimdallSockets,
    /// The program `echo` of `benches`: the limit
    Echo,
    /// Knot DNS in XDP mode: authoritative, for the same names
    KnotXdp,
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
}

/// A contestant that answers, in a lab of its own.
pub(super) struct Running {
    pub(super) meter: Meter,
    _server: Server,
    _upstream: Option<Knot>,
    // Last, so that the namespaces are still there when processes stop in them.
    pub(super) lab: Lab,
}

/// What has to be kept for a server to run.
enum Server {
    Heimdall(Heimdall),
    Knot(Knot),
    Echo(Process),
    /// With the directory of its configuration.
    Peer(
        Process,
        #[expect(dead_code, reason = "held until drop")] TempDir,
    ),
}

impl Server {
    fn process(&self) -> &Process {
        match self {
            Self::Heimdall(heimdall) => &heimdall.process,
            Self::Knot(knot) => &knot.process,
            Self::Echo(process) | Self::Peer(process, _) => process,
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
        matches!(self, Self::HeimdallXdp | Self::HeimdallSockets | Self::Echo)
    }

    /// Whether it has to be asked for every name before it knows them.
    pub(super) fn caches(self) -> bool {
        !matches!(self, Self::Echo | Self::KnotXdp)
    }

    /// Answers a second on two ordinary cores, with which the first search begins.
    pub(super) fn typical(self) -> f64 {
        match self {
            Self::HeimdallXdp | Self::Echo => 400_000.0,
            Self::KnotXdp | Self::HeimdallSockets => 180_000.0,
            Self::Unbound | Self::Dnsdist => 110_000.0,
            Self::Kresd | Self::PdnsRecursor => 70_000.0,
            Self::Dnsmasq => 40_000.0,
        }
    }

    fn peer(self) -> Option<&'static Peer> {
        match self {
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
        if cores.threaded {
            lab.thread_napi(cores.server[0], cores.client[0])?;
        }
        let upstream = if self.caches() {
            Some(Knot::upstream(&lab)?)
        } else {
            None
        };
        let pinned = |program: &Path| {
            let mut command = lab.on_server("taskset");
            command
                .args(["-c", &Cores::list(&cores.server)])
                .arg(program);
            command
        };
        let listen = format!("{SERVER_V4}:53");
        let heimdall = |backend: &[&str]| {
            let common = [
                "--listen",
                &listen,
                "--upstream",
                UPSTREAM,
                "--cache-size",
                CACHE,
            ];
            let arguments = [&common, backend].concat();
            let program = &programs.heimdall;
            Heimdall::start(pinned(program), program, &arguments).map(Server::Heimdall)
        };
        let server = match (self, self.peer()) {
            (_, Some(peer)) => peer.start(pinned(Path::new(peer.program)))?,
            (Self::Echo, _) => {
                let mut command = pinned(&programs.echo);
                command.args(["--interface", &lab.server_if, "--listen", &listen]);
                Server::Echo(Process::start(&mut command)?)
            }
            (Self::KnotXdp, _) => Server::Knot(Knot::on_xdp(&lab, cores.server[0])?),
            (Self::HeimdallXdp, _) => {
                heimdall(&["--backend", "xdp", "--interface", &lab.server_if])?
            }
            _ => heimdall(&["--backend", "socket"])?,
        };
        wait_for_answer(&lab, server.process())
            .with_context(|| format!("{} does not start", self.name()))?;
        Ok(Running {
            meter: Meter {
                process: server.process().pid(),
                napi: lab.server_napi()?,
                cores: cores.server.clone(),
            },
            _server: server,
            _upstream: upstream,
            lab,
        })
    }
}

/// Asks for a name until it is answered, with NOERROR.
fn wait_for_answer(lab: &Lab, process: &Process) -> Result<()> {
    let server = format!("@{SERVER_V4}");
    let question = [&server, "n0.example.com", "A", "+timeout=1", "+retry=0"];
    for _ in 0..40 {
        let asked = run(lab.on_client("kdig").args(question));
        let reply = asked.and_then(|text| Kdig::read(&text));
        if reply.is_ok_and(|reply| reply.status == "NOERROR") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("no answer; it says:\n{}", process.output())
}

/// Another resolver, of a Debian package. In its arguments and its configuration, FILE is the
/// configuration's path, PLACE its directory, SERVER the address to listen on, and UPSTREAM where to
/// forward to.
struct Peer {
    program: &'static str,
    package: &'static str,
    arguments: &'static [&'static str],
    /// Between UPSTREAM's address and its port.
    port_separator: &'static str,
    file: &'static str,
    configuration: &'static str,
}

impl Peer {
    /// Starts it by a command that has only its program yet.
    fn start(&self, mut command: Command) -> Result<Server> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join(self.file);
        let upstream = UPSTREAM.replace(':', self.port_separator);
        let fill_in = |text: &str| {
            text.replace("FILE", &file.display().to_string())
                .replace("PLACE", &directory.path().display().to_string())
                .replace("SERVER", SERVER_V4)
                .replace("UPSTREAM", &upstream)
        };
        fs::write(&file, fill_in(self.configuration))?;
        command.args(self.arguments.iter().map(|argument| fill_in(argument)));
        Ok(Server::Peer(Process::start(&mut command)?, directory))
    }
}

const UNBOUND: Peer = Peer {
    program: "/usr/sbin/unbound",
    package: "unbound",
    arguments: &["-d", "-p", "-c", "FILE"],
    port_separator: "@",
    file: "unbound.conf",
    configuration: include_str!("peers/unbound.conf"),
};

const DNSDIST: Peer = Peer {
    program: "/usr/bin/dnsdist",
    package: "dnsdist",
    arguments: &["--supervised", "--disable-syslog", "-C", "FILE"],
    port_separator: ":",
    file: "dnsdist.conf",
    configuration: include_str!("peers/dnsdist.conf"),
};

const KRESD: Peer = Peer {
    program: "/usr/sbin/kresd",
    package: "knot-resolver",
    arguments: &["-n", "-c", "FILE", "PLACE"],
    port_separator: "@",
    file: "kresd.conf",
    configuration: include_str!("peers/kresd.conf"),
};

const RECURSOR: Peer = Peer {
    program: "/usr/sbin/pdns_recursor",
    package: "pdns-recursor",
    arguments: &["--config-dir=PLACE"],
    port_separator: ":",
    file: "recursor.conf",
    configuration: include_str!("peers/recursor.conf"),
};

const DNSMASQ: Peer = Peer {
    program: "/usr/sbin/dnsmasq",
    package: "dnsmasq-base",
    arguments: &["--keep-in-foreground", "--conf-file=FILE"],
    port_separator: "#",
    file: "dnsmasq.conf",
    configuration: include_str!("peers/dnsmasq.conf"),
};
