//! `cargo xtask fuzz`: octets that nobody would send, by the million.
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

use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{BUILD, CAPTURE, LAB, Setup, cargo, run};

/// Each with its corpus in `fuzz/corpus`.
const TARGETS: [&str; 6] = [
    "packet_view",
    "dns_view",
    "upstream_answer",
    "config",
    "lists",
    "snapshot",
];

/// What the compiler has to add for libFuzzer (its documentation, "SanitizerCoverage") and for the
/// address sanitizer. The flags are unstable, which RUSTC_BOOTSTRAP lets a stable compiler forget.
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
  cargo xtask fuzz --capture        make the corpus anew from real traffic; needs root

The corpus in fuzz/corpus is where it begins, and stays as it is; what is found goes to
target/fuzz/corpus. An input that breaks something goes to target/fuzz/artifacts, and its path is
told with the command that runs it again. `cargo fuzz` works as well, in a nightly toolchain.")]
pub(crate) struct Fuzz {
    /// Targets to run: packet_view, dns_view, upstream_answer, config, lists,
    /// snapshot [default: all]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,

    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,

    /// Capture queries, replies and upstream responses in the lab, and make the corpus of them
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
        let all = TARGETS.map(str::to_owned).to_vec();
        let targets = if self.targets.is_empty() {
            all
        } else {
            self.targets
        };
        fuzz(&targets, Effort::Seconds(self.seconds))
    }
}

/// How long a target runs.
#[derive(Clone, Copy)]
enum Effort {
    /// So many seconds, each time on other ways.
    Seconds(u32),
    /// So many executions, each time on the same ways, as far as they are ours to choose.
    Runs(u32),
}

/// What `cargo xtask test` runs: every target for a moment. What a longer run finds is for those who
/// look for it, and not for whoever tests a change.
pub(crate) fn brief() -> Result<()> {
    fuzz(&TARGETS.map(str::to_owned), Effort::Runs(20_000))
}

/// Runs the corpus once without the fuzzer, and then every target for a while.
fn fuzz(targets: &[String], effort: Effort) -> Result<()> {
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
        if let Some(how) = fuzz_one(&directory, target, effort)? {
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

/// Runs a target. What to do about it, if it broke.
fn fuzz_one(directory: &Path, target: &str, effort: Effort) -> Result<Option<String>> {
    let found = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let program = directory.join(TRIPLE).join("release").join(target);
    let start = Instant::now();
    let output = Command::new(&program)
        .arg(&found)
        .arg(workspace().join("fuzz/corpus").join(target))
        .args(match effort {
            Effort::Seconds(seconds) => vec![format!("-max_total_time={seconds}")],
            Effort::Runs(runs) => vec![format!("-runs={runs}"), "-seed=1".to_owned()],
        })
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
