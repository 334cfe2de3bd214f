#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;
use crate::config::{Flags, Host};

/// A reloader whose settings are in a file.
struct Scratch {
    directory: tempfile::TempDir,
    flags: Flags,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = Flags {
            config: Some(directory.path().join("heimdall.toml")),
            ..Flags::default()
        };
        Self { directory, flags }
    }

    fn write(&self, text: &str) {
        let text = format!("backend = \"socket\"\nupstream = [\"192.0.2.53\"]\n{text}");
        fs::write(self.path("heimdall.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, text: &str) -> Reloader {
        self.write(text);
        let flags = self.flags.clone();
        let host = Host {
            control: Some(self.path("control.sock")),
            ..Host::default()
        };
        let settings = move || Config::load(&flags, &host);
        let config = settings().unwrap();
        Reloader::start(&config, Arc::new(settings), &State::default(), Vec::new()).unwrap()
    }
}

#[test]
fn what_changes_in_place_is_done_and_the_rest_is_left_to_a_successor() {
    let scratch = Scratch::new();
    let reloader = scratch.start("[cache]\nsize = \"16M\"");
    let reload = || reloader.reload_in_place().map(|outcome| outcome.unwrap());
    assert_eq!(reload().unwrap().summary, "reloaded: nothing has changed");
    scratch.write("stop-timeout = 7\n[cache]\nsize = \"16M\"\n[log]\nformat = \"json\"");
    let outcome = reload().unwrap();
    assert_eq!(
        outcome.summary,
        "reloaded: the new settings are in force; changed: stop-timeout; other settings have changed, too, and need a \
         restart: log.format"
    );
    let keys: Vec<_> = outcome
        .changes
        .iter()
        .map(|change| change.key.as_str())
        .collect();
    assert_eq!(keys, ["stop-timeout", "log.format"]);
    let origin = reloader.origin();
    assert_eq!(origin.config.stop_timeout.as_secs(), 7);
    assert_eq!(origin.config.log.format, crate::log::LogFormat::Text);

    scratch.write("[cache]\nsize = \"32M\"");
    assert!(reload().is_none(), "it takes another server");
    assert_eq!(
        reloader.origin().config.stop_timeout.as_secs(),
        7,
        "nothing was done"
    );
    *reloader.begin().unwrap() = true;
    let error = reloader.reload_in_place().unwrap().unwrap_err().to_string();
    assert!(error.contains("another server is taking over"), "{error}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let scratch = Scratch::new();
    let list = scratch.path("list");
    fs::write(&list, "a.example\n").unwrap();
    let blocklist = format!("[[blocklist]]\nfile = {list:?}");
    let reloader = scratch.start(&blocklist);
    assert_eq!(reloader.preview().unwrap().summary, "nothing would change");
    fs::write(&list, "b.example\nc.example\n").unwrap();
    let policy = reloader.policy().load_full();
    let preview = reloader.preview().unwrap();
    assert_eq!(
        preview.summary,
        format!(
            "the running server would change in place; changed files: {}",
            list.display()
        )
    );
    assert_eq!(preview.json("dry_run")["files"], json!([list]));
    scratch.write(&format!("listen = [\"127.0.0.1:5300\"]\n{blocklist}"));
    let preview = reloader.preview().unwrap();
    assert_eq!(
        preview.summary,
        format!(
            "another server in the same process would take over; changed: listen; changed files: {}",
            list.display()
        )
    );
    let document = preview.json("dry_run");
    assert_eq!(document["dry_run"], preview.summary);
    assert_eq!(document["changes"][0]["new"], json!(["127.0.0.1:5300"]));
    assert_eq!(document["changes"][0]["applied"], "take-over");
    scratch.write("[[blocklist]]\nfile = \"/nonexistent/list\"");
    let error = reloader.preview().unwrap_err().to_string();
    assert!(error.contains("cannot read /nonexistent/list"), "{error}");
    assert!(Arc::ptr_eq(&policy, &reloader.policy().load_full()));
}

#[test]
fn caches_that_do_not_fit_beside_each_other_are_refused() {
    let scratch = Scratch::new();
    let reloader = scratch.start("");
    scratch.write("cache.size = \"4000G\"");
    let refused = reloader.preview().unwrap_err().to_string();
    assert!(
        refused.contains("heimdall.toml:3: key `cache.size`: the caches of the old"),
        "{refused}"
    );
    assert!(refused.contains("MiB of memory are available"), "{refused}");
}

#[test]
fn what_is_new_in_the_settings_has_to_be_there() {
    let scratch = Scratch::new();
    let reloader = scratch.start("");
    let refused = || reloader.preview().unwrap_err().to_string();
    let write = |text: &str| {
        let text = format!("upstream = [\"192.0.2.53\"]\n{text}");
        fs::write(scratch.path("heimdall.toml"), text).unwrap();
    };
    write("backend = \"auto\"\ninterface = [\"lo\", \"none0\"]");
    let why = refused();
    assert!(why.contains("toml:3: key `interface`: "), "{why}");
    for begin in [
        "[cache]\nsnapshot = \"",
        "[query-log]\nsample = \"1/1\"\nfile = \"",
        "[dnstap]\noutput = \"file:",
    ] {
        let path = scratch.path("none/file");
        scratch.write(&format!("{begin}{}\"", path.display()));
        let why = refused();
        let directory = scratch.path("none");
        let said = format!(" can be written to {}: ", directory.display());
        assert!(
            why.contains(&said) && why.contains("make the directory"),
            "{why}"
        );
        fs::create_dir(&directory).unwrap();
        reloader.preview().unwrap();
        fs::remove_dir(&directory).unwrap();
    }
    // As at a start, what is not new need not be there.
    let path = scratch.path("none/file");
    let settings = format!("[cache]\nsnapshot = \"{}\"\n", path.display());
    let reloader = scratch.start(&settings);
    scratch.write(&format!("{settings}size = \"16M\""));
    let preview = reloader.preview().unwrap();
    assert!(
        matches!(preview.warnings.as_slice(), [one] if one.contains("key `cache.snapshot`: no snapshot can be written")),
        "{preview:?}"
    );
}

#[test]
fn warnings_about_the_settings_are_part_of_the_outcome() {
    let scratch = Scratch::new();
    let reloader = scratch.start("");
    assert_eq!(
        reloader.preview().unwrap().json("dry_run")["warnings"],
        json!([])
    );
    let settings = "[forward]\nhedge = 5\n[access]\nallow = [\"192.0.2.0/24\"]\n";
    scratch.write(settings);
    let said = |outcome: Outcome| {
        let warnings = outcome.json("reloaded")["warnings"].clone();
        let warnings: Vec<String> = serde_json::from_value(warnings).unwrap();
        assert!(
            matches!(warnings.as_slice(), [hedge, public]
                if hedge.contains("heimdall.toml:4: key `forward.hedge`: there is no second upstream")
                && public.starts_with("answering clients with PUBLIC addresses: 192.0.2.0/24;")),
            "{warnings:?}"
        );
    };
    let reload = || reloader.reload_in_place().unwrap().unwrap();
    said(reloader.preview().unwrap());
    said(reload());
    // Not only when they are new.
    said(reload());
    scratch.write(&format!("{settings}[cache]\nsize = \"16M\""));
    said(reloader.preview().unwrap());
}
