//! Clean roots of Debian, in which scripts run with a network namespace and a mount namespace of their own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::setup::run;

/// A directory of the host that a script sees, at the same path.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// Whether it may write there.
    pub(super) writable: bool,
}

/// A root, which is deleted with its owner.
pub(super) struct Root {
    directory: TempDir,
    /// Debian's name of the release.
    suite: &'static str,
}

impl Root {
    /// Makes a root with these packages and nothing else that Debian can do without.
    pub(super) fn new(suite: &'static str, packages: &str) -> Result<Self> {
        println!("==> a clean root of Debian {suite} with {packages}");
        let directory = tempfile::Builder::new()
            .prefix("heimdall-root-")
            .tempdir()?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--variant=minbase", "--mode=root"])
            .arg(format!("--include={}", packages.replace(' ', ",")))
            .arg(suite)
            .arg(directory.path());
        run(&mut mmdebstrap).context("mmdebstrap; can the packages be downloaded?")?;
        Ok(Self { directory, suite })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.path().join(to))?;
        Ok(())
    }

    /// Runs a script of `sh` as root in the root, without a network but loopback. Each line of its output is shown.
    /// The script ends with the first command that fails.
    pub(super) fn run(&self, shared: &[Shared], script: &str) -> Result<()> {
        let mut outside = String::from("ip link set lo up\nmount -t proc proc \"$1/proc\"\n");
        outside.push_str("mount --bind /dev \"$1/dev\"\n");
        for Shared { path, writable } in shared {
            let path = path.display();
            outside.push_str(&format!(
                "mkdir -p \"$1{path}\"\nmount --bind \"{path}\" \"$1{path}\"\n"
            ));
            if !writable {
                outside.push_str(&format!("mount -o remount,bind,ro \"$1{path}\"\n"));
            }
        }
        outside.push_str("exec chroot \"$1\" /bin/sh -eu -c \"$2\" 2>&1");
        let mut child = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-eu", "-c", &outside, "sh"])
            .arg(self.path())
            .arg(script)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("HOME", "/root")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).lines() {
            println!("    {}", line?);
        }
        let status = child.wait()?;
        if !status.success() {
            bail!(
                "in the root of {}: {status}; the script:\n{script}",
                self.suite
            );
        }
        Ok(())
    }
}
