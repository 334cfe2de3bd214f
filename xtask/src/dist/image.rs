//! The container image: an OCI image layout with one layer, in a tar archive, written without a daemon.
//!
//! See <https://github.com/opencontainers/image-spec>. The layer has the binary, the libraries that it needs, the
//! certificates of root authorities and the example settings; there is no shell and no package manager.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Release, VERSION, build, date, debian_arch, licences, sha256, tree::Tree};
use crate::setup::run;

/// The user of the image: one that no host has, by custom of images without root.
const USER: &str = "65532";
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) fn make(release: &Release, binary: &Path, to: &Path) -> Result<()> {
    let layer = release.work().join("layer.tar");
    root(release, binary)?.tar(".", release.epoch, &layer)?;
    let diff_id = sha256(&layer)?;
    run(Command::new("gzip")
        .args(["--no-name", "--best"])
        .arg(&layer))?;
    let layout = Layout(Tree::new(release.work().join("layout"))?);
    let layer = layout.blob(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        &fs::read(layer.with_extension("tar.gz"))?,
    )?;
    let created = date(release.epoch, "+%Y-%m-%dT%H:%M:%SZ")?;
    let config = json!({
        "created": created,
        "architecture": debian_arch(),
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "ExposedPorts": { "53/tcp": {}, "53/udp": {}, "853/tcp": {} },
            // The control socket of a user who is not root is there.
            "Env": ["PATH=/usr/bin", "XDG_RUNTIME_DIR=/run/heimdall"],
            "Entrypoint": ["/usr/bin/heimdall"],
            "Cmd": ["run", "--config", "/etc/heimdall/heimdall.toml"],
            "StopSignal": "SIGTERM",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": created, "created_by": "cargo xtask dist" }],
    });
    let config = layout.json("application/vnd.oci.image.config.v1+json", &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": {
            "org.opencontainers.image.created": created,
            "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            "org.opencontainers.image.title": "heimdall",
            "org.opencontainers.image.version": VERSION,
        },
    });
    let mut manifest = layout.json(MANIFEST, &manifest)?;
    manifest["platform"] = json!({ "architecture": debian_arch(), "os": "linux" });
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": VERSION });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let tree = &layout.0;
    tree.write("index.json", index.to_string().as_bytes(), 0o644)?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    tree.write("oci-layout", version.to_string().as_bytes(), 0o644)?;
    tree.tar(".", release.epoch, to)
}

/// The file system of a container.
fn root(release: &Release, binary: &Path) -> Result<Tree> {
    let tree = Tree::new(release.work().join("root"))?;
    tree.copy(binary, "usr/bin/heimdall", 0o755)?;
    for library in build::shared_libraries(binary)? {
        let path = library.to_string_lossy();
        tree.copy(&library, path.trim_start_matches('/'), 0o755)?;
    }
    tree.copy(&Path::new("/").join(CERTIFICATES), CERTIFICATES, 0o644)?;
    let settings = release.source.join("deploy/heimdall.toml");
    tree.copy(&settings, "etc/heimdall/heimdall.toml", 0o644)?;
    let users = format!("root:x:0:0:::\nheimdall:x:{USER}:{USER}:::\n");
    tree.write("etc/passwd", users.as_bytes(), 0o644)?;
    let groups = format!("root:x:0:\nheimdall:x:{USER}:\n");
    tree.write("etc/group", groups.as_bytes(), 0o644)?;
    // For the control socket, whatever user the container runs as.
    tree.directory("run/heimdall", 0o1777)?;
    // Blocklists are sorted in temporary files.
    tree.directory("tmp", 0o1777)?;
    let licences = release.work().join("tree/share/doc/heimdall");
    let doc = "usr/share/doc/heimdall";
    for file in ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT"] {
        tree.copy(&licences.join(file), &format!("{doc}/{file}"), 0o644)?;
    }
    let libraries: PathBuf = licences.join("libraries");
    for entry in fs::read_dir(libraries)? {
        let entry = entry?;
        let name = entry.file_name();
        let path = format!("{doc}/libraries/{}", name.to_string_lossy());
        tree.copy(&entry.path(), &path, 0o644)?;
    }
    for package in ["libc6", "libgcc-s1"] {
        licences::of_package(package, package, &tree, &format!("{doc}/libraries"))?;
    }
    Ok(tree)
}

/// An image layout.
struct Layout(Tree);

impl Layout {
    /// Adds a blob; its descriptor.
    fn blob(&self, media_type: &str, content: &[u8]) -> Result<Value> {
        self.0.write("blobs/sha256/new", content, 0o644)?;
        let path = self.0.path().join("blobs/sha256/new");
        let digest = sha256(&path)?;
        fs::rename(&path, path.with_file_name(&digest))?;
        Ok(json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        }))
    }

    fn json(&self, media_type: &str, content: &Value) -> Result<Value> {
        self.blob(media_type, content.to_string().as_bytes())
    }
}
