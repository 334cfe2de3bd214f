//! Queries as octets, right ones and malformed ones. A DNS library would refuse to write most of
//! the latter, or would correct them.

use hickory_proto::{rr::RecordType, serialize::binary::BinEncodable as _};
use lab::message;

// Bits of the header's flags word (RFC 1035 section 4.1.1, RFC 4035).
pub(super) const QR: u16 = 0x8000;
pub(super) const AA: u16 = 0x0400;
pub(super) const TC: u16 = 0x0200;
pub(super) const RD: u16 = 0x0100;
pub(super) const Z: u16 = 0x0040;
pub(super) const AD: u16 = 0x0020;
pub(super) const CD: u16 = 0x0010;

/// DO in [`Opt::flags`].
pub(super) const DO: u16 = 0x8000;

/// A name in wire form, from the form that zone files have.
pub(super) fn name(text: &str) -> Vec<u8> {
    message::name(text).to_bytes().unwrap()
}

/// An OPT record (RFC 6891 section 6.1.2).
#[derive(Clone, Debug, Default)]
pub(super) struct Opt {
    /// The sender's payload size in octets.
    pub(super) size: u16,
    pub(super) version: u8,
    /// DO and the 15 reserved bits after it.
    pub(super) flags: u16,
    /// Code and data of each option.
    pub(super) options: Vec<(u16, Vec<u8>)>,
}

impl Opt {
    fn wire(&self) -> Vec<u8> {
        let options = self.options.iter().flat_map(|(code, data)| {
            let len = data.len() as u16;
            [&code.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
        });
        let options: Vec<u8> = options.collect();
        [
            &[0, 0, 41][..],
            &self.size.to_be_bytes(),
            &[0, self.version],
            &self.flags.to_be_bytes(),
            &(options.len() as u16).to_be_bytes(),
            &options,
        ]
        .concat()
    }
}

/// What is malformed, or at least unusual, about a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Defect {
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
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) id: u16,
    /// The header's flags word.
    pub(super) flags: u16,
    /// In wire form.
    pub(super) name: Vec<u8>,
    pub(super) qtype: RecordType,
    pub(super) qclass: u16,
    pub(super) opt: Option<Opt>,
    pub(super) defect: Defect,
}

impl Query {
    /// A query of class IN with RD and without OPT.
    pub(super) fn new(name: Vec<u8>, qtype: RecordType) -> Self {
        Self {
            id: 0,
            flags: RD,
            name,
            qtype,
            qclass: 1,
            opt: None,
            defect: Defect::None,
        }
    }

    /// Whether it is one that the hot tier can answer.
    pub(super) fn is_plain(&self) -> bool {
        let is_bare = |opt: &Opt| opt.version == 0 && opt.options.is_empty();
        self.defect == Defect::None
            && self.flags & !(RD | AD | CD | Z) == 0
            && self.qclass == 1
            && self.opt.as_ref().is_none_or(is_bare)
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
        let labels = &self.name[..self.name.len() - 1];
        let name = match self.defect {
            Defect::PointerToItself => vec![0xc0, 12],
            Defect::PointerToHeader => [labels, &[0xc0, 0]].concat(),
            Defect::ExtendedLabel => [labels, &[0x41, 1, 0]].concat(),
            Defect::NameTooLong => {
                [&[63; 64][..], &[63; 64], &[63; 64], &[61; 62], &[1, 1, 0]].concat()
            }
            _ => self.name.clone(),
        };
        let qtype = u16::from(self.qtype).to_be_bytes();
        [&name[..], &qtype, &self.qclass.to_be_bytes()].concat()
    }

    /// The message.
    pub(super) fn wire(&self) -> Vec<u8> {
        let mut question = self.question();
        // A of the question's name, TTL 60.
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99];
        let mut opt = self.opt.as_ref().map(Opt::wire).unwrap_or_default();
        let (mut counts, mut records) = ([1u16, 0, 0, u16::from(self.opt.is_some())], vec![]);
        match self.defect {
            Defect::NoQuestion => {
                counts[0] = 0;
                question.clear();
            }
            Defect::TwoQuestions => {
                counts[0] = 2;
                question = question.repeat(2);
            }
            Defect::AnswerRecord => {
                counts[1] = 1;
                records = record.to_vec();
            }
            Defect::ExtraRecord => {
                counts[3] += 1;
                records = record.to_vec();
            }
            Defect::MissingRecord => counts[3] += 1,
            Defect::MisplacedOpt => counts.swap(1, 3),
            Defect::TwoOpts => {
                counts[3] = 2;
                opt = opt.repeat(2);
            }
            Defect::OwnedOpt => opt.splice(..0, [1, b'o']).for_each(drop),
            Defect::OptionPastEnd => {
                opt.truncate(9);
                opt.extend([0, 4, 0xfd, 0xe9, 0, 9]);
            }
            _ => {}
        }
        let header = [
            [self.id, self.flags],
            [counts[0], counts[1]],
            [counts[2], counts[3]],
        ];
        let header: Vec<u8> = header
            .concat()
            .into_iter()
            .flat_map(u16::to_be_bytes)
            .collect();
        let mut wire = [header, question, records, opt].concat();
        match self.defect {
            Defect::Cut(len) => wire.truncate(len),
            Defect::Trailing(len) => wire.extend(vec![0xaa; len]),
            _ => {}
        }
        wire
    }
}
