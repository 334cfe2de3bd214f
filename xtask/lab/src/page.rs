//! The documents in docs/: their blocks of code, and what comments before a block say about it.
//!
//! A block is fenced or indented by four blanks. A comment on a line of its own, such as `<!-- run -->`, belongs to the next
//! block if nothing but blank lines and further comments are between them. Renderers do not show it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A block of code in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of its first line of text, from 1 on.
    pub line: usize,
    /// What a fence says of it, `sh` for instance; `None` for an indented block.
    pub language: Option<String>,
    /// Its lines, without the indentation.
    pub text: String,
    /// The comments before it.
    pub notes: Vec<String>,
}

/// The Markdown files of a directory, in the order of their names.
///
/// # Errors
/// The directory cannot be read.
pub fn pages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The blocks of a document.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut notes = Vec::new();
    let mut lines = document.lines().enumerate().peekable();
    let mut after_blank = true;
    while let Some((number, line)) = lines.next() {
        let is_blank = line.trim().is_empty();
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let mut text = String::new();
            for (_, line) in lines.by_ref() {
                if line.trim_start().starts_with("```") {
                    break;
                }
                text.push_str(line.get(indent..).unwrap_or_default());
                text.push('\n');
            }
            blocks.push(Block {
                line: number + 2,
                language: Some(language.trim().to_owned()),
                text,
                notes: std::mem::take(&mut notes),
            });
        } else if let Some(first) = line
            .strip_prefix("    ")
            .filter(|_| after_blank && !is_blank)
        {
            let mut text = format!("{first}\n");
            while let Some((_, line)) =
                lines.next_if(|(_, line)| line.starts_with("    ") || line.trim().is_empty())
            {
                text.push_str(line.get(4..).unwrap_or_default());
                text.push('\n');
            }
            blocks.push(Block {
                line: number + 1,
                language: None,
                text: format!("{}\n", text.trim_end()),
                notes: std::mem::take(&mut notes),
            });
        } else if let Some(note) = comment(line) {
            notes.push(note.to_owned());
        } else if !is_blank {
            notes.clear();
        }
        after_blank = is_blank;
    }
    blocks
}

/// The text of a comment that takes a line.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    Some(text.trim())
}

/// Whether output is what a document shows of it: the same lines, in which `…` stands for any text, and a line `…` for any
/// lines. Blanks at the ends of lines do not count.
pub fn shows(document: &str, output: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    fit_all(&lines(document), &lines(output))
}

fn fit_all(shown: &[String], output: &[String]) -> bool {
    match shown {
        [] => output.is_empty(),
        [any, rest @ ..] if any.trim() == "…" => (0..=output.len())
            .any(|from| output.get(from..).is_some_and(|left| fit_all(rest, left))),
        [first, rest @ ..] => match output {
            [line, left @ ..] => fits(first, line) && fit_all(rest, left),
            [] => false,
        },
    }
}

/// Whether a line is one with `…` in it.
fn fits(shown: &str, line: &str) -> bool {
    match shown.split_once('…') {
        None => shown == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|left| {
            let starts = left.char_indices().map(|(at, _)| at).chain([left.len()]);
            let mut tails = starts.filter_map(|at| left.get(at..));
            tails.any(|tail| fits(after, tail))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_comments_and_text() {
        let document = "\
# Title

Text of a page:

    indented = 1

    [table]

<!-- file: /etc/x -->
<!-- second -->

```toml
key = 1
  more
```

<!-- forgotten -->
Text in between.

```sh
ls
```

  - a list
    that goes on
";
        let blocks = blocks(document);
        let block = |line, language: Option<&str>, text: &str, notes: &[&str]| Block {
            line,
            language: language.map(str::to_owned),
            text: text.to_owned(),
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
        };
        assert_eq!(
            blocks,
            [
                block(5, None, "indented = 1\n\n[table]\n", &[]),
                block(
                    13,
                    Some("toml"),
                    "key = 1\n  more\n",
                    &["file: /etc/x", "second"]
                ),
                block(21, Some("sh"), "ls\n", &[]),
            ]
        );
    }

    #[test]
    fn output_is_compared_line_by_line() {
        let output = "status: NOERROR\nFrom 127.0.0.1 in 0.3 ms\n\nlast  \n";
        for (shown, is_shown) in [
            ("status: NOERROR\nFrom … in … ms\n\nlast\n", true),
            ("…\nlast", true),
            ("status: …\n…", true),
            ("status: SERVFAIL\n…", false),
            ("status: NOERROR\nlast", false),
            ("status: NOERROR", false),
            ("…\nlast\nmore", false),
            ("", false),
        ] {
            assert_eq!(shows(shown, output), is_shown, "{shown}");
        }
    }
}
