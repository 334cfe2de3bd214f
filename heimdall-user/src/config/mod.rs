//! The settings: the TOML file, the flags that override it, the defaults, and the checks.
//!
//! Other modules see only [`Config`], whose values are in range and agree with one another. Every
//! error is one line that says where the bad value is (file, line and key, or the flag), what is
//! wrong with it and what to write instead. This module reads the file and a few facts about the
//! host ([`Host`]); it opens no socket and starts nothing.
//!
//! Each setting is defined once, in `settings`. What reads, checks and prints settings, the example
//! file (`deploy/heimdall.toml`), the reference (`docs/settings.md`) and the flags are made from
//! that.

mod change;
mod checks;
mod definition;
mod digest;
mod document;
mod effect;
mod effective;
mod error;
mod example;
mod flags;
mod host;
mod reader;
mod routes;
mod settings;
mod spec;
mod values;

use std::path::Path;

pub(crate) use change::Change;
pub(crate) use effect::{COOKIES, RATE_LIMIT};
pub(crate) use effective::{Setting, Settings};
pub use error::{ConfigError, Location, Problem};
pub use example::example;
pub use flags::Flags;
pub use host::Host;
pub(crate) use host::default_control;
pub use settings::Config;
pub(crate) use settings::{SnapshotConfig, TierConfig, XdpConfig};
pub(crate) use spec::Applied;
pub use values::Zone;
pub(crate) use values::{
    Backend, InterfaceConfig, SandboxMode, Size, TierMode, Upstream, Zoned, upstream_address,
};

use crate::file as files;
use definition::Section;
use document::Source;
use reader::Reader;

/// Longest settings file, in octets.
const MAX_FILE: u64 = 16 << 20;

impl Config {
    /// Reads the file that `flags` name, if any; flags override it.
    ///
    /// # Errors
    /// The file cannot be read, or a value in it or in the flags is bad.
    pub fn load(flags: &Flags, host: &Host) -> Result<Self, ConfigError> {
        let text = match &flags.config {
            Some(path) => read(path)?,
            None => String::new(),
        };
        Self::from_text(flags, &text, host)
    }

    /// As [`load`](Self::load), with the file's text already read.
    ///
    /// # Errors
    /// A value in it or in the flags is bad.
    pub fn from_text(flags: &Flags, text: &str, host: &Host) -> Result<Self, ConfigError> {
        let path = flags.config.as_deref();
        let file = document::parse(path.unwrap_or(Path::new("heimdall.toml")), text)?;
        let mut reader = Reader {
            flags,
            host,
            settings: Settings::default(),
        };
        let config = <Self as Section>::read(Some(file), &mut reader)?;
        checks::check(&config, host)?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let octets = files::read(path, MAX_FILE).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let location = Source::new(path, &text).location(good, "");
        location.bad(Problem::NotUtf8)
    })
}

#[cfg(test)]
mod tests;
