//! The documents against the program: each command line of `heimdall` that they show is one that it takes, each block of settings
//! is valid.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, error::ErrorKind};
use lab::page::{self, Block};

use super::Cli;
use crate::config::{Config, Flags, Host};

/// Words in capital letters that stand for a value, and such a value.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("ADDRESS", "192.0.2.1"),
    ("COMMAND", "run"),
    ("FILE", "/etc/heimdall/heimdall.toml"),
    ("NAME", "www.example.com"),
    ("PATH", "/run/heimdall/control.sock"),
    ("PREFIX", "192.0.2.0/24"),
    ("TIME", "10s"),
    ("TYPE", "A"),
    ("ZONE", "example.com"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Each document with its text.
fn documents() -> Vec<(String, String)> {
    let mut paths = page::pages(&root().join("docs")).unwrap();
    paths.extend(page::pages(&root()).unwrap());
    // What it says was so at the time.
    paths.retain(|path| !path.ends_with("CHANGELOG.md"));
    paths.push(root().join("deploy/heimdall.service"));
    let read = |path: PathBuf| {
        (
            path.display().to_string(),
            fs::read_to_string(&path).unwrap(),
        )
    };
    paths.into_iter().map(read).collect()
}

/// The arguments of each `heimdall` that a line of a shell, or of a unit, starts.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.trim();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let line = line.split_once("ExecStart=").map_or(line, |(_, rest)| rest);
    let line = line.split(" # ").next().unwrap();
    let mut commands = Vec::new();
    for part in line.split(['|', '>', ';', '&', '<', '(', ')', '`']) {
        let mut words = part
            .split_whitespace()
            .map(|word| word.trim_matches(['"', '\'']));
        let program = words.next().unwrap_or_default();
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        let is_heimdall = program == "heimdall" || program.ends_with("/heimdall");
        // Otherwise it is output, such as `heimdall 0.1.0, backend xdp` and `heimdall doctor: nic.link`.
        let is_command = arguments.first().is_some_and(|first| {
            first == "COMMAND" || first.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        });
        if is_heimdall && is_command {
            commands.push(arguments);
        }
    }
    commands
}

/// Command lines of a document, in blocks and in code within text, with their places. Those within text may lack arguments, as if
/// they ended with `…`.
fn command_lines(name: &str, text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let is_document = name.ends_with(".md");
    let blocks = match is_document {
        true => page::blocks(text),
        false => vec![Block {
            line: 1,
            language: None,
            text: text.to_owned(),
            notes: Vec::new(),
        }],
    };
    let mut is_in_block = vec![false; text.lines().count() + 2];
    for block in &blocks {
        let at = format!("{name}:{}", block.line);
        let text = block.text.replace("\\\n", " ");
        // A comment may name a command, too, as text does.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            found.extend(commands(line).into_iter().map(|words| (at.clone(), words)));
        }
        let lines = block.line..block.line + block.text.lines().count();
        is_in_block[lines].fill(true);
    }
    // Code within text: each second piece between backquotes.
    for (number, line) in text.lines().enumerate().filter(|_| is_document) {
        if !is_in_block[number + 1] {
            for code in line.split('`').skip(1).step_by(2) {
                let at = format!("{name}:{}", number + 1);
                let found_here = commands(code).into_iter().map(|mut words| {
                    words.push("…".to_owned());
                    (at.clone(), words)
                });
                found.extend(found_here);
            }
        }
    }
    found
}

/// Why the program does not take a command line.
fn problem(words: &[String]) -> Option<String> {
    let fill_in = |word: &String| {
        let known = PLACEHOLDERS
            .iter()
            .find(|(placeholder, _)| placeholder == word);
        known.map_or(word.clone(), |(_, value)| (*value).to_owned())
    };
    let is_elided = words.iter().any(|word| word.contains('…'));
    let words = words.iter().take_while(|word| !word.contains('…'));
    let words = std::iter::once("heimdall".to_owned()).chain(words.map(fill_in));
    let error = Cli::command().try_get_matches_from(words).err()?;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        // What is missing may be in what the document leaves out.
        ErrorKind::MissingRequiredArgument
        | ErrorKind::InvalidValue
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if is_elided =>
        {
            None
        }
        _ => Some(error.to_string()),
    }
}

#[test]
fn the_program_takes_each_command_line_of_the_documents() {
    let mut checked = 0;
    let mut problems = Vec::new();
    for (name, text) in documents() {
        for (at, words) in command_lines(&name, &text) {
            checked += 1;
            if let Some(problem) = problem(&words) {
                problems.push(format!("{at}: heimdall {}: {problem}", words.join(" ")));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 100, "only {checked} were found");
}

#[test]
fn command_lines_are_found_and_wrong_ones_are_noticed() {
    let page = "\
Run `heimdall stats --json`, `heimdall trace` or `heimdall stats --no-such-flag`; not `heimdall doctor: nic.link`.

    $ sudo -u x true; heimdall flush --all && ./target/release/heimdall reload   # both
    heimdall 0.1.0, backend xdp
    heimdall run --interface eth0 \\
        --no-such-flag 1 | cat

```sh
heimdall serve
heimdall run …
```
";
    let found = command_lines("page.md", page);
    let words: Vec<String> = found.iter().map(|(_, words)| words.join(" ")).collect();
    assert_eq!(
        words,
        [
            "flush --all",
            "reload",
            "run --interface eth0 --no-such-flag 1",
            "serve",
            "run …",
            "stats --json …",
            "trace …",
            "stats --no-such-flag …",
        ]
    );
    let wrong: Vec<bool> = found
        .iter()
        .map(|(_, words)| problem(words).is_some())
        .collect();
    assert_eq!(wrong, [false, false, true, true, false, false, false, true]);
}

/// Whether a block has settings.
fn is_settings(block: &Block) -> bool {
    match block.language.as_deref() {
        Some(language) => language == "toml",
        None => {
            let mut lines = block.text.lines().map(str::trim);
            let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
            first.is_some_and(|first| {
                let key = first.split(" = ").next().unwrap();
                let is_key = key.len() < first.len()
                    && key.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                is_key || first.starts_with('[') && first.ends_with(']')
            })
        }
    }
}

#[test]
fn each_block_of_settings_in_the_documents_is_valid() {
    let mut checked = 0;
    for (name, text) in documents().iter().filter(|(name, _)| name.ends_with(".md")) {
        for block in page::blocks(text).iter().filter(|block| is_settings(block)) {
            // Before the first table.
            let mut lines = block.text.lines().take_while(|line| !line.starts_with('['));
            // A part of a file: the only key that has to be there may be in the rest.
            let upstream = match lines.any(|line| line.starts_with("upstream = ")) {
                true => "",
                false => "upstream = [\"9.9.9.9\"]\n",
            };
            let settings = format!("{upstream}{}", block.text);
            let config = Config::from_text(&Flags::default(), &settings, &Host::read());
            if let Err(error) = config {
                panic!("{name}:{}: {error}:\n{settings}", block.line);
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} were found");
}
