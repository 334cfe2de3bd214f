//! Texts of operators: settings, records, hosts files and blocklists.

use heimdall_user::{
    answer::{blocklist::BlockAction, local::LocalData},
    blocklist,
    config::{Config, Flags, Host},
};

/// Any text is settings, or gives an error of one line.
pub fn config(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let host = Host {
        addresses: vec![[10, 0, 0, 1].into()],
        link_local: Vec::new(),
        cores: [0, 1].into(),
        control: Some("/run/heimdall/control.sock".into()),
    };
    match Config::from_text(&Flags::default(), text, &host) {
        Ok(config) => assert!(!config.listen.is_empty() && !config.upstreams.is_empty()),
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
