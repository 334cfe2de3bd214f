//! What Heimdall's tools and its tests share: the XDP program's object.
// A tool may stop at once when something is wrong with them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

pub mod ebpf;

use std::path::{Path, PathBuf};

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
