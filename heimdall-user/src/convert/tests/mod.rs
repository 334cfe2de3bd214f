#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod dnsdist;
mod dnsmasq;
mod properties;
mod unbound;

use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::config::{Config, Flags, Host};

/// Files in memory.
#[derive(Default)]
struct InMemory(BTreeMap<PathBuf, String>);

impl InMemory {
    fn new(files: &[(&str, &str)]) -> Self {
        let files = files.iter();
        Self(
            files
                .map(|(path, text)| (path.into(), (*text).to_owned()))
                .collect(),
        )
    }
}

impl Files for InMemory {
    fn read(&self, path: &Path, _: u64) -> io::Result<Vec<u8>> {
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.clone().into_bytes())
    }

    fn matching(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = glob::Pattern::new(&pattern.to_string_lossy()).map_err(io::Error::other)?;
        let paths = self.0.keys();
        Ok(paths
            .filter(|path| pattern.matches_path(path))
            .cloned()
            .collect())
    }
}

/// What the settings say, without a look at files that they name.
fn check(text: &str) -> Result<Config, Rejection> {
    let host = Host {
        addresses: vec![[192, 0, 2, 1].into()],
        link_local: Vec::new(),
        cores: [0, 1].into(),
        control: Some("/run/heimdall/control.sock".into()),
    };
    let config = Config::from_text(&Flags::default(), text, &host);
    config.map_err(|error| Rejection::read(&error.to_string()))
}

fn convert_with(kind: Kind, text: &str, files: &InMemory) -> Result<Outcome, ConvertError> {
    let name = match kind {
        Kind::Unbound => "/etc/unbound.conf",
        Kind::Dnsmasq => "/etc/dnsmasq.conf",
        Kind::Dnsdist => "/etc/dnsdist.yml",
        Kind::ResolvConf => "/etc/resolv.conf",
    };
    let draft = kind.convert(Path::new(name), text, &[], files)?;
    draft.finish(None, &|text| check(text).map(drop))
}

/// Converts a text, and reads the settings that come of it.
fn convert(kind: Kind, text: &str) -> (String, Config) {
    let outcome = convert_with(kind, text, &InMemory::default()).unwrap();
    assert_eq!(outcome.rejected, None, "{}", outcome.text);
    let config = check(&outcome.text).unwrap_or_else(|error| panic!("{error:?}\n{}", outcome.text));
    (outcome.text, config)
}

/// The value of a setting in TOML.
fn value(config: &Config, key: &str) -> String {
    let mut settings = config.settings.iter();
    settings
        .find(|setting| setting.key == key)
        .unwrap()
        .value
        .clone()
}

/// The comment about a statement: whether it is one of those that do something which Heimdall will not do, and why.
fn noted<'a>(text: &'a str, place: &str) -> Option<(bool, &'a str)> {
    let start = format!("#   {place}: ");
    let mut is_lost = false;
    for line in text.lines() {
        is_lost |= line.starts_with("# Statements that do something");
        is_lost &= !line.starts_with("# Statements that need no");
        if line.starts_with(&start) {
            return Some((is_lost, line));
        }
    }
    None
}

#[test]
fn kinds_are_known_by_name_or_content() {
    let kind = |path: &str, text: &str| Kind::detect(Path::new(path), text);
    for (path, text, expected) in [
        ("/etc/unbound/unbound.conf.d/a.conf", "", Kind::Unbound),
        ("dnsmasq.conf.bak", "", Kind::Dnsmasq),
        ("/run/systemd/resolve/resolv.conf", "", Kind::ResolvConf),
        ("dnsdist.yml", "", Kind::Dnsdist),
        ("a", "# x\nserver:\n  verbosity: 1\n", Kind::Unbound),
        ("a", "forward-zone:\n", Kind::Unbound),
        ("a", "# x\nserver=/lan/10.0.0.1\n", Kind::Dnsmasq),
        ("a", "no-resolv\n", Kind::Dnsmasq),
        ("a", "search lan\nnameserver 10.0.0.1\n", Kind::ResolvConf),
        ("a", "---\nbinds:\n", Kind::Dnsdist),
    ] {
        assert_eq!(kind(path, text).unwrap(), expected, "{path} {text}");
    }
    let lua = "-- x\nnewServer({address='10.0.0.1'})\n";
    for (path, text) in [("dnsdist.conf", ""), ("a", lua)] {
        let error = kind(path, text).unwrap_err();
        assert!(matches!(error, ConvertError::Lua(_)), "{error}");
        assert!(error.to_string().contains("dnsdist.yml"), "{error}");
    }
    let unknown = kind("a", "options { directory \"/\"; };").unwrap_err();
    assert!(unknown.to_string().contains("--from"), "{unknown}");
}

#[test]
fn resolv_conf_becomes_a_forwarder() {
    let text = "\
# by hand
search lan example.net
nameserver 192.0.2.53
nameserver 2001:db8::53
nameserver 127.0.0.53
options ndots:2 timeout:3 attempts:9 rotate trust-ad edns0
sortlist 130.155.160.0/255.255.240.0
options timeout:x
";
    let (text, config) = convert(Kind::ResolvConf, text);
    assert_eq!(
        value(&config, "upstream"),
        "[\"192.0.2.53:53\", \"[2001:db8::53]:53\"]"
    );
    assert_eq!(value(&config, "forward.timeout-ms"), "3000");
    assert_eq!(value(&config, "forward.attempts"), "5");
    assert_eq!(value(&config, "forward.policy"), "\"round-robin\"");
    assert_eq!(value(&config, "forward.trust-ad"), "true");
    assert!(noted(&text, "/etc/resolv.conf:5").unwrap().0, "{text}");
    assert!(noted(&text, "/etc/resolv.conf:7").unwrap().0, "{text}");
    let (is_lost, line) = noted(&text, "/etc/resolv.conf:8").unwrap();
    assert!(is_lost && line.ends_with("cannot be read"), "{text}");
    assert!(!noted(&text, "/etc/resolv.conf:2").unwrap().0, "{text}");
    assert!(
        text.contains("\"192.0.2.53\",  # /etc/resolv.conf:3: nameserver 192.0.2.53\n"),
        "{text}"
    );
}

#[test]
fn resolvers_can_be_given_where_there_are_none() {
    let convert = |upstreams: &[String]| {
        let path = Path::new("resolv.conf");
        let files = InMemory::default();
        let draft = Kind::ResolvConf.convert(path, "nameserver ::1\n", upstreams, &files);
        draft.unwrap().finish(None, &|text| check(text).map(drop))
    };
    let without = convert(&[]).unwrap_err().to_string();
    assert!(without.contains("--upstream"), "{without}");
    let left_out = "(left out: resolv.conf:1: nameserver ::1: that is a server on this host";
    assert!(without.contains(left_out), "{without}");
    let with = convert(&["9.9.9.9".to_owned()]).unwrap();
    assert_eq!(
        value(&check(&with.text).unwrap(), "upstream"),
        "[\"9.9.9.9:53\"]"
    );
    let bad = convert(&["nine".to_owned()]).unwrap_err();
    assert!(matches!(bad, ConvertError::NoUpstream { .. }), "{bad}");
}

#[test]
fn what_is_rejected_is_left_out_and_named() {
    let text = "\
server:
  interface: 192.0.2.1
  interface: 0.0.0.0
  cache-min-ttl: 700
  cache-max-ttl: 600
forward-zone:
  name: .
  forward-addr: 192.0.2.1
  forward-addr: 192.0.2.2
forward-zone:
  name: loop.example
  forward-addr: 192.0.2.1
";
    let (text, config) = convert(Kind::Unbound, text);
    assert_eq!(value(&config, "upstream"), "[\"192.0.2.2:53\"]");
    assert_eq!(config.routes.len(), 0);
    assert_eq!(config.listen.len(), 1);
    for line in [8, 12] {
        let (is_lost, line) = noted(&text, &format!("/etc/unbound.conf:{line}")).unwrap();
        assert!(is_lost && line.contains("rejected"), "{line}");
    }
    assert!(config.cache.min_ttl <= config.cache.max_ttl);
}

#[test]
fn it_listens_nowhere_that_the_source_does_not() {
    let tls = "tls-service-key: k.pem\n  tls-service-pem: c.pem";
    let dnsdist = "backends:\n  - address: 9.9.9.9\nbinds:\n";
    let samples = [
        (
            Kind::Unbound,
            format!("server:\n  {tls}\n  interface: 0.0.0.0@853\n"),
        ),
        (Kind::Unbound, "server:\n  interface: eth0\n".to_owned()),
        (
            Kind::Unbound,
            "server:\n  do-ip4: no\n  interface: 192.0.2.1\n".to_owned(),
        ),
        (
            Kind::Dnsdist,
            format!("{dnsdist}  - {{listen_address: '192.0.2.1:443', protocol: DoH}}\n"),
        ),
        (Kind::Dnsdist, format!("{dnsdist}  - listen_address: x\n")),
        (Kind::Dnsmasq, "server=9.9.9.9\ninterface=lan\n".to_owned()),
        (
            Kind::Dnsmasq,
            "server=9.9.9.9\nexcept-interface=wan\n".to_owned(),
        ),
        (
            Kind::Dnsmasq,
            "server=9.9.9.9\nlisten-address=x\n".to_owned(),
        ),
        (Kind::Dnsmasq, "server=9.9.9.9\nport=0\n".to_owned()),
    ];
    for (kind, text) in samples {
        let (text, config) = convert(kind, &text);
        let own = r#"["127.0.0.1:53", "[::1]:53"]"#;
        assert_eq!(value(&config, "listen"), own, "{text}");
        assert!(
            text.contains("# It listens at this host's loopback"),
            "{text}"
        );
    }
    let (text, config) = convert(Kind::Dnsmasq, "server=9.9.9.9\n");
    assert_eq!(
        value(&config, "listen"),
        r#"["0.0.0.0:53", "[::]:53"]"#,
        "{text}"
    );
}

#[test]
fn what_a_check_rejects_opens_nothing() {
    let finish = |text: &str, rejects: &[&str]| {
        let path = Path::new("/etc/unbound.conf");
        let draft = Kind::Unbound.convert(path, text, &[], &InMemory::default());
        draft.unwrap().finish(None, &|text| {
            let lines = (1..).zip(text.lines());
            for (line, text) in lines {
                if rejects.iter().any(|rejected| text.contains(rejected)) {
                    let why = "not here".to_owned();
                    return Err(Rejection {
                        line: Some(line),
                        why,
                    });
                }
            }
            Ok(())
        })
    };
    for (action, key) in [("refuse", "refuse"), ("deny", "drop")] {
        let text = format!(
            "server:\n  access-control: 10.0.0.0/8 allow\n  access-control: 10.66.0.0/16 {action}\n"
        );
        assert!(finish(&text, &[]).is_ok());
        let error = finish(&text, &["\"10.66.0.0/16\""]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConvertError::LetsIn { .. }), "{text}");
        let start = "/etc/unbound.conf:3: access-control: 10.66.0.0/16";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.contains(&format!("access.{key}")) && text.ends_with("not here"),
            "{text}"
        );
    }
    for (access, key) in [
        ("10.66.0.0/33 refuse", "refuse"),
        ("10.66.0.0/x refuse_non_local", "refuse"),
        ("10.66 deny", "drop"),
        ("10.66.0.0/33 deny_non_local", "drop"),
    ] {
        let text = format!("server:\n  access-control: {access}\n");
        let error = finish(&text, &[]).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConvertError::LetsIn { .. }), "{text}");
        assert!(text.contains(&format!("access.{key}")), "{text}");
        assert!(text.starts_with("/etc/unbound.conf:2: "), "{text}");
    }
    assert!(finish("server:\n  access-control: 10.66.0.0/33 allow\n", &[]).is_ok());
    let text = "server:\n  interface: 192.0.2.7\n";
    let outcome = finish(text, &["\"192.0.2.7:53\""]).unwrap();
    assert_eq!(outcome.rejected, None);
    assert_eq!(
        value(&check(&outcome.text).unwrap(), "listen"),
        r#"["127.0.0.1:53", "[::1]:53"]"#
    );
    assert!(noted(&outcome.text, "/etc/unbound.conf:2").unwrap().0);
    let none = [":53\",  #", "\"127.0.0.1:53\"", "\"[::1]:53\""];
    let outcome = finish(text, &none).unwrap();
    assert_eq!(outcome.rejected.as_deref(), Some("not here"));
    assert!(
        outcome.text.contains("\"127.0.0.1:53\""),
        "{}",
        outcome.text
    );
}

#[test]
fn a_key_goes_with_its_certificate() {
    let text = "\
server:
  interface: 192.0.2.1
  interface: 192.0.2.1@853
  tls-service-key: k.pem
  tls-service-pem: c.pem
";
    let path = Path::new("/etc/unbound.conf");
    let draft = Kind::Unbound.convert(path, text, &[], &InMemory::default());
    let outcome = draft.unwrap().finish(None, &|text| {
        let mut lines = (1..).zip(text.lines());
        match lines.find(|(_, line)| line.starts_with("certificate = ")) {
            Some((line, _)) => Err(Rejection {
                line: Some(line),
                why: "not here".to_owned(),
            }),
            None => check(text).map(drop),
        }
    });
    let text = outcome.unwrap().text;
    assert!(
        !text.contains("\n[tls]") && !text.contains("k.pem\""),
        "{text}"
    );
    for line in [3, 4, 5] {
        let noted = noted(&text, &format!("/etc/unbound.conf:{line}"));
        assert!(noted.is_some_and(|(is_lost, _)| is_lost), "{line}: {text}");
    }
    assert!(check(&text).is_ok(), "{text}");
}

#[test]
fn a_reason_is_shown_to_its_end() {
    let why = format!("{}: write another", "x".repeat(300));
    let path = Path::new("/etc/resolv.conf");
    let text = "nameserver 192.0.2.53\nnameserver 192.0.2.54\n";
    let draft = Kind::ResolvConf.convert(path, text, &[], &InMemory::default());
    let outcome = draft.unwrap().finish(None, &|text| {
        let mut lines = (1..).zip(text.lines());
        match lines.find(|(_, line)| line.contains("192.0.2.54")) {
            Some((line, _)) => Err(Rejection {
                line: Some(line),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    });
    let text = outcome.unwrap().text;
    let (is_lost, line) = noted(&text, "/etc/resolv.conf:2").unwrap();
    assert!(is_lost && line.ends_with(": write another"), "{text}");
}

#[test]
fn statements_are_shown_as_comments_of_one_line() {
    let text = format!("nameserver 9.9.9.9\n\u{7}\u{1b}[31m {}\n", "x".repeat(1000));
    let (text, _) = convert(Kind::ResolvConf, &text);
    assert!(!text.contains(['\u{7}', '\u{1b}']), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() < 300),
        "{text}"
    );
}
