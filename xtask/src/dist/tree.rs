//! Directory trees that become archives, with modes and dates that do not depend on the machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Release, licences};
use crate::setup::run;

/// A directory, of which every part has a mode that was given.
pub(super) struct Tree(PathBuf);

impl Tree {
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        let tree = Self(path);
        tree.directory("", 0o755)?;
        Ok(tree)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory; those above it are for all to read.
    pub(super) fn directory(&self, path: &str, mode: u32) -> Result<()> {
        let whole = self.0.join(path);
        fs::create_dir_all(&whole)?;
        for above in Path::new(path).ancestors().skip(1) {
            fs::set_permissions(self.0.join(above), Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(whole, Permissions::from_mode(mode))?;
        Ok(())
    }

    pub(super) fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.directory(directory, 0o755)?;
        }
        let file = self.0.join(path);
        fs::write(&file, content)?;
        fs::set_permissions(file, Permissions::from_mode(mode))?;
        Ok(())
    }

    pub(super) fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, &content, mode)
    }

    /// Copies the files below a directory.
    fn copy_all(&self, from: &Path, path: &str) -> Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy_all(&entry.path(), &path)?;
            } else {
                self.copy(&entry.path(), &path, 0o644)?;
            }
        }
        Ok(())
    }

    /// Writes a tar archive in which the tree has this name. All files are root's, and have this date.
    pub(super) fn tar(&self, name: &str, epoch: u64, to: &Path) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--format=gnu", "--numeric-owner"])
            .args(["--owner=0", "--group=0", &format!("--mtime=@{epoch}")])
            .arg(format!("--transform=flags=r;s,^\\.,{name},"))
            .arg("--file")
            .arg(to)
            .arg("--directory")
            .arg(&self.0)
            .arg(".");
        run(&mut tar)
    }

    /// The same, compressed.
    pub(super) fn archive(&self, name: &str, epoch: u64, to: &Path) -> Result<()> {
        // gzip takes the name that it writes from the suffix.
        let plain = to.with_extension("");
        self.tar(name, epoch, &plain)?;
        run(Command::new("gzip")
            .args(["--no-name", "--best"])
            .arg(plain))
    }
}

/// What the tarball has, and the package puts elsewhere: it can be unpacked in /usr/local.
pub(super) fn installed(release: &Release, binary: &Path, manual: &Path) -> Result<Tree> {
    let source = &release.source;
    let tree = Tree::new(release.work().join("tree"))?;
    tree.copy(binary, "bin/heimdall", 0o755)?;
    tree.copy_all(manual, "share")?;
    let deploy = source.join("deploy");
    tree.copy(
        &deploy.join("heimdall.service"),
        "lib/systemd/system/heimdall.service",
        0o644,
    )?;
    tree.copy(
        &deploy.join("heimdall.sysusers"),
        "lib/sysusers.d/heimdall.conf",
        0o644,
    )?;
    let doc = "share/doc/heimdall";
    for file in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE-APACHE",
        "LICENSE-GPL-2.0",
        "LICENSE-MIT",
    ] {
        tree.copy(&source.join(file), &format!("{doc}/{file}"), 0o644)?;
    }
    for example in [
        "heimdall.toml",
        "bird.conf",
        "frr.conf",
        "prometheus-alerts.yml",
        "prometheus-fleet.yml",
        "grafana-dashboard.json",
    ] {
        tree.copy(
            &deploy.join(example),
            &format!("{doc}/examples/{example}"),
            0o644,
        )?;
    }
    licences::write(source, &tree, &format!("{doc}/libraries"))?;
    Ok(tree)
}
