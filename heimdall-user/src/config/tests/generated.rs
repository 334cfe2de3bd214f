//! What is made from the definitions: the example file and the reference. With `UPDATE=1` in the
//! environment the files are written, otherwise compared.

use std::fs;

use super::*;
use crate::config::definition::{Definition, Table};

/// Compares a file of the repository with what it should be, or writes it.
fn compare(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let command = "UPDATE=1 cargo test -p heimdall-user --lib config::";
    assert!(
        found == text,
        "{} differs from the definitions; `{command}` writes it",
        path.display()
    );
}

#[test]
fn the_example_file_is_up_to_date_and_shows_the_defaults() {
    let text = example();
    compare("deploy/heimdall.toml", &text);
    let values = |text: &str| {
        let config = from_file(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let values = config.settings.iter();
        values
            .map(|setting| (setting.key.clone(), setting.value.clone()))
            .collect::<Vec<_>>()
    };
    let uncomment = |marks: &[&str]| -> String {
        let is_key = |text: &&str| {
            let key = text.split_once(" = ").map(|(key, _)| key);
            text.starts_with("[[") || key.is_some_and(|key| !key.contains(' '))
        };
        let bare = |line| {
            let mut behind = marks
                .iter()
                .filter_map(|mark| str::strip_prefix(line, mark));
            behind.find(is_key).unwrap_or(line)
        };
        text.lines().flat_map(|line| [bare(line), "\n"]).collect()
    };
    // With the defaults written out, the outcome is the same.
    let with_defaults = uncomment(&["#= "]);
    assert_ne!(text, with_defaults);
    assert_eq!(values(&text), values(&with_defaults));
    // All that is shown can be written. The cores are those of the host in these tests.
    let all = uncomment(&["#= ", "# "]).replace("[2, 3]", "[1]");
    let config = from_file(&all).unwrap_or_else(|error| panic!("{error}: {all}"));
    for setting in config.settings.iter() {
        assert_ne!(setting.location(), Location::Unset, "{}", setting.key);
    }
    assert!(
        config
            .settings
            .iter()
            .any(|setting| setting.key == "blocklist.action")
    );
}

#[test]
fn the_reference_is_up_to_date() {
    compare("docs/settings.md", &reference());
}

/// The reference: a table for each table of the file.
fn reference() -> String {
    let mut text = "\
# Settings

Every key of the settings file, which is TOML. [deploy/heimdall.toml](../deploy/heimdall.toml), which
`heimdall check --example` prints, is a file with all of them. A flag of `heimdall run` and `heimdall check`
overrides its key; a list given by flags replaces the file's list.

The column *change* says how `heimdall reload` and the signal HUP [apply a change](changing.md#reload): *in place*, by the
running server; by a *take-over*, in which another server in the same process takes over from it; or not at all, as
it needs a *restart*.

A key that does not exist, a value of the wrong type or out of its range, and values that contradict one another
are errors, which name file, line and key.

A relative path is relative to the directory in which the server is started.
"
    .to_owned();
    for table in Config::tables() {
        text.push_str(&section(&table));
    }
    text
}

fn section(table: &Table) -> String {
    let name = match (table.name, table.repeated) {
        ("", _) => "Top of the file".to_owned(),
        (name, true) => format!("`[[{name}]]`"),
        (name, false) => format!("`[{name}]`"),
    };
    let about = match table.name {
        "" => String::new(),
        _ => format!("{}\n\n", joined(table.about)),
    };
    let rows = table.definitions.iter();
    let rows: String = rows.map(|definition| row(table, definition)).collect();
    format!(
        "\n## {name}\n\n{about}| key | values | default | change | meaning |\n|---|---|---|---|---|\n{rows}"
    )
}

fn row(table: &Table, definition: &Definition) -> String {
    let flag = definition
        .about
        .flag
        .map(|flag| format!("<br>`{} {}`", flag.name, flag.value));
    let default = match (definition.required, definition.default.as_str()) {
        (true, _) => "required".to_owned(),
        (false, "") if definition.about.unset.is_empty() => "none".to_owned(),
        (false, "") => definition.about.unset.to_owned(),
        (false, default) => format!("`{default}`"),
    };
    let applied = definition.about.applied.unwrap_or(table.applied);
    format!(
        "| `{}`{} | {} | {default} | {} | {} |\n",
        definition.key,
        flag.unwrap_or_default(),
        definition.about.values,
        applied.name(),
        joined(definition.meaning)
    )
}

fn joined(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
