//! Forward zones and stub zones, which become routes.

use super::{
    super::{
        Draft,
        source::Statement,
        values::{self, Transport, upstream, yes, zoned},
    },
    lexer::Entry,
    unreadable,
};

/// How unbound asks all servers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transports {
    pub(super) tls: bool,
    pub(super) tcp: bool,
}

/// A section of either kind.
#[derive(Debug)]
pub(super) struct ForwardZone {
    is_stub: bool,
    begin: Statement,
    name: Option<(String, Statement)>,
    /// Addresses as they are written, which may have a port and a name.
    addresses: Vec<(String, Statement)>,
    transports: Transports,
}

impl ForwardZone {
    pub(super) fn new(is_stub: bool, begin: &Statement) -> Self {
        Self {
            is_stub,
            begin: begin.clone(),
            name: None,
            addresses: Vec::new(),
            transports: Transports::default(),
        }
    }

    pub(super) fn statement(&mut self, entry: &Entry, draft: &mut Draft) {
        let (statement, value) = (&entry.statement, entry.value());
        let kind = if self.is_stub { "stub-" } else { "forward-" };
        let key = entry.key.strip_prefix(kind).unwrap_or(&entry.key);
        match (key, yes(value)) {
            ("name", _) => self.name = Some((value.to_owned(), statement.clone())),
            ("addr", _) => self.addresses.push((value.to_owned(), statement.clone())),
            ("tls-upstream" | "ssl-upstream", Some(on)) => self.transports.tls = on,
            ("tcp-upstream", Some(on)) => self.transports.tcp = on,
            ("first", Some(true)) => draft.lost(
                statement,
                "if these resolvers fail, no other way is tried: name more of them",
            ),
            ("no-cache", Some(true)) => {
                draft.lost(
                    statement,
                    "answers are cached for their TTL: see `max-ttl` of a route",
                );
            }
            ("prime", _) => draft.unneeded(statement, "the servers named here are asked"),
            ("host", _) => {
                draft.lost(
                    statement,
                    "a resolver is given by its address: look up that of this host",
                );
            }
            ("first" | "no-cache", Some(false)) => draft.unneeded(statement, "it is off"),
            _ => draft.lost(statement, "it is not known"),
        }
    }

    /// Makes the route, or the resolvers of all other names.
    pub(super) fn finish(self, all: Transports, draft: &mut Draft) {
        let Some((name, named)) = &self.name else {
            return draft.lost(&self.begin, "it has no name");
        };
        let zone = match values::zone(name) {
            Ok(zone) => zone,
            Err(why) => return draft.lost(named, why),
        };
        if self.addresses.is_empty() {
            return draft.lost(named, "it has no address of a server");
        }
        if self.is_stub {
            let why = "its servers are asked like resolvers: what they delegate to others is not followed";
            draft.lost(named, why);
        }
        let is_default = *zone.0 == [0];
        let transports = Transports {
            tls: all.tls || self.transports.tls,
            tcp: all.tcp || self.transports.tcp,
        };
        for (address, statement) in &self.addresses {
            match server(address, transports) {
                Ok((upstream, is_checked)) => {
                    if !is_checked {
                        let why = "unbound did not check who it is: its certificate has to be valid for the address, or give \
                                   NAME@ or a pin";
                        draft.lost(statement, why);
                    }
                    match is_default {
                        true => draft.push("upstream", upstream, Some(statement)),
                        false => draft.route(&zone, named).upstream(upstream, statement),
                    }
                }
                Err(Some(why)) => draft.lost(statement, why),
                Err(None) => unreadable(statement, draft),
            }
        }
    }
}

/// Reads `ADDR[@PORT][#NAME]`: the upstream, and whether unbound checks who it is if it uses TLS.
fn server(text: &str, transports: Transports) -> Result<(String, bool), Option<String>> {
    let (rest, name) = match text.split_once('#') {
        Some((rest, name)) => (rest, Some(name)),
        None => (text, None),
    };
    let (address, port) = match rest.split_once('@') {
        Some((address, port)) => (address, Some(port)),
        None => (rest, None),
    };
    let transport = match transports {
        Transports { tls: true, .. } => Transport::Tls(name),
        Transports { tcp: true, .. } => Transport::Tcp,
        Transports { .. } => Transport::Udp,
    };
    let usual = if transports.tls { 853 } else { 53 };
    let port = port.map_or(Some(usual), |port| port.parse().ok());
    let (address, interface) = zoned(address).ok_or(None)?;
    let upstream = upstream(transport, address, port.ok_or(None)?, interface)?;
    Ok((upstream, !transports.tls || name.is_some()))
}
