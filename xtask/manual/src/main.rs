//! Writes Heimdall's man pages, and the completions of its command line, from the definitions of both.
//! `cargo run --package manual -- DIRECTORY` makes them below DIRECTORY as they are below /usr/local/share. `cargo xtask
//! dist` packs them. They are written by a program of their own, so that `heimdall` has no command for what a package
//! brings.
// A tool may stop at once when something is wrong with it.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod commands;
mod settings;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap_complete::{Shell, generate};

/// Where bash, zsh and fish look for completions of what is installed in /usr/local.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/heimdall"),
    (Shell::Zsh, "zsh/site-functions/_heimdall"),
    (Shell::Fish, "fish/vendor_completions.d/heimdall.fish"),
];

/// The date of a page: none, so that the same sources give the same octets. Without the quotation marks roff would
/// take the next argument for it.
const NO_DATE: &str = "\"\"";

/// A file below /usr/local/share.
struct File {
    path: PathBuf,
    content: Vec<u8>,
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("usage: manual DIRECTORY");
        return ExitCode::from(2);
    };
    match files().and_then(|files| write(directory, &files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// All man pages and completions.
fn files() -> io::Result<Vec<File>> {
    let mut files = commands::pages()?;
    files.push(settings::page()?);
    for (shell, path) in COMPLETIONS {
        let mut content = Vec::new();
        generate(
            shell,
            &mut heimdall_user::cli::command(),
            "heimdall",
            &mut content,
        );
        files.push(File {
            path: path.into(),
            content,
        });
    }
    Ok(files)
}

fn write(directory: &Path, files: &[File]) -> io::Result<()> {
    for file in files {
        let path = directory.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, &file.content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs a program; `None`, said on stderr, if it is not installed. In CI it has to be.
    fn output(command: &mut Command) -> Option<std::process::Output> {
        match command.output() {
            Ok(output) => Some(output),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && env::var_os("CI").is_none() =>
            {
                eprintln!("SKIPPED: no {:?}", command.get_program());
                None
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    fn written() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &files().unwrap()).unwrap();
        directory
    }

    #[test]
    fn pages_are_good_roff() {
        let directory = written();
        for file in files().unwrap() {
            if !file.path.starts_with("man") {
                continue;
            }
            let path = directory.path().join(&file.path);
            let mut groff = Command::new("groff");
            groff
                .args(["-Kutf8", "-Tutf8", "-man", "-ww", "-z"])
                .arg(&path);
            let Some(output) = output(&mut groff) else {
                return;
            };
            let warnings = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {warnings}", path.display());
            assert_eq!(warnings, "", "{}", path.display());
        }
    }

    /// What bash offers for a command line that ends with the word to complete.
    fn bash(directory: &Path, words: &[&str]) -> Option<String> {
        let script = format!(
            "compopt() {{ :; }}; source {}/{}; COMP_WORDS=({}); COMP_CWORD={}; _heimdall heimdall {} {}; \
             echo \"${{COMPREPLY[@]}}\"",
            directory.display(),
            COMPLETIONS[0].1,
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = output(Command::new("bash").args(["--norc", "-c", &script]))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn bash_completes_commands_flags_and_values() {
        let directory = written();
        for (words, expected) in [
            (["heimdall", "rel"].as_slice(), "reload\n"),
            (&["heimdall", "run", "--upst"], "--upstream\n"),
            (&["heimdall", "check", "--exa"], "--example\n"),
            (&["heimdall", "run", "--backend", "s"], "socket\n"),
            (&["heimdall", "top", "--pane", "q"], "queues\n"),
            (&["heimdall", "run", "--config", "/et"], "/etc\n"),
            (&["heimdall", "run", "--snapshot", "/et"], "/etc\n"),
            // Not a file of this name.
            (&["heimdall", "run", "--log", "/et"], "/et\n"),
            (&["heimdall", "top", "--interval", "/et"], "/et\n"),
        ] {
            match bash(directory.path(), words) {
                Some(offered) => assert_eq!(offered, expected, "{words:?}"),
                None => return,
            }
        }
    }

    #[test]
    fn fish_completes_values() {
        let directory = written();
        for (line, expected) in [
            ("heimdall run --backend s", "socket\n"),
            ("heimdall run --config /et", "/etc/\n"),
            ("heimdall run --log /et", ""),
            ("heimdall run --user roo", "root"),
        ] {
            let path = directory.path().join(COMPLETIONS[2].1);
            let script = format!("source {}; complete --do-complete '{line}'", path.display());
            let Some(output) = output(Command::new("fish").args(["--no-config", "-c", &script]))
            else {
                return;
            };
            let offered = String::from_utf8(output.stdout).unwrap();
            let is_expected = match expected {
                "" => offered.is_empty(),
                expected => offered.starts_with(expected),
            };
            assert!(output.status.success() && is_expected, "{line}: {offered}");
        }
    }

    #[test]
    fn zsh_and_fish_read_their_completions() {
        let directory = written();
        for (shell, path) in [("zsh", COMPLETIONS[1].1), ("fish", COMPLETIONS[2].1)] {
            let path = directory.path().join(path);
            let Some(output) = output(Command::new(shell).arg("-n").arg(&path)) else {
                continue;
            };
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{errors}");
        }
    }
}
