//! `cargo xtask captures`: the terminals that docs/ shows.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use fastrand::Rng;
use lab::{HOSTS, Heimdall, Knot, Kxdpgun, Lab, SERVER_V4, UPSTREAM};
use tempfile::TempDir;

use crate::{
    setup::{self, BUILD, LAB, Setup},
    workspace,
    zipf::Zipf,
};

/// Queries a second: they are to be seen, not to be admired.
const RATE: u64 = 3_000;

/// Seconds of the load.
const SECONDS: u64 = 24;

/// The commands, which are run while the server answers.
const COMMANDS: [&str; 9] = [
    "top --once --size 80x24",
    "top --once --size 80x12 --pane queues",
    "top --once --size 80x8 --pane upstreams",
    "top --once --size 80x16 --pane names",
    "stats --watch",
    "stats --since 2s",
    "stats",
    "trace ads.example.net A --client 10.53.0.2",
    "trace n0.example.com A --client 10.53.0.2",
];

/// Seconds after which a command is stopped that does not end.
const LIMIT: &str = "4.5";

/// Settings that a trace has something to say about.
const SETTINGS: &str = "\
[access]
allow = [\"10.53.0.0/24\"]

[rate-limit]
responses-per-second = 10000

[[blocklist]]
file = \"blocked.txt\"
";

/// The blocklist.
const BLOCKED: &str = "\
# Names that are blocked.
tracker.example
example.net
";

#[derive(Args)]
#[command(after_help = "\
Needs root, for the network namespaces of the lab. The rates in these texts are no measurement.")]
pub(crate) struct Captures {
    /// Run this heimdall, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Captures {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD, LAB])?;
        let program = setup::heimdall(self.program.as_deref())?;
        let files = Files::write()?;
        let lab = Lab::with_queues(2)?;
        let _knot = Knot::upstream(&lab)?;
        let mut server = lab.on_server(&program);
        server.current_dir(files.directory.path());
        let arguments = ["--backend", "xdp", "--interface", &lab.server_if];
        let listen = format!("{SERVER_V4}:53");
        let besides = ["--listen", &listen, "--upstream", UPSTREAM];
        let arguments = [&arguments[..], &besides, &["--config", "heimdall.toml"]].concat();
        let heimdall = Heimdall::start(server, &program, &arguments)?;
        let text = thread::scope(|scope| {
            let load = scope.spawn(|| Kxdpgun::ask(&lab, SERVER_V4, &files.queries, RATE, SECONDS));
            thread::sleep(Duration::from_secs(3));
            let text = capture(&heimdall, &program);
            load.join().unwrap()?;
            text
        })?;
        let path = workspace().join("docs/top.txt");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }
}

/// What the server and the load read.
struct Files {
    directory: TempDir,
    queries: PathBuf,
}

impl Files {
    fn write() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = |name| directory.path().join(name);
        fs::write(path("heimdall.toml"), SETTINGS)?;
        fs::write(path("blocked.txt"), BLOCKED)?;
        let (zipf, mut random) = (Zipf::new(HOSTS), Rng::with_seed(1));
        let names = (0..RATE * SECONDS).map(|_| zipf.draw(&mut random));
        let lines = names.map(|name| format!("n{name}.example.com. A\n"));
        let queries = path("queries");
        fs::write(&queries, lines.collect::<String>())?;
        Ok(Self { directory, queries })
    }
}

fn capture(heimdall: &Heimdall, program: &Path) -> Result<String> {
    let mut text =
        "Made by `cargo xtask captures`: a server on AF_XDP with two queues, under a small load.\n"
            .to_owned();
    for command in COMMANDS {
        let mut limited = Command::new("timeout");
        limited.arg(LIMIT).arg(program).args(command.split(' '));
        let output = limited.arg("--control").arg(heimdall.control()).output()?;
        let output = String::from_utf8(output.stdout)?;
        write!(text, "\n$ heimdall {command}\n{}\n", output.trim_end())?;
    }
    Ok(text)
}
