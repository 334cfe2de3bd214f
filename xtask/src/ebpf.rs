//! `cargo xtask ebpf`: rebuild the objects of the XDP programs, which are committed beside their sources.
//!
//! `cargo build` must need no eBPF toolchain, so the objects are in the repository, each with a manifest
//! of the digests of its sources and of itself; a test fails when they drift apart. This module finds
//! or installs a toolchain, builds, strips, and writes both files. It does not load
//! the objects: tests of heimdall-user and of benches do.

mod toolchain;

pub(crate) use toolchain::cargo_home;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use toolchain::{Toolchain, tool};

use crate::{
    setup::{Setup, run},
    workspace,
};

/// An XDP program: a crate whose binary is built for BPF.
struct Program {
    /// The crate's directory, which its name is the last part of.
    directory: &'static str,
    binary: &'static str,
    /// File name of the committed object in the crate. The manifest's has `.sources` behind it; its lines
    /// are as `sha256sum` writes and `sha256sum -c` checks.
    object: &'static str,
}

const PROGRAMS: [Program; 3] = [
    Program {
        directory: "heimdall-ebpf",
        binary: "heimdall-xdp",
        object: "heimdall.bpf.o",
    },
    Program {
        directory: "benches/clients-ebpf",
        binary: "clients-xdp",
        object: "clients.bpf.o",
    },
    Program {
        directory: "benches/echo-ebpf",
        binary: "echo-xdp",
        object: "echo.bpf.o",
    },
];

const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
pub(crate) struct Ebpf {
    /// Rebuild, and fail if a committed object is not what this toolchain makes of its source
    #[arg(long)]
    check: bool,
}

impl Ebpf {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let rebuilt = build(setup)?;
        for program in PROGRAMS {
            let (new, committed) = (rebuilt.join(program.object), program.path(program.object));
            if self.check {
                program.check(&new)?;
                println!("{} is what its source gives", program.object);
            } else {
                fs::copy(new, &committed)?;
                fs::write(program.manifest_path(), program.manifest()?)?;
                println!("wrote {} and its manifest", committed.display());
            }
        }
        Ok(())
    }
}

/// Builds the programs. The directory with the stripped objects.
pub(crate) fn build(setup: Setup) -> Result<PathBuf> {
    let toolchain = Toolchain::find_or_install(setup)?;
    let target_dir = workspace().join("target/ebpf");
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(workspace())
        .args(["build", "--locked", "--release", "-Z", "build-std=core"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&toolchain)?.join("\x1f"),
        );
    for program in PROGRAMS {
        cargo.args(["--bin", program.binary, "--package"]);
        cargo.arg(Path::new(program.directory).file_name().unwrap());
    }
    run(&mut cargo).context("the eBPF build failed")?;
    // BTF stays: it is what `bpftool prog dump` and the verifier's log show source lines from.
    for program in PROGRAMS {
        let built = target_dir.join(TARGET).join("release").join(program.binary);
        run(tool("llvm-objcopy")
            .args(["--strip-debug", "--strip-unneeded"])
            .args([built, target_dir.join(program.object)]))?;
    }
    Ok(target_dir)
}

impl Program {
    fn path(&self, file: &str) -> PathBuf {
        workspace().join(self.directory).join(file)
    }

    fn manifest_path(&self) -> PathBuf {
        self.path(&format!("{}.sources", self.object))
    }

    /// The manifest that belongs to the files as they are now: a line for each source, in the order of
    /// their paths, and one for the object.
    fn manifest(&self) -> Result<String> {
        let mut files = vec!["Cargo.toml".to_owned()];
        self.add_sources("src", &mut files)?;
        files.sort();
        files.push(self.object.to_owned());
        lab::run(
            Command::new("sha256sum")
                .current_dir(self.path(""))
                .args(files),
        )
    }

    /// Adds the files in a directory of the crate and in those below it.
    fn add_sources(&self, directory: &str, files: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(self.path(directory))? {
            let entry = entry?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.add_sources(&path, files)?;
            } else {
                files.push(path);
            }
        }
        Ok(())
    }

    /// Fails if the committed object does not belong to the sources beside it.
    fn check_manifest(&self) -> Result<()> {
        let path = self.manifest_path();
        if fs::read_to_string(&path)? != self.manifest()? {
            let path = path.display();
            bail!(
                "{path} does not fit the files beside it; run `cargo xtask ebpf` and commit what it writes"
            );
        }
        Ok(())
    }

    fn check(&self, rebuilt: &Path) -> Result<()> {
        self.check_manifest()?;
        ensure!(
            fs::read(self.path(self.object))? == fs::read(rebuilt)?,
            "the committed {} is not what this toolchain builds; another compiler explains that, \
             else run `cargo xtask ebpf`",
            self.object
        );
        Ok(())
    }
}

/// No path of the building machine may get into an object, so that machines agree on it.
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

#[cfg(test)]
mod tests {
    #[test]
    fn objects_and_sources_have_not_drifted_apart() {
        for program in super::PROGRAMS {
            program.check_manifest().unwrap();
        }
    }
}
