//! Requests: a client's command as a JSON object on one line. docs/control.md describes them.

use std::{net::IpAddr, str::FromStr};

use domain::base::iana::Rtype;
use serde_json::{Map, Value, json};

use crate::maintenance::{Scope, presentation, wire};

/// The names of all commands, for errors.
const COMMANDS: &str = "stats, ready, reload, drain, flush, dump, trace and route";

/// A client's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlCommand {
    /// Every counter.
    Stats,
    /// Whether the server can answer queries.
    Ready,
    /// Reload the settings and the files that they name.
    Reload {
        /// Say what that would do, and do nothing.
        dry_run: bool,
    },
    /// Answer what waits, and end.
    Drain,
    /// Hand over to the client, a starting server that speaks this version of the hand-over (`handover`), and end.
    TakeOver(u32),
    /// Remove these entries from the caches.
    Flush(Scope),
    /// Send copies of these entries.
    Dump(Scope),
    /// Explain what a query would get.
    Trace(TraceQuery),
    /// Say which route it takes; whoever asks.
    Route(TraceQuery),
}

/// A query of class IN that is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceQuery {
    /// In wire form.
    pub(crate) name: Box<[u8]>,
    pub(crate) qtype: u16,
    /// The client that would ask, if that matters.
    pub(crate) client: Option<IpAddr>,
}

impl ControlCommand {
    /// Reads the line that a client sent.
    ///
    /// # Errors
    /// Why it is no request, for the client.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
            return Err(
                "a request is a JSON object on one line, like {\"command\": \"stats\"}".to_owned(),
            );
        };
        let mut fields = Fields(fields);
        let name = fields.text("command")?;
        let name = name.ok_or("the field \"command\" is missing")?;
        let command = match name.as_str() {
            "stats" => Self::Stats,
            "ready" => Self::Ready,
            "reload" => Self::Reload {
                dry_run: fields.flag("dry_run")?,
            },
            "drain" => Self::Drain,
            "take-over" => return fields.take_over(),
            "flush" => Self::Flush(fields.scope()?),
            "dump" => Self::Dump(fields.scope()?),
            "trace" => {
                let client = fields.client()?;
                Self::Trace(fields.query(client)?)
            }
            "route" => Self::Route(fields.query(None)?),
            _ => {
                return Err(format!(
                    "there is no command {name:?}; there are {COMMANDS}"
                ));
            }
        };
        match fields.0.keys().next() {
            Some(field) => Err(format!("the command {name:?} has no field {field:?}")),
            None => Ok(command),
        }
    }

    /// Whether it ends the server, so that the server's owner executes and answers it.
    pub(super) fn is_for_owner(&self) -> bool {
        matches!(self, Self::Drain | Self::TakeOver(_))
    }

    /// The request for it.
    pub(crate) fn to_json(&self) -> Value {
        let (name, arguments) = match self {
            Self::Stats => ("stats", json!({})),
            Self::Ready => ("ready", json!({})),
            Self::Reload { dry_run: false } => ("reload", json!({})),
            Self::Reload { dry_run: true } => ("reload", json!({ "dry_run": true })),
            Self::Drain => ("drain", json!({})),
            Self::TakeOver(version) => ("take-over", json!({ "version": version })),
            Self::Flush(scope) => ("flush", scope_fields(scope)),
            Self::Dump(scope) => ("dump", scope_fields(scope)),
            Self::Trace(query) => ("trace", query.to_json()),
            Self::Route(query) => ("route", query.to_json()),
        };
        let mut request = Map::from_iter([("command".to_owned(), json!(name))]);
        if let Value::Object(arguments) = arguments {
            request.extend(arguments);
        }
        Value::Object(request)
    }
}

impl TraceQuery {
    /// A query for a name in the form of zone files, and a type by its name, or `TYPE` and its number.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(name: &str, qtype: &str, client: Option<IpAddr>) -> Result<Self, String> {
        let qtype = Rtype::from_str(qtype).map_err(|_| {
            format!("{qtype:?} is no type; write one like A or HTTPS, or TYPE and its number")
        })?;
        Ok(Self {
            name: wire(name).map_err(|error| error.to_string())?,
            qtype: qtype.to_int(),
            client,
        })
    }

    fn to_json(&self) -> Value {
        let mut fields = json!({
            "name": presentation(&self.name),
            "type": Rtype::from_int(self.qtype).to_string(),
        });
        if let (Value::Object(fields), Some(client)) = (&mut fields, self.client) {
            fields.insert("client".to_owned(), json!(client));
        }
        fields
    }
}

fn scope_fields(scope: &Scope) -> Value {
    match scope {
        Scope::All => json!({ "all": true }),
        Scope::Zone(name) => json!({ "zone": presentation(name) }),
        Scope::Name(name) | Scope::Above(name) => json!({ "name": presentation(name) }),
    }
}

/// The fields of a request that are not read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, field: &str) -> Result<Option<String>, String> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("the field {field:?} is no string")),
        }
    }

    /// One that is true, or absent.
    fn flag(&mut self, field: &str) -> Result<bool, String> {
        match self.0.remove(field) {
            None => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(_) => Err(format!("the field {field:?} can only be true")),
        }
    }

    fn scope(&mut self) -> Result<Scope, String> {
        let (name, zone) = (self.text("name")?, self.text("zone")?);
        let all = self.flag("all")?;
        let scope = match (name, zone, all) {
            (Some(name), None, false) => Scope::name(&name),
            (None, Some(zone), false) => Scope::zone(&zone),
            (None, None, true) => return Ok(Scope::All),
            _ => {
                return Err("one of the fields \"name\", \"zone\" and \"all\" is needed".to_owned());
            }
        };
        scope.map_err(|error| error.to_string())
    }

    fn client(&mut self) -> Result<Option<IpAddr>, String> {
        let client = self.text("client")?.map(|text| {
            let address = text.parse::<IpAddr>();
            address.map_err(|_| format!("{text:?} is no IP address"))
        });
        client.transpose()
    }

    /// Other fields are ignored: a later version may send more.
    fn take_over(&mut self) -> Result<ControlCommand, String> {
        let version = self.0.get("version").and_then(Value::as_u64);
        let version = version.and_then(|version| u32::try_from(version).ok());
        let version = version.ok_or("the field \"version\" is missing, or no number")?;
        Ok(ControlCommand::TakeOver(version))
    }

    fn query(&mut self, client: Option<IpAddr>) -> Result<TraceQuery, String> {
        let name = self.text("name")?.ok_or("the field \"name\" is missing")?;
        let qtype = self.text("type")?;
        TraceQuery::new(&name, qtype.as_deref().unwrap_or("A"), client)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_written_as_they_are_read() {
        let zone = Scope::zone("a\\032b.Example").unwrap();
        let trace = |client: Option<&str>| {
            let client = client.map(|text| text.parse().unwrap());
            TraceQuery::new("www.example", "TYPE65", client).unwrap()
        };
        for command in [
            ControlCommand::Stats,
            ControlCommand::Ready,
            ControlCommand::Reload { dry_run: false },
            ControlCommand::Reload { dry_run: true },
            ControlCommand::Drain,
            ControlCommand::TakeOver(7),
            ControlCommand::Flush(Scope::All),
            ControlCommand::Flush(Scope::name("x").unwrap()),
            ControlCommand::Dump(zone),
            ControlCommand::Trace(trace(None)),
            ControlCommand::Trace(trace(Some("2001:db8::1"))),
            ControlCommand::Route(trace(None)),
        ] {
            let line = command.to_json().to_string();
            assert_eq!(
                ControlCommand::parse(line.as_bytes()),
                Ok(command),
                "{line}"
            );
        }
        let line = br#"{"command": "trace", "name": "example.com"}"#;
        let ControlCommand::Trace(query) = ControlCommand::parse(line).unwrap() else {
            panic!("no trace");
        };
        assert_eq!((query.qtype, query.client), (1, None));
        let later = br#"{"command": "take-over", "version": 2, "new": []}"#;
        assert_eq!(
            ControlCommand::parse(later),
            Ok(ControlCommand::TakeOver(2))
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (line, error) in [
            ("", "a request is a JSON object on one line"),
            ("stats", "a request is a JSON object"),
            ("[]", "a request is a JSON object"),
            ("\u{e4}", "a request is a JSON object"),
            (r#"{"command": "stats"} {}"#, "a request is a JSON object"),
            ("{}", "the field \"command\" is missing"),
            (r#"{"command": 7}"#, "the field \"command\" is no string"),
            (
                r#"{"command": "shutdown"}"#,
                "there is no command \"shutdown\"; there are stats, ",
            ),
            (
                r#"{"command": "stats", "name": "x"}"#,
                "the command \"stats\" has no field \"name\"",
            ),
            (r#"{"command": "flush"}"#, "one of the fields \"name\","),
            (
                r#"{"command": "dump", "name": "x", "all": true}"#,
                "one of the fields \"name\",",
            ),
            (
                r#"{"command": "flush", "all": false}"#,
                "the field \"all\" can only be true",
            ),
            (
                r#"{"command": "reload", "dry_run": 1}"#,
                "the field \"dry_run\" can only be true",
            ),
            (
                r#"{"command": "dump", "zone": "a..b"}"#,
                "\"a..b\" is no domain name",
            ),
            (r#"{"command": "trace"}"#, "the field \"name\" is missing"),
            (
                r#"{"command": "route", "name": "x", "client": "192.0.2.1"}"#,
                "the command \"route\" has no field \"client\"",
            ),
            (
                r#"{"command": "take-over", "version": "1"}"#,
                "the field \"version\" is missing, or no number",
            ),
            (
                r#"{"command": "trace", "name": "x", "type": "?"}"#,
                "\"?\" is no type",
            ),
            (
                r#"{"command": "trace", "name": "x", "client": "lan"}"#,
                "\"lan\" is no IP address",
            ),
        ] {
            let refused = ControlCommand::parse(line.as_bytes()).unwrap_err();
            assert!(refused.starts_with(error), "{line}: {refused}");
        }
        // Deeper than any request, and refused before the stack ends.
        let deep = "[".repeat(4000);
        assert!(ControlCommand::parse(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_octets_are_a_request_or_refused(line: Vec<u8>) {
            let _ = ControlCommand::parse(&line);
        }
    }
}
