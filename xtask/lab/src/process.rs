//! Processes of the lab.

use std::{
    env, fs, io,
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tempfile::TempDir;

/// How long the threads of a process may take to stop.
const PAUSE: Duration = Duration::from_secs(10);

/// A process that is stopped when this is dropped, and killed with its parent. Its standard output
/// and error go to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: fs::File,
    /// Its files, which are removed after its end.
    _directory: TempDir,
}

/// Runs a unit test, given by its path, in a process of its own, for what belongs to a process, such as its limits.
/// Returns whether this is that process; otherwise the test has passed there.
///
/// # Errors
/// It failed, or there is no such test.
pub fn in_own_process(test: &str) -> Result<bool> {
    const VARIABLE: &str = "HEIMDALL_OWN_PROCESS";
    if env::var_os(VARIABLE).is_some() {
        return Ok(true);
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(["--exact", test]).env(VARIABLE, "1");
    let child = command.output()?;
    let output = String::from_utf8_lossy(&child.stdout);
    ensure!(
        child.status.success() && output.contains("1 passed"),
        "{output}"
    );
    Ok(false)
}

impl Process {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, command)
    }

    /// Starts a command whose files are in a directory, which is kept as long as the process.
    pub fn start_in(directory: TempDir, command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let log = tempfile::tempfile()?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        die_with_parent(command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {name}; is it installed?"))?;
        Ok(Self {
            child,
            name,
            log,
            _directory: directory,
        })
    }

    /// Its process ID. (`ip netns exec` becomes the program that it starts.)
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        // Not by `read`: the offset is shared with the child, and so must not be moved.
        let mut octets = vec![0; self.log.metadata().map_or(0, |log| log.len() as usize)];
        let len = self.log.read_at(&mut octets, 0).unwrap_or_default();
        String::from_utf8_lossy(&octets[..len]).into_owned()
    }

    /// Waits until it has written `text`.
    ///
    /// # Errors
    /// It ended before that, or `limit` passed; the error has what it wrote.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait()?;
            let output = self.output();
            if output.contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}):\n{output}", self.name);
            }
            if Instant::now() >= end {
                bail!("{} did not say {text:?}:\n{output}", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Sends SIGSTOP, and waits until each of its threads is stopped: they are one after another.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.child.id());
        let end = Instant::now() + PAUSE;
        loop {
            let mut are_stopped = true;
            for task in fs::read_dir(&tasks)? {
                // It may have ended meanwhile.
                let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else {
                    continue;
                };
                // The state follows the name, which may have parentheses of its own (proc(5)).
                let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
                are_stopped &= state.is_some_and(|state| state.starts_with('T'));
            }
            if are_stopped {
                return Ok(());
            }
            ensure!(Instant::now() < end, "it does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// `limit` passed.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} does not end", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGTERM);
        if self.wait(Duration::from_secs(2)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Lets a command's process be killed when the thread that starts it ends, however that comes.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}
