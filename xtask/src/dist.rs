//! `cargo xtask dist`: what is published, made so that it can be made again with the same octets.
//!
//! The binary is built once. From it come a tarball, a Debian package and an image; beside them are its debug
//! symbols, a list of what it is made of, and the checksums of all. Nothing depends on the clock (files are dated
//! as the commit, or as SOURCE_DATE_EPOCH says), on the directory, or on the umask.

mod bom;
mod build;
mod deb;
mod image;
mod licences;
mod roots;
mod scenarios;
mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    setup::{BUILD, DIST, DIST_TEST, Setup, cargo, run, succeeds},
    workspace,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The tools that crates.io has: they decide what is in the files, so their versions are fixed.
const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");
const CARGO_CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

#[derive(Args)]
#[command(after_help = "\
It writes to target/dist. The first run compiles cargo-deb and cargo-cyclonedx into target/tools.
--test downloads Debian 12 and 13 with apt, makes roots of them in a temporary directory, and needs root.")]
pub(crate) struct Dist {
    /// Make it once more, from a copy of the last commit in another directory, and compare all octets
    #[arg(long)]
    check: bool,

    /// Install, upgrade, remove and purge the package in clean roots of Debian 12 and 13, run the image and the
    /// tarball, and build with `cargo install` where nothing but the packages of the README is installed
    #[arg(long)]
    test: bool,
}

impl Dist {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BUILD, DIST])?;
        if self.test {
            setup.packages(&[DIST_TEST])?;
        }
        let release = Release {
            source: workspace(),
            epoch: epoch()?,
            cargo_deb: tool(CARGO_DEB, setup)?,
            cargo_cyclonedx: tool(CARGO_CYCLONEDX, setup)?,
        };
        release.make()?;
        print!("{}", release.sums()?);
        println!("written to {}", release.out().display());
        if self.check {
            check(&release)?;
        }
        if self.test {
            scenarios::all(&release)?;
        }
        Ok(())
    }
}

/// What is made of one source tree.
#[derive(Clone)]
struct Release {
    source: PathBuf,
    /// The date of all files, in seconds since 1970.
    epoch: u64,
    cargo_deb: PathBuf,
    cargo_cyclonedx: PathBuf,
}

impl Release {
    /// What is published.
    fn out(&self) -> PathBuf {
        self.source.join("target/dist")
    }

    /// What it is made of. Cargo.toml of heimdall-user names this directory, too.
    fn work(&self) -> PathBuf {
        self.source.join("target/dist-work")
    }

    /// `heimdall-1.2.3-x86_64-linux-gnu`.
    fn name(&self) -> String {
        format!("heimdall-{VERSION}-{}-linux-gnu", env::consts::ARCH)
    }

    fn deb(&self) -> PathBuf {
        self.out()
            .join(format!("heimdall_{VERSION}-1_{}.deb", debian_arch()))
    }

    fn tarball(&self) -> PathBuf {
        self.out().join(format!("{}.tar.gz", self.name()))
    }

    fn image(&self) -> PathBuf {
        self.out().join(format!("{}.oci.tar", self.name()))
    }

    fn checksums(&self) -> PathBuf {
        self.out().join("SHA256SUMS")
    }

    fn sums(&self) -> Result<String> {
        Ok(fs::read_to_string(self.checksums())?)
    }

    /// Makes everything.
    fn make(&self) -> Result<()> {
        for directory in [self.out(), self.work()] {
            if directory.exists() {
                fs::remove_dir_all(&directory)?;
            }
            fs::create_dir_all(&directory)?;
        }
        let debug = self.out().join(format!("{}.debug", self.name()));
        let binary = build::build(self, &debug)?;
        let manual = build::manual(self)?;
        let tree = tree::installed(self, &binary, &manual)?;
        tree.archive(&self.name(), self.epoch, &self.tarball())?;
        deb::make(self, None, &self.deb())?;
        image::make(self, &binary, &self.image())?;
        bom::make(self, &self.out().join(format!("{}.cdx.json", self.name())))?;
        let sums = lab::run(
            Command::new("sh")
                .current_dir(self.out())
                .args(["-c", "LC_ALL=C; export LC_ALL; sha256sum -- *"]),
        )?;
        fs::write(self.checksums(), sums)?;
        Ok(())
    }
}

/// Debian's and OCI's name for the processor.
fn debian_arch() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SOURCE_DATE_EPOCH, or the time of the last commit.
fn epoch() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => lab::run(Command::new("git").current_dir(workspace()).args([
            "log",
            "-1",
            "--format=%ct",
        ]))
        .context("set SOURCE_DATE_EPOCH where there is no git repository")?,
    };
    let epoch = text.trim().parse();
    epoch.with_context(|| format!("{text:?} is not a time in seconds since 1970"))
}

/// A date, as `date` formats it.
fn date(epoch: u64, format: &str) -> Result<String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C")
        .args(["--utc", &format!("--date=@{epoch}"), format]);
    Ok(lab::run(&mut date)?.trim().to_owned())
}

fn sha256(file: &Path) -> Result<String> {
    let line = lab::run(Command::new("sha256sum").arg(file))?;
    let digest = line.split_whitespace().next();
    Ok(digest.context("sha256sum prints nothing")?.to_owned())
}

/// A tool of exactly this version in target/tools, installed if it is missing.
fn tool((name, version): (&str, &str), setup: Setup) -> Result<PathBuf> {
    let root = workspace()
        .join("target/tools")
        .join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !succeeds(Command::new(&program).arg("--help")) {
        let mut install = cargo();
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "--version",
                version,
                "--root",
            ])
            .arg(&root)
            .arg(name);
        if !setup.may_install() {
            bail!("not installed: {name} {version}; {install:?}");
        }
        println!(
            "installing {name} {version} from crates.io into {}",
            root.display()
        );
        run(&mut install)?;
    }
    Ok(program)
}

/// Unpacks the files of the last commit.
fn unpack_commit(to: &Path) -> Result<()> {
    let unpack = "git archive HEAD | tar --extract --directory \"$1\"";
    run(Command::new("sh")
        .current_dir(workspace())
        .args(["-c", unpack, "sh"])
        .arg(to))
}

/// Makes the release once more from a copy of the last commit, and fails if a file differs.
fn check(release: &Release) -> Result<()> {
    let status = ["status", "--porcelain", "--untracked-files=no"];
    let changes = lab::run(Command::new("git").current_dir(workspace()).args(status))?;
    ensure!(
        changes.is_empty(),
        "what is compared is the last commit; commit these first:\n{changes}"
    );
    let parent = tempfile::Builder::new()
        .prefix("dist-copy-")
        .tempdir_in(workspace().join("target"))?;
    // Longer than the path of the first: a path that gets into a file shows.
    let source = parent.path().join("another/directory");
    fs::create_dir_all(&source)?;
    unpack_commit(&source)?;
    println!("making it once more, in {}", source.display());
    let copy = Release {
        source,
        ..release.clone()
    };
    copy.make()?;
    let (sums, others) = (release.sums()?, copy.sums()?);
    if sums != others {
        // To look at them, for instance with diffoscope.
        let kept = parent.keep().join("another/directory/target/dist");
        bail!(
            "not reproducible; {}:\n{others}{}:\n{sums}",
            kept.display(),
            release.out().display()
        );
    }
    println!("the same octets from both directories");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_valid() {
        let unit = fs::read_to_string(workspace().join("deploy/heimdall.service")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("heimdall.service");
        // The program need not be installed here.
        fs::write(&path, unit.replace("heimdall ", "/bin/true ")).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(path);
        let Ok(output) = verify.output() else {
            eprintln!("SKIPPED: no systemd-analyze");
            return;
        };
        let findings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && findings.is_empty(), "{findings}");
    }

    /// docs/security-model.md has the figure, too.
    #[test]
    fn the_unit_is_no_more_exposed_than_documented() {
        let mut security = Command::new("systemd-analyze");
        security
            .args(["security", "--no-pager", "--offline=true", "--threshold=21"])
            .arg(workspace().join("deploy/heimdall.service"));
        let Ok(output) = security.output() else {
            eprintln!("SKIPPED: no systemd-analyze");
            return;
        };
        let findings = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{findings}");
    }

    #[test]
    fn dates_are_those_of_the_epoch() {
        assert_eq!(
            date(1_700_000_000, "+%Y-%m-%dT%H:%M:%SZ").unwrap(),
            "2023-11-14T22:13:20Z"
        );
    }
}
