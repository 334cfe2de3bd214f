//! Checks of docs/: the tests that tables name exist, every page is in the book, links have a target, commands are of known
//! programs, and the module table has the imports of the code. (`tests/book` runs commands; `cli::documents` checks
//! those of `heimdall`, and settings.)
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use lab::page;

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
    let failures = fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let faults = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    // In docs/failures.md only the tables of failures name tests, and none of messages.
    let failures = failures
        .split("\n##")
        .filter(|section| section.starts_with(" When something"))
        .flat_map(|section| section.lines().skip_while(|line| !line.starts_with("|---")));
    for row in protocol
        .lines()
        .chain(failures)
        .chain(faults.lines())
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

#[test]
fn the_book_has_every_page_once() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut listed: Vec<&str> = summary
        .split("](")
        .skip(1)
        .map(|link| link.split(')').next().unwrap())
        .collect();
    listed.sort_unstable();
    let pages = page::pages(&root().join("docs")).unwrap();
    let names = pages
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap());
    let pages: Vec<&str> = names.filter(|name| *name != "SUMMARY.md").collect();
    assert_eq!(listed, pages);
}

/// Whether an address on the web is written as one: scheme, host, and a rest of characters that need no escape (RFC 3986).
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.split(':').next().unwrap();
    let port = authority.split_once(':').map_or("80", |(_, port)| port);
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    ["http", "https"].contains(&scheme)
        && (host.contains('.') || host == "localhost")
        && host.split('.').all(is_label)
        && port.parse::<u16>().is_ok()
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._~/?#%=&+@:!,;*'[]".contains(c))
}

#[test]
fn links_to_the_web_are_well_formed() {
    for (text, is_one) in [
        ("https://www.rfc-editor.org/rfc/rfc9499#section-2", true),
        ("http://localhost:9453/", true),
        ("https://example", false),
        ("htps://example.com", false),
        ("https://example.com/a b", false),
        ("https://exa_mple..com/", false),
    ] {
        assert_eq!(is_url(text), is_one, "{text}");
    }
    let mut checked = 0;
    for path in files(&root(), ".md") {
        let text = fs::read_to_string(&path).unwrap();
        // Links in text: `](URL)` and `<URL>`.
        let links = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        let bare = text
            .split("<http")
            .skip(1)
            .map(|rest| rest.split('>').next().unwrap());
        let bare = bare.map(|rest| format!("http{rest}"));
        let links = links.filter(|link| link.contains("://")).map(str::to_owned);
        for link in links.chain(bare) {
            assert!(is_url(&link), "{}: {link}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} links were found");
}

/// Programs that commands in the documents start, beside the shell's own.
const PROGRAMS: &[&str] = &[
    "apt",
    "apt-get",
    "bird",
    "birdc",
    "cargo",
    "cat",
    "chmod",
    "chown",
    "cp",
    "curl",
    "dnsmasq",
    "echo",
    "editor",
    "ethtool",
    "grep",
    "groupadd",
    "heimdall",
    "install",
    "ip",
    "journalctl",
    "jq",
    "kdig",
    "mkdir",
    "mv",
    "nft",
    "openssl",
    "podman",
    "sed",
    "setpriv",
    "skopeo",
    "sleep",
    "sysctl",
    "systemctl",
    "systemd-sysusers",
    "tar",
    "unbound",
    "unbound-checkconf",
    "useradd",
    "vtysh",
];

/// What `ethtool` is asked for, and `ip`, each with the objects that it knows.
const ETHTOOL: &[&str] = &[
    "-A", "-C", "-G", "-K", "-L", "-N", "-S", "-X", "-c", "-g", "-i", "-k", "-l", "-n", "-x",
];
const IP: &[&str] = &[
    "addr", "link", "netns", "route", "-n", "-s", "-6", "-br", "-details",
];

/// Why a line of a shell is not what it seems to be.
fn command_problem(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    let first = words.next().unwrap_or_default();
    if !PROGRAMS.contains(&program) {
        return Some(format!("{program} is not known"));
    }
    let known = match program {
        "ethtool" => ETHTOOL,
        "ip" => IP,
        _ => return None,
    };
    (!known.contains(&first)).then(|| format!("{program} {first} is not known"))
}

#[test]
fn commands_of_the_book_are_of_known_programs() {
    for (line, is_good) in [
        ("ethtool -K eth0 rxvlan off", true),
        ("ethtool -Z eth0", false),
        ("ip link set eth0 up", true),
        ("ip lnik set eth0 up", false),
        ("sytemctl restart heimdall", false),
    ] {
        assert_eq!(command_problem(line).is_none(), is_good, "{line}");
    }
    let mut checked = 0;
    for (path, block) in blocks("sh") {
        let script = block.text.replace("\\\n", " ");
        for line in script
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let line = line.split(" #").next().unwrap();
            for command in line.split(['|', ';']).flat_map(|part| part.split("&&")) {
                if let Some(problem) = command_problem(command) {
                    panic!("{}:{}: {line}: {problem}", path.display(), block.line);
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 40, "only {checked} commands were found");
}

/// The blocks of the documents in this language, and the files that they are in.
fn blocks(language: &str) -> Vec<(PathBuf, page::Block)> {
    let mut found = Vec::new();
    for path in page::pages(&root().join("docs")).unwrap() {
        let blocks = page::blocks(&fs::read_to_string(&path).unwrap());
        let blocks = blocks
            .into_iter()
            .filter(|block| block.language.as_deref() == Some(language));
        found.extend(blocks.map(|block| (path.clone(), block)));
    }
    found
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
