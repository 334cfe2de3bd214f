//! Debian's packages: downloaded by apt into a directory of their own, and unpacked without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::setup::run;

/// apt's configuration can have a proxy, or a mirror in its place.
const DEBIAN: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const OFFLINE: &str = "cannot download from Debian; is deb.debian.org reachable? A proxy is set with \
     Acquire::http::Proxy in /etc/apt/apt.conf.d. What is in target/vm already is not downloaded again";

/// Lists of Debian's packages, and apt for them. The machine's own lists and packages stay as they are.
pub(super) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Downloads the lists of these suites into a directory.
    pub(super) fn open(directory: PathBuf, suites: &[String]) -> Result<Self> {
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let source = |suite| format!("deb [signed-by={KEYRING}] {DEBIAN} {suite} main\n");
        let sources: String = suites.iter().map(source).collect();
        fs::write(directory.join("sources.list"), sources)?;
        let archive = Self { directory };
        println!("lists of packages: {}", suites.join(", "));
        run(archive.apt("apt-get").arg("update")).context(OFFLINE)?;
        Ok(archive)
    }

    /// Names of the packages that one depends on, and these on, and so on.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut depends = self.apt("apt-cache");
        depends.args(["depends", "--recurse", "--important", package]);
        let lines = lab::run(&mut depends)?;
        // What each depends on is below it, indented.
        let names = lines
            .lines()
            .filter(|line| !line.starts_with([' ', '<', '|']));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages, and unpacks them into a directory.
    pub(super) fn unpack(&self, packages: &[&str], to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download
            .current_dir(self.archives())
            .arg("download")
            .args(packages);
        self.finish(&mut download, to)
    }

    /// The same for programs, with those of the packages they depend on that this machine has not installed.
    pub(super) fn unpack_programs(&self, packages: &[&str], suite: &str, to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download
            .args(["install", "--yes", "--download-only", "--reinstall"])
            .args(["--no-install-recommends", "--target-release", suite])
            .args(packages);
        self.finish(&mut download, to)
    }

    fn finish(&self, download: &mut Command, to: &Path) -> Result<()> {
        run(download).context(OFFLINE)?;
        // What is there under its own name is complete.
        let partial = to.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        for file in fs::read_dir(self.archives())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&path)
                    .arg(&partial))?;
            }
        }
        fs::rename(&partial, to)?;
        fs::remove_dir_all(&self.directory)?;
        Ok(())
    }

    fn archives(&self) -> PathBuf {
        self.directory.join("archives")
    }

    fn apt(&self, program: &str) -> Command {
        let path = |part: &str| self.directory.join(part).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::Cache={}", self.directory.display()),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Otherwise apt goes on with the lists that it has.
            "APT::Update::Error-Mode=any".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            // It installs nothing.
            "Debug::NoLocking=true".to_owned(),
        ];
        let mut command = Command::new(program);
        command.arg("--quiet=0");
        for option in options {
            command.arg("--option").arg(option);
        }
        command
    }
}
