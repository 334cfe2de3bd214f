//! Reads a list, line by line, in either of the two formats that lists come in.

use std::net::IpAddr;

use super::super::hostname;

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
const LOCAL: [&str; 9] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "local",
    "broadcasthost",
    "0.0.0.0",
];

/// Gives `take` the key of each name, and whether all names below it are meant, too.
pub(super) fn read(text: &[u8], mut take: impl FnMut(&[u8], bool)) -> Report {
    let mut report = Report::default();
    let mut key = Vec::with_capacity(256);
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // byte order mark
    for (number, line) in (1..).zip(text.split(|octet| *octet == b'\n')) {
        let mut take = |key: &[u8], below| {
            report.names += 1;
            take(key, below);
        };
        if read_line(line.trim_ascii(), &mut key, &mut take).is_none() {
            report.skipped += 1;
            report.first_skipped.get_or_insert(number);
        }
    }
    report
}

/// Takes the names of a line; `None` if it has something else.
fn read_line(line: &[u8], key: &mut Vec<u8>, take: &mut impl FnMut(&[u8], bool)) -> Option<()> {
    if line.starts_with(b"!") {
        return Some(());
    }
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with(b"#"));
    let Some(first) = words.next() else {
        return Some(());
    };
    if is_address(first) {
        return read_hosts(words, key, take);
    }
    // A `#` within the word makes it no name: `example.com##.banner` is a rule for browsers, which
    // hides a part of a page; the site must not be blocked for it.
    let alone = words.next().is_none();
    write_key(first.strip_prefix(b"*.").unwrap_or(first), key).filter(|()| alone)?;
    take(key, true);
    Some(())
}

/// Takes the names behind an address. What is no name among them does not keep the others out.
fn read_hosts<'a>(
    words: impl Iterator<Item = &'a [u8]>,
    key: &mut Vec<u8>,
    take: &mut impl FnMut(&[u8], bool),
) -> Option<()> {
    let (mut any, mut good) = (false, true);
    for word in words {
        let mut parts = word.splitn(2, |octet| *octet == b'#');
        let name = parts.next()?;
        any = true;
        if !is_local(name) {
            match write_key(name, key) {
                Some(()) => take(key, false),
                None => good = false,
            }
        }
        if parts.next().is_some() {
            break;
        }
    }
    (any && good).then_some(())
}

/// An IP address; that of a link may come with its interface (RFC 4007 section 11).
fn is_address(word: &[u8]) -> bool {
    let address = word.split(|octet| *octet == b'%').next();
    address
        .and_then(|octets| std::str::from_utf8(octets).ok())
        .is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

fn is_local(name: &[u8]) -> bool {
    let group = name
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"ip6-"));
    group
        || LOCAL
            .iter()
            .any(|local| name.eq_ignore_ascii_case(local.as_bytes()))
}

/// Writes the key of a name: its labels from the root down, each after its length.
fn write_key(name: &[u8], key: &mut Vec<u8>) -> Option<()> {
    let name = hostname::check(name)?;
    key.clear();
    for label in name.rsplit(|octet| *octet == b'.') {
        key.push(label.len() as u8);
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    Some(())
}
