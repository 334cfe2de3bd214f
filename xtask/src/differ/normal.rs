//! Replies in a form in which two that say the same are equal. hickory-proto reads them.

use std::fmt::Write as _;

use hickory_proto::{
    op::Message,
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder, NameEncoding},
};

use super::wire::{hex, name_text, rrtype_name};

/// A record. The order is that of the sections' sorted form; the TTL comes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rr {
    /// The owner in wire form, in lower case.
    pub(crate) owner: Vec<u8>,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// In DNSSEC's canonical form (RFC 4034 section 6.2): no compression, names in lower case.
    pub(crate) data: Vec<u8>,
    pub(crate) ttl: u32,
}

impl Rr {
    fn key(&self) -> (&[u8], u16, u16, &[u8]) {
        (&self.owner, self.rtype, self.class, &self.data)
    }
}

/// The OPT record of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplyOpt {
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) flags: u16,
    /// Codes and data, sorted.
    pub(crate) options: Vec<(u16, Vec<u8>)>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The header's flags word.
    pub(crate) flags: u16,
    /// The response code with OPT's upper octet.
    pub(crate) rcode: u16,
    /// The question section, octet by octet.
    pub(crate) question: Vec<u8>,
    /// Answer, authority and additional section without OPT, sorted.
    pub(crate) sections: [Vec<Rr>; 3],
    pub(crate) opt: Option<ReplyOpt>,
    /// Octets of the message.
    pub(crate) len: usize,
}

impl Reply {
    /// Reads a message; the error says what is wrong with it.
    pub(crate) fn read(octets: &[u8]) -> Result<Self, String> {
        let message = Message::from_vec(octets).map_err(|error| error.to_string())?;
        let flags = u16::from_be_bytes([octets[2], octets[3]]);
        let section = |records: &[Record]| {
            let mut list: Vec<Rr> = records.iter().map(record).collect();
            list.sort();
            list
        };
        let opt = message.edns.as_ref().map(|edns| {
            let mut options: Vec<(u16, Vec<u8>)> = edns
                .options()
                .options
                .iter()
                .map(|(code, option)| ((*code).into(), Vec::try_from(option).unwrap_or_default()))
                .collect();
            options.sort();
            ReplyOpt {
                size: edns.max_payload(),
                version: edns.version(),
                flags: (*edns.flags()).into(),
                options,
            }
        });
        let high = message
            .edns
            .as_ref()
            .map_or(0, |edns| u16::from(edns.rcode_high()));
        Ok(Self {
            flags,
            rcode: high << 4 | flags & 15,
            question: question(octets),
            sections: [
                section(&message.answers),
                section(&message.authorities),
                section(&message.additionals),
            ],
            opt,
            len: octets.len(),
        })
    }

    /// Whether a bit of the flags word is set.
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The reply in lines, for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("rcode {} flags {:#06x}", self.rcode, self.flags);
        let _ = write!(
            text,
            ", {} octets, question {}",
            self.len,
            hex(&self.question)
        );
        if let Some(opt) = &self.opt {
            let _ = write!(
                text,
                ", OPT version {} size {} flags {:#06x}",
                opt.version, opt.size, opt.flags
            );
            for (code, data) in &opt.options {
                let _ = write!(text, ", option {code} {}", hex(data));
            }
        }
        for (section, title) in self
            .sections
            .iter()
            .zip(["answer", "authority", "additional"])
        {
            for rr in section.iter().take(6) {
                let data = &rr.data[..rr.data.len().min(40)];
                let _ = write!(
                    text,
                    "\n      {title}: {} {} CLASS{} {} {}",
                    name_text(&rr.owner),
                    rr.ttl,
                    rr.class,
                    rrtype_name(rr.rtype),
                    hex(data)
                );
            }
            if section.len() > 6 {
                let _ = write!(text, "\n      {title}: {} more", section.len() - 6);
            }
        }
        text
    }
}

fn record(record: &Record) -> Rr {
    let octets = |emit: &dyn Fn(&mut BinEncoder<'_>)| {
        let mut octets = Vec::new();
        let mut encoder = BinEncoder::new(&mut octets);
        encoder.set_canonical_form(true);
        encoder.set_name_encoding(NameEncoding::UncompressedLowercase);
        emit(&mut encoder);
        octets
    };
    Rr {
        owner: octets(&|encoder| drop(record.name.emit(encoder))),
        rtype: record.record_type().into(),
        class: record.dns_class.into(),
        data: octets(&|encoder| drop(record.data.emit(encoder))),
        ttl: record.ttl,
    }
}

/// The question section's octets, all questions of it.
fn question(octets: &[u8]) -> Vec<u8> {
    let count = u16::from_be_bytes([octets[4], octets[5]]);
    let mut at = 12;
    for _ in 0..count {
        while octets[at] != 0 && octets[at] < 0xc0 {
            at += 1 + usize::from(octets[at]);
        }
        at += if octets[at] == 0 { 5 } else { 6 };
    }
    octets[12..at].to_vec()
}

/// Whether two sections hold the same records, whatever their TTLs.
pub(crate) fn same_records(ours: &[Rr], theirs: &[Rr]) -> bool {
    ours.iter().map(Rr::key).eq(theirs.iter().map(Rr::key))
}

/// The largest difference of TTLs between two sections that hold the same records, in seconds.
pub(crate) fn ttl_gap(ours: &[Rr], theirs: &[Rr]) -> u32 {
    let pairs = ours.iter().zip(theirs);
    pairs
        .map(|(ours, theirs)| ours.ttl.abs_diff(theirs.ttl))
        .max()
        .unwrap_or_default()
}
