//! Where the server runs, and how each fault is brought about.

use std::{
    fs, mem,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use lab::{Disk, Heimdall, Lab, SERVER_V4, SERVER_V6, ScriptedUpstream, UPSTREAM, message, sum};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    super::{
        CACHE, SNAPSHOT_INTERVAL,
        answers::{Ledger, Question},
        clients::popular_name,
        watch::{Sample, never_so},
    },
    Fault,
};

/// How long something may take to be as it was before a fault, or a process to end.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a link is down.
const DOWN: Duration = Duration::from_millis(200);
/// How long an upstream is gone.
const GONE: Duration = Duration::from_secs(2);
/// How long failures are cached at least, and so may be answered after their cause is gone.
const FAILURES_CACHED: Duration = Duration::from_secs(2);
/// How long an answer is waited for until it is asked again.
const REPLY: Duration = Duration::from_millis(100);

/// The host, the upstream, and the server's present process.
pub(super) struct Place<'a> {
    lab: &'a Lab,
    program: &'a Path,
    ledger: &'a Arc<Ledger>,
    disk: Disk,
    directory: TempDir,
    upstream: Option<ScriptedUpstream>,
    heimdall: Heimdall,
    /// Reloads so far: each has other settings.
    reloads: u32,
    /// Those of them that need a successor.
    successors: u32,
}

impl<'a> Place<'a> {
    /// Starts the first server.
    pub(super) fn new(lab: &'a Lab, program: &'a Path, ledger: &'a Arc<Ledger>) -> Result<Self> {
        // Else a link that is set down loses its addresses.
        let mut sysctl = lab.on_server("sysctl");
        lab::run(sysctl.args(["-q", "-w", "net.ipv6.conf.all.keep_addr_on_down=1"]))?;
        let (disk, directory) = (Disk::new("64m")?, tempfile::tempdir()?);
        let upstream = Some(upstream(lab, ledger)?);
        write_settings(directory.path(), &disk, 0, 0)?;
        let heimdall = start(lab, program, directory.path(), &[])?;
        let place = Self {
            lab,
            program,
            ledger,
            disk,
            directory,
            upstream,
            heimdall,
            reloads: 0,
            successors: 0,
        };
        place.wait_until_whole()?;
        Ok(place)
    }

    /// Runs a subcommand for whichever server has the control socket.
    pub(super) fn commands(&self) -> impl Fn(&[&str]) -> Result<Output> + Sync + use<> {
        let (program, control) = (self.program.to_owned(), control(self.directory.path()));
        move |arguments| {
            let mut command = Command::new(&program);
            command.args(arguments).arg("--control").arg(&control);
            Ok(command.output()?)
        }
    }

    /// The present process.
    pub(super) fn sample(&self) -> Result<Sample> {
        Sample::take(&self.heimdall)
    }

    /// What of its counters is never so.
    pub(super) fn broken(&self) -> Result<Vec<String>> {
        never_so(&self.heimdall)
    }

    /// Forgets the upstream's queries so far.
    pub(super) fn forget_queries(&self) {
        self.upstream.iter().for_each(ScriptedUpstream::forget);
    }

    /// Brings a fault about, and waits until it is over: until queries are answered, over AF_XDP, as before.
    pub(super) fn bring_about(&mut self, fault: Fault) -> Result<()> {
        let brought_about = match fault {
            Fault::TakeOver => self.take_over(),
            Fault::Successor => self.reload(true),
            Fault::InPlace => self.reload(false),
            Fault::Kill => self.kill(),
            Fault::LinkFlap => self.flap(),
            Fault::UpstreamGone => self.lose_upstream(),
            Fault::WorkerFails => self.fail_worker(),
            Fault::FullDisk => self.fill_disk(),
            Fault::ControlGone => self.lose_control(),
            Fault::Drain => self.drain(),
        };
        brought_about
            .and_then(|()| self.wait_until_whole())
            .with_context(|| format!("{}\n{}", fault.title(), self.heimdall.process.output()))
    }

    fn start(&self, arguments: &[&str]) -> Result<Heimdall> {
        start(self.lab, self.program, self.directory.path(), arguments)
    }

    fn take_over(&mut self) -> Result<()> {
        let successor = self.start(&["--take-over"])?;
        let mut predecessor = mem::replace(&mut self.heimdall, successor);
        let status = predecessor.process.wait(LIMIT)?;
        let log = predecessor.process.output();
        let line = format!("process {} has taken over", self.heimdall.process.pid());
        ensure!(status.success() && log.contains(&line), "{status}: {log}");
        Ok(())
    }

    /// Reloads other settings: such as the running server can apply, or such as need a successor.
    fn reload(&mut self, successor: bool) -> Result<()> {
        self.reloads += 1;
        self.successors += u32::from(successor);
        write_settings(
            self.directory.path(),
            &self.disk,
            self.reloads,
            self.successors,
        )?;
        let output = self.heimdall.reload()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let is_as_expected = text.contains("(take-over)") == successor;
        ensure!(output.status.success() && is_as_expected, "{output:?}");
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.heimdall.process.signal(Signal::SIGKILL)?;
        self.heimdall.process.wait(LIMIT)?;
        // The next server restores a snapshot from before the last flushes.
        self.ledger.forget_flushes();
        self.heimdall = self.start(&[])?;
        Ok(())
    }

    fn flap(&self) -> Result<()> {
        let interface = &self.lab.server_if;
        self.lab.server_ip(&format!("link set {interface} down"))?;
        thread::sleep(DOWN);
        self.lab.server_ip(&format!("link set {interface} up"))?;
        Ok(())
    }

    fn lose_upstream(&mut self) -> Result<()> {
        self.upstream = None;
        thread::sleep(GONE);
        self.upstream = Some(upstream(self.lab, self.ledger)?);
        let mut number = 0;
        let is_answered = || {
            number += 1;
            let name = format!(
                "t{number}.probe{}.tail.soak.example",
                self.ledger.now().as_millis()
            );
            Ok(self
                .reply(SERVER_V4, &name)?
                .is_some_and(|reply| reply[3] & 0xf != 2))
        };
        wait_until("answered by the upstream again", is_answered)?;
        thread::sleep(FAILURES_CACHED);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    fn fail_worker(&self) -> Result<()> {
        use lab::debugger;
        let pid = self.heimdall.process.pid();
        debugger::fail_wait(debugger::thread(pid, |name| name.starts_with("worker-")));
        // It is started again after a pause.
        wait_until("noticed", || Ok(!are_running(&self.heimdall.stats()?)))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn fail_worker(&self) -> Result<()> {
        anyhow::bail!("only on x86-64")
    }

    fn fill_disk(&self) -> Result<()> {
        let ballast = self.disk.fill()?;
        let full = SystemTime::now();
        thread::sleep(Duration::from_secs(2 * SNAPSHOT_INTERVAL));
        let written =
            || -> Result<SystemTime> { Ok(fs::metadata(snapshot(&self.disk))?.modified()?) };
        ensure!(written()? <= full, "a snapshot was written to a full disk");
        fs::remove_file(ballast)?;
        wait_until("written again", || Ok(written()? > full))
    }

    /// Moves the socket's file away, and puts it back.
    fn lose_control(&self) -> Result<()> {
        let path = self.heimdall.control();
        let away = path.with_extension("away");
        fs::rename(path, &away)?;
        let output = self.heimdall.command(&["stats"])?;
        ensure!(
            !output.status.success(),
            "without a control socket: {output:?}"
        );
        let reloaded = |log: &str| log.matches("reloaded").count();
        let before = reloaded(&self.heimdall.process.output());
        self.heimdall.process.signal(Signal::SIGHUP)?;
        let is_reloaded = || Ok(reloaded(&self.heimdall.process.output()) > before);
        wait_until("reloaded by HUP", is_reloaded)?;
        fs::rename(away, path)?;
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let output = self.heimdall.command(&["drain"])?;
        ensure!(output.status.success(), "{output:?}");
        let status = self.heimdall.process.wait(LIMIT)?;
        ensure!(status.success(), "{status}");
        self.heimdall = self.start(&[])?;
        Ok(())
    }

    /// Waits until all workers run, and queries over IPv4 and IPv6 are answered over AF_XDP: in some time all are, and the sockets
    /// get none over UDP.
    fn wait_until_whole(&self) -> Result<()> {
        let mut before = self.heimdall.stats()?;
        let is_whole = || {
            let name = popular_name(0);
            let answered =
                self.reply(SERVER_V4, &name)?.is_some() && self.reply(SERVER_V6, &name)?.is_some();
            let stats = self.heimdall.stats()?;
            let is_whole = answered && are_running(&stats) && are_serving(&before, &stats);
            before = stats;
            Ok(is_whole)
        };
        wait_until("as before", is_whole)
    }

    /// Asks for a name: the reply, if one comes at once.
    fn reply(&self, server: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let Question { name, qtype } = Question::new(name.to_owned());
        let query = message::octets(&message::query(1, &name, qtype));
        self.lab.in_client(|| {
            let any = if server.contains(':') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(REPLY))?;
            let mut reply = vec![0; 4096];
            // An error is as good as no reply.
            let received = socket
                .connect((server, 53))
                .and_then(|()| socket.send(&query))
                .and_then(|_| socket.recv(&mut reply));
            Ok(received.ok().map(|len| {
                reply.truncate(len);
                reply
            }))
        })?
    }
}

fn upstream(lab: &Lab, ledger: &Arc<Ledger>) -> Result<ScriptedUpstream> {
    let ledger = Arc::clone(ledger);
    ScriptedUpstream::with_script(lab, UPSTREAM, move |query| ledger.responses(query))
}

fn control(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

fn snapshot(disk: &Disk) -> PathBuf {
    disk.path("snapshot")
}

/// Writes the settings file. Another number of reloads changes what the running server can change, another number of successors
/// what it cannot.
fn write_settings(directory: &Path, disk: &Disk, reloads: u32, successors: u32) -> Result<()> {
    let (snapshot, age) = (snapshot(disk), 86_400 - successors);
    let text = format!(
        "[cache]\nsnapshot = {snapshot:?}\nsnapshot-interval = {SNAPSHOT_INTERVAL}\nstale-max-age = {age}\n\
         [[route]]\nzone = \"r{reloads}.example\"\nanswer = \"nxdomain\"\n"
    );
    Ok(fs::write(directory.join("heimdall.toml"), text)?)
}

fn start(lab: &Lab, program: &Path, directory: &Path, more: &[&str]) -> Result<Heimdall> {
    let config = directory.join("heimdall.toml").display().to_string();
    let arguments = [
        "--config",
        &config,
        "--upstream",
        UPSTREAM,
        "--cache-size",
        CACHE,
    ];
    let arguments = [&arguments[..], more].concat();
    Heimdall::on_xdp_with_control(lab, program, &control(directory), &arguments)
}

/// Whether all workers run, and all of their queues.
fn are_running(stats: &Value) -> bool {
    let workers = || stats["workers"].as_array().into_iter().flatten();
    let queues = workers().flat_map(|worker| worker["queues"].as_array().into_iter().flatten());
    let mut states = workers()
        .chain(queues)
        .filter_map(|one| one["state"].as_str());
    states.all(|state| state == "running")
}

/// Whether workers alone, and the hot tier, got the queries over UDP between two looks.
fn are_serving(before: &Value, after: &Value) -> bool {
    let by_sockets = |stats: &Value| stats["sockets"]["udp_received"].as_u64();
    after["backend"] == "xdp"
        && before["pid"] == after["pid"]
        && before["started"] == after["started"]
        && sum(after, "received") > sum(before, "received")
        && by_sockets(after).is_some()
        && by_sockets(after) == by_sockets(before)
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !is_so()? {
        ensure!(Instant::now() < end, "not {what} within {LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
