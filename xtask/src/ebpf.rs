//! `cargo xtask ebpf`: the XDP program's object.
//!
//! Built with rustup's nightly and rust-src, or else with Debian's rustc-web, cargo-web and
//! rust-web-src. The object names no path of the machine that built it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use xtask::digest::{DIGESTS, OBJECT, expected, workspace};

use crate::setup::{EBPF, Setup, run};

#[derive(Args)]
pub(crate) struct Ebpf {
    /// Only rebuild it aside, and say whether the committed one is the same
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    setup: Setup,
}

impl Ebpf {
    pub(crate) fn run(self) -> Result<()> {
        let root = workspace();
        let built = build(self.setup)?;
        let digests = expected(&built)?;
        let committed = fs::read_to_string(root.join(DIGESTS)).unwrap_or_default();
        if self.check {
            if digests.lines().next() != committed.lines().next() {
                bail!(
                    "the XDP program's source has changed since its object was built: run cargo xtask ebpf"
                );
            }
            let same = digests == committed;
            println!(
                "the committed object is {}",
                if same {
                    "the same"
                } else {
                    "another compiler's"
                }
            );
            return Ok(());
        }
        fs::copy(&built, root.join(OBJECT))?;
        fs::write(root.join(DIGESTS), &digests)?;
        println!(
            "{OBJECT}: {} octets\n{digests}",
            fs::metadata(root.join(OBJECT))?.len()
        );
        Ok(())
    }
}

/// Builds the object, and gives its path under `target/`.
pub(crate) fn build(setup: Setup) -> Result<PathBuf> {
    let root = workspace();
    let target = root.join("target/ebpf");
    let mut cargo = if has_nightly() {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        cargo
    } else {
        setup.packages(&[EBPF])?;
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1");
        cargo
    };
    setup.bpf_linker()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        .context("HOME is not set")?;
    let registry = home.join("registry/src");
    // Each registry has a directory of its own, whose name tells its host.
    let registries = registry
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags: Vec<String> = ["-Clinker=bpf-linker", "-Clink-arg=--btf", "-Cdebuginfo=2"]
        .map(str::to_owned)
        .into_iter()
        .chain([remap(&root, ".")])
        .chain(registries.map(|path| remap(&path, "registry")))
        .collect();
    cargo
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Set by the cargo that runs this tool; the one that it runs is another.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .args([
            "build",
            "--release",
            "--locked",
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
        ])
        .args([
            "--package",
            "heimdall-ebpf",
            "--features",
            "program",
            "--bin",
            "heimdall-xdp",
        ]);
    run(&mut cargo)?;
    let linked = target.join("bpfel-unknown-none/release/heimdall-xdp");
    let object = target.join("heimdall.bpf.o");
    // What debuggers need goes; BTF, which the kernel needs, stays.
    let objcopy = [
        "/usr/lib/llvm-22/bin/llvm-objcopy",
        "llvm-objcopy",
        "rust-objcopy",
    ]
    .into_iter()
    .find(|tool| Command::new(tool).arg("--version").output().is_ok())
    .context("no llvm-objcopy: install llvm")?;
    run(Command::new(objcopy)
        .arg("--strip-debug")
        .args([&linked, &object]))?;
    let bytes = fs::read(&object)?;
    for path in [root.as_path(), home.as_path()] {
        let path = path.to_string_lossy().into_owned();
        if bytes
            .windows(path.len())
            .any(|window| window == path.as_bytes())
        {
            bail!("the object names {path}, a path of this machine");
        }
    }
    Ok(object)
}

/// Whether rustup has a nightly toolchain with the standard library's source.
fn has_nightly() -> bool {
    let output = Command::new("rustup")
        .args(["component", "list", "--toolchain", "nightly", "--installed"])
        .output();
    output.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout)
                .lines()
                .any(|line| line == "rust-src")
    })
}
