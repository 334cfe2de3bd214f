//! The words of unbound.conf, and the statements that they make.

use std::{path::Path, sync::Arc};

use super::super::source::Statement;

/// The names of sections, which have no value.
pub(super) const SECTIONS: [&str; 13] = [
    "server",
    "forward-zone",
    "stub-zone",
    "auth-zone",
    "view",
    "rpz",
    "remote-control",
    "python",
    "dynlib",
    "dnscrypt",
    "cachedb",
    "dnstap",
    "ipset",
];

/// A key, its values, and where they are.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) values: Vec<String>,
    pub(super) statement: Statement,
}

impl Entry {
    /// The first value.
    pub(super) fn value(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// A word; quotes and escapes are taken away.
struct Word {
    line: usize,
    text: String,
    quoted: bool,
}

/// Reads the statements of a text, in order.
pub(super) fn entries(path: &Path, text: &str) -> Vec<Entry> {
    let path: Arc<Path> = path.into();
    let mut entries: Vec<Entry> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for word in words(text) {
        let lacks_value = entries.last().is_some_and(|entry| {
            entry.values.is_empty() && !SECTIONS.contains(&entry.key.as_str())
        });
        let key = key(&word.text).filter(|(_, value)| {
            // What follows a key is its value, whatever it looks like.
            !word.quoted && (value.is_none() || !lacks_value)
        });
        match (key, entries.last_mut()) {
            (Some((key, value)), _) => {
                let line = lines.get(word.line - 1).unwrap_or(&"");
                entries.push(Entry {
                    key: key.to_ascii_lowercase(),
                    values: value.map(str::to_owned).into_iter().collect(),
                    statement: Statement::new(&path, word.line, line),
                });
            }
            (None, Some(entry)) => entry.values.push(word.text),
            // unbound takes no value before the first key.
            (None, None) => entries.push(Entry {
                key: String::new(),
                statement: Statement::new(&path, word.line, &word.text),
                values: vec![word.text],
            }),
        }
    }
    entries
}

/// Reads `KEY:`, or `KEY:VALUE`. Neither is an IPv6 address.
fn key(word: &str) -> Option<(&str, Option<&str>)> {
    let (key, value) = word.split_once(':')?;
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(known);
    // A hexadecimal group of an address is no longer than four letters, and no key that short is one.
    let is_group = key.len() <= 4 && key.chars().all(|c| c.is_ascii_hexdigit());
    let is_name = value.is_empty() || !is_group;
    let is_address = word.parse::<std::net::IpAddr>().is_ok();
    (is_key && is_name && !is_address)
        .then_some((key, Some(value).filter(|value| !value.is_empty())))
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let mut letters = text.chars().peekable();
        while let Some(first) = letters.next() {
            let mut text = String::new();
            match first {
                letter if letter.is_ascii_whitespace() => continue,
                // Only at the beginning of a word: `9.9.9.9#dns.quad9.net` is one.
                '#' => break,
                '"' | '\'' => {
                    text.extend(letters.by_ref().take_while(|letter| *letter != first));
                    words.push(Word {
                        line,
                        text,
                        quoted: true,
                    });
                }
                first => {
                    let mut next = Some(first);
                    while let Some(letter) = next {
                        match letter {
                            '\\' => text.extend(letters.next()),
                            letter => text.push(letter),
                        }
                        let ends = |letter: &char| {
                            letter.is_ascii_whitespace() || matches!(letter, '"' | '\'')
                        };
                        next = letters.next_if(|letter| !ends(letter));
                    }
                    words.push(Word {
                        line,
                        text,
                        quoted: false,
                    });
                }
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_read_as_unbound_reads_them() {
        let text = "
            server: # a comment
              interface: ::   access-control: fe80::/10 allow
              interface:192.0.2.1@5353
              local-data: 'a.example. TXT \"x y\"'# behind it
              nsid: ascii_a:b
            forward-zone: name: \".\" forward-addr: 9.9.9.9@853#dns.quad9.net
              forward-addr: cafe::2";
        let expected = [
            "server []",
            "interface [\"::\"]",
            "access-control [\"fe80::/10\", \"allow\"]",
            "interface [\"192.0.2.1@5353\"]",
            r#"local-data ["a.example. TXT \"x y\""]"#,
            "nsid [\"ascii_a:b\"]",
            "forward-zone []",
            "name [\".\"]",
            "forward-addr [\"9.9.9.9@853#dns.quad9.net\"]",
            "forward-addr [\"cafe::2\"]",
        ];
        let entries = entries(Path::new("unbound.conf"), text);
        let read = entries
            .iter()
            .map(|entry| format!("{} {:?}", entry.key, entry.values));
        assert_eq!(read.collect::<Vec<_>>(), expected);
    }
}
