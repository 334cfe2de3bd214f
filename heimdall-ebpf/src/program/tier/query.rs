//! The plain query: one question, and at most an OPT record without options.

use heimdall_ebpf::tier::{MAX_NAME, Outcome};

use super::super::{
    frame::{Frame, opaque},
    steering::Claimed,
    wire::{dns, opt},
};

/// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT of a message that has a question and nothing else.
const ONLY_QUESTION: u64 = 1 << 48;

/// Those of one that has one more record, in the additional section.
const WITH_OPT: u64 = ONLY_QUESTION + 1;

/// A query, as far as it matters to the reply.
#[derive(Clone, Copy)]
pub(super) struct Query {
    /// Offset of the question's name in the frame.
    pub(super) name: usize,
    /// Octets of the name, 1 to [`MAX_NAME`]: whatever is between the header and the question's type.
    pub(super) name_len: usize,
    /// Type and class, in memory order.
    pub(super) kind: u32,
    /// The header's flags.
    pub(super) flags: u16,
    /// The first eight octets of the OPT record, big-endian.
    pub(super) opt: Option<u64>,
}

impl Query {
    /// Reads the query. Its length says where the question ends, so the labels of the name are not read: only a name
    /// that is well-formed is equal to an entry's.
    #[inline(always)]
    pub(super) fn read(frame: Frame, packet: Claimed) -> Result<Self, Outcome> {
        let message = packet.dns();
        let load_error = Outcome::NotPlain;
        let flags = u16::from_be(frame.load(message + dns::FLAGS).ok_or(load_error)?);
        let counts = u64::from_be(frame.load(message + dns::COUNTS).ok_or(load_error)?);
        let has_opt = match counts {
            ONLY_QUESTION => false,
            WITH_OPT => true,
            _ => return Err(Outcome::NotPlain),
        };
        let rest = dns::LEN + dns::KIND_LEN + if has_opt { opt::LEN } else { 0 };
        if flags & dns::OPCODE != 0 || packet.dns_len <= rest {
            return Err(Outcome::NotPlain);
        }
        let name_len = packet.dns_len - rest;
        if name_len > MAX_NAME {
            return Err(Outcome::LongName);
        }
        // Verifiers before Linux 6.7 do not apply the comparison to a copy that the compiler has put on the stack: the mask
        // bounds what follows.
        let name_len = opaque(name_len) & (2 * MAX_NAME - 1);
        let name = message + dns::LEN;
        let behind_name = frame.from(name + name_len);
        let kind = behind_name.load(0).ok_or(load_error)?;
        let opt = if has_opt {
            Some(read_opt(behind_name, dns::KIND_LEN).ok_or(load_error)?)
        } else {
            None
        };
        Ok(Self {
            name,
            name_len,
            kind,
            flags,
            opt,
        })
    }

    /// DO.
    #[inline(always)]
    pub(super) fn dnssec_ok(&self) -> bool {
        self.opt.is_some_and(|opt| opt & opt::DO != 0)
    }

    /// The client's UDP payload size: 512 at least, and without EDNS.
    #[inline(always)]
    pub(super) fn payload_size(&self) -> usize {
        let size = self.opt.map_or(0, |opt| (opt >> opt::SIZE_SHIFT) as u16);
        usize::from(size.max(512))
    }
}

/// Reads the OPT record at `at`, to the end of the message. `None`: it is something else, of another version, or has
/// options.
#[inline(always)]
fn read_opt(frame: Frame, at: usize) -> Option<u64> {
    let first = u64::from_be(frame.load(at)?);
    let options: u16 = frame.load(at + opt::RDLENGTH)?;
    (first & opt::FIXED == opt::BARE && options == 0).then_some(first)
}
