//! The man page of the settings file, heimdall.toml(5), made from the example file, which has every key with its
//! meaning.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::{File, NO_DATE};

const DESCRIPTION: &str = "\
The settings of `heimdall run`, in TOML. Only `upstream` is required. Flags override keys. `heimdall check --example` \
prints a file with all of them; `heimdall check --config FILE` checks one, and shows which values would be used.";

pub(crate) fn page() -> io::Result<File> {
    let version = format!("Heimdall {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", ["HEIMDALL.TOML", "5", NO_DATE, &version, "Heimdall"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("heimdall.toml - the settings of Heimdall")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman("/etc/heimdall/heimdall.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(DESCRIPTION)]);
    roff.control("SH", ["TOP OF THE FILE"]);
    add_settings(&mut roff, &heimdall_user::config::example());
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("heimdall"),
        roman("(1), "),
        bold("heimdall-check"),
        roman("(1)"),
    ]);
    let mut content = Vec::new();
    roff.to_writer(&mut content)?;
    Ok(File {
        path: "man/man5/heimdall.toml.5".into(),
        content,
    })
}

/// A section for each table of the example file, with a paragraph for each key.
fn add_settings(roff: &mut Roff, example: &str) {
    let mut comment = Vec::new();
    // The file's head is what DESCRIPTION says.
    let settings = example
        .split_once("\n\n")
        .map_or("", |(_, settings)| settings);
    for line in settings.lines() {
        if line.is_empty() {
            // About all that follows, not about a key.
            add_comment(roff, "PP", &mut comment);
        } else if let Some(table) = table(line) {
            roff.control("SH", [table]);
            add_comment(roff, "", &mut comment);
        } else if let Some(key) = key(line) {
            roff.control("TP", []);
            roff.text(key);
            add_comment(roff, "", &mut comment);
        } else {
            comment.push(line.trim_start_matches(['#', ' ']).to_owned());
        }
    }
    add_comment(roff, "PP", &mut comment);
}

/// Adds the comment that was collected, if there is one, as a paragraph that begins with a macro.
fn add_comment(roff: &mut Roff, paragraph: &str, comment: &mut Vec<String>) {
    if comment.is_empty() {
        return;
    }
    if !paragraph.is_empty() {
        roff.control(paragraph, []);
    }
    roff.text([roman(comment.join("\n"))]);
    comment.clear();
}

/// `[name]` or `# [[name]]`.
fn table(line: &str) -> Option<&str> {
    let name = line.strip_prefix("# ").unwrap_or(line);
    (name.starts_with('[') && name.ends_with(']')).then_some(name)
}

/// The tag of a key's paragraph: the key, and what its line says of the value.
fn key(line: &str) -> Option<Vec<Inline>> {
    let marks = [("#= ", " (the default)"), ("# ", ""), ("", "")];
    marks.iter().find_map(|(mark, remark)| {
        let (key, value) = line.strip_prefix(mark)?.split_once(" = ")?;
        let (value, hint) = match value.split_once("  # ") {
            Some((value, hint)) => (value, format!("; {hint}")),
            None => (value, String::new()),
        };
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        is_key.then(|| vec![bold(key), roman(format!(" = {value}{remark}{hint}"))])
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_setting_of_the_reference_is_in_the_page() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
        let reference = fs::read_to_string(reference).unwrap();
        let page = String::from_utf8(page().unwrap().content).unwrap();
        let mut keys = 0;
        for row in reference
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
        {
            let key = row.split('`').next().unwrap().replace('-', "\\-");
            assert!(page.contains(&format!(".TP\n\\fB{key}\\fR = ")), "{key}");
            keys += 1;
        }
        let paragraphs = page.matches(".TP\n").count();
        assert!(keys > 50);
        assert_eq!(keys, paragraphs);
    }

    #[test]
    fn tables_are_sections_and_comments_belong_to_their_keys() {
        let mut roff = Roff::new();
        let example = "# Head\n\n# An\n# address.\n#= listen = [\"a\"]\n\n# Caches.\n[cache]\n# Octets.\n\
                       # size = 1  # default: 2\n\n# Of names.\n# [[route]]\n# Zone.\n# zone = \"a\"\n";
        add_settings(&mut roff, example);
        assert_eq!(
            roff.to_roff(),
            ".TP\n\\fBlisten\\fR = [\"a\"] (the default)\nAn\naddress.\n.SH [cache]\nCaches.\n\
             .TP\n\\fBsize\\fR = 1; default: 2\nOctets.\n.SH [[route]]\nOf names.\n\
             .TP\n\\fBzone\\fR = \"a\"\nZone.\n"
        );
    }
}
