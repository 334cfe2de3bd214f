//! `cargo xtask fuzz`: runs the fuzz targets.
//!
//! The targets are built as cargo-fuzz would build them, with the fuzzer's instrumentation and the
//! address sanitizer, but by plain cargo: a stable toolchain is enough, and nothing is installed
//! beside it.

use std::{env, fs, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    setup::{BUILD, Setup, cargo, run},
    workspace,
};

/// Each with its corpus in `fuzz/corpus`.
const TARGETS: [&str; 8] = [
    "packet_view",
    "dns_view",
    "upstream_answer",
    "config",
    "convert",
    "lists",
    "snapshot",
    "handover",
];

/// What is instrumented: what is under test. To instrument and to optimise everything takes a quarter of an hour.
const INSTRUMENTED: [&str; 2] = ["heimdall-user", "heimdall-fuzz"];

/// Instrumentation for libFuzzer (its documentation, "SanitizerCoverage") and the address sanitizer. The
/// flags are unstable; RUSTC_BOOTSTRAP makes a stable compiler accept them.
const FLAGS: &str = r#"[
    "--cfg", "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Cdebug-assertions", "-Coverflow-checks",
]"#;

#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz --seconds 600
  cargo xtask fuzz dns_view upstream_answer

It begins with the corpus in fuzz/corpus, which stays as it is; new inputs go to target/fuzz/corpus.
An input that breaks a target goes to target/fuzz/artifacts; to run it again, give its path to the
target's program. `cargo fuzz` works as well, in a nightly toolchain.")]
pub(crate) struct Fuzz {
    /// Targets to run [default: all]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,

    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,

    /// Run each target N times instead, always with the same inputs
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
}

impl Fuzz {
    /// Runs the corpus once without the fuzzer, and then every target for a while.
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD])?;
        let mut targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        if targets.is_empty() {
            targets.extend(TARGETS);
        }
        let limits = match self.runs {
            Some(runs) => vec![format!("-runs={runs}"), "-seed=1".to_owned()],
            None => vec![format!("-max_total_time={}", self.seconds)],
        };
        // What takes longest to build runs fastest.
        let profile = if self.runs.is_some() {
            "dev"
        } else {
            "release"
        };
        run(&mut instrumented("test", profile)).context("the corpus does not run clean")?;
        run(instrumented("build", profile).arg("--bins"))
            .context("the fuzz targets do not build")?;
        let mut broken = Vec::new();
        for target in targets {
            println!("{target}:");
            if let Err(error) = fuzz(target, profile, &limits) {
                broken.push(format!("{target} breaks: {error:#}"));
            }
        }
        if !broken.is_empty() {
            bail!("{}", broken.join("\n"));
        }
        Ok(())
    }
}

/// A command of cargo for the fuzz targets, built with this profile.
fn instrumented(command: &str, profile: &str) -> Command {
    // clang comes with what Heimdall itself is built with; a C++ compiler need not.
    let cxx = env::var("CXX").unwrap_or_else(|_| "clang++".to_owned());
    let mut cargo = cargo();
    cargo.arg(command).args([
        "--locked",
        "--quiet",
        "-Zprofile-rustflags",
        "--profile",
        profile,
    ]);
    for package in INSTRUMENTED {
        cargo.args([
            "--config",
            &format!("profile.{profile}.package.{package}.rustflags={FLAGS}"),
        ]);
    }
    cargo
        .current_dir(workspace().join("fuzz"))
        .env("CARGO_TARGET_DIR", workspace().join("target/fuzz"))
        // Build scripts look at it: with a directory in common, cargo would build most crates anew for each other command.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CXX", cxx);
    cargo
}

/// Runs a target within libFuzzer's limits. It prints its statistics, and what broke it.
fn fuzz(target: &str, profile: &str, limits: &[String]) -> Result<()> {
    let directory = workspace().join("target/fuzz");
    let built = if profile == "dev" { "debug" } else { profile };
    let found = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let program = directory.join(built).join(target);
    run(Command::new(&program)
        .arg(&found)
        .arg(workspace().join("fuzz/corpus").join(target))
        .args(limits)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-max_len=4096", "-timeout=10"])
        .args(["-verbosity=0", "-print_final_stats=1"])
        // The cache and the tables of the targets' cores live as long as the process.
        .env("ASAN_OPTIONS", "detect_leaks=0"))
}
