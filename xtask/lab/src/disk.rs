//! A small file system that can be full.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

use super::run;

/// A file system of its own, in memory, unmounted when this is dropped. Needs root.
#[derive(Debug)]
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    /// Mounts one of a size as mount(8) takes it: `64k`.
    pub fn new(size: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        run(mount.arg(directory.path()))?;
        Ok(Self { directory })
    }

    /// The path of a file in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Changes its size.
    pub fn resize(&self, size: &str) -> Result<()> {
        let size = format!("remount,size={size}");
        let mut mount = Command::new("mount");
        run(mount.args(["-o", &size]).arg(self.directory.path()))?;
        Ok(())
    }

    /// Fills it, until the file that is returned is removed.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.path("ballast");
        // It ends with an error: there is no room for the last octets.
        let zeros = fs::File::open("/dev/zero")?;
        let mut file = fs::File::create(&path)?;
        let filled = std::io::copy(&mut &zeros, &mut file);
        anyhow::ensure!(
            filled.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull),
            "{} is not full",
            path.display()
        );
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount")
            .arg("--lazy")
            .arg(self.directory.path()));
    }
}
