//! Reads a list, line by line, in either of the two formats that lists come in.

use std::net::IpAddr;

use super::super::local::wire;

/// What a list held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names taken.
    pub names: usize,
    /// Lines that say nothing that can be understood.
    pub skipped: usize,
    /// The first of those, counted from 1.
    pub first_skipped: Option<usize>,
}

/// Names that the lines of every hosts file begin with, and that nobody wants to block.
const LOCAL: [&str; 5] = [
    "localhost",
    "localhost.localdomain",
    "local",
    "broadcasthost",
    "0.0.0.0",
];

/// Gives `take` the key of each name, and whether all names below it are meant, too.
pub(super) fn read(text: &[u8], mut take: impl FnMut(&[u8], bool)) -> Report {
    let mut report = Report::default();
    let mut key = Vec::with_capacity(256);
    for (number, line) in (1..).zip(text.split(|octet| *octet == b'\n')) {
        let line = line
            .split(|octet| *octet == b'#')
            .next()
            .unwrap_or_default();
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"!") {
            continue;
        }
        match names(line, &mut key, &mut take) {
            Some(count) => report.names += count,
            None => {
                report.skipped += 1;
                report.first_skipped.get_or_insert(number);
            }
        }
    }
    report
}

/// Takes the names of a line. How many, or `None` if it has something else.
fn names(line: &[u8], key: &mut Vec<u8>, take: &mut impl FnMut(&[u8], bool)) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    if first.parse::<IpAddr>().is_err() {
        let name = first.strip_prefix("*.").unwrap_or(first);
        let alone = words.next().is_none();
        write_key(name, key).filter(|()| alone)?;
        take(key, true);
        return Some(1);
    }
    let mut count = 0;
    for word in words.filter(|word| !LOCAL.contains(word) && !word.starts_with("ip6-")) {
        write_key(word, key)?;
        take(key, false);
        count += 1;
    }
    Some(count)
}

/// Writes the key of a name: its labels from the root down, each after its length.
fn write_key(name: &str, key: &mut Vec<u8>) -> Option<()> {
    let known = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    if !name.bytes().all(known) {
        return None;
    }
    wire(name)?;
    key.clear();
    for label in name.strip_suffix('.').unwrap_or(name).rsplit('.') {
        key.push(label.len() as u8);
        key.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
    }
    Some(())
}
