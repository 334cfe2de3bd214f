//! Reads a list, line by line, in either of the two formats that lists come in: one name per line, which
//! includes the names below it, or a hosts file.

use std::net::IpAddr;

use crate::answer::hostname;

/// What was read of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListReport {
    /// Names that were added.
    pub names: usize,
    /// Lines that were skipped, in whole or in part: they hold something that is not a name.
    pub skipped: usize,
    /// The number of the first of those, counted from 1.
    pub first_skipped: Option<usize>,
}

/// Names that hosts files give the host's own addresses, and that are not meant to be blocked.
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

/// The line, counted from 1, that puts a name (wire form, any case) on a list: the name itself, or only if the
/// names below it are on the list, too.
pub(crate) fn find_line(text: &[u8], name: &[u8], with_below: bool) -> Option<usize> {
    let mut wanted = Vec::with_capacity(256);
    write_key(&text_of(name)?, &mut wanted)?;
    let mut found = None;
    read_lines(text, |line, key, below| {
        if key == wanted && (below || !with_below) {
            found.get_or_insert(line);
        }
    });
    found
}

/// A name in wire form as lists have it: its labels with dots between.
fn text_of(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    while let Some((len @ 1.., rest)) = name.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*len))?;
        labels.push(label);
        name = rest;
    }
    Some(labels.join(&b'.'))
}

/// Calls `add` with the key of each name, and whether the names below it are blocked, too.
pub(super) fn read(text: &[u8], mut add: impl FnMut(&[u8], bool)) -> ListReport {
    read_lines(text, |_, key, below| add(key, below))
}

/// As [`read`], with the number of each name's line.
fn read_lines(text: &[u8], mut add: impl FnMut(usize, &[u8], bool)) -> ListReport {
    let mut report = ListReport::default();
    let mut key = Vec::with_capacity(256);
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // byte order mark
    for (number, line) in (1..).zip(text.split(|octet| *octet == b'\n')) {
        let mut add = |key: &[u8], below| {
            report.names += 1;
            add(number, key, below);
        };
        if read_line(line.trim_ascii(), &mut key, &mut add).is_none() {
            report.skipped += 1;
            report.first_skipped.get_or_insert(number);
        }
    }
    report
}

/// Adds the names of a line; `None` if it holds something else.
fn read_line(line: &[u8], key: &mut Vec<u8>, add: &mut impl FnMut(&[u8], bool)) -> Option<()> {
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
        return read_hosts(words, key, add);
    }
    // A word with a `#` in it is not a name: `example.com##.banner` is a browser's rule that hides a
    // part of a page, and must not block the site.
    let alone = words.next().is_none();
    write_key(first.strip_prefix(b"*.").unwrap_or(first), key).filter(|()| alone)?;
    add(key, true);
    Some(())
}

/// Adds the names that follow an address; those that are not valid are skipped.
fn read_hosts<'a>(
    words: impl Iterator<Item = &'a [u8]>,
    key: &mut Vec<u8>,
    add: &mut impl FnMut(&[u8], bool),
) -> Option<()> {
    let (mut any, mut valid) = (false, true);
    for word in words {
        let mut parts = word.splitn(2, |octet| *octet == b'#');
        let name = parts.next()?;
        any = true;
        if !is_local(name) {
            match write_key(name, key) {
                Some(()) => add(key, false),
                None => valid = false,
            }
        }
        if parts.next().is_some() {
            break;
        }
    }
    (any && valid).then_some(())
}

/// Whether a word is an IP address; a link-local one may have a zone (RFC 4007 section 11).
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
