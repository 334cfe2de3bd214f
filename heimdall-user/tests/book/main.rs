//! The commands that docs/ shows, run as printed. Pages with such commands are the tutorial (docs/getting-started.md) and the
//! how-tos (docs/how-to-*.md); each gets a [`Host`] of its own, and its blocks run in their order. A comment before a block says
//! what is done with it:
//!
//! | comment | what is done |
//! |---|---|
//! | `run` | the commands run, and have to succeed |
//! | `run; fails` | they run, and have to fail |
//! | `start until: TEXT` | they go on in the background until the end of the page; TEXT is waited for |
//! | `on the client` after either | they run on another machine, whose queries arrive on the host's eth0 |
//! | `stop the others` after either | what was started before is stopped first |
//! | `as: COMMAND` at the end of either | COMMAND runs instead, such as a server itself in place of systemctl, which this host does not have |
//! | `file: PATH` | it is written to this file |
//! | `output` | it is compared with the output of the block before: `…` stands for any text, and alone on a line for any lines |
//! | `not run: WHY` | nothing |
//!
//! Each block of commands (`sh`) on such a page has one of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod host;

use std::{
    fs,
    path::{Path, PathBuf},
};

use host::{Host, Place};
use lab::page::{self, Block};

/// What a comment says about its block.
#[derive(Debug, PartialEq, Eq)]
enum Note {
    Run(Run),
    File(String),
    Output,
    NotRun,
}

#[derive(Debug, PartialEq, Eq)]
struct Run {
    place: Place,
    /// Whether what was started before is stopped first.
    alone: bool,
    /// What runs instead.
    instead: Option<String>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    /// There is none: it goes on in the background when it has written this.
    Background(String),
}

impl Note {
    /// Reads a comment; `None` if it says something else.
    fn parse(comment: &str) -> Option<Self> {
        // A command may have semicolons itself.
        let (comment, instead) = match comment.split_once("; as: ") {
            Some((before, command)) => (before, Some(command.to_owned())),
            None => (comment, None),
        };
        let mut parts = comment.split("; ");
        let first = parts.next()?;
        if let Some(path) = first.strip_prefix("file: ") {
            return Some(Self::File(path.to_owned()));
        }
        if first == "output" {
            return Some(Self::Output);
        }
        // A reason is part of it.
        if first
            .strip_prefix("not run: ")
            .is_some_and(|why| !why.is_empty())
        {
            return Some(Self::NotRun);
        }
        let end = match first.strip_prefix("start until: ") {
            Some(text) => End::Background(text.to_owned()),
            None if first == "run" => End::Success,
            None => return None,
        };
        let mut run = Run {
            place: Place::Server,
            alone: false,
            instead,
            end,
        };
        for part in parts {
            match part {
                "on the client" => run.place = Place::Client,
                "stop the others" => run.alone = true,
                "fails" => run.end = End::Failure,
                _ => return None,
            }
        }
        Some(Self::Run(run))
    }
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The pages whose commands run.
fn pages() -> Vec<PathBuf> {
    let mut pages = page::pages(&docs()).unwrap();
    pages.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name == "getting-started.md" || name.starts_with("how-to-")
    });
    pages
}

/// The blocks of a page with what their comments say.
fn blocks(path: &Path) -> Vec<(Block, Option<Note>)> {
    let text = fs::read_to_string(path).unwrap();
    let blocks = page::blocks(&text).into_iter().map(|block| {
        let at = format!("{}:{}", path.display(), block.line);
        let mut notes = block.notes.iter();
        let note = notes.next().map(|comment| {
            let note = Note::parse(comment);
            note.unwrap_or_else(|| panic!("{at}: the comment {comment:?} is not understood"))
        });
        assert_eq!(notes.next(), None, "{at}: a second comment");
        (block, note)
    });
    blocks.collect()
}

#[test]
fn each_block_of_commands_says_whether_it_runs() {
    let (mut run, mut not_run) = (0, 0);
    for path in pages() {
        for (block, note) in blocks(&path) {
            let at = format!("{}:{}", path.display(), block.line);
            assert!(block.language.is_some(), "{at}: a block without a language");
            if block.language.as_deref() == Some("sh") {
                match note {
                    Some(Note::Run(_)) => run += 1,
                    Some(Note::NotRun) => not_run += 1,
                    _ => panic!("{at}: these commands need a comment, run or not run"),
                }
            }
        }
    }
    // Most of what is printed is tried out.
    assert!(run > 2 * not_run && run > 20, "{run} run, {not_run} do not");
}

/// What deploy/ has for routing daemons is what the page shows, and so runs here.
#[test]
fn the_page_on_anycast_shows_the_files_of_deploy() {
    let blocks = blocks(&docs().join("how-to-anycast.md"));
    for (file, path) in [
        ("bird.conf", "/etc/bird/bird.conf"),
        ("frr.conf", "/etc/frr/frr.conf"),
    ] {
        let shown = blocks.iter().find_map(|(block, note)| match note {
            Some(Note::File(name)) if name == path => Some(block.text.trim_end()),
            _ => None,
        });
        let deployed = fs::read_to_string(docs().join("../deploy").join(file)).unwrap();
        assert_eq!(shown, Some(deployed.trim_end()), "{file}");
    }
}

/// Runs what a page has.
fn try_out(name: &str) {
    if !lab::available(name) {
        return;
    }
    let path = docs().join(format!("{name}.md"));
    let mut host = Host::new(Path::new(env!("CARGO_BIN_EXE_heimdall")));
    let mut last = None;
    for (block, note) in blocks(&path) {
        let at = format!("{}:{}", path.display(), block.line);
        match note {
            Some(Note::File(file)) => host.write(&file, &block.text),
            Some(Note::Output) => {
                let output: &String = last.as_ref().expect("a block that has run");
                assert!(
                    page::shows(&block.text, output),
                    "{at}: this is not what came out:\n{output}"
                );
            }
            Some(Note::Run(run)) => {
                let script = run.instead.as_deref().unwrap_or(&block.text);
                last = Some(execute(&mut host, &run, script, &at));
            }
            Some(Note::NotRun) | None => {}
        }
    }
}

/// Runs a block, which has to end as it should; its output.
fn execute(host: &mut Host, run: &Run, script: &str, at: &str) -> String {
    if run.alone {
        host.stop();
    }
    if let End::Background(text) = &run.end {
        let started = host.start(run.place, script, text);
        return started.unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    let output = host.run(run.place, script);
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let as_expected = output.status.success() == (run.end == End::Success);
    assert!(as_expected, "{at}: {}:\n{text}", output.status);
    text
}

/// A test for each page, so that they run side by side.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        $(
            #[test]
            fn $test() {
                try_out($page);
            }
        )*

        #[test]
        fn each_page_has_a_test() {
            let stems = pages().into_iter().map(|path| {
                path.file_stem().unwrap().to_str().unwrap().to_owned()
            });
            assert_eq!(stems.collect::<Vec<_>>(), [$($page),*]);
        }
    };
}

pages! {
    getting_started: "getting-started",
    how_to_anycast: "how-to-anycast",
    how_to_blocklists: "how-to-blocklists",
    how_to_front_a_resolver: "how-to-front-a-resolver",
    how_to_replace_dnsmasq: "how-to-replace-dnsmasq",
    how_to_run_as_a_service: "how-to-run-as-a-service",
}

#[test]
fn comments_are_understood_or_refused() {
    let run = |place, instead: Option<&str>, end| {
        Some(Note::Run(Run {
            place,
            alone: false,
            instead: instead.map(str::to_owned),
            end,
        }))
    };
    for (comment, note) in [
        ("run", run(Place::Server, None, End::Success)),
        ("run; fails", run(Place::Server, None, End::Failure)),
        ("run; on the client", run(Place::Client, None, End::Success)),
        (
            "start until: ready; as: unbound -d -p",
            run(
                Place::Server,
                Some("unbound -d -p"),
                End::Background("ready".to_owned()),
            ),
        ),
        ("file: /etc/x", Some(Note::File("/etc/x".to_owned()))),
        ("output", Some(Note::Output)),
        ("not run: it needs a NIC", Some(Note::NotRun)),
        ("not run: ", None),
        ("not run", None),
        ("run; sometimes", None),
        ("start", None),
    ] {
        assert_eq!(Note::parse(comment), note, "{comment}");
    }
}

#[test]
fn a_host_is_private_and_reaches_the_resolvers_that_pages_name() {
    if !lab::available("a_host_is_private") {
        return;
    }
    let host = Host::new(Path::new(env!("CARGO_BIN_EXE_heimdall")));
    host.write("/etc/heimdall/of-a-test", "text\n");
    let output = host.run(
        Place::Server,
        "cat /etc/heimdall/of-a-test; heimdall --version; kdig +short @9.9.9.9 example.com; ip -o link show eth0",
    );
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        page::shows("text\nheimdall …\n192.0.2.1\n… eth0@…", &text),
        "{text}"
    );
    assert!(!Path::new("/etc/heimdall/of-a-test").exists());
    let output = host.run(Place::Server, "false; true");
    assert!(!output.status.success(), "a command failed");
}
