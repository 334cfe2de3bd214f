//! A Rust compiler for BPF: found, or installed.
//!
//! Building `core` for BPF takes unstable flags and Rust's own source. Two toolchains have them:
//! rustup's nightly with rust-src, or Debian's rustc-web, whose stable compiler
//! accepts the switches under RUSTC_BOOTSTRAP. bpf-linker and llvm-objcopy come on top.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::setup;

const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
const NIGHTLY: [&str; 3] = ["rustup", "run", "nightly"];
/// The workspace's `rust-version`: an older Debian compiler (bookworm's own is 1.63) won't do.
const OLDEST_MINOR: u32 = 88;

/// A toolchain that can build the program.
pub(super) struct Toolchain {
    flavour: Flavour,
    /// Rust's own source, the directory that holds `library/`.
    pub(super) rust_src: PathBuf,
    pub(super) objcopy: PathBuf,
}

#[derive(Clone, Copy)]
enum Flavour {
    RustupNightly,
    Debian,
}

impl Toolchain {
    /// Looks for rustup's nightly, then for Debian's packages.
    pub(super) fn find() -> Result<Self> {
        let Some((flavour, rust_src)) = find_compiler() else {
            bail!(
                "no Rust compiler for BPF: neither `rustup run nightly` with rust-src nor \
                 rustc-web; run `cargo xtask ebpf --install` as root, or \
                 `rustup toolchain install nightly --component rust-src`"
            );
        };
        ensure!(
            find_linker().is_some(),
            "bpf-linker is not installed; run `cargo xtask ebpf --install` as root, or \
             `cargo install bpf-linker`"
        );
        let objcopy = find_objcopy().context(
            "llvm-objcopy is not installed; run `cargo xtask ebpf --install` as root, or \
             `apt-get install llvm`",
        )?;
        Ok(Self {
            flavour,
            rust_src,
            objcopy,
        })
    }

    /// `cargo` of this toolchain, without the variables that the calling cargo has set.
    pub(super) fn cargo(&self) -> Command {
        let mut command = match self.flavour {
            Flavour::RustupNightly => {
                let mut command = Command::new(NIGHTLY[0]);
                command.args(&NIGHTLY[1..]).arg("cargo").env_remove("RUSTC");
                command
            }
            Flavour::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
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
        if let (Some(linker), Some(path)) = (find_linker(), env::var_os("PATH")) {
            let dirs = linker.parent().map(Path::to_path_buf).into_iter();
            if let Ok(path) = env::join_paths(dirs.chain(env::split_paths(&path))) {
                command.env("PATH", path);
            }
        }
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.flavour {
            Flavour::RustupNightly => "rustup's nightly",
            Flavour::Debian => "Debian's rustc-web",
        })
    }
}

/// Installs what [`Toolchain::find`] would miss, and says so. Needs root for the packages.
pub(crate) fn install() -> Result<()> {
    let mut packages = Vec::new();
    if find_compiler().is_none() {
        packages.extend(&DEBIAN_PACKAGES[..3]);
    }
    // bpf-linker links against LLVM; the package brings llvm-objcopy along.
    if find_linker().is_none() && !Path::new(LLVM).join("include").is_dir()
        || find_objcopy().is_none()
    {
        packages.push(DEBIAN_PACKAGES[3]);
    }
    if !packages.is_empty() {
        setup::install(&packages)?;
    }
    if find_linker().is_none() {
        println!("installing bpf-linker from crates.io, built against LLVM 22 (some minutes)");
        let mut install = Command::new("cargo");
        install.args(["install", "--locked", "bpf-linker", "--no-default-features"]);
        setup::run(
            install
                .args(["--features", "llvm-22"])
                .env("LLVM_PREFIX", LLVM),
        )?;
    }
    Ok(())
}

/// Where cargo keeps the sources of crates and the binaries that it installs.
pub(super) fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))
        .context("no CARGO_HOME and no HOME; set one")
}

fn find_compiler() -> Option<(Flavour, PathBuf)> {
    let nightly = || {
        let mut rustc = Command::new(NIGHTLY[0]);
        rustc.args(&NIGHTLY[1..]).arg("rustc");
        Some((Flavour::RustupNightly, rust_src(rustc)?))
    };
    let debian = || {
        let version = output(Command::new("/usr/bin/rustc").arg("--version"))?;
        let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
        let source = rust_src(Command::new("/usr/bin/rustc"))?;
        let usable = minor >= OLDEST_MINOR && Path::new("/usr/bin/cargo").exists();
        usable.then_some((Flavour::Debian, source))
    };
    nightly().or_else(debian)
}

fn rust_src(mut rustc: Command) -> Option<PathBuf> {
    let sysroot = output(rustc.args(["--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    source
        .join("library/core/Cargo.toml")
        .exists()
        .then_some(source)
}

fn find_linker() -> Option<PathBuf> {
    let installed = cargo_home().ok()?.join("bin/bpf-linker");
    in_path("bpf-linker").or_else(|| installed.exists().then_some(installed))
}

fn find_objcopy() -> Option<PathBuf> {
    let packaged = Path::new(LLVM).join("bin/llvm-objcopy");
    let found = || in_path("llvm-objcopy").or_else(|| in_path("rust-objcopy"));
    packaged.exists().then_some(packaged).or_else(found)
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.exists())
}

/// Standard output of a command that succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
