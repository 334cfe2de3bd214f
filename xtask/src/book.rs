//! `cargo xtask book`: the documents as a book, in target/book.
//!
//! mdBook sees only files below its source directory, and the pages in docs/ lead to others of the repository, too. So the book is
//! made of a copy in target/book-source: docs/ with the files that its pages lead to beside them, as chapters at the
//! end if they are pages themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    setup::{Setup, cargo, run, succeeds},
    workspace,
};

/// The version of mdBook that the book is built with.
const MDBOOK: &str = "0.5.2";

#[derive(Args)]
#[command(after_help = "\
It takes the mdbook in PATH; without one, it builds one with `cargo install` into target/tools, which takes a few minutes.")]
pub(crate) struct Book {
    /// Look whether every link of the book leads somewhere
    #[arg(long)]
    check: bool,
}

impl Book {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let mdbook = mdbook(setup)?;
        let source = workspace().join("target/book-source");
        let book = workspace().join("target/book");
        stage(&workspace(), &source)?;
        run(Command::new(mdbook)
            .arg("build")
            .arg(&source)
            .arg("--dest-dir")
            .arg(&book))?;
        println!("the book: {}", book.join("index.html").display());
        if self.check {
            let checked = check(&book)?;
            println!("{checked} links lead somewhere");
        }
        Ok(())
    }
}

/// The mdbook in PATH, or one in target/tools.
fn mdbook(setup: Setup) -> Result<PathBuf> {
    let installed = PathBuf::from("mdbook");
    let tools = workspace().join("target/tools");
    let built = tools.join("bin/mdbook");
    for program in [installed, built.clone()] {
        if succeeds(Command::new(&program).arg("--version")) {
            return Ok(program);
        }
    }
    let install =
        format!("install --locked mdbook@{MDBOOK} --no-default-features --features search");
    if !setup.may_install() {
        bail!("no mdbook; cargo {install}");
    }
    println!("building mdbook {MDBOOK} into {}", tools.display());
    run(cargo().args(install.split(' ')).arg("--root").arg(&tools))?;
    Ok(built)
}

/// Makes the copy that the book is built of.
fn stage(repository: &Path, source: &Path) -> Result<()> {
    if source.exists() {
        fs::remove_dir_all(source)?;
    }
    let docs = source.join("docs");
    fs::create_dir_all(&docs)?;
    fs::copy(repository.join("book.toml"), source.join("book.toml"))?;
    let mut outside = BTreeSet::new();
    for entry in fs::read_dir(repository.join("docs"))? {
        let path = entry?.path();
        let to = docs.join(path.file_name().context("a file has a name")?);
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path)?;
            outside.extend(links(&text).filter_map(|link| Some(file(link.strip_prefix("../")?))));
            fs::write(to, text.replace("](../", "]("))?;
        } else {
            fs::copy(path, to)?;
        }
    }
    let mut chapters = String::new();
    // Pages of the repository lead to others.
    let mut left: Vec<String> = outside.iter().cloned().collect();
    while let Some(name) = left.pop() {
        let (from, to) = (repository.join(&name), docs.join(&name));
        fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        if !name.ends_with(".md") {
            fs::copy(from, to)?;
            continue;
        }
        let text = fs::read_to_string(from)?;
        let title = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches('#');
        chapters.push_str(&format!("- [{}]({name})\n", title.trim()));
        for link in links(&text).filter(|link| is_file(link) && !link.starts_with("docs/")) {
            if outside.insert(file(link)) {
                left.push(file(link));
            }
        }
        fs::write(to, text.replace("](docs/", "]("))?;
    }
    let summary = docs.join("SUMMARY.md");
    let text = fs::read_to_string(&summary)?;
    fs::write(summary, format!("{text}\n# The repository\n\n{chapters}"))?;
    Ok(())
}

/// The targets of a page's links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1);
    links.filter_map(|rest| rest.split(')').next())
}

/// Whether a link leads to a file of the repository.
fn is_file(link: &str) -> bool {
    !link.contains("://") && !link.starts_with('#')
}

/// A link without its anchor.
fn file(link: &str) -> String {
    link.split('#').next().unwrap_or(link).to_owned()
}

/// Checks the links of the pages that were built: each file exists, and has the anchor. How many there are.
fn check(book: &Path) -> Result<usize> {
    let mut pages = BTreeMap::new();
    collect(book, &mut pages)?;
    let mut checked = 0;
    let mut problems = Vec::new();
    for (path, text) in &pages {
        // It has links that are relative to any path.
        if path.ends_with("404.html") {
            continue;
        }
        for link in attributes(text, "href").chain(attributes(text, "src")) {
            if link.contains("://") || link.starts_with("data:") || link.is_empty() {
                continue;
            }
            checked += 1;
            let (name, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match name {
                "" => path.clone(),
                name => normal(&path.parent().unwrap_or(book).join(name)),
            };
            let has_anchor = |text: &String| attributes(text, "id").any(|id| id == anchor);
            let is_good = target.exists()
                && (anchor.is_empty() || pages.get(&target).is_some_and(has_anchor));
            if !is_good {
                problems.push(format!("{}: {link}", path.display()));
            }
        }
    }
    ensure!(
        problems.is_empty(),
        "links without a target:\n{}",
        problems.join("\n")
    );
    Ok(checked)
}

/// All HTML files below a directory.
fn collect(directory: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "html")
        {
            let text = fs::read_to_string(&path)?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// The values of an attribute.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let mark = format!(" {name}=\"");
    let values: Vec<&str> = text.split(&mark).skip(1).collect();
    values.into_iter().filter_map(|rest| rest.split('"').next())
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_what_pages_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        stage(&workspace(), directory.path()).unwrap();
        let docs = directory.path().join("docs");
        for name in [
            "CONTRIBUTING.md",
            "deploy/heimdall.toml",
            "settings.md",
            "bench.svg",
        ] {
            assert!(docs.join(name).exists(), "{name}");
        }
        let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
        assert!(
            summary.contains("- [Contributing](CONTRIBUTING.md)\n"),
            "{summary}"
        );
        for page in fs::read_dir(&docs).unwrap().flatten() {
            let path = page.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                for link in links(&text).filter(|link| is_file(link)) {
                    assert!(docs.join(file(link)).exists(), "{}: {link}", path.display());
                }
            }
        }
    }

    #[test]
    fn links_without_a_target_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let book = directory.path();
        fs::create_dir(book.join("sub")).unwrap();
        let page = r##"<h2 id="here"><a href="sub/b.html#there"><a href="#here">"##;
        fs::write(book.join("a.html"), page).unwrap();
        let page = r#"<h2 id="there"><a href="../a.html"><img src="https://x.example/y">"#;
        fs::write(book.join("sub/b.html"), page).unwrap();
        assert_eq!(check(book).unwrap(), 3);
        let page = r#"<a href="a.html#nowhere"><a href="d.html">"#;
        fs::write(book.join("c.html"), page).unwrap();
        let problems = check(book).unwrap_err().to_string();
        assert_eq!(problems.lines().count(), 3, "{problems}");
    }
}
