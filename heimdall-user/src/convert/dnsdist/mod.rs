//! [dnsdist.yml](https://dnsdist.org/reference/yaml-settings.html), of dnsdist 2.0 and later.

mod yaml;

use std::{net::SocketAddr, path::Path, sync::Arc};

use super::{
    ConvertError, Draft,
    source::Statement,
    values::{self, Transport, upstream, yes},
};
use yaml::{Node, Value};

const NO_WEIGHTS: &str = "resolvers have no weights";

/// Whether a text is a configuration in Lua, as dnsdist had it before.
pub(super) fn is_lua(text: &str) -> bool {
    const CALLS: [&str; 6] = [
        "newServer",
        "setLocal",
        "addLocal",
        "setACL",
        "addACL",
        "addAction",
    ];
    text.lines().any(|line| {
        let line = line.trim_start();
        CALLS.iter().any(|call| {
            let rest = line.strip_prefix(call);
            rest.is_some_and(|rest| rest.trim_start().starts_with(['(', '{', '"', '\'']))
        })
    })
}

/// The file that is converted.
struct Document<'a> {
    path: Arc<Path>,
    draft: &'a mut Draft,
    /// By pool, the empty name is that of the pool of all other names: the upstreams.
    pools: Vec<(String, String, Statement)>,
}

pub(super) fn convert(path: &Path, text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let root = yaml::read(path, text);
    let is_map = matches!(&root, Ok(Some(root)) if matches!(root.value, Value::Map(_)));
    if !is_map && is_lua(text) {
        return Err(ConvertError::Lua(path.to_owned()));
    }
    let Some(root) = root? else {
        return Ok(());
    };
    let mut document = Document {
        path: path.into(),
        draft,
        pools: Vec::new(),
    };
    // Rules name pools, which come of backends.
    let (backends, others): (Vec<_>, Vec<_>) = root
        .entries()
        .iter()
        .partition(|(key, _)| key == "backends");
    for (key, node) in backends.into_iter().chain(others) {
        document.section(key, node);
    }
    document.finish(&root);
    Ok(())
}

impl Document<'_> {
    fn statement(&self, node: &Node, text: &str) -> Statement {
        let text = match node.text() {
            Some(value) => format!("{text}: {value}"),
            None => text.to_owned(),
        };
        Statement::new(&self.path, node.line, &text)
    }

    fn lost(&mut self, node: &Node, text: &str, why: impl Into<String>) {
        let statement = self.statement(node, text);
        self.draft.lost(&statement, why);
    }

    fn unneeded(&mut self, node: &Node, text: &str, why: &str) {
        let statement = self.statement(node, text);
        self.draft.unneeded(&statement, why);
    }

    fn section(&mut self, key: &str, node: &Node) {
        match key {
            "backends" => {
                // Those of the lowest order are asked first.
                let mut backends: Vec<&Node> = node.items().iter().collect();
                backends.sort_by_key(|backend| order(backend));
                backends.into_iter().for_each(|item| self.backend(item));
            }
            "binds" => node.items().iter().for_each(|item| self.bind(item)),
            "acl" => self.acl(node),
            "acl_file" if node.text() != Some("") => {
                let why = "this file is not read: write its prefixes in `acl`";
                let statement = self.statement(node, key);
                self.draft.lets_in(&statement, "allow", why);
            }
            "query_rules" => node.items().iter().for_each(|item| self.rule(item)),
            "load_balancing_policies" => self.policies(node),
            "webserver" => self.webserver(node),
            "packet_caches" | "pools" => {
                self.unneeded(
                    node,
                    key,
                    "all answers are cached: see [cache], whose size is in octets",
                );
            }
            "console" => self.unneeded(
                node,
                key,
                "`heimdall stats`, `reload` and others use the key `control`",
            ),
            "general" | "tuning" | "security_polling" | "ring_buffers" | "cache_settings"
            | "logging" => {
                self.unneeded(node, key, "it is about how dnsdist itself works");
            }
            "xsk" => self.unneeded(node, key, "name the interfaces in the key `interface`"),
            "dynamic_rules" | "dynamic_rules_settings" => {
                self.lost(node, key, "see [rate-limit] and [cookies]");
            }
            "edns_client_subnet" => {
                self.lost(
                    node,
                    key,
                    "queries say nothing about the client; see `forward.client-subnet`",
                );
            }
            "metrics" | "snmp" => {
                self.lost(node, key, "see the key `metrics.listen` for Prometheus")
            }
            "remote_logging" | "query_count" => {
                self.lost(node, key, "see [dnstap] and [query-log]")
            }
            _ => self.lost(node, key, "it has no counterpart"),
        }
    }

    fn backend(&mut self, node: &Node) {
        let text = node.text_of("address").unwrap_or_default().to_owned();
        let statement = self.statement(node, &format!("backend {text}"));
        let protocol = node
            .text_of("protocol")
            .unwrap_or("Do53")
            .to_ascii_lowercase();
        let tls = node.get("tls");
        let name = tls.and_then(|tls| tls.text_of("subject_name"));
        let usual = if protocol == "dot" { 853 } else { 53 };
        let is_tcp = node.text_of("tcp_only").and_then(yes) == Some(true);
        let transport = match protocol.as_str() {
            "do53" if is_tcp => Transport::Tcp,
            "do53" => Transport::Udp,
            "dot" => Transport::Tls(name),
            _ => {
                return self.draft.leave_out(
                    &statement,
                    "resolvers are asked over UDP, TCP and TLS (DoT)",
                );
            }
        };
        let Some(address) = address(&text, usual) else {
            let why = "its address cannot be read";
            return self.draft.leave_out(&statement, why);
        };
        let upstream = match upstream(transport, address.ip(), address.port(), None) {
            Ok(upstream) => upstream,
            Err(why) => return self.draft.leave_out(&statement, why),
        };
        if let Some(store) = tls.and_then(|tls| tls.get("ca_store")) {
            let statement = self.statement(store, "ca_store");
            let store = store.text().unwrap_or_default();
            self.draft.set("forward.tls-roots", store, &statement);
        }
        let checks = tls
            .and_then(|tls| tls.text_of("validate_certificate"))
            .and_then(yes);
        if protocol == "dot" && checks == Some(false) {
            let why = "its certificate is checked: give NAME@ or a pin, or see `forward.tls`";
            self.draft.lost(&statement, why);
        }
        for (key, node) in node.entries() {
            let known = [
                "address",
                "protocol",
                "tls",
                "pools",
                "name",
                "tcp_only",
                "order",
                "health_checks",
                "id",
            ];
            let text = format!("backend {text}, {key}");
            match key.as_str() {
                "weight" if node.text() == Some("1") => {}
                "weight" => self.lost(node, &text, NO_WEIGHTS),
                key if known.contains(&key) => {}
                _ => self.unneeded(node, &text, "it is about how dnsdist asks"),
            }
        }
        let pools = node.get("pools").map(Node::items).unwrap_or_default();
        let names: Vec<String> = match pools {
            [] => vec![String::new()],
            pools => pools
                .iter()
                .map(|pool| pool.text().unwrap_or_default().to_owned())
                .collect(),
        };
        for pool in names {
            match pool.as_str() {
                "" => self
                    .draft
                    .push("upstream", upstream.as_str(), Some(&statement)),
                _ => self.pools.push((pool, upstream.clone(), statement.clone())),
            }
        }
    }

    fn bind(&mut self, node: &Node) {
        let text = node
            .text_of("listen_address")
            .unwrap_or_default()
            .to_owned();
        let statement = self.statement(node, &format!("bind {text}"));
        let protocol = node
            .text_of("protocol")
            .unwrap_or("Do53")
            .to_ascii_lowercase();
        let (key, usual) = match protocol.as_str() {
            "do53" => ("listen", 53),
            "dot" => ("listen-tls", 853),
            _ => {
                return self
                    .draft
                    .lost(&statement, "clients are served over UDP, TCP and TLS (DoT)");
            }
        };
        let Some(address) = address(&text, usual) else {
            return self.draft.lost(&statement, "its address cannot be read");
        };
        if key == "listen-tls" {
            let certificates = node.get("tls").and_then(|tls| tls.get("certificates"));
            let certificates = certificates.map(Node::items).unwrap_or_default();
            let Some(first) = certificates.first() else {
                return self
                    .draft
                    .lost(&statement, "TLS takes a certificate and its key");
            };
            if certificates.len() > 1 {
                self.draft
                    .lost(&statement, "there is one certificate: the first is taken");
            }
            for (theirs, ours) in [("certificate", "tls.certificate"), ("key", "tls.key")] {
                if let Some(path) = first.text_of(theirs) {
                    self.draft.set(ours, path, &statement);
                }
            }
        }
        self.draft.push(key, address.to_string(), Some(&statement));
        for (name, node) in node.entries() {
            let text = format!("bind {text}, {name}");
            match name.as_str() {
                "listen_address" | "protocol" | "tls" => {}
                "additional_addresses" => self.additional_addresses(key, usual, node, &text),
                _ => self.unneeded(node, &text, "it is about how dnsdist listens"),
            }
        }
    }

    /// More addresses of a bind.
    fn additional_addresses(&mut self, key: &'static str, usual: u16, node: &Node, text: &str) {
        for item in node.items() {
            let statement = self.statement(item, text);
            match address(item.text().unwrap_or_default(), usual) {
                Some(address) => self.draft.push(key, address.to_string(), Some(&statement)),
                None => self.draft.lost(&statement, "its address cannot be read"),
            }
        }
    }

    fn acl(&mut self, node: &Node) {
        const NO_PREFIX: &str = "it is no prefix";
        for item in node.items() {
            let text = item.text().unwrap_or_default();
            let statement = self.statement(item, "acl");
            let draft = &mut *self.draft;
            match text.strip_prefix('!') {
                Some(text) => match values::prefix(text) {
                    Some(prefix) => {
                        draft.push("access.refuse", prefix.to_string(), Some(&statement));
                    }
                    None => draft.lets_in(&statement, "refuse", NO_PREFIX),
                },
                None => match values::prefix(text) {
                    Some(prefix) => {
                        draft.push("access.allow", prefix.to_string(), Some(&statement));
                    }
                    None => draft.lost(&statement, NO_PREFIX),
                },
            }
        }
        if !node.items().is_empty() && !self.draft.has("access.allow") {
            // Without `access.allow` all private networks may query.
            let statement = self.statement(node, "acl");
            let why = "it has no prefix of clients that may query";
            self.draft.lets_in(&statement, "allow", why);
        }
    }

    /// A rule: one by a name's end that chooses a pool, or an error.
    fn rule(&mut self, node: &Node) {
        let name = node.text_of("name").unwrap_or("query rule").to_owned();
        let (Some(selector), Some(action)) = (node.get("selector"), node.get("action")) else {
            return self.lost(node, &name, "it has no selector and action");
        };
        let suffixes = match selector.text_of("type") {
            Some("QNameSuffix") => selector
                .get("suffixes")
                .map(Node::items)
                .unwrap_or_default(),
            _ => {
                return self.lost(
                    node,
                    &name,
                    "only rules by QNameSuffix have a counterpart, a route",
                );
            }
        };
        let rcode = action
            .text_of("rcode")
            .unwrap_or_default()
            .to_ascii_lowercase();
        let pool = action.text_of("pool_name").unwrap_or_default().to_owned();
        let answer = match (action.text_of("type"), rcode.as_str()) {
            (Some("Pool"), _) => None,
            (Some("RCode"), "nxdomain") => Some("nxdomain"),
            (Some("RCode"), "refused") => Some("refused"),
            _ => return self.lost(node, &name, "a route takes a pool, NXDOMAIN or REFUSED"),
        };
        for suffix in suffixes {
            let statement = self.statement(suffix, &name);
            let zone = match values::zone(suffix.text().unwrap_or_default()) {
                Ok(zone) => zone,
                Err(why) => {
                    self.draft.lost(&statement, why);
                    continue;
                }
            };
            if let Some(answer) = answer {
                self.draft
                    .route(&zone, &statement)
                    .set("answer", answer, &statement);
                continue;
            }
            let mut members = self
                .pools
                .iter()
                .filter(|(name, ..)| *name == pool)
                .peekable();
            match (members.peek(), pool.as_str()) {
                (None, "") => self.draft.route_as_all_others(&zone, &statement),
                (None, _) => self.draft.lost(&statement, "no backend is in this pool"),
                (Some(_), _) => {
                    for (_, upstream, from) in members {
                        self.draft
                            .route(&zone, &statement)
                            .upstream(upstream.clone(), from);
                    }
                }
            }
        }
    }

    fn policies(&mut self, node: &Node) {
        for (key, node) in node.entries() {
            let policy = match (key.as_str(), node.text().unwrap_or_default()) {
                ("default_policy", "firstAvailable") => "sequential",
                ("default_policy", "leastOutstanding") => "fastest",
                ("default_policy", "roundrobin" | "wrandom") => "round-robin",
                ("default_policy", "whashed" | "chashed") => "hash",
                _ => {
                    self.lost(node, key, "see `forward.policy`");
                    continue;
                }
            };
            if node.text() == Some("wrandom") {
                self.lost(node, key, NO_WEIGHTS);
            }
            let statement = self.statement(node, key);
            self.draft.set("forward.policy", policy, &statement);
        }
    }

    fn webserver(&mut self, node: &Node) {
        let addresses = node
            .get("listen_addresses")
            .or_else(|| node.get("listen_address"));
        let first = addresses.and_then(|addresses| addresses.items().first());
        let address = first.and_then(|first| first.text()?.parse::<SocketAddr>().ok());
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => {
                let statement = self.statement(first.unwrap_or(node), "webserver");
                self.draft
                    .set("metrics.listen", address.to_string(), &statement);
            }
            None => self.lost(
                node,
                "webserver",
                "metrics and the status page have no password: see `metrics.listen`",
            ),
        }
    }

    /// What follows from sections that are missing.
    fn finish(&mut self, root: &Node) {
        self.draft.listens();
        if root.get("binds").is_none() {
            self.draft
                .remark("It listens at 127.0.0.1 only, as dnsdist does without `binds`.");
            self.draft.push("listen", "127.0.0.1:53", None);
        }
    }
}

/// The place of a backend in its pools, by default 1.
fn order(backend: &Node) -> i64 {
    let order = backend.text_of("order");
    order.and_then(|order| order.parse().ok()).unwrap_or(1)
}

/// Reads `ADDR[:PORT]`.
fn address(text: &str, usual: u16) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = text.parse().ok();
    with_port.or_else(|| Some(SocketAddr::new(bare.parse().ok()?, usual)))
}
