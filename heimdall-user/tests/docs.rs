//! Checks of docs/: the tests that docs/protocol.md names exist, and links have a target.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Files below a directory whose names end with `ending`.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// Names of functions and modules of the product and its tests.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(&root().join("heimdall-user"), ".rs") {
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let directory = path.parent().unwrap().file_name().unwrap();
        names.extend([file, directory.to_str().unwrap().to_owned()]);
        for line in fs::read_to_string(&path).unwrap().lines() {
            for keyword in ["fn ", "mod "] {
                let name = line.trim_start().trim_start_matches("pub ");
                if let Some(name) = name.strip_prefix(keyword) {
                    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                    names.insert(name.get(..end.unwrap_or(name.len())).unwrap().to_owned());
                }
            }
        }
    }
    names
}

#[test]
fn the_tests_that_protocol_md_names_exist() {
    let names = names();
    let text = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let mut checked = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for reference in tests.split('`').skip(1).step_by(2) {
            let last = reference.rsplit("::").next().unwrap();
            let parts: Vec<&str> = last.split(['…', '*']).filter(|p| !p.is_empty()).collect();
            for part in parts {
                let exists = if last.contains('…') {
                    names.iter().any(|name| name.contains(part))
                } else {
                    names.contains(part)
                };
                assert!(exists, "{reference} of this row does not exist: {row}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} references were found");
}

/// The anchor that Markdown renderers give a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut checked = 0;
    for path in files(&root(), ".md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(found, "{}: no heading for {link}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} links were found");
}
