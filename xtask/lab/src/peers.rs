//! Other resolvers from Debian's packages, to compare with: each a caching forwarder to the lab's
//! upstream.

use std::{fs, io, path::Path, process::Command, thread, time::Duration};

use anyhow::{Result, bail};

use super::{Kdig, Lab, Process, SERVER_V4, UPSTREAM, knot::forward_zone};

/// How to start a resolver. In its arguments and its configuration, FILE is the configuration's path,
/// PLACE its directory, SERVER the address to listen on, and UPSTREAM where to forward to. The upstream's
/// zone is in the directory as `example.com.zone`, for servers that are authoritative.
#[derive(Debug)]
pub struct Resolver {
    /// Its program.
    pub program: &'static str,
    /// Its Debian package.
    pub package: &'static str,
    /// What to start it with.
    pub arguments: &'static [&'static str],
    /// Between UPSTREAM's address and its port.
    pub port_separator: &'static str,
    /// The name of its configuration file.
    pub file: &'static str,
    /// The configuration.
    pub configuration: &'static str,
}

impl Resolver {
    /// Starts it by a command that has only its program yet.
    pub fn start(&self, command: Command) -> Result<Process> {
        self.start_with(command, |_| Ok(()))
    }

    /// The same, after `prepare` has put more files into its directory.
    pub fn start_with(
        &self,
        mut command: Command,
        prepare: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Process> {
        let directory = tempfile::tempdir()?;
        prepare(directory.path())?;
        let file = directory.path().join(self.file);
        let upstream = UPSTREAM.replace(':', self.port_separator);
        let fill_in = |text: &str| {
            text.replace("FILE", &file.display().to_string())
                .replace("PLACE", &directory.path().display().to_string())
                .replace("SERVER", SERVER_V4)
                .replace("UPSTREAM", &upstream)
        };
        fs::write(&file, fill_in(self.configuration))?;
        fs::write(directory.path().join("example.com.zone"), forward_zone())?;
        command.args(self.arguments.iter().map(|argument| fill_in(argument)));
        Process::start_in(directory, &mut command)
    }
}

/// Asks a server of the lab for a name of the upstream until the answer is NOERROR.
///
/// # Errors
/// Four seconds pass; the error has what the process wrote.
pub fn wait_for_answer(lab: &Lab, port: u16, process: &Process) -> Result<()> {
    let (server, port) = (format!("@{SERVER_V4}"), port.to_string());
    let question = [&server, "-p", &port, "n0.example.com", "A", "+timeout=1"];
    for _ in 0..40 {
        if Kdig::ask(lab, &question).is_ok_and(|reply| reply.status == "NOERROR") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("no answer; it says:\n{}", process.output())
}
