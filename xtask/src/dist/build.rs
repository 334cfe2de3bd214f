//! The binary, free of what differs between machines and directories, and linked as statically as it can be.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::Release;
use crate::{
    ebpf::cargo_home,
    setup::{cargo, run},
};

/// What the binary may need at run time: the C library and GCC's, which every Debian has.
const SHARED: [&str; 4] = ["ld-linux", "libc.so.6", "libm.so.6", "libgcc_s.so.1"];

/// Builds the binary, and writes its debug symbols to a file of their own.
pub(super) fn build(release: &Release, debug: &Path) -> Result<PathBuf> {
    run(cargo_build(release)?.args(["--package", "heimdall-user", "--bin", "heimdall"]))?;
    let built = target_dir(release).join("release/heimdall");
    let binary = release.work().join("heimdall");
    run(Command::new("objcopy")
        .args(["--only-keep-debug", "--compress-debug-sections"])
        .args([&built, &debug.to_owned()]))?;
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(debug);
    run(Command::new("objcopy")
        .arg("--strip-all")
        .arg(link)
        .args([&built, &binary]))?;
    for library in needed(&binary)? {
        ensure!(
            SHARED.iter().any(|shared| library.starts_with(shared)),
            "the binary needs {library}, which was to be linked statically"
        );
    }
    Ok(binary)
}

/// Writes the man pages and completions into a directory.
pub(super) fn manual(release: &Release) -> Result<PathBuf> {
    let directory = release.work().join("manual");
    run(cargo_build(release)?.args(["--package", "manual"]))?;
    let program = target_dir(release).join("release/manual");
    run(Command::new(program).arg(&directory))?;
    Ok(directory)
}

/// The target directory: the flags differ from those of other builds.
fn target_dir(release: &Release) -> PathBuf {
    release.source.join("target/dist-build")
}

fn cargo_build(release: &Release) -> Result<Command> {
    // Paths of the source, of what is built in it, and of the sources of crates.
    let mut prefixes = vec![(release.source.clone(), "/heimdall")];
    // Each registry has a directory of its own, which is named after its host. The compilers note the flags in their order.
    let mut registries = fs::read_dir(cargo_home()?.join("registry/src"))?
        .map(|registry| Ok(registry?.path()))
        .collect::<Result<Vec<_>>>()?;
    registries.sort();
    prefixes.extend(registries.into_iter().map(|registry| (registry, "/crates")));
    let flags = |option: &str, separator: &str| {
        let flag = |(from, to): &(PathBuf, &str)| format!("{option}={}={to}", from.display());
        prefixes
            .iter()
            .map(flag)
            .collect::<Vec<_>>()
            .join(separator)
    };
    let c_flags = flags("-ffile-prefix-map", " ");
    let mut cargo = cargo();
    cargo
        .current_dir(&release.source)
        .args(["build", "--locked", "--release"])
        .env("CARGO_TARGET_DIR", target_dir(release))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags("--remap-path-prefix", "\x1f"),
        )
        .env("CFLAGS", &c_flags)
        // libxdp-sys has clang compile libxdp's XDP programs with debug information, and has no variable for
        // flags. clang adds to its arguments what is marked with "+" here, silently because of "#".
        .env(
            "CCC_OVERRIDE_OPTIONS",
            format!("# +{}", c_flags.replace(' ', " +")),
        )
        .env("LIBBPF_SYS_LIBRARY_PATH", static_libraries(release)?)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    Ok(cargo)
}

/// A directory with the static libraries alone, so that the linker, which prefers shared ones, finds these first.
fn static_libraries(release: &Release) -> Result<PathBuf> {
    let directory = release.work().join("static");
    fs::create_dir_all(&directory)?;
    for library in ["libelf.a", "libz.a"] {
        let found = lab::run(Command::new("cc").arg(format!("-print-file-name={library}")))?;
        let found = Path::new(found.trim());
        ensure!(found.is_absolute(), "no {library}");
        let link = directory.join(library);
        if !link.exists() {
            std::os::unix::fs::symlink(found, link)?;
        }
    }
    Ok(directory)
}

/// The shared libraries that a binary names.
fn needed(binary: &Path) -> Result<Vec<String>> {
    let headers = lab::run(Command::new("objdump").arg("--private-headers").arg(binary))?;
    let libraries = headers.lines().filter_map(|line| {
        let library = line.trim().strip_prefix("NEEDED")?;
        Some(library.trim().to_owned())
    });
    Ok(libraries.collect())
}

/// The files of the shared libraries that a binary gets on this machine, the loader's included.
pub(super) fn shared_libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let lines = lab::run(Command::new("ldd").arg(binary))?;
    let path = |line: &str| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    };
    let libraries: Vec<PathBuf> = lines.lines().filter_map(path).collect();
    (!libraries.is_empty())
        .then_some(libraries)
        .context("ldd names no libraries")
}
