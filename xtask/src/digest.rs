//! What ties the committed XDP object to its source.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The object, beside its source.
pub const OBJECT: &str = "heimdall-ebpf/heimdall.bpf.o";
/// Two lines: the digest of the sources that the object was built from, and of the object.
pub const DIGESTS: &str = "heimdall-ebpf/heimdall.bpf.o.sha256";

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// What [`DIGESTS`] has to hold for the sources and the object as they are.
///
/// # Errors
/// A file cannot be read.
pub fn expected(object: &Path) -> Result<String> {
    let root = workspace();
    let mut files = vec![root.join("heimdall-ebpf/Cargo.toml")];
    for entry in fs::read_dir(root.join("heimdall-ebpf/src"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut sources = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        sources.update(name.as_bytes());
        sources.update(fs::read(&file)?);
    }
    let object = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    Ok(format!(
        "{}  sources\n{}  object\n",
        hex(&sources.finalize()),
        hex(&Sha256::digest(object))
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}
