//! The TOML file, as it is written: every key optional, every value with its place. Text that
//! stands for something is read only when its place is at hand for the error.

use std::{ops::Range, path::Path};

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Place, Problem, Size};

/// A value that may be there.
pub(super) type Key<T> = Option<Spanned<T>>;

/// A list that may be there.
pub(super) type List<T> = Option<Spanned<Vec<Spanned<T>>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) interface: List<String>,
    pub(super) listen: List<String>,
    pub(super) upstream: List<String>,
    pub(super) backend: Key<String>,
    pub(super) control: Key<String>,
    pub(super) max_udp_size: Key<i64>,
    #[serde(default)]
    pub(super) cache: CacheTable,
    #[serde(default)]
    pub(super) forward: ForwardTable,
    #[serde(default)]
    pub(super) xdp: XdpTable,
    #[serde(default)]
    pub(super) access: AccessTable,
    #[serde(default)]
    pub(super) rate_limit: RateLimitTable,
    #[serde(default)]
    pub(super) cookies: CookiesTable,
    #[serde(default)]
    pub(super) identity: IdentityTable,
    #[serde(default)]
    pub(super) local: LocalTable,
    #[serde(default)]
    pub(super) blocklist: Vec<BlocklistTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct AccessTable {
    pub(super) allow: List<String>,
    pub(super) refuse: List<String>,
    pub(super) drop: List<String>,
    pub(super) non_recursive: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct RateLimitTable {
    pub(super) responses_per_second: Key<i64>,
    pub(super) burst: Key<i64>,
    pub(super) slip: Key<i64>,
    pub(super) ipv4_prefix: Key<i64>,
    pub(super) ipv6_prefix: Key<i64>,
    pub(super) exempt: List<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct CookiesTable {
    pub(super) enabled: Option<bool>,
    pub(super) secrets: List<String>,
    pub(super) demand_above: Key<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct IdentityTable {
    pub(super) version: Key<String>,
    pub(super) server_id: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct LocalTable {
    pub(super) hosts: List<String>,
    pub(super) records: List<String>,
    pub(super) special_names: Option<bool>,
    pub(super) special_names_except: List<String>,
    pub(super) blocklist_aliases: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct BlocklistTable {
    pub(super) file: Spanned<String>,
    pub(super) action: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct CacheTable {
    pub(super) size: Key<Size>,
    pub(super) min_ttl: Key<i64>,
    pub(super) max_ttl: Key<i64>,
    pub(super) max_negative_ttl: Key<i64>,
    pub(super) stale_max_age: Key<i64>,
    pub(super) nxdomain_cut: Option<bool>,
    pub(super) snapshot: Key<String>,
    pub(super) snapshot_interval: Key<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct ForwardTable {
    pub(super) threads: Key<i64>,
    pub(super) timeout_ms: Key<i64>,
    pub(super) attempts: Key<i64>,
    pub(super) queue: Key<i64>,
    pub(super) max_in_flight: Key<i64>,
    pub(super) trust_ad: Option<bool>,
    pub(super) client_response_timeout_ms: Key<i64>,
    pub(super) failure_ttl_max: Key<i64>,
    pub(super) client_subnet: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", rename_all = "kebab-case")]
pub(super) struct XdpTable {
    pub(super) cpus: List<i64>,
    pub(super) frames: Key<i64>,
    pub(super) spin_us: Key<i64>,
    pub(super) verify_checksums: Option<bool>,
}

/// Reads the file's text.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let key = key_of(error.clone());
        let message = error
            .message()
            .replace("unknown field", "unknown key")
            .replace("expected a sequence", "expected a list")
            .replace("expected i64", "expected a whole number")
            .replace('\n', "; ");
        ConfigError::Bad {
            place: place(path, text, error.span().unwrap_or_default(), key),
            problem: Problem::Toml(message),
        }
    })
}

/// The dotted key that a TOML error is about. The error tells it only in its text, and only
/// when it does not show the input.
fn key_of(mut error: toml::de::Error) -> String {
    error.set_input(None);
    error
        .to_string()
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("in `")?.strip_suffix('`'))
        .unwrap_or_default()
        .to_owned()
}

/// Where in the file a value stands.
pub(super) fn place(path: &Path, text: &str, span: Range<usize>, key: String) -> Place {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    Place::File {
        path: path.to_owned(),
        line: 1 + before.iter().filter(|octet| **octet == b'\n').count(),
        key,
    }
}
