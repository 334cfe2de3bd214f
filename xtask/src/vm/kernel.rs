//! Debian's kernels and their modules, unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::packages::Archive;

/// Debian's kernels, the newest of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Series {
    /// Debian 12's: AF_XDP in copy mode
    #[value(name = "6.1")]
    Debian12,
    /// Debian 13's: AF_XDP in copy mode
    #[value(name = "6.12")]
    Debian13,
    /// Of Debian 13's backports (Linux 7): AF_XDP in zero-copy mode
    #[value(name = "backports")]
    Backports,
}

impl Series {
    fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
            Self::Backports => "trixie-backports",
        }
    }

    /// Whether its drivers igb and virtio_net have zero-copy AF_XDP: since Linux 6.14 and 6.11, virtio_net's for both
    /// directions since 6.13.
    pub(super) fn has_zero_copy(self) -> bool {
        self == Self::Backports
    }
}

/// A kernel.
pub(super) struct Kernel {
    directory: PathBuf,
    /// What `uname -r` prints in the guest: `6.12.57+deb13-amd64`.
    pub(super) version: String,
}

impl Kernel {
    /// Downloads the newest of a series into a directory, unless there is one.
    pub(super) fn get(series: Series, vm: &Path) -> Result<Self> {
        let suite = series.suite();
        let directory = vm.join("kernel").join(suite);
        if !directory.exists() {
            download(suite, vm, &directory)?;
        }
        let modules = directory.join("lib/modules");
        // From Debian 13 on packages have /usr/lib.
        if !modules.exists() {
            fs::create_dir_all(directory.join("lib"))?;
            fs::rename(directory.join("usr/lib/modules"), &modules)?;
        }
        let version = fs::read_dir(&modules)?.next().context("no modules")??;
        let version = version.file_name().to_string_lossy().into_owned();
        if !modules.join(&version).join("modules.dep").exists() {
            let mut depmod = Command::new("/usr/sbin/depmod");
            lab::run(depmod.arg("--basedir").arg(&directory).arg(&version))?;
        }
        Ok(Self { directory, version })
    }

    /// The kernel itself. From Linux 7.1 on Debian has it beside the modules.
    pub(super) fn image(&self) -> PathBuf {
        let beside = self.modules().join("vmlinuz");
        let found = beside.exists().then_some(beside);
        found.unwrap_or_else(|| {
            self.directory
                .join(format!("boot/vmlinuz-{}", self.version))
        })
    }

    /// The directory that the guest has as /lib/modules/VERSION.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.version)
    }

    /// Files of modules, each behind those that it needs. What is a part of the kernel itself has none, and is not told from
    /// what is missing: newer packages have no modules.builtin.
    pub(super) fn files(&self, modules: &[&str]) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for module in modules {
            let mut modprobe = Command::new("/usr/sbin/modprobe");
            modprobe.arg("--dirname").arg(&self.directory);
            modprobe.args(["--set-version", &self.version, "--show-depends", module]);
            for line in lab::run(&mut modprobe).unwrap_or_default().lines() {
                let Some(file) = line.strip_prefix("insmod ") else {
                    continue;
                };
                let file = PathBuf::from(file.trim());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        files
    }
}

fn download(suite: &str, vm: &Path, directory: &Path) -> Result<()> {
    let archive = Archive::open(vm.join(format!("apt-{suite}")), &[suite.to_owned()])?;
    // Before Linux 7.1 there is one package, linux-image-VERSION; then linux-binary-VERSION and linux-modules-VERSION, too.
    let is_part = |name: &&String| {
        let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
        let version = parts.iter().find_map(|part| name.strip_prefix(part));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    let dependencies = archive.dependencies("linux-image-amd64")?;
    let packages: Vec<&str> = dependencies
        .iter()
        .filter(is_part)
        .map(String::as_str)
        .collect();
    println!(
        "downloading {} into {}",
        packages.join(", "),
        directory.display()
    );
    fs::create_dir_all(vm.join("kernel"))?;
    archive.unpack(&packages, directory)
}
