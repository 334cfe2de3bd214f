//! The hosts that requests may be for.
//!
//! A website whose name resolves to this server's address could have its visitors' browsers read the page
//! (DNS rebinding). Such requests carry that website's name, so other names than the operator's are refused.

use std::net::{IpAddr, Ipv6Addr};

/// The names that are allowed, besides addresses and localhost.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// `names` are in lower case.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether a request with this Host field (RFC 9110 section 7.2) is for this server.
    pub(super) fn allow(&self, host: &str) -> bool {
        if let Some(bracketed) = host.strip_prefix('[') {
            let Some((address, rest)) = bracketed.split_once(']') else {
                return false;
            };
            let port = rest.strip_prefix(':');
            return address.parse::<Ipv6Addr>().is_ok()
                && is_port(port)
                && (rest.is_empty() || port.is_some());
        }
        let (name, port) = match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        is_port(port)
            && (name.parse::<IpAddr>().is_ok() || name == "localhost" || self.0.contains(&name))
    }
}

/// Whether a port, if there is one, consists of digits.
fn is_port(port: Option<&str>) -> bool {
    port.is_none_or(|port| port.bytes().all(|octet| octet.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_allowed() {
        let hosts = Hosts::new(vec!["dns1.example.net".to_owned()]);
        for host in [
            "127.0.0.1",
            "192.0.2.1:9453",
            "[::1]",
            "[2001:db8::1]:9453",
            "localhost",
            "LOCALHOST:9453",
            "dns1.example.net",
            "DNS1.example.net.:9453",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            ":9453",
            "attacker.example",
            "attacker.example:9453",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
            "x.dns1.example.net",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[attacker.example]",
            "127.0.0.1:x",
            "127.0.0.1:9453:x",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
    }
}
