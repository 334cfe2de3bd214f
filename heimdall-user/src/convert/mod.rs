//! Makes settings from the configurations of other servers: unbound, dnsmasq, dnsdist, and resolv.conf.
//!
//! A converter ([`Kind`]) reads statements (`source`) and puts what they say into a [`Draft`], or notes why a statement has no
//! counterpart. [`finish`](Draft::finish) writes the settings, and leaves out what a check rejects. Files are read through
//! [`Files`] only. What is read is untrusted: it is bounded, and never makes a converter panic.

mod dnsdist;
mod dnsmasq;
mod draft;
mod lines;
mod lists;
mod resolv_conf;
mod source;
mod unbound;
mod values;

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use thiserror::Error;

use crate::file;
pub use draft::{Draft, Outcome};
pub(crate) use lists::NameList;
use source::Reader;

/// Octets of a configuration file.
const MAX_FILE: u64 = 64 << 20;

/// Why nothing was converted. One line each.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is more than a converter takes.
    #[error("{}: the configuration has more than {what}; convert a part of it", path.display())]
    TooMuch {
        /// The file in which that was found.
        path: PathBuf,
        /// The bound.
        what: &'static str,
    },
    /// Neither the file's name nor what is in it says what it is.
    #[error(
        "{}: it is not clear whose configuration this is; give --from unbound, dnsmasq, dnsdist or resolv-conf",
        .0.display()
    )]
    Unknown(PathBuf),
    /// A program.
    #[error(
        "{}: this is a Lua program, which cannot be converted without running it; write it as dnsdist.yml (dnsdist 2.0), \
         or see docs/migration.md for what to write instead of its calls",
        .0.display()
    )]
    Lua(PathBuf),
    /// Not YAML.
    #[error("{}:{line}: this is not YAML that can be read: {why}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The settings would let in clients that the configuration keeps out.
    #[error(
        "{statement}: no `access.{key}` can be made of it, and without that clients would be let in that it keeps out: {why}"
    )]
    LetsIn {
        /// The statement, with its file and line.
        statement: String,
        /// The key in the table `access`.
        key: &'static str,
        /// Why that cannot be made of it, or is rejected.
        why: String,
    },
    /// No resolver is left to forward to.
    #[error(
        "{}: it names no resolver that Heimdall could forward to{left_out}; give one by --upstream ADDR",
        path.display()
    )]
    NoUpstream {
        /// The file.
        path: PathBuf,
        /// The resolvers that it names, and why each was left out.
        left_out: String,
    },
}

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// unbound.conf.
    Unbound,
    /// dnsmasq.conf.
    Dnsmasq,
    /// dnsdist.yml.
    Dnsdist,
    /// resolv.conf(5).
    ResolvConf,
}

/// How a converter reads files.
pub trait Files {
    /// The octets of a file.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `max` octets.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>>;

    /// The files that a pattern with `*`, `?` and `[…]` matches, in the order of their paths.
    ///
    /// # Errors
    /// It is no pattern.
    fn matching(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The files of this host.
#[derive(Clone, Copy, Debug)]
pub struct OnDisk;

impl OnDisk {
    /// The text of the file that is converted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(path: &Path) -> Result<String, ConvertError> {
        let octets = file::read(path, MAX_FILE).map_err(|source| ConvertError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }
}

impl Files for OnDisk {
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        file::read(path, max)
    }

    fn matching(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let found = glob::glob(&pattern.to_string_lossy()).map_err(io::Error::other)?;
        let paths = found.filter_map(Result::ok);
        Ok(paths.filter(|path| path.is_file()).collect())
    }
}

/// Why settings are rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The line that is at fault, counted from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub why: String,
}

impl Rejection {
    /// Reads an error about settings, which begins with `FILE:LINE: ` if a line is at fault.
    pub fn read(error: &str) -> Self {
        let mut parts = error.splitn(3, ':');
        let line = parts.nth(1).and_then(|line| line.parse().ok());
        match (line, parts.next()) {
            (Some(line), Some(why)) => Self {
                line: Some(line),
                why: why.trim_start().to_owned(),
            },
            _ => Self {
                line: None,
                why: error.to_owned(),
            },
        }
    }
}

impl Kind {
    /// What a file is by its name, or else by what is in it, or else by the directories that it is in.
    ///
    /// # Errors
    /// None of these says it, or it is one that cannot be converted.
    pub fn detect(path: &Path, text: &str) -> Result<Self, ConvertError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_lua = name.ends_with(".lua") || name.contains("dnsdist") || dnsdist::is_lua(text);
        match by_name(&name) {
            Some(kind) => Ok(kind),
            None if is_lua => Err(ConvertError::Lua(path.to_owned())),
            None => by_content(text)
                .or_else(|| by_name(&path.to_string_lossy()))
                .ok_or_else(|| ConvertError::Unknown(path.to_owned())),
        }
    }

    /// Makes a draft of a file's text. Where it names no resolver for all other names, those of `upstreams` are taken.
    ///
    /// # Errors
    /// There is too much of it, or it cannot be read at all.
    pub fn convert(
        self,
        path: &Path,
        text: &str,
        upstreams: &[String],
        files: &dyn Files,
    ) -> Result<Draft, ConvertError> {
        let mut reader = Reader::new(files);
        let mut draft = Draft::new(path);
        match self {
            Self::Unbound => unbound::convert(path, text, &mut reader, &mut draft)?,
            Self::Dnsmasq => dnsmasq::convert(path, text, &mut reader, &mut draft)?,
            Self::Dnsdist => dnsdist::convert(path, text, &mut draft)?,
            Self::ResolvConf => resolv_conf::convert(path, text, &mut draft),
        }
        if !draft.has("upstream") {
            for upstream in upstreams {
                draft.push("upstream", upstream.as_str(), None);
            }
            if self == Self::Unbound && upstreams.is_empty() {
                unbound::forward_to_unbound(&mut draft);
            }
        }
        Ok(draft)
    }
}

/// What a file is, by its name.
fn by_name(name: &str) -> Option<Kind> {
    let name = name.to_ascii_lowercase();
    let is_yaml = name.ends_with(".yml") || name.ends_with(".yaml");
    let parts = [
        ("unbound", Kind::Unbound),
        ("dnsmasq", Kind::Dnsmasq),
        ("resolv", Kind::ResolvConf),
    ];
    let known = parts.into_iter().find(|(part, _)| name.contains(part));
    let known = known.map(|(_, kind)| kind);
    known.or(is_yaml.then_some(Kind::Dnsdist))
}

/// What a text is, by its first statement that one kind only has.
fn by_content(text: &str) -> Option<Kind> {
    const UNBOUND: [&str; 5] = [
        "server:",
        "forward-zone:",
        "stub-zone:",
        "include:",
        "remote-control:",
    ];
    const DNSDIST: [&str; 3] = ["binds:", "backends:", "packet_caches:"];
    const DNSMASQ: [&str; 9] = [
        "server",
        "local",
        "address",
        "interface",
        "listen-address",
        "no-resolv",
        "cache-size",
        "domain-needed",
        "conf-dir",
    ];
    text.lines().find_map(|line| {
        let line = line.trim_start();
        let word = line.split([' ', '\t', '=']).next().unwrap_or_default();
        match word {
            _ if UNBOUND.contains(&word) => Some(Kind::Unbound),
            _ if DNSDIST.contains(&word) => Some(Kind::Dnsdist),
            "nameserver" => Some(Kind::ResolvConf),
            _ if DNSMASQ.contains(&word) && (line.len() == word.len() || line.contains('=')) => {
                Some(Kind::Dnsmasq)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
