//! The server under test.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Lab, Process, SERVER_V4, SERVER_V6, run};

/// A running `heimdall`.
#[derive(Debug)]
pub struct Heimdall {
    /// Its process.
    pub process: Process,
    program: PathBuf,
    control: PathBuf,
}

impl Heimdall {
    /// Starts `program` with `heimdall run` on the lab's server, on AF_XDP, listening on port 53
    /// of the server's addresses, with `arguments` besides, and waits until it answers. The hot tier is on, and the client
    /// receives what it sends ([`Lab::receive_xdp_tx`]), unless the arguments have `--tier` themselves.
    pub fn on_xdp(lab: &Lab, program: &Path, arguments: &[&str]) -> Result<Self> {
        let [v4, v6] = addresses();
        Self::on_xdp_at(lab, program, &[&v4, &v6], arguments)
    }

    /// As [`on_xdp`](Self::on_xdp), on these listen addresses.
    pub fn on_xdp_at(
        lab: &Lab,
        program: &Path,
        listen: &[&str],
        arguments: &[&str],
    ) -> Result<Self> {
        let arguments = xdp_arguments(lab, listen, arguments)?;
        Self::start(lab.on_server(program), program, &arguments)
    }

    /// As [`on_xdp`](Self::on_xdp), by a command that runs `program` in the lab's server namespace.
    pub fn on_xdp_by(
        lab: &Lab,
        command: Command,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let [v4, v6] = addresses();
        let arguments = xdp_arguments(lab, &[&v4, &v6], arguments)?;
        Self::start(command, program, &arguments)
    }

    /// As [`on_xdp`](Self::on_xdp), with its control socket at a path that outlives it. With `--take-over` among the
    /// arguments it takes over from the server that has the socket.
    pub fn on_xdp_with_control(
        lab: &Lab,
        program: &Path,
        control: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let [v4, v6] = addresses();
        let arguments = xdp_arguments(lab, &[&v4, &v6], arguments)?;
        let (command, directory) = (lab.on_server(program), tempfile::tempdir()?);
        Self::launch(command, program, control.to_owned(), directory, &arguments)
    }

    /// Starts `command`, which is to run `program`, with its control socket at a path that outlives it.
    pub fn at(
        command: Command,
        program: &Path,
        control: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::launch(
            command,
            program,
            control.to_owned(),
            tempfile::tempdir()?,
            arguments,
        )
    }

    /// Starts `program` with `heimdall run` on the lab's server, on sockets alone, otherwise as
    /// [`on_xdp`](Self::on_xdp).
    pub fn on_sockets(lab: &Lab, program: &Path, arguments: &[&str]) -> Result<Self> {
        let [v4, v6] = addresses();
        let fixed = ["--backend", "socket", "--listen", &v4, "--listen", &v6];
        let arguments = [&fixed, arguments].concat();
        Self::start(lab.on_server(program), program, &arguments)
    }

    /// Starts `command`, which is to run `program`, with `heimdall run` and these arguments.
    pub fn start<S: AsRef<OsStr>>(
        command: Command,
        program: &Path,
        arguments: &[S],
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let control = directory.path().join("control.sock");
        Self::launch(command, program, control, directory, arguments)
    }

    fn launch<S: AsRef<OsStr>>(
        mut command: Command,
        program: &Path,
        control: PathBuf,
        directory: TempDir,
        arguments: &[S],
    ) -> Result<Self> {
        command
            .arg("run")
            .args(arguments)
            .arg("--control")
            .arg(&control);
        let mut process = Process::start_in(directory, &mut command)?;
        // On an emulated processor it takes long.
        process.wait_for("ready", Duration::from_secs(60))?;
        Ok(Self {
            process,
            program: program.to_owned(),
            control,
        })
    }

    /// The path of its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// `heimdall stats --json`.
    pub fn stats(&self) -> Result<Value> {
        let output = run(Command::new(&self.program)
            .args(["stats", "--json", "--control"])
            .arg(&self.control))?;
        serde_json::from_str(&output).with_context(|| format!("not JSON: {output}"))
    }

    /// `heimdall reload`: its status and output.
    pub fn reload(&self) -> Result<Output> {
        self.command(&["reload"])
    }

    /// A subcommand for this server: its status and output.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--control").arg(&self.control);
        Ok(command.output()?)
    }

    /// `heimdall stats` without `--json`.
    pub fn stats_text(&self) -> Result<String> {
        run(Command::new(&self.program)
            .args(["stats", "--control"])
            .arg(&self.control))
    }
}

/// The arguments of a server on AF_XDP on the lab's server, before others.
fn xdp_arguments(lab: &Lab, listen: &[&str], arguments: &[&str]) -> Result<Vec<String>> {
    let mut all = vec!["--backend", "xdp", "--interface", &lab.server_if];
    all.extend(listen.iter().flat_map(|address| ["--listen", *address]));
    if !arguments.contains(&"--tier") {
        lab.receive_xdp_tx()?;
        all.extend(["--tier", "on"]);
    }
    all.extend(arguments);
    Ok(all.into_iter().map(str::to_owned).collect())
}

/// Where the lab's server listens.
fn addresses() -> [String; 2] {
    [format!("{SERVER_V4}:53"), format!("[{SERVER_V6}]:53")]
}

/// Sum of a counter over all workers, or of its place in an object of theirs: `"hits"`,
/// `"frames/total"`.
pub fn sum(stats: &Value, counter: &str) -> u64 {
    let pointer = format!("/{counter}");
    let workers = stats["workers"].as_array().into_iter().flatten();
    workers
        .filter_map(|worker| worker.pointer(&pointer)?.as_u64())
        .sum()
}
