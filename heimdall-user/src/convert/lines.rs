//! Lines of a settings file.

use std::fmt::Write as _;

use super::source::Statement;

/// What the settings file may have behind a line, less the statement.
const WIDTH: usize = 60;

/// A statement without a counterpart, and why it has none.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) from: Statement,
    pub(super) why: String,
}

/// What a line of the text is.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// An item of a table's key.
    Setting((&'static str, &'static str), usize),
    /// An upstream of a zone's route.
    Upstream(String, usize),
    /// Another line of it.
    Route(String),
}

/// Lines of a file.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) text: String,
    count: usize,
    /// The first line of each part, counted from 1.
    pub(super) parts: Vec<(usize, Part)>,
}

impl Lines {
    pub(super) fn begin(&mut self, part: Part) {
        self.parts.push((self.count + 1, part));
    }

    pub(super) fn blank(&mut self) {
        if self.count > 0 {
            self.text.push('\n');
            self.count += 1;
        }
    }

    /// Adds a line, and behind it where it comes from.
    pub(super) fn add(&mut self, line: &str, from: Option<&Statement>) {
        // Writing to memory cannot fail.
        let _ = match from {
            Some(from) => writeln!(self.text, "{line}  # {from}"),
            None => writeln!(self.text, "{line}"),
        };
        self.count += 1;
    }

    pub(super) fn comment(&mut self, text: &str) {
        self.add(&format!("# {}", text.replace(char::is_control, " ")), None);
    }

    pub(super) fn notes(&mut self, title: &str, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        self.blank();
        self.comment(title);
        for note in notes {
            let from = note.from.to_string();
            self.add(&format!("#   {from:WIDTH$}  {}", note.why), None);
        }
    }
}
