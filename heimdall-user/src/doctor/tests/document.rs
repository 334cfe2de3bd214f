//! docs/doctor.md has each check and each trap. With `UPDATE=1` in the environment its tables are written,
//! otherwise compared.

use std::{collections::BTreeSet, env, fs, path::Path};

use crate::doctor::{checks, nic::TRAPS};

/// The lines between two marks of the document.
fn section(name: &str, rows: &str) -> String {
    format!("<!-- {name} -->\n{rows}<!-- end of {name} -->\n")
}

fn tables() -> [(&'static str, String); 2] {
    let mut table = String::from(
        "| check | what it looks at | why it matters | what fixes it |\n|---|---|---|---|\n",
    );
    for check in checks::ALL {
        table.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            check.id, check.examines, check.why, check.fixes
        ));
    }
    let mut traps = String::from("| driver | what happens | source |\n|---|---|---|\n");
    for trap in TRAPS {
        traps.push_str(&format!(
            "| {} | {} | {} |\n",
            trap.drivers.join(", "),
            trap.what,
            trap.source
        ));
    }
    [("checks", table), ("drivers", traps)]
}

#[test]
fn the_document_has_every_check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let mut text = fs::read_to_string(&path).unwrap();
    if env::var_os("UPDATE").is_some_and(|update| update == "1") {
        for (name, rows) in tables() {
            let (start, end) = (
                format!("<!-- {name} -->\n"),
                format!("<!-- end of {name} -->\n"),
            );
            let (before, rest) = text.split_once(&start).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            text = format!("{before}{}{after}", section(name, &rows));
        }
        fs::write(&path, &text).unwrap();
    }
    for (name, rows) in tables() {
        assert!(
            text.contains(&section(name, &rows)),
            "the table of {name} differs; `UPDATE=1 cargo test -p heimdall-user --lib doctor::` writes it"
        );
    }
}

#[test]
fn identifiers_are_unique_and_stable_in_form() {
    let ids: BTreeSet<&str> = checks::ALL.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), checks::ALL.len());
    for id in ids {
        let good = |c: char| c.is_ascii_lowercase() || c == '-' || c == '.';
        assert!(id.chars().all(good), "{id}");
    }
}
