//! A path for a test's file.

use std::path::PathBuf;

use tempfile::TempDir;

/// A path at which there is nothing yet, in a directory of its own, which is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    /// The path.
    pub path: PathBuf,
    _directory: TempDir,
}

impl Scratch {
    /// One for a file of this name.
    ///
    /// # Panics
    /// The directory cannot be made.
    pub fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            path: directory.path().join(name),
            _directory: directory,
        }
    }
}
