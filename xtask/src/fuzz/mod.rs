//! `cargo xtask fuzz`: runs the fuzz targets, or captures their corpus.
//!
//! The targets are built as cargo-fuzz would build them, with the fuzzer's instrumentation and the
//! address sanitizer, but by plain cargo: a stable toolchain is enough, and nothing is installed
//! beside it.

mod capture;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    setup::{BUILD, CAPTURE, LAB, Setup, cargo, run},
    workspace,
};

/// Each with its corpus in `fuzz/corpus`.
const TARGETS: [&str; 6] = [
    "packet_view",
    "dns_view",
    "upstream_answer",
    "config",
    "lists",
    "snapshot",
];

/// Instrumentation for libFuzzer (its documentation, "SanitizerCoverage") and the address sanitizer. The
/// flags are unstable; RUSTC_BOOTSTRAP makes a stable compiler accept them.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz --seconds 600
  cargo xtask fuzz dns_view upstream_answer
  cargo xtask fuzz --capture        capture the corpus from real traffic again; needs root

It begins with the corpus in fuzz/corpus, which stays as it is; new inputs go to target/fuzz/corpus.
An input that breaks a target goes to target/fuzz/artifacts, and the command that runs it again is
printed. `cargo fuzz` works as well, in a nightly toolchain.")]
pub(crate) struct Fuzz {
    /// Targets to run [default: all]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,

    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,

    /// Capture queries, replies and upstream responses in the lab, as a part of the corpus
    #[arg(long)]
    capture: bool,

    #[command(flatten)]
    setup: Setup,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        if self.capture {
            self.setup.packages(&[BUILD, LAB, CAPTURE])?;
            return capture::run(&workspace().join("fuzz/corpus"));
        }
        self.setup.packages(&[BUILD])?;
        let mut targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        if targets.is_empty() {
            targets.extend(TARGETS);
        }
        fuzz(&targets, &[format!("-max_total_time={}", self.seconds)])
    }
}

/// What `cargo xtask test` runs: every target for a moment, always with the same seed, so that it does not
/// depend on luck whether a change passes.
pub(crate) fn brief() -> Result<()> {
    fuzz(&TARGETS, &["-runs=20000".to_owned(), "-seed=1".to_owned()])
}

/// Runs the corpus once without the fuzzer, and then every target for a while.
fn fuzz(targets: &[&str], limits: &[String]) -> Result<()> {
    let directory = workspace().join("target/fuzz");
    println!("the corpus, as tests");
    run(cargo()
        .current_dir(workspace().join("fuzz"))
        .env("CARGO_TARGET_DIR", workspace().join("target"))
        .args(["test", "--locked", "--quiet", "--no-default-features"]))?;
    println!("building the targets");
    build(&directory)?;
    let mut broken = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        let of = format!("{}/{}", number + 1, targets.len());
        println!("[{of}] {target}");
        if let Some(how) = fuzz_one(&directory, target, limits)? {
            broken.push(how);
        }
    }
    if broken.is_empty() {
        println!("every target ran clean");
        Ok(())
    } else {
        bail!("{}", broken.join("\n"));
    }
}

fn build(directory: &Path) -> Result<()> {
    // clang comes with what Heimdall itself is built with; a C++ compiler need not.
    let cxx = env::var("CXX").unwrap_or_else(|_| "clang++".to_owned());
    run(cargo()
        .current_dir(workspace().join("fuzz"))
        .env("CARGO_TARGET_DIR", directory)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS)
        .env("CXX", cxx)
        .args([
            "build",
            "--locked",
            "--release",
            "--bins",
            "--target",
            TRIPLE,
        ]))
    .context("the fuzz targets do not build")
}

/// Runs a target within libFuzzer's limits. If it broke: how, and how to run it again.
fn fuzz_one(directory: &Path, target: &str, limits: &[String]) -> Result<Option<String>> {
    let found = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let program = directory.join(TRIPLE).join("release").join(target);
    let start = Instant::now();
    let output = Command::new(&program)
        .arg(&found)
        .arg(workspace().join("fuzz/corpus").join(target))
        .args(limits)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-max_len=4096", "-timeout=10", "-print_final_stats=1"])
        // The cache and the tables of the targets' cores live as long as the process.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let last = |mark: &str| {
        let line = text.lines().rev().find(|line| line.contains(mark))?;
        let after = line.split(mark).nth(1)?;
        after.split_whitespace().next().map(str::to_owned)
    };
    let figure = |mark: &str| last(mark).unwrap_or_else(|| "?".to_owned());
    println!(
        "    {} executions in {} s, coverage {}, features {}, corpus {}: {}",
        figure("number_of_executed_units:"),
        start.elapsed().as_secs(),
        figure(" cov: "),
        figure(" ft: "),
        figure(" corp: "),
        if output.status.success() {
            "clean"
        } else {
            "BROKEN"
        },
    );
    Ok(broken(&program, target, &output, &text))
}

fn broken(program: &Path, target: &str, output: &Output, text: &str) -> Option<String> {
    if output.status.success() {
        return None;
    }
    let input = text
        .lines()
        .find_map(|line| line.split("Test unit written to ").nth(1))
        .map(PathBuf::from);
    let why = text
        .lines()
        .find(|line| line.contains("panicked at") || line.contains("ERROR:"))
        .unwrap_or("see its output");
    Some(match input {
        Some(input) => format!(
            "{target} breaks: {why}\n  run it again: {} {}",
            program.display(),
            input.display()
        ),
        None => format!("{target} ended with {}: {why}", output.status),
    })
}
