//! The section `server`.

use std::{collections::HashSet, net::IpAddr};

use super::{
    super::{
        Draft,
        source::Statement,
        values::{self, yes, zoned},
    },
    keys,
    lexer::Entry,
    unreadable,
    zones::Transports,
};
use crate::{answer::prefix::Prefix, cache, config::Size};

/// The longest time that settings take, in seconds.
const WEEK: i64 = 604_800;

/// The most that `socket.threads` takes.
const MAX_THREADS: i64 = 64;

/// What the section says, as far as its statements depend on one another.
#[derive(Debug)]
pub(super) struct Server {
    /// As they are written: with a port, or names of interfaces.
    interfaces: Vec<(String, Statement)>,
    port: u16,
    tls_port: u16,
    https_port: u16,
    quic_port: Option<u16>,
    has_key: bool,
    ipv4: bool,
    ipv6: bool,
    transports: Transports,
    access: Vec<(Prefix, Access, Statement)>,
    /// Octets of the caches of messages and of records.
    caches: [Option<usize>; 2],
    cache: Option<Statement>,
    identity: Hidden,
    version: Hidden,
    serve_expired: Option<Statement>,
    expired_ttl: Option<(i64, Statement)>,
}

/// A text that the server gives, and whether it hides it.
#[derive(Debug, Default)]
struct Hidden {
    text: Option<(String, Statement)>,
    is_hidden: bool,
}

/// What clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Queries with RD.
    Allow,
    /// Also those without, from the cache.
    Snoop,
    /// Those without are treated as if they had it.
    SetRd,
    Refuse,
    Deny,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            port: 53,
            tls_port: 853,
            https_port: 443,
            quic_port: None,
            has_key: false,
            ipv4: true,
            ipv6: true,
            transports: Transports::default(),
            access: Vec::new(),
            caches: [None; 2],
            cache: None,
            identity: Hidden::default(),
            version: Hidden::default(),
            serve_expired: None,
            expired_ttl: None,
        }
    }
}

impl Server {
    /// How all servers are asked.
    pub(super) fn transports(&self) -> Transports {
        self.transports
    }

    /// Takes a statement, if it has a counterpart.
    pub(super) fn statement(&mut self, entry: &Entry, draft: &mut Draft) -> bool {
        let (statement, value) = (&entry.statement, entry.value());
        let (number, on) = (value.parse::<i64>().ok(), yes(value));
        let ttl = number.map(|number| number.clamp(0, WEEK));
        match (entry.key.as_str(), number, on) {
            ("interface" | "ip-address", ..) => {
                self.interfaces.push((value.to_owned(), statement.clone()));
            }
            ("port", Some(number @ 1..=65_535), _) => self.port = number as u16,
            ("tls-port" | "ssl-port", Some(number @ 1..=65_535), _) => {
                self.tls_port = number as u16
            }
            ("https-port", Some(number @ 1..=65_535), _) => self.https_port = number as u16,
            ("quic-port", Some(number @ 1..=65_535), _) => self.quic_port = Some(number as u16),
            ("do-ip4", _, Some(on)) => self.ipv4 = on,
            ("do-ip6", _, Some(on)) => self.ipv6 = on,
            ("tls-upstream" | "ssl-upstream", _, Some(on)) => self.transports.tls = on,
            ("tcp-upstream", _, Some(on)) => self.transports.tcp = on,
            ("tls-service-key" | "ssl-service-key", ..) if !value.is_empty() => {
                self.has_key = true;
                draft.set("tls.key", value, statement);
            }
            ("tls-service-pem" | "ssl-service-pem", ..) if !value.is_empty() => {
                draft.set("tls.certificate", value, statement);
            }
            ("tls-cert-bundle" | "ssl-cert-bundle", ..) if !value.is_empty() => {
                draft.set("forward.tls-roots", value, statement);
            }
            ("tls-system-cert", ..) => {
                draft.unneeded(statement, "without `forward.tls-roots` they are used")
            }
            ("access-control", ..) => self.access(entry, draft),
            ("msg-cache-size", ..) => self.cache_size(0, entry, draft),
            ("rrset-cache-size", ..) => self.cache_size(1, entry, draft),
            ("cache-max-ttl", Some(_), _) => {
                draft.set("cache.max-ttl", ttl.unwrap_or_default().max(1), statement);
            }
            ("cache-min-ttl", Some(_), _) => {
                draft.set("cache.min-ttl", ttl.unwrap_or_default(), statement)
            }
            ("cache-max-negative-ttl", Some(_), _) => {
                draft.set("cache.max-negative-ttl", ttl.unwrap_or_default(), statement);
            }
            ("serve-expired", _, Some(true)) => self.serve_expired = Some(statement.clone()),
            ("serve-expired", _, Some(false)) => draft.set("cache.stale-max-age", 0, statement),
            ("serve-expired-ttl", Some(_), _) => {
                let ttl = match ttl.unwrap_or_default() {
                    0 => WEEK,
                    ttl => ttl,
                };
                self.expired_ttl = Some((ttl, statement.clone()));
            }
            ("serve-expired-client-timeout", Some(1..), _) => {
                let milliseconds = number.unwrap_or_default().clamp(10, 60_000);
                draft.set(
                    "forward.client-response-timeout-ms",
                    milliseconds,
                    statement,
                );
            }
            ("serve-expired-client-timeout", Some(_), _) => {
                draft.lost(
                    statement,
                    "a stale answer is given only if upstreams take long or fail",
                );
            }
            ("num-threads", Some(1..), _) => {
                let number = number.unwrap_or_default();
                if number > MAX_THREADS {
                    draft.lost(
                        statement,
                        format!("`socket.threads` is {MAX_THREADS} at most"),
                    );
                }
                draft.set("socket.threads", number.min(MAX_THREADS), statement);
            }
            ("max-udp-size", Some(_), _) => {
                let size = number.unwrap_or_default().clamp(512, 4096);
                draft.set("max-udp-size", size, statement);
            }
            ("use-caps-for-id", _, Some(on)) => draft.set("forward.randomize-case", on, statement),
            ("answer-cookie", _, Some(on)) => draft.set("cookies.enabled", on, statement),
            ("cookie-secret", ..) => draft.push("cookies.secrets", value, Some(statement)),
            ("log-queries" | "log-replies", _, Some(true)) => {
                draft.set("query-log.sample", "1/1", statement)
            }
            ("log-queries" | "log-replies", _, Some(false)) => {
                draft.unneeded(statement, "it is off")
            }
            ("identity", ..) if !value.is_empty() => {
                self.identity.text = Some((value.to_owned(), statement.clone()));
            }
            ("nsid", ..) => match value.strip_prefix("ascii_") {
                Some(text) => draft.set("identity.server-id", text, statement),
                None => draft.lost(statement, "`identity.server-id` is a text"),
            },
            ("version", ..) if !value.is_empty() => {
                self.version.text = Some((value.to_owned(), statement.clone()));
            }
            ("module-config", ..) if !value.contains("validator") => {
                draft.unneeded(statement, "it does not check signatures, either");
            }
            ("hide-identity", _, Some(on)) => {
                self.identity.is_hidden = on;
                draft.unneeded(
                    statement,
                    "it is hidden, unless `identity.server-id` gives one",
                );
            }
            ("hide-version", _, Some(on)) => {
                self.version.is_hidden = on;
                draft.unneeded(
                    statement,
                    "it is hidden, unless `identity.version` gives one",
                );
            }
            _ => return false,
        }
        true
    }

    fn access(&mut self, entry: &Entry, draft: &mut Draft) {
        let [prefix, action] = entry.values.as_slice() else {
            return unreadable(&entry.statement, draft);
        };
        let access = match action.as_str() {
            "allow" | "allow_cookie" => Access::Allow,
            "allow_snoop" => Access::Snoop,
            "allow_setrd" => Access::SetRd,
            "refuse" | "refuse_non_local" => Access::Refuse,
            "deny" | "deny_non_local" => Access::Deny,
            _ => return draft.lets_in(&entry.statement, "refuse", "its action is not known"),
        };
        let Some(prefix) = values::prefix(prefix) else {
            let key = match access {
                Access::Allow | Access::Snoop | Access::SetRd => {
                    return unreadable(&entry.statement, draft);
                }
                Access::Refuse => "refuse",
                Access::Deny => "drop",
            };
            return draft.lets_in(&entry.statement, key, "its prefix cannot be read");
        };
        match action.as_str() {
            "allow_cookie" => draft.lost(&entry.statement, "see `cookies.demand-above`"),
            "refuse_non_local" | "deny_non_local" => {
                draft.lost(&entry.statement, "these clients get no local data, either");
            }
            _ => {}
        }
        self.access.push((prefix, access, entry.statement.clone()));
    }

    fn cache_size(&mut self, which: usize, entry: &Entry, draft: &mut Draft) {
        match (entry.value().parse::<Size>(), self.caches.get_mut(which)) {
            (Ok(size), Some(place)) => {
                *place = Some(size.0);
                self.cache = Some(entry.statement.clone());
            }
            _ => unreadable(&entry.statement, draft),
        }
    }

    /// Makes the settings of what depends on several statements.
    pub(super) fn finish(self, draft: &mut Draft) {
        self.listen(draft);
        self.allow(draft);
        if let Some(statement) = &self.cache {
            // unbound's defaults.
            let [messages, records] = self.caches.map(|size| size.unwrap_or(4 << 20));
            let size = messages.saturating_add(records).max(cache::MIN_BYTES);
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            draft.set("cache.size", size, statement);
        }
        for (hidden, key) in [
            (&self.identity, "identity.server-id"),
            (&self.version, "identity.version"),
        ] {
            if let Some((text, statement)) = &hidden.text {
                match hidden.is_hidden {
                    true => draft.unneeded(statement, "it is hidden"),
                    false => draft.set(key, text.as_str(), statement),
                }
            }
        }
        match (&self.serve_expired, &self.expired_ttl) {
            (Some(_), Some((ttl, statement))) => draft.set("cache.stale-max-age", *ttl, statement),
            (Some(statement), None) => draft.set("cache.stale-max-age", 86_400, statement),
            (None, Some((_, statement))) => draft.unneeded(statement, "`serve-expired` is off"),
            (None, None) => {}
        }
    }

    /// The addresses to listen on.
    fn listen(&self, draft: &mut Draft) {
        for (text, statement) in &self.interfaces {
            let (address, port) = match text.split_once('@') {
                Some((address, port)) => (address, port.parse().ok()),
                None => (text.as_str(), Some(self.port)),
            };
            let ((address, zone), port) = match (zoned(address), port) {
                (Some(address), Some(port)) => (address, port),
                (Some(_), None) => {
                    unreadable(statement, draft);
                    continue;
                }
                (None, _) => {
                    let why = match is_interface_name(address) {
                        true => {
                            "give the addresses of the interface in `listen`; `interface` has AF_XDP serve it"
                        }
                        false => "it is no address, and no name of an interface",
                    };
                    draft.lost(statement, why);
                    continue;
                }
            };
            if !self.serves(address) {
                draft.unneeded(statement, "do-ip4 or do-ip6 is off");
                continue;
            }
            let is_quic = self.quic_port == Some(port);
            if port != self.tls_port && (port == self.https_port || is_quic) {
                draft.lost(statement, keys::NO_HTTPS);
                continue;
            }
            let listen = values::listen(address, port, zone);
            match port == self.tls_port {
                false => draft.push("listen", listen, Some(statement)),
                true if self.has_key => draft.push("listen-tls", listen, Some(statement)),
                true => draft.lost(
                    statement,
                    "TLS takes `tls-service-key` and `tls-service-pem`",
                ),
            }
        }
        draft.listens();
        if self.interfaces.is_empty() {
            draft.remark("It listens at the addresses of this host itself only, as unbound does without `interface`.");
            let own: [IpAddr; 2] = [[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()];
            for address in own.into_iter().filter(|address| self.serves(*address)) {
                draft.push("listen", values::listen(address, self.port, None), None);
            }
        }
    }

    fn serves(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }

    /// Who may query.
    fn allow(&self, draft: &mut Draft) {
        let mut known = HashSet::new();
        let later = self.access.iter().rev();
        // A later statement about the same prefix takes the place of an earlier one.
        let mut access: Vec<_> = later.filter(|(prefix, ..)| known.insert(*prefix)).collect();
        access.reverse();
        for (prefix, access, statement) in &access {
            let key = match access {
                Access::Allow | Access::Snoop | Access::SetRd => "access.allow",
                Access::Refuse => "access.refuse",
                Access::Deny => "access.drop",
            };
            draft.push(key, prefix.to_string(), Some(statement));
        }
        // unbound allows these by itself.
        for own in ["127.0.0.0/8", "::1/128"] {
            if !access.iter().any(|(prefix, ..)| prefix.to_string() == own) {
                draft.push("access.allow", own, None);
            }
        }
        let first = |wanted: Access| access.iter().find(|(_, access, _)| *access == wanted);
        // From what lets most clients ask without RD to what lets none.
        let found = [
            (Access::SetRd, "forward"),
            (Access::Snoop, "cache"),
            (Access::Allow, "refuse"),
        ];
        let mut found = found
            .into_iter()
            .filter_map(|(wanted, value)| Some((first(wanted)?, value)));
        if let Some(((.., statement), value)) = found.next() {
            draft.set("access.non-recursive", value, statement);
            if found.next().is_some() {
                let why =
                    format!("all clients get \"{value}\": `access.non-recursive` is not by client");
                draft.lost(statement, why);
            }
        }
    }
}

/// Whether an interface could have this name (IFNAMSIZ). Without a letter it is a mistyped address.
fn is_interface_name(text: &str) -> bool {
    text.len() < 16 && !text.contains(':') && text.contains(|letter: char| letter.is_alphabetic())
}
