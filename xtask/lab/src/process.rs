//! Processes of the lab.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// A process that is stopped when this is dropped, and killed with its parent. Its standard output
/// and error go to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: fs::File,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
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
        Ok(Self { child, name, log })
    }

    /// Its process ID. (`ip netns exec` becomes the program that it starts.)
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        let read = || -> io::Result<String> {
            let mut bytes = Vec::new();
            // The offset is shared with the child, and so must not be moved.
            let mut buffer = [0; 65_536];
            loop {
                let count = std::os::unix::fs::FileExt::read_at(
                    &self.log,
                    &mut buffer,
                    bytes.len() as u64,
                )?;
                if count == 0 {
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
                bytes.extend_from_slice(&buffer[..count]);
            }
        };
        read().unwrap_or_default()
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
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
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
