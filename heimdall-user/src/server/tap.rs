//! What is observed of single queries, from the settings.

use crate::{
    config::Config,
    tap::{DnstapOptions, QueryLogOptions, TapOptions},
};

/// What the settings ask for.
pub(super) fn options(config: &Config) -> TapOptions {
    let dnstap = &config.dnstap;
    let version = || format!("heimdall {}", env!("CARGO_PKG_VERSION"));
    TapOptions {
        dnstap: dnstap.output.clone().map(|target| DnstapOptions {
            target,
            rate: dnstap.sample,
            messages: dnstap.messages.clone(),
            identity: config.identity.server_id.clone(),
            version: config.identity.version.clone().unwrap_or_else(version),
        }),
        query_log: config.query_log.sample.map(|rate| QueryLogOptions {
            rate,
            file: config.query_log.file.clone(),
        }),
    }
}
