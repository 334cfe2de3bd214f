//! Queries and replies as text, a line each.
//!
//! A query is a name, a type, and words:
//!
//! | word | meaning |
//! |---|---|
//! | `rd`, `ad`, `cd`, `z`, `aa`, `tc`, `qr` | this bit of the header is set |
//! | `opcode=N`, `qdcount=N`, `class=N` | that field is N |
//! | `edns`, `edns=N` | an OPT record, with a payload size of N (1232 unless given) |
//! | `do`, `version=N` | in the OPT record |
//! | `option=CODE:HEX` | an option in the OPT record |
//! | `again` | two OPT records |
//! | `owner` | the OPT record has an owner name |
//! | `bare` | no question at all, whatever QDCOUNT is |
//! | `set=AT:HEX` | octets from AT on are these |
//! | `end=N`, `more=HEX` | the message is cut to N octets, or followed by these |
//!
//! A reply is its response code and flags, then the question, the sections and the OPT record, with
//! `|` in between: `NOERROR qr rd ra | www.ok. A | 300 A 192.0.2.1 | | | opt 1232`. The owner of a
//! record is left out if it is the question's name. TTLs are rounded up to tens, since a second may
//! pass between insertion and hit.

use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::opt::EdnsCode},
    serialize::binary::{BinDecodable, BinEncodable},
};
use lab::message;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).expect("a hex digit") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The message of a query's text.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut words = text.split_whitespace();
    let name = message::name(words.next().unwrap()).to_bytes().unwrap();
    let qtype = u16::from(message::rtype(words.next().unwrap()));
    let (mut flags, mut qdcount, mut class) = (0u16, 1u16, 1u16);
    let (mut edns, mut ttl, mut options, mut owner) = (None, [0u8; 4], vec![], vec![0]);
    let (mut opts, mut bare, mut edits) = (1, false, vec![]);
    for word in words {
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u16>().unwrap();
        match word {
            "qr" => flags |= 0x8000,
            "aa" => flags |= 0x0400,
            "tc" => flags |= 0x0200,
            "rd" => flags |= 0x0100,
            "z" => flags |= 0x0040,
            "ad" => flags |= 0x0020,
            "cd" => flags |= 0x0010,
            "opcode" => flags |= number() << 11,
            "qdcount" => qdcount = number(),
            "class" => class = number(),
            "edns" => edns = Some(if value.is_empty() { 1232 } else { number() }),
            "do" => ttl[2] = 0x80,
            "version" => ttl[1] = number() as u8,
            "option" => {
                let (code, data) = value.split_once(':').unwrap();
                let data = hex(data);
                options.extend_from_slice(&code.parse::<u16>().unwrap().to_be_bytes());
                options.extend_from_slice(&(data.len() as u16).to_be_bytes());
                options.extend(data);
            }
            "again" => opts = 2,
            "owner" => owner = vec![1, b'o', 0],
            "bare" => bare = true,
            "set" | "end" | "more" => edits.push((word, value)),
            _ => panic!("no such word: {word}"),
        }
    }
    let mut msg = vec![0xab, 0xcd];
    let arcount = if edns.is_some() { opts } else { 0 };
    for field in [flags, qdcount, 0, 0, arcount] {
        msg.extend_from_slice(&field.to_be_bytes());
    }
    if !bare {
        msg.extend_from_slice(&name);
        msg.extend_from_slice(&qtype.to_be_bytes());
        msg.extend_from_slice(&class.to_be_bytes());
    }
    for _ in 0..arcount {
        let size: u16 = edns.unwrap();
        msg.extend_from_slice(&owner);
        msg.extend_from_slice(&[0, 41]);
        msg.extend_from_slice(&size.to_be_bytes());
        msg.extend_from_slice(&ttl);
        msg.extend_from_slice(&(options.len() as u16).to_be_bytes());
        msg.extend_from_slice(&options);
    }
    for (edit, value) in edits {
        match edit {
            "set" => {
                let (at, octets) = value.split_once(':').unwrap();
                let (at, octets): (usize, _) = (at.parse().unwrap(), hex(octets));
                msg[at..at + octets.len()].copy_from_slice(&octets);
            }
            "end" => msg.truncate(value.parse().unwrap()),
            _ => msg.extend(hex(value)),
        }
    }
    msg
}

/// A reply as text, or why it cannot be read.
pub(crate) fn reply(octets: &[u8], query: &[u8]) -> String {
    if octets.get(..2) != query.get(..2) {
        return "another ID".to_owned();
    }
    let message = match Message::from_bytes(octets) {
        Ok(message) => message,
        Err(error) => return format!("unreadable: {error}"),
    };
    let flags = u16::from_be_bytes([octets[2], octets[3]]);
    let named = [
        (0x8000, "qr"),
        (0x0400, "aa"),
        (0x0200, "tc"),
        (0x0100, "rd"),
        (0x0080, "ra"),
        (0x0040, "z"),
        (0x0020, "ad"),
        (0x0010, "cd"),
    ];
    let flags: Vec<&str> = named
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    let extended = message.edns.as_ref().map_or(0, |edns| edns.rcode_high());
    let code = match u16::from(extended) << 4 | u16::from(octets[3] & 15) {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        16 => "BADVERS".to_owned(),
        23 => "BADCOOKIE".to_owned(),
        other => other.to_string(),
    };
    let name = message.queries.first().map(|query| query.name().clone());
    let question = message.queries.first().map_or_else(String::new, |query| {
        let class = match query.query_class() {
            DNSClass::IN => String::new(),
            class => format!(" class={}", u16::from(class)),
        };
        format!("{} {}{class}", query.name(), type_name(query.query_type()))
    });
    let section = |records: &[Record]| {
        let mut records: Vec<String> = records
            .iter()
            .map(|record| show(record, name.as_ref()))
            .collect();
        records.sort();
        records.join(", ")
    };
    [
        format!("{code} {}", flags.join(" ")),
        question,
        section(&message.answers),
        section(&message.authorities),
        section(&message.additionals),
        edns(&message),
    ]
    .join(" | ")
    .replace("|  |", "| |")
    .replace("|  |", "| |")
    .trim_end_matches([' ', '|'])
    .to_owned()
}

fn type_name(rtype: RecordType) -> String {
    match rtype {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        rtype => rtype.to_string(),
    }
}

fn show(record: &Record, name: Option<&Name>) -> String {
    let owner = if Some(&record.name) == name {
        String::new()
    } else {
        format!("{} ", record.name)
    };
    let ttl = record.ttl.div_ceil(10) * 10;
    let data = match &record.data {
        RData::TXT(text) => {
            let len: usize = text.txt_data.iter().map(|string| string.len()).sum();
            if len > 40 {
                format!("({len} octets)")
            } else {
                text.to_string()
            }
        }
        RData::Unknown { rdata, .. } => {
            let octets = &rdata.anything;
            octets.iter().map(|octet| format!("{octet:02x}")).collect()
        }
        data => data.to_string(),
    };
    format!("{owner}{ttl} {} {data}", type_name(record.record_type()))
}

fn edns(message: &Message) -> String {
    let Some(edns) = &message.edns else {
        return String::new();
    };
    let mut words = vec![format!("opt {}", edns.max_payload())];
    if edns.flags().dnssec_ok {
        words.push("do".to_owned());
    }
    for (code, option) in &edns.options().options {
        let data = Vec::<u8>::try_from(option).unwrap();
        words.push(match code {
            EdnsCode::NSID => format!("nsid={}", String::from_utf8_lossy(&data)),
            EdnsCode::Cookie => format!("cookie={}", data.len()),
            EdnsCode::Unknown(15) => format!("ede={}", u16::from_be_bytes([data[0], data[1]])),
            code => format!("option {}", u16::from(*code)),
        });
    }
    words.join(" ")
}

/// The COOKIE option of a reply, in hex.
pub(crate) fn cookie(octets: &[u8]) -> Option<String> {
    let message = Message::from_bytes(octets).ok()?;
    let edns = message.edns?;
    let data = Vec::<u8>::try_from(edns.option(EdnsCode::Cookie)?).ok()?;
    Some(data.iter().map(|octet| format!("{octet:02x}")).collect())
}
