//! Checks of docs/: the tests that tables name exist, links have a target, and the module table has the imports
//! of the code.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

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
fn the_tests_that_tables_name_exist() {
    let names = names();
    let mut checked = 0;
    let protocol = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let operating = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    // In docs/operating.md only the tables of failures name tests.
    let failures = operating
        .split("\n##")
        .filter(|section| section.starts_with("# When something"))
        .flat_map(|section| section.lines().skip_while(|line| !line.starts_with("|---")));
    for row in protocol
        .lines()
        .chain(failures)
        .filter(|line| line.starts_with("| "))
    {
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
    assert!(checked > 120, "only {checked} references were found");
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

/// The first name of a path, or of each path in a list in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |path: &str| -> String {
        let path = path.trim_start().chars();
        path.take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(list)];
    let mut depth = 0;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&list[at + 1..])),
            _ => {}
        }
    }
    names
}

/// The modules that a module of the library imports, its tests left out.
fn imports(module: &str) -> BTreeSet<String> {
    let source = root().join("heimdall-user/src");
    let file = source.join(format!("{module}.rs"));
    let files = match file.exists() {
        true => vec![file],
        false => files(&source.join(module), ".rs"),
    };
    let is_test = |path: &Path| {
        let parts = path.strip_prefix(&source).unwrap().iter();
        let mut names = parts.map(|part| part.to_str().unwrap().trim_end_matches(".rs"));
        names.any(|name| ["tests", "testing", "oracle"].contains(&name))
    };
    let mut imports = BTreeSet::new();
    for path in files.iter().filter(|path| !is_test(path)) {
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        for import in code.split("crate::").skip(1) {
            imports.extend(first_names(import));
        }
    }
    let modules = fs::read_to_string(source.join("lib.rs")).unwrap();
    imports.retain(|name| name != module && modules.contains(&format!("mod {name};")));
    imports
}

#[test]
fn the_module_table_has_the_imports_of_the_code() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = text.split("## Modules").nth(1).unwrap();
    let table = table.split("\n### ").next().unwrap();
    let mut listed = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [names, _, _, of_row] = cells[..] else {
            panic!("{row}")
        };
        let in_code = |cell: &'_ str| -> BTreeSet<String> {
            let names = cell.split('`').skip(1).step_by(2);
            names.map(str::to_owned).collect()
        };
        for name in in_code(names) {
            assert_eq!(in_code(of_row), imports(&name), "imports of {name}");
            listed.insert(name);
        }
    }
    let source = fs::read_to_string(root().join("heimdall-user/src/lib.rs")).unwrap();
    let modules = source.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.trim_end_matches(';').to_owned())
    });
    assert_eq!(listed, modules.collect());
}
