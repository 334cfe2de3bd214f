//! Queries as octets, right ones and wrong ones, written without any DNS library, so that none
//! can smooth out what it thinks impossible.

use std::fmt::Write as _;

/// QR in the header's flags word.
pub(super) const QR: u16 = 0x8000;
/// TC.
pub(super) const TC: u16 = 0x0200;
/// RD.
pub(super) const RD: u16 = 0x0100;
/// The reserved bit Z.
pub(super) const Z: u16 = 0x0040;
/// AD.
pub(super) const AD: u16 = 0x0020;
/// CD.
pub(super) const CD: u16 = 0x0010;

/// Types by name; others are written `TYPE65280` (RFC 3597 section 5).
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("HINFO", 13),
    ("MX", 15),
    ("TXT", 16),
    ("RP", 17),
    ("AAAA", 28),
    ("LOC", 29),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("OPT", 41),
    ("DS", 43),
    ("SSHFP", 44),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("CDS", 59),
    ("CDNSKEY", 60),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("TKEY", 249),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", 252),
    ("MAILB", 253),
    ("MAILA", 254),
    ("ANY", 255),
    ("URI", 256),
    ("CAA", 257),
];

/// A type's number.
pub(super) fn rrtype(name: &str) -> u16 {
    let known = TYPES.iter().find(|(known, _)| *known == name);
    known.map_or_else(
        || name.trim_start_matches("TYPE").parse().unwrap(),
        |(_, number)| *number,
    )
}

/// A type's name.
pub(super) fn rrtype_name(number: u16) -> String {
    let known = TYPES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("TYPE{number}"), |(name, _)| (*name).to_owned())
}

/// A name in wire form, from the form that zone files have: `\.` and `\065` are octets of a label.
pub(super) fn name(text: &str) -> Vec<u8> {
    let mut labels = vec![Vec::new()];
    let mut rest = text.trim_end_matches('.').bytes();
    while let Some(octet) = rest.next() {
        let label: &mut Vec<u8> = labels.last_mut().unwrap();
        match octet {
            b'.' => labels.push(Vec::new()),
            b'\\' => {
                let first = rest.next().unwrap();
                if first.is_ascii_digit() {
                    let digits = [first, rest.next().unwrap(), rest.next().unwrap()];
                    label.push(std::str::from_utf8(&digits).unwrap().parse().unwrap());
                } else {
                    label.push(first);
                }
            }
            _ => label.push(octet),
        }
    }
    let mut wire = Vec::new();
    for label in labels.iter().filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// A name in the form that zone files have.
pub(super) fn name_text(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let Some((len, after)) = rest.split_first().filter(|(len, _)| **len != 0) {
        let (label, after) = after.split_at(usize::from(*len).min(after.len()));
        for octet in label {
            match octet {
                b'.' | b'\\' => text.extend(['\\', char::from(*octet)]),
                0x21..=0x7e => text.push(char::from(*octet)),
                _ => {
                    let _ = write!(text, "\\{octet:03}");
                }
            }
        }
        text.push('.');
        rest = after;
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// An OPT record (RFC 6891 section 6.1.2).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Opt {
    /// The sender's payload size in octets.
    pub(super) size: u16,
    /// EDNS version.
    pub(super) version: u8,
    /// DO and the 15 reserved bits after it.
    pub(super) flags: u16,
    /// Code and data of each option.
    pub(super) options: Vec<(u16, Vec<u8>)>,
}

/// DO in [`Opt::flags`].
pub(super) const DO: u16 = 0x8000;

impl Opt {
    fn wire(&self) -> Vec<u8> {
        let mut wire = vec![0];
        wire.extend(41u16.to_be_bytes());
        wire.extend(self.size.to_be_bytes());
        wire.extend([0, self.version]);
        wire.extend(self.flags.to_be_bytes());
        let len: usize = self.options.iter().map(|(_, data)| 4 + data.len()).sum();
        wire.extend((len as u16).to_be_bytes());
        for (code, data) in &self.options {
            wire.extend(code.to_be_bytes());
            wire.extend((data.len() as u16).to_be_bytes());
            wire.extend(data);
        }
        wire
    }
}

/// What is wrong, or at least unusual, about a message's form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Oddity {
    /// Nothing.
    None,
    /// QDCOUNT 0, and no question.
    NoQuestion,
    /// QDCOUNT 2, the same question twice.
    TwoQuestions,
    /// The name is a pointer to itself.
    PointerToItself,
    /// The name ends in a pointer to the header.
    PointerToHeader,
    /// The name has a label of type 0x40.
    ExtendedLabel,
    /// A name of 256 octets.
    NameTooLong,
    /// Only the first so many octets are sent.
    Cut(usize),
    /// So many octets follow the message.
    Trailing(usize),
    /// Two OPT records.
    TwoOpts,
    /// The OPT record has an owner name.
    OwnedOpt,
    /// The OPT record is in the answer section.
    MisplacedOpt,
    /// An option says that it is longer than the record.
    OptionPastEnd,
    /// An A record of the same name in the additional section.
    ExtraRecord,
    /// An A record of the same name in the answer section.
    AnswerRecord,
    /// ARCOUNT counts a record that is not there.
    MissingRecord,
}

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// Transaction ID.
    pub(super) id: u16,
    /// The header's flags word.
    pub(super) flags: u16,
    /// The queried name in wire form.
    pub(super) name: Vec<u8>,
    /// The queried type.
    pub(super) qtype: u16,
    /// The queried class.
    pub(super) qclass: u16,
    /// The OPT record.
    pub(super) opt: Option<Opt>,
    /// What is odd about its form.
    pub(super) oddity: Oddity,
}

impl Query {
    /// A query of class IN with RD and without OPT.
    pub(super) fn new(name: Vec<u8>, qtype: u16) -> Self {
        Self {
            id: 0,
            flags: RD,
            name,
            qtype,
            qclass: 1,
            opt: None,
            oddity: Oddity::None,
        }
    }

    /// The opcode, 0 to 15.
    pub(super) fn opcode(&self) -> u8 {
        (self.flags >> 11 & 15) as u8
    }

    /// Whether it has DO.
    pub(super) fn dnssec_ok(&self) -> bool {
        self.opt.as_ref().is_some_and(|opt| opt.flags & DO != 0)
    }

    /// The question section.
    fn question(&self) -> Vec<u8> {
        let mut name = self.name.clone();
        name.pop();
        match self.oddity {
            Oddity::PointerToItself => name = vec![0xc0, 12],
            Oddity::PointerToHeader => name.extend([0xc0, 0]),
            Oddity::ExtendedLabel => name.extend([0x41, 1, 0]),
            Oddity::NameTooLong => {
                name = [&[63; 64][..], &[63; 64], &[63; 64], &[61; 62], &[1, 1, 0]].concat();
            }
            _ => name.push(0),
        }
        name.extend(self.qtype.to_be_bytes());
        name.extend(self.qclass.to_be_bytes());
        name
    }

    /// The message.
    pub(super) fn wire(&self) -> Vec<u8> {
        let question = self.question();
        let opt = self.opt.as_ref().map(Opt::wire).unwrap_or_default();
        // A of the question's name, TTL 60.
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99];
        let (mut counts, mut body) = ([1u16, 0, 0, 0], question.clone());
        match self.oddity {
            Oddity::NoQuestion => {
                counts[0] = 0;
                body.clear();
            }
            Oddity::TwoQuestions => {
                counts[0] = 2;
                body.extend(&question);
            }
            Oddity::AnswerRecord => {
                counts[1] = 1;
                body.extend(record);
            }
            Oddity::ExtraRecord => {
                counts[3] = 1;
                body.extend(record);
            }
            Oddity::MissingRecord => counts[3] = 1,
            _ => {}
        }
        if self.opt.is_some() {
            let section = if self.oddity == Oddity::MisplacedOpt {
                1
            } else {
                3
            };
            counts[section] += 1;
            match self.oddity {
                Oddity::OwnedOpt => {
                    body.extend([1, b'o']);
                    body.extend(&opt);
                }
                Oddity::TwoOpts => {
                    counts[3] += 1;
                    body.extend([&opt[..], &opt].concat());
                }
                Oddity::OptionPastEnd => {
                    let data = [&opt[..9], &[0, 4, 0xfd, 0xe9, 0, 9]].concat();
                    body.extend(data);
                }
                _ => body.extend(&opt),
            }
        }
        let mut wire = Vec::new();
        wire.extend(self.id.to_be_bytes());
        wire.extend(self.flags.to_be_bytes());
        for count in counts {
            wire.extend(count.to_be_bytes());
        }
        wire.extend(body);
        match self.oddity {
            Oddity::Cut(len) => wire.truncate(len),
            Oddity::Trailing(len) => wire.extend(vec![0xaa; len]),
            _ => {}
        }
        wire
    }

    /// The query in a line, for a person.
    pub(super) fn text(&self) -> String {
        let class = match self.qclass {
            1 => String::new(),
            3 => " CH".to_owned(),
            other => format!(" CLASS{other}"),
        };
        let mut text = format!(
            "{} {}{class} flags {:#06x}",
            name_text(&self.name),
            rrtype_name(self.qtype),
            self.flags
        );
        if let Some(opt) = &self.opt {
            let _ = write!(
                text,
                ", OPT version {} size {} flags {:#06x}",
                opt.version, opt.size, opt.flags
            );
            for (code, data) in &opt.options {
                let _ = write!(text, ", option {code} ({} octets)", data.len());
            }
        }
        if self.oddity != Oddity::None {
            let _ = write!(text, ", {:?}", self.oddity);
        }
        text
    }
}

/// Octets in hexadecimal.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_and_fro() {
        for text in [
            ".",
            "a.b.",
            "nul\\000byte.x.",
            "dot\\.label.\\255.",
            "back\\\\slash.",
        ] {
            assert_eq!(name_text(&name(text)), text);
        }
        assert_eq!(name("a.bc"), b"\x01a\x02bc\0");
        assert_eq!(name(&lab::rich::longest_name()).len(), 255);
    }

    #[test]
    fn a_plain_query() {
        let query = Query {
            id: 0x1234,
            opt: Some(Opt {
                size: 1232,
                version: 0,
                flags: DO,
                options: vec![(10, vec![1; 8])],
            }),
            ..Query::new(name("a.b"), 1)
        };
        assert_eq!(
            hex(&query.wire()),
            "12340100000100000000000101610162000001000100002904d000008000000c000a00080101010101010101"
        );
    }
}
