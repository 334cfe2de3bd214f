//! `cargo xtask ebpf`: rebuild the XDP program's object, which is committed beside its source.
//!
//! `cargo build` must need no eBPF toolchain, so the object is in the repository, with a manifest
//! of the digests of its sources and of itself; a test fails when they drift apart. This room
//! finds a toolchain (or installs one, if told to), builds, strips, and writes both files. It does
//! not load the object: the tests of heimdall-user do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::workspace;

mod toolchain;

use toolchain::Toolchain;

/// File name of the committed object in the program's crate.
pub const OBJECT: &str = "heimdall.bpf.o";

/// File name of its manifest: lines as `sha256sum` writes and `sha256sum -c` checks.
pub const MANIFEST: &str = "heimdall.bpf.o.sources";

const TARGET: &str = "bpfel-unknown-none";

/// Arguments of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Install what is missing of the toolchain (Debian packages and bpf-linker), saying what
    #[arg(long)]
    install: bool,
    /// Rebuild, and fail if the committed object is not what this toolchain makes of its source
    #[arg(long, conflicts_with = "out")]
    check: bool,
    /// Write the object here, and leave the committed one alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// No toolchain, a failed build, or with `--check` an object that differs; the text says what to
/// do.
pub fn run(args: &Args) -> Result<()> {
    if args.install {
        install()?;
    }
    if let Some(out) = &args.out {
        build(out)?;
        println!("wrote {}", out.display());
        return Ok(());
    }
    if args.check {
        return check();
    }
    let object = program_dir().join(OBJECT);
    build(&object)?;
    fs::write(program_dir().join(MANIFEST), manifest(&object)?)?;
    println!("wrote {} and its manifest", object.display());
    Ok(())
}

/// Installs what is missing of a toolchain, and says what.
///
/// # Errors
///
/// Not root, or an installation fails.
pub fn install() -> Result<()> {
    toolchain::install()
}

/// The program's crate.
pub fn program_dir() -> PathBuf {
    workspace().join("heimdall-ebpf")
}

/// Builds the program with the toolchain found here, and writes the stripped object to `out`.
///
/// # Errors
///
/// No toolchain (the text says what to install), or a failed build.
pub fn build(out: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    println!("building with {toolchain}");
    let target_dir = workspace().join("target/ebpf");
    let status = toolchain
        .cargo()
        .current_dir(workspace())
        .args([
            "build",
            "--locked",
            "--release",
            "-Z",
            "build-std=core",
            "--target",
            TARGET,
        ])
        .args([
            "--package",
            "heimdall-ebpf",
            "--bin",
            "heimdall-xdp",
            "--target-dir",
        ])
        .arg(&target_dir)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&toolchain)?.join("\x1f"),
        )
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the eBPF build failed; see above");

    // BTF stays: it is what `bpftool prog dump` and the verifier's log show source lines from.
    let built = target_dir.join(TARGET).join("release/heimdall-xdp");
    let status = Command::new(&toolchain.objcopy)
        .args(["--strip-debug", "--strip-unneeded"])
        .args([built.as_path(), out])
        .status()
        .with_context(|| format!("cannot run {}", toolchain.objcopy.display()))?;
    ensure!(status.success(), "stripping the object failed; see above");
    Ok(())
}

/// The manifest that belongs to the program's sources as they are now and to `object`: one line a
/// file, sources in the order of their paths, the object last.
///
/// # Errors
///
/// A file cannot be read.
pub fn manifest(object: &Path) -> Result<String> {
    let dir = program_dir();
    let mut sources = vec![dir.join("Cargo.toml")];
    collect_sources(&dir.join("src"), &mut sources)?;
    sources.sort();
    let mut text = String::new();
    for source in &sources {
        let name = source.strip_prefix(&dir)?.display().to_string();
        text += &format!("{}  {name}\n", digest(source)?);
    }
    text += &format!("{}  {OBJECT}\n", digest(object)?);
    Ok(text)
}

fn check() -> Result<()> {
    let committed = program_dir().join(OBJECT);
    let scratch = tempfile::tempdir()?;
    let rebuilt = scratch.path().join(OBJECT);
    build(&rebuilt)?;
    if fs::read_to_string(program_dir().join(MANIFEST))? != manifest(&committed)? {
        bail!(
            "{MANIFEST} is not that of the sources; run `cargo xtask ebpf` and commit both files"
        );
    }
    let (old, new) = (digest(&committed)?, digest(&rebuilt)?);
    ensure!(
        old == new,
        "the committed object ({old}) is not what this toolchain builds ({new}); another compiler \
         explains that, else run `cargo xtask ebpf`"
    );
    println!("the committed object is what its source gives: {new}");
    Ok(())
}

/// No path of the building machine may get into the object, so that machines agree on it.
fn rustflags(toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags: Vec<String> = [
        "-Clinker=bpf-linker",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-memory-builtins",
        // Headers are read by words where they lie, as C programs do. x86-64 and arm64 allow it.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
        // Linux 5.1; 32-bit registers and jumps.
        "-Ctarget-cpu=v3",
        // BTF is made from it.
        "-Cdebuginfo=2",
    ]
    .map(String::from)
    .into();
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    // Each registry has a directory of its own, which is named after its host.
    for registry in fs::read_dir(toolchain::cargo_home()?.join("registry/src"))? {
        remap(&registry?.path(), "/crates");
    }
    remap(&workspace(), "/heimdall");
    remap(&toolchain.rust_src, "/rust");
    remap(&toolchain.rust_src.canonicalize()?, "/rust");
    Ok(flags)
}

fn collect_sources(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_sources(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
