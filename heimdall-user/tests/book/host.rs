//! A host of its own for each page: the server side of a lab, with private copies of /etc, /var and /usr/local and an empty /run, and
//! the lab's client in the place of the Internet and of the clients.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use lab::{Knot, Lab, Process};

/// How long a host, or a program that a page starts, may take until it works.
const LIMIT: Duration = Duration::from_secs(20);

/// The resolvers that pages name, which are authoritative for example.com here.
const RESOLVERS: [&str; 2] = ["9.9.9.9", "149.112.112.112"];

/// The server's interface, as pages call it.
const INTERFACE: &str = "eth0";

/// What the host runs first: all that pages change is private to it. The tmpfs is the upper layer of each copy.
const PREPARE: &str = r#"
mount -t tmpfs tmpfs "$1"
for directory in etc var usr/local; do
    layer="$1/$directory"
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$layer/upper,workdir=$layer/work" "/$directory"
done
mount -t tmpfs tmpfs /run
mkdir -p /usr/local/bin "$1/home"
# Users of the host cannot reach the directory that it was built in.
touch /usr/local/bin/heimdall
mount --bind "$2" /usr/local/bin/heimdall
# What Debian's services do before their programs start.
mkdir -p /run/bird /run/unbound /var/lib/unbound
if [ -f /usr/share/dns/root.key ]; then
    install -o unbound -g unbound -m 644 /usr/share/dns/root.key /var/lib/unbound/root.key
fi
# The part of the Internet that there is.
mkdir -p /etc/unbound/unbound.conf.d
cat > /etc/unbound/unbound.conf.d/internet.conf << END
server:
    domain-insecure: "example.com"
stub-zone:
    name: "example.com"
    stub-addr: 9.9.9.9
END
echo "the host is ready"
exec sleep infinity
"#;

pub(crate) struct Host {
    // Dropped in this order: programs, then the mounts, then the namespaces.
    started: Vec<Process>,
    _resolvers: Process,
    holder: Process,
    home: PathBuf,
    lab: Lab,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host of the page.
    Server,
    /// On another machine, whose queries arrive on the host's interface.
    Client,
}

/// Makes the interface of the service addresses where the kernel has no dummies, so that Heimdall does not have to: a bridge without
/// ports will do.
fn make_dummy(lab: &Lab) {
    match lab.server_ip("link add probe type dummy") {
        Ok(_) => lab.server_ip("link del probe"),
        Err(_) => lab.server_ip("link add anycast0 up type bridge"),
    }
    .unwrap();
}

impl Host {
    pub(crate) fn new(program: &Path) -> Self {
        let lab = Lab::new().unwrap();
        lab.server_ip(&format!("link set {} down", lab.server_if))
            .unwrap();
        lab.server_ip(&format!("link set {} name {INTERFACE} up", lab.server_if))
            .unwrap();
        make_dummy(&lab);
        // To the resolvers, where the client is.
        lab.server_ip(&format!("route add default via {}", lab::CLIENT_V4))
            .unwrap();
        let resolvers = Knot::in_client(&lab, &RESOLVERS).unwrap();
        let top = tempfile::tempdir().unwrap();
        let home = top.path().join("home");
        let mut holder = lab.on_server("unshare");
        holder
            .args(["--mount", "--propagation", "private"])
            .args(["bash", "-euc", PREPARE, "prepare"])
            .arg(top.path())
            .arg(program);
        let mut holder = Process::start_in(top, &mut holder).unwrap();
        holder.wait_for("the host is ready", LIMIT).unwrap();
        Self {
            started: Vec::new(),
            _resolvers: resolvers,
            holder,
            home,
            lab,
        }
    }

    /// A shell on it that runs a script and stops at the first command that fails.
    fn shell(&self, place: Place, script: &str) -> Command {
        let proc = format!("/proc/{}/ns", self.holder.pid());
        let network = match place {
            Place::Server => format!("{proc}/net"),
            Place::Client => format!("/run/netns/{}", self.lab.client),
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={proc}/mnt"))
            .arg(format!("--net={network}"))
            .args(["bash", "-euo", "pipefail", "-c"])
            .arg(format!("cd {:?}\n{script}", self.home))
            .env(
                "PATH",
                "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
            )
            .env("HOME", &self.home)
            .env_remove("RUST_LOG");
        command
    }

    /// Runs a script to its end.
    pub(crate) fn run(&self, place: Place, script: &str) -> Output {
        self.shell(place, script).output().unwrap()
    }

    /// Starts a script that goes on until the end of the page, and waits until it has written `text`; what it wrote so far.
    pub(crate) fn start(
        &mut self,
        place: Place,
        script: &str,
        text: &str,
    ) -> Result<String, String> {
        // The program in place of the shell: so it gets the signal at the end.
        let script = script.replace("\\\n", " ");
        let script = match script.trim_end().rsplit_once('\n') {
            Some((before, last)) => format!("{before}\nexec {last}"),
            None => format!("exec {script}"),
        };
        let mut command = self.shell(place, &script);
        let mut process = Process::start(&mut command).map_err(|error| format!("{error:#}"))?;
        let waited = process.wait_for(text, LIMIT);
        let output = process.output();
        self.started.push(process);
        waited
            .map(|()| output)
            .map_err(|error| format!("{error:#}"))
    }

    /// Ends what was started on it.
    pub(crate) fn stop(&mut self) {
        self.started.clear();
    }

    /// Writes a file on it, below a directory that is private to it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let private = ["/etc/", "/var/", "/usr/local/", "/run/"];
        let is_private = private.iter().any(|directory| path.starts_with(directory));
        assert!(is_private && !path.contains(".."), "{path}: not private");
        let script = format!("mkdir -p \"$(dirname {path})\"; cat > {path}");
        let mut command = self.shell(Place::Server, &script);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "cannot write {path}");
    }
}
