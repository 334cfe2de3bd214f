//! Statements of configuration files, and the files that they include.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{ConvertError, Files};

/// Octets of all included files together.
const MAX_OCTETS: u64 = 64 << 20;

/// Files that are included, one of them in several places counted as often.
const MAX_FILES: usize = 256;

/// Files that include one another.
const MAX_DEPTH: usize = 16;

/// Letters of a statement that are shown.
const SHOWN: usize = 100;

/// A statement, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    path: Arc<Path>,
    line: usize,
    /// One line without control characters.
    text: String,
}

impl Statement {
    pub(super) fn new(path: &Arc<Path>, line: usize, text: &str) -> Self {
        Self {
            path: Arc::clone(path),
            line,
            text: shown(text),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, text } = self;
        write!(f, "{}:{line}: {text}", shown(&path.display().to_string()))
    }
}

/// A text as a comment can have it: on one line, without control characters.
pub(super) fn on_one_line(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}

/// The same, cut.
fn shown(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => on_one_line(text.get(..end).unwrap_or(text)) + "…",
        None => on_one_line(text),
    }
}

/// Reads files, within bounds.
pub(super) struct Reader<'a> {
    files: &'a dyn Files,
    octets: u64,
    read: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self {
            files,
            octets: 0,
            read: 0,
            depth: 0,
        }
    }

    /// Reads the files that a path or a pattern stands for, and passes the text of each on.
    ///
    /// # Errors
    /// There are too many, or too much is in them. That one cannot be read is no error, but given inside `Ok`: the first.
    pub(super) fn include(
        &mut self,
        pattern: &Path,
        each: impl FnMut(&mut Self, &Path, &str) -> Result<(), ConvertError>,
    ) -> Result<Result<(), String>, ConvertError> {
        match self.paths(pattern) {
            Ok(paths) if paths.is_empty() => Ok(Err("there is no such file".to_owned())),
            Ok(paths) => self.include_all(paths, each),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Like [`include`](Self::include), of these files.
    pub(super) fn include_all(
        &mut self,
        paths: Vec<PathBuf>,
        mut each: impl FnMut(&mut Self, &Path, &str) -> Result<(), ConvertError>,
    ) -> Result<Result<(), String>, ConvertError> {
        if self.depth >= MAX_DEPTH {
            return Ok(Err("too many files include one another".to_owned()));
        }
        let mut outcome = Ok(());
        for path in paths {
            let text = match self.read(&path)? {
                Ok(text) => text,
                Err(error) => {
                    outcome = outcome.and(Err(error));
                    continue;
                }
            };
            self.depth += 1;
            let done = each(self, &path, &text);
            self.depth -= 1;
            done?;
        }
        Ok(outcome)
    }

    /// Reads a file, if that can be read.
    pub(super) fn read(&mut self, path: &Path) -> Result<Result<String, String>, ConvertError> {
        let too_much = |what| {
            let path = path.to_owned();
            Err(ConvertError::TooMuch { path, what })
        };
        self.read += 1;
        if self.read > MAX_FILES {
            return too_much("256 files");
        }
        let octets = match self.files.read(path, MAX_OCTETS) {
            Ok(octets) => octets,
            Err(error) => return Ok(Err(format!("{} cannot be read: {error}", path.display()))),
        };
        self.octets += octets.len() as u64;
        if self.octets > MAX_OCTETS {
            return too_much("64 MiB");
        }
        Ok(Ok(String::from_utf8_lossy(&octets).into_owned()))
    }

    /// The files that a path stands for: itself, unless it is a pattern.
    pub(super) fn paths(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        if !pattern.to_string_lossy().contains(['*', '?', '[']) {
            return Ok(vec![pattern.to_owned()]);
        }
        let found = self.files.matching(pattern);
        found.map_err(|error| format!("{} cannot be looked for: {error}", pattern.display()))
    }
}
