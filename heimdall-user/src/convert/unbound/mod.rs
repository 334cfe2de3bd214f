//! [unbound.conf(5)](https://nlnetlabs.nl/documentation/unbound/unbound.conf/).

mod keys;
mod lexer;
mod local;
mod server;
mod zones;

use std::path::{Path, PathBuf};

use super::{
    ConvertError, Draft,
    source::{Reader, Statement},
};
use lexer::{Entry, SECTIONS, entries};
use local::Local;
use server::Server;
use zones::ForwardZone;

/// Statements of all files together.
const MAX_STATEMENTS: usize = 2_000_000;

/// Where an unbound that resolves by itself is expected to be, behind Heimdall.
const MOVED: &str = "127.0.0.1:5335";

/// What was read so far.
#[derive(Default)]
struct Unbound {
    section: String,
    statements: usize,
    /// Where files are looked for that are named without a directory.
    directory: PathBuf,
    server: Server,
    local: Local,
    zones: Vec<ForwardZone>,
}

pub(super) fn convert(
    path: &Path,
    text: &str,
    reader: &mut Reader<'_>,
    draft: &mut Draft,
) -> Result<(), ConvertError> {
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut unbound = Unbound {
        directory,
        ..Unbound::default()
    };
    unbound.read(path, text, reader, draft)?;
    let Unbound {
        server,
        local,
        zones,
        ..
    } = unbound;
    let transports = server.transports();
    server.finish(draft);
    for zone in zones {
        zone.finish(transports, draft);
    }
    // Local zones come before forward zones, and take the place of their routes.
    local.finish(draft);
    Ok(())
}

/// An unbound that resolves by itself goes on to do so behind Heimdall.
pub(super) fn forward_to_unbound(draft: &mut Draft) {
    draft.remark(format!(
        "This unbound resolves names by itself, which Heimdall does not: it stays, and becomes the resolver that Heimdall asks. \
         Have it listen at {MOVED} only: `interface: 127.0.0.1` and `port: 5335` in unbound.conf. Or name other resolvers in \
         the key `upstream`."
    ));
    draft.push("upstream", MOVED, None);
}

impl Unbound {
    fn read(
        &mut self,
        path: &Path,
        text: &str,
        reader: &mut Reader<'_>,
        draft: &mut Draft,
    ) -> Result<(), ConvertError> {
        for entry in entries(path, text) {
            self.statements += 1;
            if self.statements > MAX_STATEMENTS {
                return Err(ConvertError::TooMuch {
                    path: path.to_owned(),
                    what: "2,000,000 statements",
                });
            }
            match entry.key.as_str() {
                "include" | "include-toplevel" => self.include(&entry, reader, draft)?,
                section if SECTIONS.contains(&section) => self.begin(&entry),
                _ => self.statement(&entry, draft),
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<'_>,
        draft: &mut Draft,
    ) -> Result<(), ConvertError> {
        if entry.key == "include-toplevel" {
            self.section.clear();
        }
        let path = self.directory.join(entry.value());
        let included = reader.include(&path, |reader, path, text| {
            self.read(path, text, reader, draft)
        })?;
        if let Err(why) = included {
            draft.lost(&entry.statement, why);
        }
        Ok(())
    }

    /// Begins a section.
    fn begin(&mut self, entry: &Entry) {
        self.section.clone_from(&entry.key);
        if matches!(entry.key.as_str(), "forward-zone" | "stub-zone") {
            let is_stub = entry.key == "stub-zone";
            self.zones.push(ForwardZone::new(is_stub, &entry.statement));
        }
    }

    fn statement(&mut self, entry: &Entry, draft: &mut Draft) {
        let statement = &entry.statement;
        match (self.section.as_str(), entry.key.as_str()) {
            ("server", "directory") => {
                self.directory = PathBuf::from(entry.value());
                draft.unneeded(statement, "paths in this file are absolute");
            }
            ("server", _) => {
                if !self.local.statement(entry, draft) && !self.server.statement(entry, draft) {
                    keys::note(entry, draft);
                }
            }
            ("forward-zone" | "stub-zone", _) => {
                if let Some(zone) = self.zones.last_mut() {
                    zone.statement(entry, draft);
                }
            }
            ("dnstap", _) => dnstap(entry, draft),
            ("remote-control", _) => {
                draft.unneeded(
                    statement,
                    "`heimdall stats`, `reload` and others use the key `control`",
                );
            }
            ("", _) => draft.lost(statement, "it is in no section"),
            (section, _) => draft.lost(statement, section_note(section)),
        }
    }
}

/// Why a section has no counterpart.
fn section_note(section: &str) -> &'static str {
    match section {
        "auth-zone" => {
            "Heimdall does not serve zones: let an authoritative server do that, and give it a route"
        }
        "rpz" => "Heimdall has no response policy zones: [[blocklist]] takes lists of names",
        "view" => "all clients get the same answers",
        "cachedb" => {
            "no cache is shared over the network; `cache.snapshot` keeps it over a restart"
        }
        "dnscrypt" => "DNSCrypt is not served",
        _ => "modules are not run",
    }
}

/// Statements of the section `dnstap`.
fn dnstap(entry: &Entry, draft: &mut Draft) {
    let statement = &entry.statement;
    match (entry.key.as_str(), entry.value()) {
        ("dnstap-socket-path", path) if !path.is_empty() => {
            draft.set("dnstap.output", format!("unix:{path}"), statement);
            draft.set("dnstap.sample", "1/1", statement);
        }
        ("dnstap-enable", "yes")
        | ("dnstap-bidirectional" | "dnstap-send-identity" | "dnstap-send-version", _) => {
            draft.unneeded(statement, "`dnstap.output` turns it on");
        }
        (key, value) => {
            let kind = match key {
                "dnstap-log-client-query-messages" => Some("client-query"),
                "dnstap-log-client-response-messages" => Some("client-response"),
                "dnstap-log-forwarder-query-messages" => Some("forwarder-query"),
                "dnstap-log-forwarder-response-messages" => Some("forwarder-response"),
                _ => None,
            };
            match (kind, value) {
                (Some(kind), "yes") => draft.push("dnstap.messages", kind, Some(statement)),
                (_, "no") => draft.unneeded(statement, "it is off"),
                _ => draft.lost(statement, "dnstap has no such messages here"),
            }
        }
    }
}

/// Notes a statement whose value cannot be read.
fn unreadable(statement: &Statement, draft: &mut Draft) {
    draft.lost(statement, "its value cannot be read");
}
