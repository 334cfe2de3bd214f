//! `cargo xtask captures`: the terminals that docs/ shows.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use lab::{Heimdall, Knot, Kxdpgun, Lab, SERVER_V4, UPSTREAM};

use crate::{
    setup::{self, BUILD, LAB, Setup, cargo},
    workspace,
};

/// Queries a second: they are to be seen, not to be admired.
const RATE: u64 = 3_000;

/// The commands, which are run while the server answers.
const COMMANDS: [&str; 6] = [
    "top --once --size 80x24",
    "top --once --size 80x12 --pane queues",
    "top --once --size 80x8 --pane upstreams",
    "top --once --size 80x16 --pane names",
    "stats --since 2s",
    "stats",
];

#[derive(Args)]
#[command(after_help = "\
Needs root, for the network namespaces of the lab. It builds without optimisation: the rates in these
texts are no measurement.")]
pub(crate) struct Captures {}

impl Captures {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD, LAB])?;
        setup::run(cargo().args([
            "build",
            "--locked",
            "--package",
            "heimdall-user",
            "--bin",
            "heimdall",
        ]))?;
        let program = workspace().join("target/debug/heimdall");
        let lab = Lab::with_queues(2)?;
        let _knot = Knot::upstream(&lab)?;
        let heimdall = Heimdall::on_xdp(&lab, &program, &["--upstream", UPSTREAM])?;
        let text = thread::scope(|scope| {
            let load = scope.spawn(|| Kxdpgun::run(&lab, SERVER_V4, RATE, 16));
            thread::sleep(Duration::from_secs(3));
            let text = capture(&heimdall);
            load.join().unwrap()?;
            text
        })?;
        let path = workspace().join("docs/top.txt");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }
}

fn capture(heimdall: &Heimdall) -> Result<String> {
    let mut text =
        "Made by `cargo xtask captures`: a server on AF_XDP with two queues, under a small load.\n"
            .to_owned();
    for command in COMMANDS {
        let arguments: Vec<&str> = command.split(' ').collect();
        let output = heimdall.command(&arguments)?;
        let output = String::from_utf8(output.stdout)?;
        write!(text, "\n$ heimdall {command}\n{}\n", output.trim_end())?;
    }
    Ok(text)
}
