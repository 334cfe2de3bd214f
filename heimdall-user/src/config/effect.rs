//! Settings that have no effect beside others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Backend, Config, TierConfig, TierMode};
use crate::{answer::access::Decision, tap::MessageKind};

/// Why the hot tier is off with a rate limit.
pub(crate) const RATE_LIMIT: &str =
    "rate-limit.responses-per-second is set, and workers count replies";

/// Why the hot tier is off when clients have to show cookies above a rate.
pub(crate) const COOKIES: &str = "cookies.demand-above is set, and workers count queries";

impl TierConfig {
    /// Whether the hot tier is not wanted.
    pub(crate) fn is_off(&self) -> bool {
        self.mode == TierMode::Off || self.entries == 0
    }
}

impl Config {
    /// Whether AF_XDP is to be used.
    pub(crate) fn wants_xdp(&self) -> bool {
        self.backend != Backend::Socket && !self.interfaces.is_empty()
    }

    /// Why the hot tier is off: what samples the queries that workers answer.
    fn tier_observer(&self) -> Option<&'static str> {
        let mut messages = self.dnstap.messages.iter();
        let samples_clients = self.dnstap.output.is_some()
            && messages
                .any(|kind| matches!(kind, MessageKind::ClientQuery | MessageKind::ClientResponse));
        if self.query_log.sample.is_some() {
            return Some("the query log has only queries that workers answer");
        }
        samples_clients.then_some("dnstap has only queries that workers answer")
    }

    /// Whether the XDP program is loaded with the hot tier on interfaces with this driver.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn allows_tier(&self, driver: &str) -> Result<(), &'static str> {
        if self.tier.is_off() {
            return Err("by the settings");
        }
        if let Some(observer) = self.tier_observer() {
            return Err(observer);
        }
        if self.tier.mode == TierMode::Auto && driver == "veth" {
            return Err(
                "a veth's peer takes the XDP program's replies only if it has a program, too; --tier on, if it has",
            );
        }
        Ok(())
    }

    /// Why the hot tier is off, if settings of other tables turn it off.
    pub(crate) fn tier_obstacle(&self) -> Option<&'static str> {
        let limit = self.rate_limit.responses_per_second > 0;
        let cookies = self.cookies.enabled && self.cookies.demand_above > 0;
        let counted = limit.then_some(RATE_LIMIT);
        let counted = counted.or(cookies.then_some(COOKIES));
        self.tier_observer().or(counted)
    }

    /// What the settings ask for and what has no effect, a line each, which begins with the setting's location.
    pub(crate) fn without_effect(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |key: &str, what: &str| {
            lines.push(format!("{}{what}", self.settings.location(key)));
        };
        let mut routes = self.routes.iter().map(|route| &route.upstreams);
        let has_second = self.upstreams.len() > 1 || routes.any(|list| list.len() > 1);
        if self.forward.hedge > 0 && !has_second {
            say(
                "forward.hedge",
                "there is no second upstream to ask: no list of upstreams has two",
            );
        }
        match (self.tier.mode, self.tier_obstacle()) {
            (TierMode::On, _) if self.tier.entries == 0 => {
                say("tier.mode", "the hot tier is off: tier.entries is 0");
            }
            (TierMode::On, Some(why)) => say("tier.mode", &format!("the hot tier is off: {why}")),
            (TierMode::Auto, Some(why)) if self.wants_xdp() && self.tier.entries > 0 => {
                say("tier.mode", &format!("the hot tier is off: {why}"));
            }
            _ => {}
        }
        let access = self.access.access();
        for &ip in &self.anycast.addresses {
            // As the self-test of `anycast` sends: over UDP from the loopback address, over TCP from the address that it asks at.
            let loopback = match ip {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            let mut sources = [ip, loopback].into_iter();
            if let Some(dropped) = sources.find(|from| access.decide(*from) == Decision::Drop) {
                let what = format!(
                    "it covers {dropped}, from which the server asks itself at the service address {ip}: that would never be \
                     announced; leave it out"
                );
                say("access.drop", &what);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Flags, Host};

    fn config(text: &str) -> Config {
        let host = Host {
            control: Some("/run/heimdall/control.sock".into()),
            ..Host::default()
        };
        Config::from_text(&Flags::default(), text, &host).unwrap()
    }

    #[test]
    fn a_hedge_takes_two_upstreams_in_one_list() {
        let one = "upstream = [\"192.0.2.1\"]\n";
        let lines = config(&format!("{one}[forward]\nhedge = 5\n")).without_effect();
        assert_eq!(lines.len(), 1);
        let line = lines.first().unwrap();
        assert!(
            line.starts_with("heimdall.toml:3: key `forward.hedge`: there is no second"),
            "{line}"
        );
        let route = "[[route]]\nzone = \"a\"\nupstream = [\"192.0.2.2\", \"192.0.2.3\"]\n";
        for text in [
            one.to_owned(),
            "upstream = [\"192.0.2.1\", \"192.0.2.2\"]\n[forward]\nhedge = 5\n".to_owned(),
            format!("{one}[forward]\nhedge = 5\n{route}"),
        ] {
            assert_eq!(config(&text).without_effect(), Vec::<String>::new());
        }
    }

    #[test]
    fn what_turns_the_hot_tier_off_is_said() {
        let on = "upstream = [\"192.0.2.1\"]\n[tier]\nmode = \"on\"\n";
        for (more, why) in [
            ("entries = 0", "tier.entries is 0"),
            ("[rate-limit]\nresponses-per-second = 5", "rate-limit"),
            ("[cookies]\ndemand-above = 5", "cookies.demand-above"),
            ("[query-log]\nsample = \"1/100\"", "query log"),
            ("[dnstap]\noutput = \"unix:/run/dnstap.sock\"", "dnstap"),
        ] {
            let lines = config(&format!("{on}{more}\n")).without_effect();
            assert_eq!(lines.len(), 1, "{more}");
            let line = lines.first().unwrap();
            assert!(
                line.starts_with("heimdall.toml:3: key `tier.mode`: the hot tier is off: "),
                "{line}"
            );
            assert!(line.contains(why), "{line}");
        }
        let forwarder = "messages = [\"forwarder-query\"]\noutput = \"unix:/run/dnstap.sock\"";
        for more in [
            "",
            "[cookies]\nenabled = false\ndemand-above = 5",
            &format!("[dnstap]\n{forwarder}"),
        ] {
            let lines = config(&format!("{on}{more}\n")).without_effect();
            assert_eq!(lines, Vec::<String>::new(), "{more}");
        }
    }

    #[test]
    fn the_hot_tier_is_loaded_unless_settings_or_the_driver_keep_it_off() {
        let why = |more: &str, driver: &str| {
            let config = config(&format!("upstream = [\"192.0.2.1\"]\n{more}\n"));
            config.allows_tier(driver).err().unwrap_or_default()
        };
        let output = "[dnstap]\noutput = \"unix:/run/dnstap.sock\"\n";
        let upstream = format!("{output}messages = [\"forwarder-query\"]");
        for more in ["", "[tier]\nmode = \"on\"", &upstream] {
            assert_eq!(why(more, "igb"), "", "{more}");
        }
        for (more, text) in [
            ("[tier]\nentries = 0", "by the settings"),
            ("[tier]\nmode = \"off\"", "by the settings"),
            ("[query-log]\nsample = \"1/100\"", "query log"),
            (output, "dnstap"),
        ] {
            assert!(why(more, "igb").contains(text), "{more}");
        }
        assert!(why("", "veth").contains("a veth's peer"));
        assert_eq!(why("[tier]\nmode = \"on\"", "veth"), "");
    }

    #[test]
    fn service_addresses_at_which_the_server_cannot_ask_itself_are_said() {
        let lines = |access: &str| {
            let service = "[anycast]\naddress = [\"203.0.113.53\", \"2001:db8::53\"]\n";
            let text = format!("upstream = [\"192.0.2.1\"]\n{service}[access]\n{access}\n");
            config(&text).without_effect()
        };
        assert_eq!(
            lines("drop = [\"203.0.113.0/24\"]"),
            [
                "heimdall.toml:5: key `access.drop`: it covers 203.0.113.53, from which the server asks itself at the service \
                 address 203.0.113.53: that would never be announced; leave it out"
            ]
        );
        let loopback = lines("drop = [\"::1\"]");
        assert!(
            matches!(loopback.as_slice(), [line] if line.contains("it covers ::1, from which") && line.contains("2001:db8::53")),
            "{loopback:?}"
        );
        let exempt = "drop = [\"203.0.113.0/24\"]\nallow = [\"203.0.113.53\"]";
        for access in ["", "refuse = [\"203.0.113.0/24\"]", exempt] {
            assert_eq!(lines(access), Vec::<String>::new(), "{access}");
        }
    }

    #[test]
    fn without_interfaces_the_hot_tier_is_not_missed() {
        let limit = "[rate-limit]\nresponses-per-second = 5\n";
        let with = |top: &str| {
            let text = format!("upstream = [\"192.0.2.1\"]\n{top}{limit}");
            config(&text).without_effect().len()
        };
        assert_eq!(with(""), 0);
        assert_eq!(with("interface = [\"eth0\"]\n"), 1);
        assert_eq!(with("interface = [\"eth0\"]\nbackend = \"socket\"\n"), 0);
        assert_eq!(with("interface = [\"eth0\"]\n[tier]\nmode = \"off\"\n"), 0);
        assert_eq!(with("interface = [\"eth0\"]\n[tier]\nentries = 0\n"), 0);
    }
}
