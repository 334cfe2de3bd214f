//! Names to be blocked, which go to files of their own: there may be millions.

use std::{collections::BTreeSet, path::Path};

use super::source::Statement;
use crate::answer::hostname;

/// The names of a blocklist that a converter makes.
#[derive(Clone, Debug)]
pub(crate) struct NameList {
    /// What they get: the setting `blocklist.action`.
    pub(crate) action: &'static str,
    names: BTreeSet<String>,
    first: Statement,
}

impl NameList {
    pub(super) fn new(action: &'static str, first: &Statement) -> Self {
        Self {
            action,
            names: BTreeSet::new(),
            first: first.clone(),
        }
    }

    /// Adds a name, with those below it. Whether it is one that a list can have.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let name = hostname::check(name.as_bytes());
        let name = name.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
        name.is_some_and(|name| {
            self.names.insert(name);
            true
        })
    }

    /// The first statement that has one of them.
    pub(super) fn first(&self) -> &Statement {
        &self.first
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The file's path, beside that of the settings.
    pub(crate) fn path(&self, settings: &Path) -> std::path::PathBuf {
        settings.with_extension(format!("{}.txt", self.action))
    }

    /// What the file has: a name a line.
    pub(crate) fn text(&self) -> String {
        self.names.iter().flat_map(|name| [name, "\n"]).collect()
    }
}
