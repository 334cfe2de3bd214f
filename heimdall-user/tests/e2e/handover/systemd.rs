//! A real systemd, as init of namespaces of its own, runs `deploy/heimdall.service`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use lab::{Process, SERVER_V4, SERVER_V6, UPSTREAM};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Place, TIMEOUT, assert_answers, checked, load::OTHER};

const INIT: &str = "/usr/lib/systemd/systemd";

/// Makes a control group and namespaces, and becomes systemd in them. `$1`: a directory, with units in `units`, which is
/// `/run/test` there; `$2`: the control group's name.
const BOOT: &str = r#"
set -e
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    groups=/sys/fs/cgroup
else
    groups="/sys/fs/cgroup/systemd /sys/fs/cgroup/unified"
fi
for group in $groups; do
    mkdir "$group/$2"
    echo $$ > "$group/$2/cgroup.procs"
done
exec unshare --pid --mount --cgroup --uts --ipc --fork --kill-child sh -ec '
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/test
cp "$1"/units/* /run/systemd/system
mount --bind "$1" /run/test
mount -t proc proc /proc
umount -R /sys/fs/cgroup
if [ "$2" = /sys/fs/cgroup ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
' sh "$1" "$groups"
"#;

const TARGET: &str = "[Unit]\nDescription=test\nDefaultDependencies=no\n";

/// A running systemd. Dropped, it is killed with all that it runs.
struct Systemd {
    process: Process,
    group: String,
    directory: TempDir,
}

impl Systemd {
    /// Starts one in the lab's server namespace, with these units besides its target. `None`: this host does not let it, and
    /// the test is skipped.
    fn boot(place: &Place, units: &[(&str, &str)]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        // The service's user reads it.
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), everyone).unwrap();
        lab::copy_program(&place.program, &directory.path().join("heimdall")).unwrap();
        // Settings without service addresses, for `heimdall withdraw`.
        fs::write(directory.path().join("heimdall.toml"), "").unwrap();
        let folder = directory.path().join("units");
        fs::create_dir(&folder).unwrap();
        for (name, text) in units.iter().chain(&[("test.target", TARGET)]) {
            fs::write(folder.join(name), text).unwrap();
        }
        let group = format!("heimdall-test-{}", place.lab.server);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", place.lab.server))
            .args(["sh", "-c", BOOT, "sh"])
            .arg(directory.path())
            .arg(&group);
        let systemd = Self {
            process: Process::start(&mut command).unwrap(),
            group,
            directory,
        };
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            let state = systemd.systemctl(&["is-system-running"]);
            if state.is_some_and(|state| state.stdout.starts_with(b"running")) {
                return Some(systemd);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: {INIT} does not run in namespaces on this host: {}",
            systemd.process.output()
        );
        None
    }

    /// Runs systemctl. `None`: systemd does not run.
    fn systemctl(&self, arguments: &[&str]) -> Option<Output> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let init = children.split_whitespace().next()?;
        let mut command = Command::new("nsenter");
        command
            .args(["-t", init, "-m", "-p", "systemctl"])
            .args(arguments);
        command.output().ok()
    }

    /// The same, for what has to succeed: what it prints.
    fn must(&self, arguments: &[&str]) -> String {
        let output = self.systemctl(arguments).unwrap();
        let text = |octets| String::from_utf8_lossy(octets).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}\n{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            self.log(),
            self.process.output()
        );
        text(&output.stdout).trim().to_owned()
    }

    /// What the service has logged.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A property of the service.
    fn property(&self, name: &str) -> String {
        self.must(&["show", "--value", "-p", name, "heimdall"])
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // unshare(1) ignores TERM.
        let _ = self.process.signal(Signal::SIGKILL);
        let _ = self.process.wait(TIMEOUT);
        for hierarchy in ["", "systemd", "unified"] {
            remove_groups(
                &Path::new("/sys/fs/cgroup")
                    .join(hierarchy)
                    .join(&self.group),
            );
        }
    }
}

/// Removes a control group and those in it, whose processes are gone or going.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let end = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        && Instant::now() < end
    {
        thread::sleep(Duration::from_millis(10));
    }
}

/// `deploy/heimdall.service` with these lines for its commands, and without what a whole system has.
fn unit(place: &Place) -> String {
    let deployed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/heimdall.service");
    let text = fs::read_to_string(deployed).unwrap();
    let control = "--control /run/heimdall/control.sock";
    let run = format!(
        "ExecStart=/run/test/heimdall run --backend xdp --tier on --interface {} --listen {SERVER_V4}:53 \
         --listen [{SERVER_V6}]:53 --listen {OTHER}:53 --upstream {UPSTREAM} --cache-size 16M {control}",
        place.lab.server_if
    );
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("Wants" | "After", _)) => {}
            Some(("ExecStart", _)) => lines.push(run.clone()),
            Some(("ExecReload", _)) => {
                lines.push(format!("ExecReload=/run/test/heimdall reload {control}"));
            }
            Some(("ExecStopPost", _)) => lines.push(format!(
                "ExecStopPost=/run/test/heimdall withdraw --config /run/test/heimdall.toml --upstream {UPSTREAM} {control}"
            )),
            _ => lines.push(line.to_owned()),
        }
    }
    let text = lines.join("\n");
    let text = text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n");
    text.replace(
        "[Service]\n",
        "[Service]\nStandardError=append:/run/test/log\n",
    )
}

#[test]
fn systemctl_restart_and_reload_lose_nothing() {
    let Some(place) = Place::new("systemctl_restart_and_reload_lose_nothing") else {
        return;
    };
    let Some(systemd) = Systemd::boot(&place, &[("heimdall.service", &unit(&place))]) else {
        return;
    };
    systemd.must(&["start", "heimdall"]);
    assert!(
        systemd.property("StatusText").contains("AF_XDP on"),
        "{}",
        systemd.log()
    );
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            let pid = systemd.property("MainPID");
            systemd.must(&["reload", "heimdall"]);
            assert_eq!(systemd.property("MainPID"), pid);
            systemd.must(&["restart", "heimdall"]);
            assert_ne!(systemd.property("MainPID"), pid);
        }
    });
    let log = systemd.log();
    eprintln!("{log}");
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    tcp.assert_complete("TCP");
    assert_eq!(tcp.closed, 0, "connections are kept: {log}");
    let restored = log
        .matches("answers of the predecessor's cache restored")
        .count();
    assert_eq!(restored, 4, "{log}");
    assert!(
        systemd
            .property("NFileDescriptorStore")
            .parse::<u32>()
            .unwrap()
            >= 6
    );

    // The socket file is the new process's; a crash is followed by another start.
    systemd.must(&["kill", "--signal=KILL", "heimdall"]);
    let end = Instant::now() + TIMEOUT;
    while systemd.property("NRestarts") != "1" || systemd.property("ActiveState") != "active" {
        assert!(Instant::now() < end, "{}", systemd.log());
        thread::sleep(Duration::from_millis(50));
    }
    assert_answers(&place.lab);
    systemd.must(&["stop", "heimdall"]);
    assert!(!place.lab.has_xdp().unwrap());
}
