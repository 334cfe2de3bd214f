//! Network namespaces by themselves, for labs with more hosts than two.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use super::{ip, remove_stale, run, within};

/// A namespace, which is removed when this is dropped. Its `lo` is up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, whose name ends with `role`. Those of processes that no longer run are removed first.
    ///
    /// # Errors
    /// `ip` is missing or fails, for instance without root.
    pub fn new(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("heimdall-{}-n{number}-{role}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes a veth pair to another namespace: the interfaces' names here and there. Both ends are up.
    ///
    /// # Errors
    /// `ip` fails, for instance because a name is taken.
    pub fn connect(&self, here: &str, other: &Self, there: &str) -> Result<()> {
        let (name, peer) = (&self.name, &other.name);
        ip(&format!(
            "link add name {here} netns {name} type veth peer name {there} netns {peer}"
        ))?;
        self.ip(&format!("link set dev {here} up"))?;
        other.ip(&format!("link set dev {there} up"))?;
        Ok(())
    }

    /// Writes a value below /proc/sys.
    ///
    /// # Errors
    /// There is no such variable, or it refuses the value.
    pub fn sysctl(&self, variable: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(variable);
        Ok(self.within(|| fs::write(path, value))??)
    }

    /// Runs `ip` with these arguments, separated by blanks.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// A command in the namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Does some work on a thread in the namespace: sockets that it opens stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.name, work)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
