//! What Heimdall's tools and its tests share: the lab, and the XDP program's object.
// A tool and its lab may stop at once when something is wrong with them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

pub mod ebpf;
pub mod lab;

use std::path::{Path, PathBuf};

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
