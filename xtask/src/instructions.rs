//! `cargo xtask instructions`: how many instructions a hit takes, beside how many it took.
//!
//! Valgrind counts them, so the figure depends on the code alone, not on the machine's load or speed.
//! The figure is the difference between a long run and a short one, which excludes start-up.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    setup::{BUILD, COUNT, Setup, build_bench},
    workspace,
};

/// Batches of the short run; the long one has twice as many.
const BATCHES: u64 = 200;
/// Packets in a batch.
const BATCH: u64 = 64;

/// Percentage by which the count may exceed the baseline: other positions in tables, another hash seed.
const TOLERANCE: f64 = 2.0;

/// The same if the baseline is of another compiler.
const TOLERANCE_OTHER_COMPILER: f64 = 10.0;

#[derive(Args)]
#[command(after_help = "\
It fails if a hit takes more instructions than benches/instructions.json says, by more than 2 %; by
more than 10 % if another rustc made it. If it takes fewer, or there is a reason for more, bring
the baseline up to date with --update, and say why in the commit.")]
pub(crate) struct Instructions {
    /// Make the present count the baseline
    #[arg(long)]
    update: bool,
}

impl Instructions {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD, COUNT])?;
        let program = build_bench("instructions")?;
        let now = (count(&program, 2 * BATCHES)? - count(&program, BATCHES)?) as f64
            / (BATCHES * BATCH) as f64;
        let compiler = lab::run(Command::new("rustc").arg("--version"))?
            .trim()
            .to_owned();
        let path = workspace().join("benches/instructions.json");
        if self.update {
            let baseline = Baseline {
                instructions_a_hit: now.round(),
                compiler,
            };
            fs::write(&path, serde_json::to_string_pretty(&baseline)? + "\n")?;
            println!("{now:.0} instructions a hit: the new baseline");
            return Ok(());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let baseline: Baseline = serde_json::from_str(&text)?;
        let then = baseline.instructions_a_hit;
        let tolerance = if baseline.compiler == compiler {
            TOLERANCE
        } else {
            TOLERANCE_OTHER_COMPILER
        };
        let change = 100.0 * (now / then - 1.0);
        println!(
            "{now:.0} instructions a hit, {then:.0} in the baseline: {change:+.1} % (at most +{tolerance} %)"
        );
        if change > tolerance {
            bail!(
                "a hit takes {change:.1} % more instructions than the baseline; if that is intended: cargo xtask instructions --update"
            );
        }
        Ok(())
    }
}

/// benches/instructions.json.
#[derive(Serialize, Deserialize)]
struct Baseline {
    instructions_a_hit: f64,
    compiler: String,
}

/// Instructions of a run of `batches` batches.
fn count(program: &Path, batches: u64) -> Result<u64> {
    let out = workspace().join("target/instructions.callgrind");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(batches.to_string());
    lab::run(&mut command)?;
    let text = fs::read_to_string(&out)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.context("callgrind counted nothing")
}
