//! Texts of operators: settings, records, hosts files and blocklists.

use std::{
    io,
    path::{Path, PathBuf},
};

use heimdall_user::{
    answer::{blocklist::BlockAction, local::LocalData},
    blocklist,
    config::{Config, ConfigError, Flags, Host},
    convert::{Files, Kind, Rejection},
};

fn read(text: &str) -> Result<Config, ConfigError> {
    let host = Host {
        addresses: vec![[10, 0, 0, 1].into()],
        link_local: Vec::new(),
        cores: [0, 1].into(),
        control: Some("/run/heimdall/control.sock".into()),
    };
    Config::from_text(&Flags::default(), text, &host)
}

/// A host without files.
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn matching(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// Any text is another server's configuration, from which settings are made that are good, or gives an error of one line.
/// The first letter says whose it is.
pub fn convert(octets: &[u8]) {
    let Some((first, octets)) = octets.split_first() else {
        return;
    };
    let kind = match first {
        b'u' => Kind::Unbound,
        b'm' => Kind::Dnsmasq,
        b'd' => Kind::Dnsdist,
        _ => Kind::ResolvConf,
    };
    // Longer ones find nothing more.
    let text = String::from_utf8_lossy(&octets[..octets.len().min(1 << 14)]);
    let path = Path::new("other.conf");
    let check = |text: &str| match read(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Rejection::read(&error.to_string())),
    };
    let draft = kind.convert(path, &text, &["9.9.9.9".to_owned()], &NoFiles);
    match draft.and_then(|draft| draft.finish(None, &check)) {
        Ok(outcome) if outcome.rejected.is_some() => {}
        Ok(outcome) => assert!(read(&outcome.text).is_ok(), "{}", outcome.text),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

/// Any text is settings, or gives an error of one line.
pub fn config(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match read(text) {
        Ok(config) => {
            assert!(!config.listen.is_empty());
            assert!(!config.upstreams.is_empty() || !config.routes.is_empty());
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

/// Any octets are a hosts file or a blocklist, any text is a record or gives an error; and names
/// that were read can be looked up.
pub fn lists(text: &[u8]) {
    let text = &text[..text.len().min(4096)];
    let lines = text.split(|octet| *octet == b'\n').count();
    let mut data = LocalData::builder();
    assert!(data.hosts(text).skipped <= lines);
    assert!(data.build().is_ok(), "any octets are a hosts file");
    let mut data = LocalData::builder();
    if let Ok(text) = std::str::from_utf8(text) {
        for line in text.lines() {
            let _ = data.record(line);
        }
    }
    assert!(data.hosts(text).skipped <= lines);
    if let Ok(data) = data.build() {
        let _ = data.lookup(b"\x01a\x03lan\0", 1);
    }
    let Ok((lists, reports)) = blocklist::build([(text, BlockAction::NxDomain)]) else {
        panic!("no temporary file");
    };
    assert!(reports[0].skipped <= lines);
    let _ = lists.lookup(text);
    assert_eq!(lists.lookup(b"\0"), None);
}
