//! Directory trees that become archives, with modes and dates that do not depend on the machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Release;
use crate::setup::{cargo, run};

/// The C libraries that are linked statically: the package of Debian, which has the licence.
pub(super) const LIBRARIES: [(&str, &str); 2] = [("libelf", "libelf-dev"), ("zlib", "zlib1g-dev")];

/// The crates that have C code under licences of its own.
const CRATES: [&str; 2] = ["libbpf-sys", "libxdp-sys"];

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
    for (library, package) in LIBRARIES {
        let licence = Path::new("/usr/share/doc").join(package).join("copyright");
        tree.copy(
            &licence,
            &format!("{doc}/libraries/{library}.copyright"),
            0o644,
        )?;
    }
    for (name, directory) in crates(source)? {
        let licence = ["LICENSE-BSD-2-Clause", "LICENSE"].map(|file| directory.join(file));
        let licence = licence.iter().find(|file| file.exists());
        let licence = licence.with_context(|| format!("no licence of {name}"))?;
        tree.copy(licence, &format!("{doc}/libraries/{name}.copyright"), 0o644)?;
    }
    Ok(tree)
}

/// Where cargo has the sources of the crates with C code.
fn crates(source: &Path) -> Result<Vec<(String, PathBuf)>> {
    let metadata =
        lab::run(
            cargo()
                .current_dir(source)
                .args(["metadata", "--locked", "--format-version=1"]),
        )?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut found = Vec::new();
    for package in packages {
        let (Some(name), Some(manifest)) =
            (package["name"].as_str(), package["manifest_path"].as_str())
        else {
            continue;
        };
        if CRATES.contains(&name) {
            let directory = Path::new(manifest).with_file_name("");
            found.push((name.to_owned(), directory));
        }
    }
    Ok(found)
}
