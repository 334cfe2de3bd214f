//! Host names as text, as hosts files and blocklists write them.
//!
//! Their labels consist of letters, digits, `-` and `_` (RFC 1123 section 2.1, RFC 8552 for the
//! last). There are no escapes, and internationalized names have the form that they have
//! in queries, `xn--` (RFC 5890).

/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// Longest name as text without the final dot: on the wire it takes two octets more.
const MAX_TEXT: usize = 253;

/// A host name without its final dot: labels of 1 to 63 octets, with dots between them. `None` if
/// the text is not one.
pub(crate) fn check(text: &[u8]) -> Option<&[u8]> {
    let name = text.strip_suffix(b".").unwrap_or(text);
    let host = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let good = name.len() <= MAX_TEXT
        && name
            .split(|octet| *octet == b'.')
            .all(|label| (1..=MAX_LABEL).contains(&label.len()) && label.iter().all(host));
    good.then_some(name)
}

/// A host name in wire form and lower case.
pub(crate) fn wire(text: &[u8]) -> Option<Vec<u8>> {
    let name = check(text)?;
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split(|octet| *octet == b'.') {
        wire.push(label.len() as u8);
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    wire.push(0);
    Some(wire)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_host_names_are_accepted() {
        let label = "x".repeat(63);
        let longest = [&label[..], &label, &label, &"y".repeat(61)].join(".");
        assert_eq!(wire(longest.as_bytes()).unwrap().len(), 255);
        assert_eq!(wire(b"A.b_-1.").unwrap(), b"\x01a\x04b_-1\0");
        let (long_label, too_long) = (format!("{label}x"), format!("{longest}z"));
        for word in [
            "",
            ".",
            ".a",
            "a..b",
            "a..",
            "a b",
            "a*",
            "a#b",
            "b\u{fc}cher",
            &long_label,
            &too_long,
        ] {
            assert_eq!(check(word.as_bytes()), None, "{word}");
        }
    }
}
