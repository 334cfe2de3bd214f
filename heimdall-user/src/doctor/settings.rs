//! The settings that findings are about: as `run` would read them, or else the defaults.

use std::path::PathBuf;

use super::{checks, finding::Finding, fix::Fix};
use crate::{
    config::{Config, ConfigError, Flags, Host, Problem},
    forward,
};

/// Reads the settings as a start would, and what is wrong with them. Without a file and an upstream, or with bad
/// settings, the defaults stand for what is missing, so that there is always something to judge.
///
/// # Errors
/// Not even the flags can be used.
pub(crate) fn load(flags: &Flags, mut host: Host) -> Result<(Config, Finding), ConfigError> {
    // Where the control socket is does not matter here.
    host.control
        .get_or_insert_with(|| PathBuf::from("/run/heimdall/control.sock"));
    let check = &checks::SETTINGS;
    let error = match Config::load(flags, &host) {
        Ok(config) => {
            if let Err(error) = forward::check_tls(&config.upstream_options()) {
                let location = config.settings.location("forward.tls-roots");
                let finding = format!("{location}{error}; the server does not start");
                return Ok((config, check.bad("settings", finding, correct())));
            }
            let subject = flags.config.as_ref().map(|path| path.display().to_string());
            let subject = subject.unwrap_or_else(|| "settings".to_owned());
            return Ok((config, check.good(subject, "the settings are good")));
        }
        Err(error) => error,
    };
    let bare = Flags {
        config: None,
        ..with_upstream(flags)
    };
    let no_upstream = matches!(
        &error,
        ConfigError::Bad {
            problem: Problem::NoUpstream,
            ..
        }
    );
    if no_upstream && flags.config.is_none() {
        let finding = "no settings are given: the defaults are judged, and the interfaces that could be served";
        return Ok((Config::load(&bare, &host)?, check.good("settings", finding)));
    }
    let finding = check.bad(
        "settings",
        format!("{error}; findings below are for the defaults and the flags"),
        correct(),
    );
    Ok((Config::load(&bare, &host)?, finding))
}

fn correct() -> Fix {
    Fix::advice("correct it, and see `heimdall check`")
}

/// The same flags with an upstream, which no check looks at, if they have none. The address is for
/// documentation (RFC 5737).
fn with_upstream(flags: &Flags) -> Flags {
    let mut flags = flags.clone();
    let upstream = flags.settings.entry("--upstream").or_default();
    if upstream.is_empty() {
        upstream.push("192.0.2.53".to_owned());
    }
    flags
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::doctor::Level;

    fn loaded(file: Option<&str>, flags: &[(&'static str, &str)]) -> (Config, Finding) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("heimdall.toml");
        if let Some(text) = file {
            fs::write(&path, text).unwrap();
        }
        let settings = flags
            .iter()
            .map(|(flag, value)| (*flag, vec![(*value).to_owned()]));
        let flags = Flags {
            config: file.map(|_| path.clone()),
            settings: settings.collect(),
        };
        load(&flags, Host::default()).unwrap()
    }

    #[test]
    fn without_settings_the_defaults_are_judged() {
        let (config, finding) = loaded(None, &[]);
        assert_eq!(finding.level, Level::Good, "{finding}");
        assert!(finding.finding.contains("no settings are given"));
        assert!(config.interfaces.is_empty());
        let (config, finding) = loaded(None, &[("--interface", "eth7")]);
        assert_eq!(finding.level, Level::Good, "{finding}");
        assert_eq!(config.interfaces.len(), 1);
    }

    #[test]
    fn good_settings_are_used_and_bad_ones_are_a_finding() {
        let (config, finding) = loaded(Some("upstream = [\"9.9.9.9\"]\nmax-udp-size = 1400"), &[]);
        assert_eq!(finding.level, Level::Good, "{finding}");
        assert_eq!(config.max_udp_size, 1400);
        for bad in ["upstream = [\"nonsense\"]", "max-udp-size = 1400"] {
            let (config, finding) = loaded(Some(bad), &[("--cache-size", "1M")]);
            assert_eq!(finding.level, Level::Bad, "{finding}");
            assert_eq!((config.max_udp_size, config.cache.bytes), (1232, 1 << 20));
        }
        // Those of a route, too.
        for upstream in [
            "upstream = [\"tls://9.9.9.9\"]",
            "upstream = [\"9.9.9.9\"]\n[[route]]\nzone = \"a\"\nupstream = [\"tls://9.9.9.10\"]",
        ] {
            let text = format!("forward.tls-roots = \"/nonexistent/roots.pem\"\n{upstream}");
            let (_, finding) = loaded(Some(&text), &[]);
            assert_eq!(finding.level, Level::Bad, "{finding}");
            let expected = "heimdall.toml:1: key `forward.tls-roots`: /nonexistent/roots.pem: ";
            assert!(finding.finding.contains(expected), "{finding}");
        }
        let (_, finding) = loaded(Some("max-udp-size = true"), &[]);
        assert!(
            finding
                .finding
                .contains("heimdall.toml:1: key `max-udp-size`"),
            "{finding}"
        );
    }
}
