//! Replies as hickory-proto reads them, in a form in which two that say the same are equal.

use hickory_proto::{
    op::{Edns, Message},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder, NameEncoding},
};

/// A reply.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The header's flags word.
    pub(crate) flags: u16,
    /// The response code with OPT's upper octet.
    pub(crate) rcode: u16,
    /// The question section, octet by octet but without compression.
    pub(crate) question: Vec<u8>,
    /// Answer, authority and additional section without OPT, sorted.
    pub(crate) sections: [Vec<Record>; 3],
    pub(crate) opt: Option<Edns>,
    /// Octets of the message.
    pub(crate) len: usize,
}

impl Reply {
    /// Reads a message; the error says what is wrong with it.
    pub(crate) fn read(octets: &[u8]) -> Result<Self, String> {
        let message = Message::from_vec(octets).map_err(|error| error.to_string())?;
        let question = |query: &hickory_proto::op::Query| query.to_bytes().unwrap_or_default();
        let mut sections = [message.answers, message.authorities, message.additionals];
        for section in &mut sections {
            section.sort_by_cached_key(canonical);
        }
        Ok(Self {
            flags: u16::from_be_bytes([octets[2], octets[3]]),
            rcode: message.metadata.response_code.into(),
            question: message.queries.iter().flat_map(question).collect(),
            sections,
            opt: message.edns,
            len: octets.len(),
        })
    }

    /// Whether a bit of the flags word is set.
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Codes and data of the options, sorted.
    pub(crate) fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let options = self.opt.iter().flat_map(|opt| &opt.options().options);
        let mut options: Vec<_> = options
            .map(|(code, option)| ((*code).into(), Vec::try_from(option).unwrap_or_default()))
            .collect();
        options.sort();
        options
    }

    /// The reply in lines, for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "rcode {} flags {:#06x}, {} octets, question {}, {:?}",
            self.rcode,
            self.flags,
            self.len,
            self.question.escape_ascii(),
            self.opt,
        );
        let titles = ["answer", "authority", "additional"];
        for (section, title) in self.sections.iter().zip(titles) {
            for record in section.iter().take(6) {
                let record: String = record.to_string().chars().take(120).collect();
                text += &format!("\n      {title} of {}: {record}", section.len());
            }
        }
        text
    }
}

/// A record without its TTL in DNSSEC's canonical form (RFC 4034 section 6.2): no compression,
/// names in lower case.
fn canonical(record: &Record) -> Vec<u8> {
    let mut record = record.clone();
    record.ttl = 0;
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_canonical_form(true);
    encoder.set_name_encoding(NameEncoding::UncompressedLowercase);
    // A record that cannot be written differs from all others, and so is shown.
    drop(record.emit(&mut encoder));
    octets
}

/// Whether two sections hold the same records, whatever their TTLs.
pub(crate) fn same_records(ours: &[Record], theirs: &[Record]) -> bool {
    // Equality of records leaves the TTL out.
    ours == theirs
}

/// The largest difference of TTLs between two sections that hold the same records, in seconds.
pub(crate) fn ttl_gap(ours: &[Record], theirs: &[Record]) -> u32 {
    let pairs = ours.iter().zip(theirs);
    let gaps = pairs.map(|(ours, theirs)| ours.ttl.abs_diff(theirs.ttl));
    gaps.max().unwrap_or_default()
}
