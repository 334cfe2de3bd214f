//! Requests: a client's command as a JSON object on one line. docs/control.md describes them.

use std::{net::IpAddr, str::FromStr};

use domain::base::iana::Rtype;
use serde_json::{Map, Value, json};

use crate::maintenance::{Scope, presentation, wire};

/// The names of all commands, for errors.
const COMMANDS: &str = "stats, reload, flush, dump and trace";

/// A client's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlCommand {
    /// Every counter.
    Stats,
    /// Reload the policy.
    Reload,
    /// Remove these entries from the caches.
    Flush(Scope),
    /// Send copies of these entries.
    Dump(Scope),
    /// Explain what a query would get.
    Trace(TraceQuery),
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
            "reload" => Self::Reload,
            "flush" => Self::Flush(fields.scope()?),
            "dump" => Self::Dump(fields.scope()?),
            "trace" => Self::Trace(fields.trace()?),
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

    /// The request for it.
    pub(super) fn to_json(&self) -> Value {
        let (name, arguments) = match self {
            Self::Stats => ("stats", json!({})),
            Self::Reload => ("reload", json!({})),
            Self::Flush(scope) => ("flush", scope_fields(scope)),
            Self::Dump(scope) => ("dump", scope_fields(scope)),
            Self::Trace(query) => ("trace", query.to_json()),
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

    fn scope(&mut self) -> Result<Scope, String> {
        let (name, zone) = (self.text("name")?, self.text("zone")?);
        let all = match self.0.remove("all") {
            None => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err("the field \"all\" can only be true".to_owned()),
        };
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

    fn trace(&mut self) -> Result<TraceQuery, String> {
        let name = self.text("name")?.ok_or("the field \"name\" is missing")?;
        let qtype = self.text("type")?;
        let client = self.text("client")?.map(|text| {
            let address = text.parse::<IpAddr>();
            address.map_err(|_| format!("{text:?} is no IP address"))
        });
        TraceQuery::new(&name, qtype.as_deref().unwrap_or("A"), client.transpose()?)
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
            ControlCommand::Reload,
            ControlCommand::Flush(Scope::All),
            ControlCommand::Flush(Scope::name("x").unwrap()),
            ControlCommand::Dump(zone),
            ControlCommand::Trace(trace(None)),
            ControlCommand::Trace(trace(Some("2001:db8::1"))),
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
                r#"{"command": "dump", "zone": "a..b"}"#,
                "\"a..b\" is no domain name",
            ),
            (r#"{"command": "trace"}"#, "the field \"name\" is missing"),
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
