//! Who is measured, and how each is started: one thread, tuned as its documentation advises, and a
//! cache that holds every name of the load.

use std::{fs, path::Path, process::Command, thread, time::Duration};

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
    #[value(name = "heimdall-xdp")]
    HeimdallXdp,
    /// `heimdall run --backend socket`
    HeimdallSockets,
    /// `heimdall bench echo`: the limit
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
    /// With the directory of its configuration.
    Other {
        process: Process,
        _directory: TempDir,
    },
}

impl Server {
    fn process(&self) -> &Process {
        match self {
            Self::Heimdall(heimdall) => &heimdall.process,
            Self::Knot(knot) => &knot.process,
            Self::Other { process, .. } => process,
        }
    }
}

impl Contestant {
    /// Its name, as `--only` takes it.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    pub(super) fn of_heimdall(self) -> bool {
        matches!(self, Self::HeimdallXdp | Self::HeimdallSockets | Self::Echo)
    }

    /// Whether it has to be asked for every name before it knows them.
    pub(super) fn caches(self) -> bool {
        !matches!(self, Self::Echo | Self::KnotXdp)
    }

    /// Answers a second on two ordinary cores, where the first search begins.
    pub(super) fn typical(self) -> f64 {
        match self {
            Self::HeimdallXdp | Self::Echo => 400_000.0,
            Self::KnotXdp | Self::HeimdallSockets => 180_000.0,
            Self::Unbound | Self::Dnsdist => 110_000.0,
            Self::Kresd | Self::PdnsRecursor => 70_000.0,
            Self::Dnsmasq => 40_000.0,
        }
    }

    /// Its program; Heimdall's is built, not installed.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::HeimdallXdp | Self::HeimdallSockets | Self::Echo => "heimdall",
            Self::KnotXdp => "/usr/sbin/knotd",
            Self::Unbound => "/usr/sbin/unbound",
            Self::Dnsdist => "/usr/bin/dnsdist",
            Self::Kresd => "/usr/sbin/kresd",
            Self::PdnsRecursor => "/usr/sbin/pdns_recursor",
            Self::Dnsmasq => "/usr/sbin/dnsmasq",
        }
    }

    /// What its program says of its version, in one line.
    pub(super) fn version(self, heimdall: &Path) -> String {
        let program = if self.of_heimdall() {
            heimdall
        } else {
            Path::new(self.program())
        };
        let option = if self == Self::Unbound {
            "-V"
        } else {
            "--version"
        };
        let output = Command::new(program).arg(option).output();
        let text = output.map_or_else(
            |error| error.to_string().into_bytes(),
            |output| [output.stdout, output.stderr].concat(),
        );
        let text = String::from_utf8_lossy(&text).into_owned();
        let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        // The first word that begins as a version; a log line has its date before it.
        text.lines()
            .flat_map(|line| line.split_whitespace())
            .filter(number)
            .find(|word| word.contains('.') && !word.contains(':'))
            .unwrap_or("unknown")
            .trim_end_matches(',')
            .to_owned()
    }

    /// Starts it on the server's cores of a new lab, and waits until it answers.
    pub(super) fn start(self, heimdall: &Path, cores: &Cores) -> Result<Running> {
        // A new one each time: knotd of Debian 12 leaves its XDP program on the interface.
        let lab = Lab::with_queues(cores.queues)?;
        if cores.threaded {
            lab.thread_napi(cores.server[0], cores.client[0])?;
        }
        let upstream = match self.caches() {
            true => Some(Knot::upstream(&lab)?),
            false => None,
        };
        let list = Cores::list(&cores.server);
        let pinned = |program: &Path| {
            let mut command = lab.on_server("taskset");
            command.args(["-c", &list]).arg(program);
            command
        };
        let listen = format!("{SERVER_V4}:53");
        let server = match self {
            Self::HeimdallXdp | Self::HeimdallSockets => {
                let common = ["--listen", &listen, "--upstream", UPSTREAM];
                let backend: &[&str] = match self {
                    Self::HeimdallXdp => &["--backend", "xdp", "--interface", &lab.server_if],
                    _ => &["--backend", "socket"],
                };
                let arguments = [&common, backend, &["--cache-size", CACHE]].concat();
                Server::Heimdall(Heimdall::start(pinned(heimdall), heimdall, &arguments)?)
            }
            Self::KnotXdp => Server::Knot(Knot::on_xdp(&lab, cores.server[0])?),
            Self::Echo => {
                let directory = tempfile::tempdir()?;
                let mut command = pinned(heimdall);
                command.args(["bench", "echo", "--interface", &lab.server_if]);
                command.args(["--listen", &listen, "--control"]);
                command.arg(directory.path().join("control.sock"));
                Server::Other {
                    process: Process::start(&mut command)?,
                    _directory: directory,
                }
            }
            _ => {
                let directory = tempfile::tempdir()?;
                let mut command = pinned(Path::new(self.program()));
                self.configure(&mut command, directory.path())?;
                Server::Other {
                    process: Process::start(&mut command)?,
                    _directory: directory,
                }
            }
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

    /// Writes a peer's configuration, and has its command use it.
    fn configure(self, command: &mut Command, directory: &Path) -> Result<()> {
        let place = directory.display().to_string();
        let (ip, port) = UPSTREAM.split_once(':').context("an upstream has a port")?;
        let mut upstream = UPSTREAM.to_owned();
        let mut file = directory.join("conf");
        let text = match self {
            Self::Unbound => {
                command.args(["-d", "-p", "-c"]).arg(&file);
                upstream = format!("{ip}@{port}");
                UNBOUND
            }
            Self::Dnsdist => {
                command.args(["--supervised", "--disable-syslog", "-C"]);
                command.arg(&file);
                DNSDIST
            }
            Self::Kresd => {
                command.args(["-n", "-c"]).arg(&file).arg(directory);
                upstream = format!("{ip}@{port}");
                KRESD
            }
            Self::PdnsRecursor => {
                command.arg(format!("--config-dir={place}"));
                file = directory.join("recursor.conf");
                RECURSOR
            }
            _ => {
                command.arg("--keep-in-foreground");
                command.arg(format!("--conf-file={}", file.display()));
                upstream = format!("{ip}#{port}");
                DNSMASQ
            }
        };
        let text = text
            .replace("SERVER", SERVER_V4)
            .replace("UPSTREAM", &upstream)
            .replace("PLACE", &place);
        Ok(fs::write(&file, text)?)
    }
}

/// Asks for a name until it is answered, with NOERROR.
fn wait_for_answer(lab: &Lab, process: &Process) -> Result<()> {
    let server = format!("@{SERVER_V4}");
    for _ in 0..40 {
        let asked = run(lab.on_client("kdig").args([
            &server,
            "n0.example.com",
            "A",
            "+timeout=1",
            "+retry=0",
        ]));
        let reply = asked.and_then(|text| Kdig::read(&text));
        if reply.is_ok_and(|reply| reply.status == "NOERROR") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("no answer; it says:\n{}", process.output())
}

/// unbound.conf(5) and "Optimising": a thread, slabs for one, both caches large, receive buffers.
const UNBOUND: &str = "\
server:
    interface: SERVER
    port: 53
    access-control: 0.0.0.0/0 allow
    username: \"\"
    chroot: \"\"
    directory: \"\"
    pidfile: \"\"
    use-syslog: no
    num-threads: 1
    msg-cache-slabs: 1
    rrset-cache-slabs: 1
    infra-cache-slabs: 1
    key-cache-slabs: 1
    msg-cache-size: 256m
    rrset-cache-size: 512m
    outgoing-range: 8192
    num-queries-per-thread: 4096
    so-rcvbuf: 4m
    so-sndbuf: 4m
    module-config: \"iterator\"
    do-not-query-localhost: no
remote-control:
    control-enable: no
forward-zone:
    name: \".\"
    forward-addr: UPSTREAM
";

/// dnsdist's "Caching Responses" and "Performance Tuning": one receiver, a cache for all, no shards
/// to lock for others.
const DNSDIST: &str = "\
setLocal('SERVER:53')
setACL({'0.0.0.0/0'})
setSecurityPollSuffix('')
setMaxUDPOutstanding(65535)
newServer({address='UPSTREAM'}):setUp()
getPool(''):setCache(newPacketCache(1000000, {maxTTL=86400, numberOfShards=1}))
";

/// Knot Resolver's documentation, "Forwarding" and "Cache": one instance, nothing validated.
const KRESD: &str = "\
net.listen('SERVER', 53, { kind = 'dns' })
cache.size = 512 * MB
trust_anchors.remove('.')
policy.add(policy.all(policy.STUB('UPSTREAM')))
";

/// PowerDNS Recursor's "Performance Guide": a thread that takes its queries itself, a packet cache.
const RECURSOR: &str = "\
local-address=SERVER
local-port=53
allow-from=0.0.0.0/0
forward-zones-recurse=.=UPSTREAM
dont-query=
threads=1
pdns-distributes-queries=no
dnssec=off
max-cache-entries=1000000
max-packetcache-entries=1000000
packetcache-ttl=86400
security-poll-suffix=
daemon=no
write-pid=no
quiet=yes
setuid=
setgid=
socket-dir=PLACE
";

/// dnsmasq(8): a cache for every name; more of its own than 10,000 it calls unwise.
const DNSMASQ: &str = "\
port=53
listen-address=SERVER
bind-interfaces
user=root
pid-file=
log-facility=-
no-resolv
no-hosts
cache-size=12000
dns-forward-max=10000
server=UPSTREAM
";
