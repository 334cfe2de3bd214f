//! The example file: every setting with its meaning and its default.

use super::{
    Config,
    definition::{Definition, Section, Table},
    spec::Applied,
};

const HEAD: &str = "\
# Heimdall's settings. This file is what `heimdall check --example` prints. Only `upstream` is required.
# A line that begins with \"#=\" shows a default; a key behind \"# \" has none, and shows what can be written.
# Flags of `heimdall run` override keys. `heimdall check --config FILE` shows which values would be used.
# `heimdall reload`, or the signal HUP, applies changes, except of keys that say that they need a restart.
";

/// Of a key.
const RESTART: &str = "A change needs a restart.";

/// A settings file with all keys, which works as it is.
pub fn example() -> String {
    let mut text = HEAD.to_owned();
    for table in Config::tables() {
        add_table(&mut text, &table);
    }
    text
}

fn add_table(text: &mut String, table: &Table) {
    if !table.name.is_empty() {
        text.push('\n');
        table.about.iter().for_each(|line| add_comment(text, line));
        text.push_str(&match table.repeated {
            true => format!("# [[{}]]\n", table.name),
            false => format!("[{}]\n", table.name),
        });
    }
    for definition in &table.definitions {
        if table.name.is_empty() {
            text.push('\n');
        }
        for line in definition.meaning {
            add_comment(text, line);
        }
        if definition.about.applied.unwrap_or(table.applied) == Applied::Restart {
            add_comment(text, RESTART);
        }
        text.push_str(&key(table, definition));
    }
}

fn add_comment(text: &mut String, line: &str) {
    let line = line.trim().replace("`[::]`", "[::]");
    text.push_str(&format!("# {line}\n"));
}

/// The line of a key.
fn key(table: &Table, definition: &Definition) -> String {
    let Definition {
        key,
        default,
        about,
        ..
    } = definition;
    let (mark, value) = match (definition.required, default.as_str()) {
        _ if table.repeated => (
            "# ",
            if default.is_empty() {
                about.example
            } else {
                default
            },
        ),
        (true, _) => ("", about.example),
        (false, "") => ("# ", about.example),
        (false, default) => ("#= ", default),
    };
    let hint = match (about.hint, mark, about.unset) {
        (true, ..) => format!("  # {}", about.values),
        (false, "# ", unset) if !unset.is_empty() => format!("  # default: {unset}"),
        _ => String::new(),
    };
    format!("{mark}{key} = {value}{hint}\n")
}
