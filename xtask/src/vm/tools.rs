//! Programs to boot a guest, from Debian's packages: qemu, and busybox for the guest's first process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::packages::Archive;

/// Unpacked programs.
pub(super) struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// Downloads them into a directory, unless they are there.
    pub(super) fn get(vm: &Path) -> Result<Self> {
        let directory = vm.join("tools");
        if !directory.exists() {
            let release = codename()?;
            // Debian 12's own qemu has no igb.
            let backports = format!("{release}-backports");
            let suites = [
                release.clone(),
                format!("{release}-updates"),
                backports.clone(),
            ];
            let archive = Archive::open(vm.join("apt-tools"), &suites)?;
            let packages = ["qemu-system-x86", "busybox-static"];
            println!("downloading {} into {}", packages.join(", "), vm.display());
            archive.unpack_programs(&packages, &backports, &directory)?;
        }
        Ok(Self { directory })
    }

    /// busybox, linked statically.
    pub(super) fn busybox(&self) -> PathBuf {
        let merged = self.directory.join("usr/bin/busybox");
        let found = merged.exists().then_some(merged);
        found.unwrap_or_else(|| self.directory.join("bin/busybox"))
    }

    /// qemu, with its own libraries and firmware.
    pub(super) fn qemu(&self) -> Command {
        let path = |part: &str| self.directory.join(part);
        let mut qemu = Command::new(path("usr/bin/qemu-system-x86_64"));
        qemu.env("LD_LIBRARY_PATH", path("usr/lib/x86_64-linux-gnu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(path(firmware));
        }
        qemu
    }
}

/// Debian's name of this machine's release: `bookworm`.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.context("not a Debian: /etc/os-release has no VERSION_CODENAME")?;
    Ok(name.trim_matches('"').to_owned())
}
