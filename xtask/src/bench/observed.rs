//! What observes Heimdall while it is measured: a scraper of its metrics, `heimdall top`, and a reader of dnstap. They
//! run on the clients' cores, as they would on other hosts or cores.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{Heimdall, Lab, Process, SERVER_V4};
use tempfile::TempDir;

use super::Cores;

/// The port of the metrics.
const PORT: u16 = 9453;

/// How long each may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Observers, which end when this is dropped.
pub(super) struct Observers {
    processes: Vec<Process>,
    /// Settings, and the socket of dnstap's reader.
    directory: TempDir,
}

impl Observers {
    /// Writes the settings under which there is something to observe.
    pub(super) fn new() -> Result<Self> {
        let observers = Self {
            processes: Vec::new(),
            directory: tempfile::tempdir()?,
        };
        let socket = observers.path("dnstap");
        let settings = format!(
            "[metrics]\nlisten = \"{SERVER_V4}:{PORT}\"\n\n[dnstap]\noutput = \"unix:{socket}\"\nsample = \"1/100\"\n"
        );
        fs::write(observers.settings(), settings)?;
        Ok(observers)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The path of the settings.
    pub(super) fn settings(&self) -> String {
        self.path("heimdall.toml")
    }

    /// Starts them, and waits until each has seen something.
    pub(super) fn start(
        &mut self,
        lab: &Lab,
        heimdall: &Heimdall,
        program: &Path,
        cores: &Cores,
    ) -> Result<()> {
        let pinned = |mut taskset: Command, program: &str, arguments: &[&str]| {
            taskset.args(["-c", &Cores::list(&cores.client), program]);
            taskset.args(arguments);
            Process::start(&mut taskset)
        };
        let here = || Command::new("taskset");

        let script = format!(
            "while sleep 1; do\n\
             exec 3<>/dev/tcp/{SERVER_V4}/{PORT}\n\
             printf 'GET /metrics HTTP/1.1\\r\\nHost: {SERVER_V4}\\r\\n\\r\\n' >&3\n\
             grep -c ^heimdall_ <&3\n\
             done"
        );
        let mut scraper = pinned(lab.on_client("taskset"), "bash", &["-c", &script])?;
        scraper.wait_for("\n", PATIENCE)?;

        let control = heimdall.control().display();
        let top = format!(
            "stty columns 120 rows 40; exec {} top --control {control}",
            program.display()
        );
        // It gives a program a terminal.
        let mut top = pinned(here(), "script", &["-qec", &top, "/dev/null"])?;
        top.wait_for("TRAFFIC", PATIENCE)?;

        let socket = self.path("dnstap");
        let kind = "protobuf:dnstap.Dnstap";
        let arguments = ["-t", kind, "-u", &socket, "-w", "/dev/null"];
        let reader = pinned(here(), "fstrm_capture", &arguments)?;
        let end = Instant::now() + PATIENCE;
        while heimdall.stats()?["dnstap"]["state"] != "open" {
            ensure!(Instant::now() < end, "dnstap: {}", reader.output());
            thread::sleep(Duration::from_millis(100));
        }
        self.processes = vec![scraper, top, reader];
        Ok(())
    }
}
