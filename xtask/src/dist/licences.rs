//! The licences of what is linked into the binary: crates, Rust's standard library, C libraries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::tree::Tree;
use crate::setup::cargo;

/// The C libraries that are linked statically: the package of Debian, which has the licence.
pub(super) const LIBRARIES: [(&str, &str); 2] = [("libelf", "libelf-dev"), ("zlib", "zlib1g-dev")];

/// What the names of files with licences begin with, in lower case.
const NAMES: [&str; 6] = [
    "copying",
    "copyright",
    "licence",
    "license",
    "notice",
    "unlicense",
];

/// Directories whose files are licences, whatever they are called.
const DIRECTORIES: [&str; 2] = ["LICENSES", ".licenses"];

const HEAD: &str = "\
Licences of the Rust crates that are part of the program heimdall. Where a crate
has several licences to choose from, and where it brings sources that are not
part of the program, there are more texts than apply. Each text is here once,
below the crates and files that have it.
";

/// Copies Debian's file about a package's licence.
pub(super) fn of_package(package: &str, name: &str, tree: &Tree, directory: &str) -> Result<()> {
    let from = Path::new("/usr/share/doc").join(package).join("copyright");
    tree.copy(&from, &format!("{directory}/{name}.copyright"), 0o644)
}

/// Writes the licences of all that is linked statically into a directory of the tree.
pub(super) fn write(source: &Path, tree: &Tree, directory: &str) -> Result<()> {
    for (library, package) in LIBRARIES {
        of_package(package, library, tree, directory)?;
    }
    let texts = crates(source)?;
    tree.write(
        &format!("{directory}/crates.copyright"),
        texts.as_bytes(),
        0o644,
    )?;
    let mut rustc = Command::new("rustc");
    rustc.current_dir(source).args(["--print", "sysroot"]);
    let sysroot = lab::run(&mut rustc)?;
    let standard = Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    tree.copy(
        &standard,
        &format!("{directory}/rust.copyright.html"),
        0o644,
    )
}

/// A crate that is linked into the binary.
struct Crate {
    /// With the version.
    name: String,
    /// SPDX's expression.
    licence: String,
    directory: PathBuf,
}

/// The licences of all crates, in one text.
fn crates(source: &Path) -> Result<String> {
    let mut list = String::new();
    // By the words, as some copies differ in the space between them.
    let mut texts: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for Crate {
        name,
        licence,
        directory,
    } in linked(source)?
    {
        list.push_str(&format!("{name}: {licence}\n"));
        let mut files = BTreeSet::new();
        find(&directory, &mut files)?;
        ensure!(!files.is_empty(), "no licence of {name}");
        for file in files {
            let text = String::from_utf8_lossy(&fs::read(&file)?).replace("\r\n", "\n");
            let words: Vec<&str> = text.split_whitespace().collect();
            let place = file.strip_prefix(&directory)?.display();
            let (_, places) = texts
                .entry(words.join(" "))
                .or_insert_with(|| (text, Vec::new()));
            places.push(format!("{name}: {place}"));
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_values().collect();
    texts.sort_by(|(_, a), (_, b)| a.cmp(b));
    let line = "-".repeat(80);
    let mut all = format!("{HEAD}\n{list}");
    for (text, places) in texts {
        let text = text.trim_matches('\n').trim_end();
        all.push_str(&format!(
            "\n{line}\n{}\n{line}\n\n{text}\n",
            places.join("\n")
        ));
    }
    Ok(all)
}

/// The crates of others that are linked into the binary, by their names.
fn linked(source: &Path) -> Result<Vec<Crate>> {
    let tree = lab::run(cargo().current_dir(source).args([
        "tree",
        "--locked",
        "--package=heimdall-user",
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--format={p}",
    ]))?;
    // `name v1.2.3`, and remarks behind it.
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let linked: BTreeSet<(String, String)> = tree.lines().filter_map(of_line).collect();
    let metadata =
        lab::run(
            cargo()
                .current_dir(source)
                .args(["metadata", "--locked", "--format-version=1"]),
        )?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut crates = Vec::new();
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        let is_own = package["source"].is_null();
        if !is_own && linked.contains(&(name.to_owned(), format!("v{version}"))) {
            crates.push(Crate {
                name: format!("{name} {version}"),
                licence: text("license").to_owned(),
                directory: Path::new(text("manifest_path")).with_file_name(""),
            });
        }
    }
    crates.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(crates)
}

/// Finds the files with licences below a directory.
fn find(directory: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    let all = directory
        .file_name()
        .is_some_and(|name| DIRECTORIES.iter().any(|known| name == *known));
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        if name == ".github" {
            // Some check licences there.
        } else if path.is_dir() {
            find(&path, found)?;
        } else if all || NAMES.iter().any(|known| name.starts_with(known)) {
            found.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn licences_are_those_of_linked_crates() {
        let text = crates(&workspace()).unwrap();
        let (list, texts) = text.split_once("\n\n---").unwrap();
        for name in ["libbpf-sys", "ring", "rustls"] {
            assert!(list.contains(&format!("\n{name} ")), "{name}");
        }
        // Of procedural macros, build scripts, tests, and our own.
        for name in ["clap_derive", "bindgen", "proptest", "heimdall-ebpf"] {
            assert!(!list.contains(&format!("\n{name} ")), "{name}");
        }
        for copyright in ["The Libbpf Authors", "Copyright 2015-2025 Brian Smith"] {
            assert!(texts.contains(copyright), "{copyright}");
        }
        let apache = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION";
        assert!(texts.matches(apache).count() < 40);
    }

    #[test]
    fn licences_are_found_below_a_crate() {
        let directory = tempfile::tempdir().unwrap();
        for file in [
            "LICENSE-MIT",
            "c/COPYING",
            "c/main.c",
            ".licenses/Somebody",
            ".github/license.yml",
        ] {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut found = BTreeSet::new();
        find(directory.path(), &mut found).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
