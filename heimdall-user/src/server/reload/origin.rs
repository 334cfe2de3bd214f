//! What a policy was made of: the settings, and the files that they name.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::config::Config;

/// What the current policy was made of.
pub(in crate::server) struct Origin {
    /// The settings in force: those of the last reload, except for changes that need a restart.
    pub(in crate::server) config: Config,
    /// Its files as they were when they were read.
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// Tells a file from another one at the same path, and from itself after a change: device, inode, length, and
/// the times of the last change of its contents and of the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    /// `None`: there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self([
            found.dev() as i64,
            found.ino() as i64,
            found.size() as i64,
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ]))
    }
}

impl Origin {
    /// To be called before the policy is made: what changes after that has changed.
    pub(in crate::server) fn of(config: &Config) -> Self {
        let lists = config.blocklists.iter().map(|list| &list.file);
        let paths = lists.chain(&config.local.hosts);
        Self {
            files: paths.map(|path| (path.clone(), Stamp::of(path))).collect(),
            config: config.clone(),
        }
    }

    /// Whether a file is not the one any more that the policy was made of.
    pub(in crate::server) fn has_changed(&self, path: &Path) -> bool {
        let known = self.files.iter().find(|(known, _)| known == path);
        known.is_none_or(|(_, stamp)| stamp.is_none() || *stamp != Stamp::of(path))
    }

    /// The files that are named as before, and have other contents.
    pub(super) fn changed_files(&self, config: &Config) -> Vec<PathBuf> {
        let is_named = |path: &PathBuf| {
            let mut lists = config.blocklists.iter();
            lists.any(|list| list.file == *path) || config.local.hosts.contains(path)
        };
        let files = self.files.iter().map(|(path, _)| path);
        let changed = files.filter(|path| is_named(path) && self.has_changed(path));
        changed.cloned().collect()
    }
}
