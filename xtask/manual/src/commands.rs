//! The man pages of section 1: one for `heimdall`, and one for each subcommand.

use std::io;

use clap::{Command, builder::Resettable};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{File, NO_DATE};

/// The pages, those of nested subcommands included.
pub(crate) fn pages() -> io::Result<Vec<File>> {
    let mut pages = Vec::new();
    add(&built(), &mut pages)?;
    Ok(pages)
}

/// The command line, complete with what clap adds.
fn built() -> Command {
    // `heimdall help run` is what `man heimdall-run` shows.
    let mut command = heimdall_user::cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn add(command: &Command, pages: &mut Vec<File>) -> io::Result<()> {
    pages.push(page(command)?);
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        add(subcommand, pages)?;
    }
    Ok(())
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn page(command: &Command) -> io::Result<File> {
    let name = name(command);
    // clap_mangen fills the text behind the help, which has lines to type, like a paragraph.
    let without = command.clone().after_help(Resettable::Reset);
    let mut content = Vec::new();
    Man::new(without)
        .title(name.to_uppercase())
        .date(NO_DATE)
        .source(format!("Heimdall {}", env!("CARGO_PKG_VERSION")))
        .manual("Heimdall")
        .render(&mut content)?;
    let mut roff = Roff::new();
    if let Some(help) = command.get_after_help() {
        add_sections(&mut roff, &help.to_string());
    }
    add_see_also(&mut roff, name);
    roff.to_writer(&mut content)?;
    Ok(File {
        path: format!("man/man1/{name}.1").into(),
        content,
    })
}

/// The text behind the help of a command: examples, then paragraphs. Lines that are indented stay as they are.
fn add_sections(roff: &mut Roff, text: &str) {
    let mut section = "";
    for paragraph in text.split("\n\n") {
        let examples = paragraph.strip_prefix("Examples:\n");
        let title = if examples.is_some() {
            "EXAMPLES"
        } else {
            "NOTES"
        };
        if section != title {
            roff.control("SH", [title]);
            section = title;
        } else {
            roff.control("PP", []);
        }
        let mut filled = true;
        for line in examples.unwrap_or(paragraph).lines() {
            let indented = line.starts_with(' ');
            if indented == filled {
                roff.control(if indented { "nf" } else { "fi" }, []);
                filled = !indented;
            }
            roff.text([roman(line)]);
        }
        if !filled {
            roff.control("fi", []);
        }
    }
}

fn add_see_also(roff: &mut Roff, name: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (page, section) in [("heimdall", "(1), "), ("heimdall.toml", "(5)")] {
        if page != name {
            line.extend([bold(page), roman(section)]);
        }
    }
    roff.text(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command's page has each of its flags, but those that its help leaves out.
    fn check(command: &Command) {
        let page = String::from_utf8(page(command).unwrap().content).unwrap();
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        for flag in shown.filter_map(clap::Arg::get_long) {
            let flag = format!("--{flag}").replace('-', "\\-");
            assert!(page.contains(&flag), "{} {flag}", name(command));
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn every_flag_of_every_command_is_in_its_page() {
        let command = built();
        assert!(command.get_subcommands().count() > 5);
        check(&command);
    }

    #[test]
    fn lines_to_type_stay_lines() {
        let mut roff = Roff::new();
        add_sections(
            &mut roff,
            "Examples:\n  All:\n    heimdall stats\n\nIt prints\nthem.\n\nExit code 0: a.",
        );
        assert_eq!(
            roff.to_roff(),
            ".SH EXAMPLES\n.nf\n  All:\n    heimdall stats\n.fi\n.SH NOTES\nIt prints\nthem.\n.PP\n\
             Exit code 0: a.\n"
        );
    }
}
