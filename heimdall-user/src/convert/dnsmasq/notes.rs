//! Statements that have no counterpart, and why.

use super::super::{Draft, source::Statement};

const DHCP: &str = "dnsmasq can go on to do this beside Heimdall, with port=0";
pub(super) const BY_ITSELF: &str = "nothing has to be set for that";
const OF_THE_UNIT: &str = "the service unit says that";
const OF_THE_LOG: &str = "see `log.level` and `log.format`";
const OF_VALIDATORS: &str = "signatures are not checked: forward to resolvers that check them";

/// Notes why a statement has no counterpart.
pub(super) fn note(key: &str, statement: &Statement, draft: &mut Draft) {
    const DHCP_KEYS: [&str; 10] = [
        "dhcp-",
        "tftp-",
        "pxe-",
        "enable-tftp",
        "enable-ra",
        "ra-",
        "read-ethers",
        "bootp-",
        "leasefile-",
        "slaac",
    ];
    let why = match key {
        _ if DHCP_KEYS.iter().any(|start| key.starts_with(start)) => DHCP,
        "bind-interfaces"
        | "bind-dynamic"
        | "bogus-priv"
        | "clear-on-reload"
        | "dns-forward-max"
        | "no-poll"
        | "fast-dns-retry"
        | "local-service"
        | "max-tcp-connections"
        | "no-round-robin"
        | "port-limit"
        | "no-0x20-encode" => BY_ITSELF,
        "user" | "group" | "pid-file" | "keep-in-foreground" | "no-daemon" | "conf-script" => {
            OF_THE_UNIT
        }
        "log-facility" | "log-async" | "log-dhcp" | "log-debug" | "quiet-dhcp" | "quiet-dhcp6"
        | "quiet-ra" | "quiet-tftp" => OF_THE_LOG,
        "query-port" | "min-port" | "max-port" => {
            return draft.lost(
                statement,
                "the kernel chooses ports, in net.ipv4.ip_local_port_range",
            );
        }
        "neg-ttl" => {
            return draft.lost(statement, "NXDOMAIN without an SOA record is not cached");
        }
        "domain-needed" | "filterwin2k" | "filter-A" | "filter-AAAA" | "filter-rr" => {
            return draft.lost(statement, "all names and types are forwarded");
        }
        "localise-queries" => return draft.lost(statement, "all clients get the same answers"),
        "bogus-nxdomain"
        | "ignore-address"
        | "stop-dns-rebind"
        | "rebind-localhost-ok"
        | "rebind-domain-ok"
        | "alias" => {
            return draft.lost(
                statement,
                "addresses are not filtered out of answers, and not changed",
            );
        }
        "dnssec"
        | "trust-anchor"
        | "dnssec-check-unsigned"
        | "dnssec-no-timecheck"
        | "dnssec-timestamp"
        | "dnssec-debug" => {
            return draft.lost(statement, OF_VALIDATORS);
        }
        "add-subnet" | "add-mac" | "add-cpe-id" | "strip-subnet" | "strip-mac" | "umbrella" => {
            return draft.lost(
                statement,
                "queries say nothing about the client; see `forward.client-subnet`",
            );
        }
        _ => return draft.lost(statement, "it has no counterpart"),
    };
    draft.unneeded(statement, why);
}
