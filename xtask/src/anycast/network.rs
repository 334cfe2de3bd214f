//! The network: clients, a router, an upstream, and nodes with Heimdall and a routing daemon.
//!
//! ```text
//!  clients ── router ──┬── node1 ... node3: heimdall on eth0 (AF_XDP), BIRD or FRR
//!  10.53.0.2   BIRD    └── upstream: knotd, 10.53.9.2
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Heimdall, Knot, Namespace, Process};
use nix::{
    sys::signal::Signal,
    unistd::{User, chown},
};
use tempfile::TempDir;

use super::NODES;

pub(super) const SERVICE_V4: &str = "192.0.2.53";
pub(super) const SERVICE_V6: &str = "2001:db8:53::53";
const UPSTREAM: &str = "10.53.9.2";
/// Longest wait for a state of the network.
const LIMIT: Duration = Duration::from_secs(60);
/// BFD's packets leave every so many milliseconds, and so many may be missing.
const BFD: (u64, u64) = (50, 3);

/// After what time without BFD's packets a router withdraws.
pub(super) const DETECTION: Duration = Duration::from_millis(BFD.0 * BFD.1);

fn bfd() -> String {
    let (interval, multiplier) = BFD;
    format!(
        "protocol bfd {{ interface \"*\" {{ min rx interval {interval} ms; min tx interval {interval} ms; \
         multiplier {multiplier}; }}; }}\n"
    )
}

/// Everything but the nodes.
pub(super) struct Fabric {
    pub(super) clients: Namespace,
    router: Namespace,
    _bird: Process,
    _knot: Process,
    _upstream: Namespace,
}

/// Makes the network. No node has a server or a routing daemon yet.
pub(super) fn make(program: &Path) -> Result<(Fabric, Vec<Node>)> {
    let (clients, router) = (Namespace::new("clients")?, Namespace::new("router")?);
    let upstream = Namespace::new("upstream")?;
    for (variable, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // By addresses and ports: each flow of a client has a node.
        ("net/ipv4/fib_multipath_hash_policy", "1"),
        ("net/ipv6/fib_multipath_hash_policy", "1"),
    ] {
        router.sysctl(variable, value)?;
    }
    attach(&router, "clients", &clients, 0)?;
    attach(&router, "upstream", &upstream, 9)?;
    let mut bird = format!(
        "log stderr all;\nrouter id 10.53.0.1;\nprotocol device {{ }}\n{}\
         protocol kernel {{ merge paths yes; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ merge paths yes; ipv6 {{ import none; export where source = RTS_BGP; }}; }}\n",
        bfd()
    );
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        let node = Node::new(number, program)?;
        attach(&router, &format!("n{number}"), &node.namespace, number)?;
        bird += &format!(
            "protocol bgp n{number} {{ local 10.53.{number}.1 as 64513; neighbor 10.53.{number}.2 as 64512; \
             direct; bfd on; connect delay time 1; connect retry time 1;\n\
             error wait time 1, 2; ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n"
        );
        nodes.push(node);
    }
    let fabric = Fabric {
        _bird: start_bird(&router, &bird)?,
        _knot: Knot::at(upstream.command("knotd"), &format!("{UPSTREAM}:53"))?,
        clients,
        router,
        _upstream: upstream,
    };
    Ok((fabric, nodes))
}

/// Connects a host to the router; the network has a number.
fn attach(router: &Namespace, interface: &str, host: &Namespace, number: usize) -> Result<()> {
    router.connect(interface, host, "eth0")?;
    for (namespace, interface, end) in [(router, interface, 1), (host, "eth0", 2)] {
        namespace.ip(&format!("addr add 10.53.{number}.{end}/24 dev {interface}"))?;
        namespace.ip(&format!(
            "addr add fd53:{number}::{end}/64 dev {interface} nodad"
        ))?;
    }
    host.ip(&format!("route add default via 10.53.{number}.1"))?;
    host.ip(&format!("-6 route add default via fd53:{number}::1"))?;
    Ok(())
}

fn start_bird(namespace: &Namespace, text: &str) -> Result<Process> {
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    fs::write(path.join("bird.conf"), text)?;
    let mut command = namespace.command("/usr/sbin/bird");
    command.arg("-f").arg("-c").arg(path.join("bird.conf"));
    command.arg("-s").arg(path.join("bird.ctl"));
    let mut process = Process::start_in(directory, &mut command)?;
    process.wait_for("Started", Duration::from_secs(20))?;
    Ok(process)
}

impl Fabric {
    /// Whether the router has routes to the service addresses by a node: for both, or for none.
    fn has_routes(&self, node: usize, wanted: bool) -> Result<bool> {
        let device = format!(" dev n{node} ");
        for route in [
            format!("route show {SERVICE_V4}"),
            format!("-6 route show {SERVICE_V6}"),
        ] {
            if self.router.ip(&route)?.contains(&device) != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until the router has the routes by a node, or has none any more; the time that it took.
    pub(super) fn wait_for_routes(&self, node: usize, wanted: bool) -> Result<Duration> {
        let start = Instant::now();
        while !self.has_routes(node, wanted)? {
            let state = if wanted {
                "has no route"
            } else {
                "has a route"
            };
            ensure!(
                start.elapsed() < LIMIT,
                "the router still {state} to a service address by node{node}"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(start.elapsed())
    }

    /// Packets so far that the router had no route for: InNoRoutes of both families (RFC 4293).
    pub(super) fn unroutable(&self) -> Result<u64> {
        let counters = || -> Result<u64> {
            let v4 = fs::read_to_string("/proc/thread-self/net/netstat")?;
            let mut extended = v4.lines().filter(|line| line.starts_with("IpExt:"));
            let (names, values) = extended.next().zip(extended.next()).context("no IpExt")?;
            let mut columns = names.split(' ').zip(values.split(' '));
            let (_, v4) = columns
                .find(|(name, _)| *name == "InNoRoutes")
                .context("no InNoRoutes")?;
            let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            let mut rows = v6.lines().filter_map(|line| line.split_once(' '));
            let (_, v6) = rows
                .find(|(name, _)| *name == "Ip6InNoRoutes")
                .context("no Ip6InNoRoutes")?;
            Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
        };
        self.router.within(counters)?
    }

    /// The router drops what a node sends to the upstream, or no longer does.
    pub(super) fn cut_upstream(&self, node: usize, cut: bool) -> Result<()> {
        let verb = if cut { "add" } else { "del" };
        let rule = format!("rule {verb} from 10.53.{node}.2 to {UPSTREAM} priority 100 blackhole");
        self.router.ip(&rule)?;
        Ok(())
    }
}

/// A host with Heimdall and a routing daemon.
pub(super) struct Node {
    pub(super) number: usize,
    namespace: Namespace,
    program: PathBuf,
    directory: TempDir,
    /// The files of FRR.
    frr: TempDir,
    server: Option<Heimdall>,
    routing: Vec<Process>,
}

impl Node {
    fn new(number: usize, program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let control = directory.path().join("control.sock");
        let text = format!(
            "interface = [\"eth0\"]\nbackend = \"xdp\"\nupstream = [\"{UPSTREAM}\"]\ncontrol = {control:?}\n\
             cache.size = \"16M\"\ntier.mode = \"off\"\nidentity.server-id = \"node{number}\"\n\
             [anycast]\naddress = [\"{SERVICE_V4}/32\", \"{SERVICE_V6}/128\"]\ninterface = \"lo\"\n\
             withdraw-after = 2\nannounce-after = 1\ndrain-wait = 1\n"
        );
        fs::write(directory.path().join("heimdall.toml"), text)?;
        Ok(Self {
            number,
            namespace: Namespace::new(&format!("node{number}"))?,
            program: program.to_owned(),
            directory,
            frr: tempfile::tempdir()?,
            server: None,
            routing: Vec::new(),
        })
    }

    fn config(&self) -> String {
        let path = self.directory.path().join("heimdall.toml");
        path.display().to_string()
    }

    fn launch(&self, more: &[&str]) -> Result<Heimdall> {
        let config = self.config();
        let arguments = [&["--config", &config], more].concat();
        let command = self.namespace.command(&self.program);
        let control = self.directory.path().join("control.sock");
        Heimdall::at(command, &self.program, &control, &arguments)
    }

    /// Starts Heimdall.
    pub(super) fn start(&mut self) -> Result<()> {
        self.server = Some(self.launch(&[])?);
        Ok(())
    }

    /// Another process takes over from the running one, as in an upgrade.
    pub(super) fn upgrade(&mut self) -> Result<()> {
        let successor = self.launch(&["--take-over"])?;
        let predecessor = self.server.replace(successor);
        if let Some(mut predecessor) = predecessor {
            predecessor.process.wait(LIMIT)?;
        }
        Ok(())
    }

    fn take_server(&mut self) -> Result<Heimdall> {
        let number = self.number;
        let server = self.server.take();
        server.with_context(|| format!("node{number} has no server"))
    }

    /// Ends Heimdall by SIGTERM: it drains.
    pub(super) fn drain(&mut self) -> Result<()> {
        let mut server = self.take_server()?;
        server.process.signal(Signal::SIGTERM)?;
        let status = server.process.wait(LIMIT)?;
        ensure!(status.success(), "a drained server: {status}");
        Ok(())
    }

    /// kill -9 of Heimdall.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut server = self.take_server()?;
        server.process.signal(Signal::SIGKILL)?;
        server.process.wait(LIMIT)?;
        Ok(())
    }

    /// What the systemd unit runs after the end of a server (`ExecStopPost`).
    pub(super) fn withdraw(&self) -> Result<()> {
        let mut command = self.namespace.command(&self.program);
        let Output { status, stderr, .. } = command
            .args(["withdraw", "--config", &self.config()])
            .output()?;
        if !status.success() {
            bail!("heimdall withdraw: {}", String::from_utf8_lossy(&stderr));
        }
        Ok(())
    }

    /// Starts BIRD, which announces the service addresses while they are on `lo`.
    pub(super) fn start_bird(&mut self) -> Result<()> {
        let number = self.number;
        let text = format!(
            "log stderr all;\nrouter id 10.53.{number}.2;\nprotocol device {{ }}\n{}\
             protocol direct {{ ipv4; ipv6; interface \"lo\"; }}\n\
             protocol bgp uplink {{ local 10.53.{number}.2 as 64512; neighbor 10.53.{number}.1 as 64513; direct; bfd on;\n\
             connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
             ipv4 {{ import none; export where net = {SERVICE_V4}/32; }};\n\
             ipv6 {{ import none; export where net = {SERVICE_V6}/128; next hop address fd53:{number}::2; }}; }}\n",
            bfd()
        );
        self.routing = vec![start_bird(&self.namespace, &text)?];
        Ok(())
    }

    /// Stops BIRD without its end: neither BGP nor BFD of this node say anything, as if the host were dead.
    pub(super) fn freeze_routing(&self) -> Result<()> {
        self.routing.iter().try_for_each(Process::pause)
    }

    /// Lets it go on.
    pub(super) fn resume_routing(&self) -> Result<()> {
        let mut daemons = self.routing.iter();
        daemons.try_for_each(|daemon| daemon.signal(Signal::SIGCONT))
    }

    /// Ends the routing daemon, and starts FRR in its place. The routes have the origin of BIRD's: a router shares the load
    /// between equal routes only, and those that FRR redistributes have another one.
    pub(super) fn start_frr(&mut self) -> Result<()> {
        self.routing.clear();
        let number = self.number;
        let text = format!(
            "log stdout\nrouter bgp 64512\n bgp router-id 10.53.{number}.2\n no bgp ebgp-requires-policy\n \
             neighbor 10.53.{number}.1 remote-as 64513\n neighbor 10.53.{number}.1 timers connect 1\n \
             address-family ipv4 unicast\n  redistribute connected route-map service\n exit-address-family\n \
             address-family ipv6 unicast\n  redistribute connected route-map service\n  \
             neighbor 10.53.{number}.1 activate\n exit-address-family\nexit\n\
             ip prefix-list service permit {SERVICE_V4}/32\nipv6 prefix-list service permit {SERVICE_V6}/128\n\
             route-map service permit 10\n match ip address prefix-list service\n set origin igp\nexit\n\
             route-map service permit 20\n match ipv6 address prefix-list service\n set origin igp\n \
             set ipv6 next-hop global fd53:{number}::2\nexit\n"
        );
        // FRR's daemons change to their own user, who has to reach their files.
        let user =
            User::from_name("frr")?.context("there is no user frr: is the package complete?")?;
        let directory = self.frr.path();
        chown(directory, Some(user.uid), Some(user.gid))?;
        fs::write(directory.join("bgpd.conf"), text)?;
        fs::write(directory.join("zebra.conf"), "log stdout\n")?;
        for daemon in ["zebra", "bgpd"] {
            let mut command = self
                .namespace
                .command(Path::new("/usr/lib/frr").join(daemon));
            // Without a port for its terminal.
            command.args(["-P", "0", "-f"]);
            command.arg(directory.join(format!("{daemon}.conf")));
            command.arg("-z").arg(directory.join("zserv.api"));
            command
                .arg("-i")
                .arg(directory.join(format!("{daemon}.pid")));
            command.arg("--vty_socket").arg(directory);
            self.routing.push(Process::start(&mut command)?);
            let start = Instant::now();
            while !directory.join(format!("{daemon}.vty")).exists() {
                ensure!(start.elapsed() < LIMIT, "{daemon} does not start");
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}
