//! A Rust compiler for BPF: found, or installed.
//!
//! Building `core` for BPF takes unstable flags and Rust's own source. Two toolchains have them:
//! rustup's nightly with rust-src, or Debian's rustc-web, whose stable compiler
//! accepts the switches under RUSTC_BOOTSTRAP. bpf-linker and llvm-objcopy come on top.

use std::{
    env,
    ffi::OsString,
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Setup, succeeds};

const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The workspace's `rust-version`: an older Debian compiler (bookworm's own is 1.63) won't do.
const OLDEST_MINOR: u32 = 88;

/// A toolchain that can build the program.
pub(super) struct Toolchain {
    compiler: Compiler,
    /// Rust's own source, the directory that holds `library/`.
    pub(super) rust_src: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Compiler {
    RustupNightly,
    Debian,
}

impl Toolchain {
    /// Installs what is missing, which needs root for the packages, unless that is not wanted.
    pub(super) fn find_or_install(setup: Setup) -> Result<Self> {
        let mut packages = Vec::new();
        if Self::find().is_none() {
            packages.extend(DEBIAN_COMPILER);
        }
        let no_linker = !can_run("bpf-linker");
        // bpf-linker links against LLVM; the package has llvm-objcopy, too.
        if no_linker || !can_run("llvm-objcopy") {
            packages.push("llvm-22-dev");
        }
        if !packages.is_empty() && !setup.may_install() {
            bail!(
                "no toolchain for BPF: it takes rustc-web or \
                 `rustup toolchain install nightly --component rust-src`, bpf-linker and llvm-objcopy"
            );
        }
        if !packages.is_empty() {
            setup::install(&packages)?;
        }
        if no_linker {
            println!("installing bpf-linker from crates.io, built against LLVM 22 (some minutes)");
            setup::run(
                Command::new("cargo")
                    .args(["install", "--locked", "bpf-linker", "--no-default-features"])
                    .args(["--features", "llvm-22"])
                    .env("LLVM_PREFIX", LLVM),
            )?;
        }
        Self::find().context("no Rust compiler for BPF after the installation")
    }

    /// Looks for rustup's nightly, then for Debian's packages.
    fn find() -> Option<Self> {
        let toolchain = |compiler: Compiler| {
            Some(Self {
                compiler,
                rust_src: compiler.rust_src()?,
            })
        };
        toolchain(Compiler::RustupNightly).or_else(|| toolchain(Compiler::Debian))
    }

    pub(super) fn cargo(&self) -> Command {
        println!("building with {:?}", self.compiler);
        self.compiler.command("cargo")
    }
}

impl Compiler {
    /// A program of this toolchain, without the variables that the calling cargo has set.
    fn command(self, program: &str) -> Command {
        let mut command = match self {
            Self::RustupNightly => {
                let mut command = tool("rustup");
                command
                    .args(["run", "nightly", program])
                    .env_remove("RUSTC");
                command
            }
            Self::Debian => {
                let mut command = tool(&format!("/usr/bin/{program}"));
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        for variable in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Rust's source, if this compiler is installed with it and is not too old.
    fn rust_src(self) -> Option<PathBuf> {
        let version = lab::run(self.command("rustc").arg("--version")).ok()?;
        let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
        let sysroot = lab::run(self.command("rustc").args(["--print", "sysroot"])).ok()?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let complete = source.join("library/core/Cargo.toml").exists()
            && succeeds(self.command("cargo").arg("--version"));
        (complete && minor >= OLDEST_MINOR).then_some(source)
    }
}

/// A program of LLVM 22, of PATH or of those that cargo installs.
pub(super) fn tool(program: &str) -> Command {
    let llvm = Path::new(LLVM).join("bin");
    let installed = cargo_home().map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = iter::once(llvm)
        .chain(env::split_paths(&path))
        .chain(installed);
    let path: OsString = env::join_paths(directories).unwrap_or(path.clone());
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}

/// Whether there is such a tool; some end with an error if they have nothing to do.
fn can_run(program: &str) -> bool {
    tool(program).output().is_ok()
}

/// Where cargo keeps the sources of crates and the binaries that it installs.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))
        .context("no CARGO_HOME and no HOME; set one")
}
