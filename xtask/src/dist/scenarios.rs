//! What must work with what was made, in clean roots of Debian. Each scenario is a script of `sh`.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    Release, deb,
    roots::{Root, Shared},
    unpack_commit,
};
use crate::{
    ebpf::cargo_home,
    setup::{BUILD, cargo, run},
};

/// Debian 12 and 13.
const SUITES: [&str; 2] = ["bookworm", "trixie"];

const PACKAGE: &str = concat!(
    include_str!("scripts/server.sh"),
    include_str!("scripts/package.sh")
);

const TARBALL: &str = concat!(
    include_str!("scripts/server.sh"),
    include_str!("scripts/tarball.sh")
);

const IMAGE: &str = concat!(
    include_str!("scripts/server.sh"),
    include_str!("scripts/image.sh")
);

const INSTALL: &str = include_str!("scripts/install.sh");

/// What lintian need not say: the package has no address that takes mail, and is in no distribution whose bugs it
/// could close; its synopsis is the crate's. libelf and zlib are linked statically so that one binary runs on all.
const NOT_LINTED: &str = "bogus-mail-host,initial-upload-closes-no-bugs,description-synopsis-starts-with-article,embedded-library";

/// Runs all of them; needs root.
pub(super) fn all(release: &Release) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        if env::var_os("CI").is_some() {
            bail!("the tests of the packages need root");
        }
        println!("SKIPPED: the tests of the packages need root");
        return Ok(());
    }
    println!("==> lintian");
    run(Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error"])
        .args(["--suppress-tags", NOT_LINTED])
        .arg(release.deb()))?;
    let older = release.work().join("older.deb");
    deb::make(release, Some("0.0.1-1"), &older)?;
    for suite in SUITES {
        let root = Root::new(suite, "systemd")?;
        root.copy(&older, "tmp/older.deb")?;
        root.copy(&release.deb(), "tmp/heimdall.deb")?;
        root.run(&[], PACKAGE)?;
        root.copy(&release.tarball(), "tmp/heimdall.tar.gz")?;
        root.run(&[], TARBALL)?;
    }
    image(release)?;
    install(release)?;
    println!("everything that is published works in clean roots");
    Ok(())
}

/// Checks the image's digests, unpacks it, and runs a server in its file system.
fn image(release: &Release) -> Result<()> {
    println!("==> the image");
    let directory = tempfile::tempdir()?;
    let layout = format!("{}:heimdall", directory.path().join("layout").display());
    let bundle = directory.path().join("bundle");
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("oci-archive:{}", release.image().display()))
        .arg(format!("oci:{layout}")))?;
    run(Command::new("umoci")
        .args(["unpack", "--image", &layout])
        .arg(&bundle))?;
    run(Command::new("unshare")
        .args(["--mount", "--net", "sh", "-eu", "-c", IMAGE, "sh"])
        .arg(bundle.join("rootfs")))
}

/// Builds the last commit where nothing but the packages of the README is installed.
fn install(release: &Release) -> Result<()> {
    let packages: Vec<&str> = BUILD.iter().map(|(_, package)| *package).collect();
    let root = Root::new(SUITES[0], &packages.join(" "))?;
    let source = root.path().join("root/heimdall");
    fs::create_dir_all(&source)?;
    unpack_commit(&source)?;
    run(cargo()
        .current_dir(&release.source)
        .args(["fetch", "--locked"]))?;
    let sysroot = lab::run(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = Path::new(sysroot.trim()).to_owned();
    let home = cargo_home()?;
    let script = format!(
        "export PATH=\"{}/bin:$PATH\" CARGO_HOME=\"{}\"\n{INSTALL}",
        sysroot.display(),
        home.display()
    );
    let shared = [
        Shared {
            path: sysroot,
            writable: false,
        },
        // cargo locks it, and libbpf's make has files there for a moment.
        Shared {
            path: home.join("registry"),
            writable: true,
        },
    ];
    root.run(&shared, &script)
        .context("a build with few packages")
}
