//! Answers in the flat form in which they are cached, handed about and sent.
//!
//! ```text
//!  0  life        u32   seconds from its arrival for which the answer may be used; 0: not at all
//!  4  body_len    u16
//!  6  ttl_count   u16
//!  8  counts      3×u16 ANCOUNT, NSCOUNT, ARCOUNT, big-endian as in a header
//! 14  rcode       u8
//! 15  flags       u8    bit 0: AD; bit 1: served stale; bit 2: TC, only in answers that are not kept
//! 16  ede         u16   info-code of an Extended DNS Error, plus 1; 0: none
//! 18  sum         u16   of the body, folded, as it stands in a checksum field (RFC 1071)
//! 20  body              the octets after the question, without OPT
//!     ttls        u16…  offsets in the body of the TTL fields, little-endian
//! ```
//!
//! Names in the body may point back to the question at offset 12, and to one another: the
//! question of every client that asks for this answer has the same length, so all offsets hold.

mod shorten;

use thiserror::Error;

use crate::checksum;

use super::{
    edns::ede,
    header::{self, rcode},
    name::eq_ignore_case,
    u16_at, u32_at,
};

/// Octets before the body.
const FIXED: usize = 20;
/// Place of the body's sum.
const SUM: usize = 18;
/// Place of the flags.
const FLAGS: usize = 15;
const FLAG_AD: u8 = 1;
const FLAG_STALE: u8 = 2;
const FLAG_TC: u8 = 4;

/// TTL of a stale answer (RFC 8767 section 4). After a failure it
/// is kept as long, so that the upstreams are not asked for it more often (section 5, failure recheck).
pub const STALE_TTL: u32 = 30;

/// Bounds on the lives of answers, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlLimits {
    /// Lives below this are raised to it. Zero keeps RFC behaviour; TTL 0 is never raised.
    pub min: u32,
    /// TTLs above this are lowered to it (RFC 2181 section 8 allows any cap).
    pub max: u32,
    /// The same for negative answers (RFC 2308 section 5).
    pub max_negative: u32,
}

impl Default for TtlLimits {
    fn default() -> Self {
        Self {
            min: 0,
            max: 86_400,
            max_negative: 3_600,
        }
    }
}

/// Why an upstream's response was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadResponse {
    /// Cut short, or not a response.
    #[error("malformed response")]
    Malformed,
    /// It answers the question, and is wrong: a name or data that do not have the form that they
    /// must have (RFC 9267), or aliases in a circle.
    #[error("broken answer")]
    Broken,
    /// It answers another question.
    #[error("response to another question")]
    Question,
    /// TC is set: the whole answer has to be fetched over TCP.
    #[error("truncated response")]
    Truncated,
    /// A response code that is no answer: FORMERR, SERVFAIL, NOTIMP, REFUSED, or an extended one.
    #[error("response code {0}")]
    Rcode(u16),
}

/// What an answer is made of. All in all it holds at most 64 KiB, as a message does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// The response code.
    pub rcode: u8,
    /// ANCOUNT, NSCOUNT and ARCOUNT.
    pub counts: [u16; 3],
    /// The records, as they follow the question. Names in them may point back to the question at
    /// offset 12, and to one another.
    pub body: &'a [u8],
    /// Offsets of the TTL fields in the body.
    pub ttl_offsets: &'a [u16],
    /// Seconds for which the answer may be used; 0: it must not be kept.
    pub life: u32,
    /// The upstream says that the data are authentic.
    pub authentic: bool,
    /// Info-code of an Extended DNS Error that goes with the answer (RFC 8914).
    pub ede: Option<u16>,
}

/// An answer that owns its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Box<[u8]>);

impl Answer {
    /// Puts an answer together.
    pub fn new(parts: &Parts<'_>) -> Self {
        let flags = if parts.authentic { FLAG_AD } else { 0 };
        let mut flat = [
            &parts.life.to_le_bytes()[..],
            &(parts.body.len() as u16).to_le_bytes(),
            &(parts.ttl_offsets.len() as u16).to_le_bytes(),
            &parts.counts.map(u16::to_be_bytes).concat(),
            &[parts.rcode, flags],
            &parts
                .ede
                .map_or(0, |code| code.saturating_add(1))
                .to_le_bytes(),
            &checksum::fold(checksum::add(0, parts.body)),
            parts.body,
        ]
        .concat();
        for offset in parts.ttl_offsets {
            flat.extend_from_slice(&offset.to_le_bytes());
        }
        Self(flat.into_boxed_slice())
    }

    /// An answer of no records: an error that may be repeated for `life` seconds.
    pub fn failure(rcode: u8, ede: Option<u16>, life: u32) -> Self {
        Self::new(&Parts {
            rcode,
            life,
            ede,
            ..Parts::default()
        })
    }

    /// An answer, of no records, that came truncated and could not be fetched over TCP: its reply
    /// has TC set. It must not be kept.
    pub fn truncated(rcode: u8, ede: u16) -> Self {
        let mut answer = Self::failure(rcode, Some(ede), 0);
        if let Some(flags) = answer.0.get_mut(FLAGS) {
            *flags |= FLAG_TC;
        }
        answer
    }

    /// The answer, to be used for `seconds` at most. Its TTLs stay.
    pub fn for_at_most(mut self, seconds: u32) -> Self {
        let life = self.as_ref().life();
        self.set_life(life.min(seconds));
        self
    }

    fn set_life(&mut self, life: u32) {
        if let Some(field) = self.0.first_chunk_mut() {
            *field = life.to_le_bytes();
        }
    }

    /// Puts every TTL through `edit`.
    fn edit_ttls(&mut self, mut edit: impl FnMut(u32) -> u32) {
        let offsets: Vec<u16> = self.as_ref().ttl_offsets().collect();
        for offset in offsets {
            let at = FIXED + usize::from(offset);
            if let Some(ttl) = self
                .0
                .get_mut(at..)
                .and_then(|rest| rest.first_chunk_mut::<4>())
            {
                *ttl = edit(u32::from_be_bytes(*ttl)).to_be_bytes();
            }
        }
        let sum = checksum::fold(checksum::add(0, self.as_ref().body));
        if let Some(field) = (self.0.get_mut(SUM..)).and_then(<[u8]>::first_chunk_mut) {
            *field = sum;
        }
    }

    /// The answer's octets, to be kept and read again with [`AnswerRef::read`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A view of the answer.
    pub fn as_ref(&self) -> AnswerRef<'_> {
        AnswerRef::read(&self.0).unwrap_or(AnswerRef::EMPTY)
    }
}

/// Where the name at `at` of a body ends, that stands at `start` of its message. A pointer leads
/// backwards.
fn end_of_body_name(body: &[u8], mut at: usize, start: usize) -> Option<usize> {
    loop {
        match *body.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            _ => {
                let pointer = u16_at(body, at)?;
                let backwards = usize::from(pointer & 0x3fff) < start + at;
                return (pointer >= 0xc000 && backwards).then_some(at + 2);
            }
        }
    }
}

/// Whether two questions are the same but for the letter case of the name. Type and class are not
/// folded: type 0x41 is not type 0x61.
#[inline(never)]
pub(crate) fn same_question(a: &[u8], b: &[u8]) -> bool {
    match (a.last_chunk::<4>(), b.last_chunk::<4>()) {
        (Some(a_fixed), Some(b_fixed)) => a_fixed == b_fixed && eq_ignore_case(a, b),
        _ => false,
    }
}

/// A record of a body; all but the type are offsets in the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyRecord {
    pub(super) rtype: u16,
    /// Its TTL field.
    ttl: usize,
    /// Its data.
    pub(super) rdata: usize,
    /// The end of its data.
    pub(super) end: usize,
}

/// A view of an answer in its flat form. If [`read`](Self::read) returned `Some`, every accessor
/// is within bounds.
#[derive(Clone, Copy, Debug)]
pub struct AnswerRef<'a> {
    fixed: &'a [u8; FIXED],
    body: &'a [u8],
    ttls: &'a [u8],
}

impl<'a> AnswerRef<'a> {
    const EMPTY: AnswerRef<'static> = AnswerRef {
        fixed: &[0; FIXED],
        body: &[],
        ttls: &[],
    };

    /// Reads what [`Answer::as_bytes`] gave, which may be followed by other octets.
    #[inline(always)]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        // As one number: octet by octet it takes longer.
        let sizes = u64::from_le_bytes(*fixed.first_chunk()?);
        let (body, rest) = rest.split_at_checked(usize::from((sizes >> 32) as u16))?;
        let ttls = rest.get(..2 * usize::from((sizes >> 48) as u16))?;
        Some(Self { fixed, body, ttls })
    }

    /// Seconds from its arrival for which the answer may be used; 0: it must not be kept.
    #[inline(always)]
    pub fn life(&self) -> u32 {
        let [l0, l1, l2, l3, ..] = *self.fixed;
        u32::from_le_bytes([l0, l1, l2, l3])
    }

    /// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT of a reply to one question, the first on top; `opt`: with
    /// an OPT record besides.
    #[inline(always)]
    pub fn reply_counts(&self, opt: bool) -> u64 {
        // Six octets of counts, behind two others: one number is read quicker than three.
        let [_, _, _, _, _, _, counts @ .., _, _, _, _, _, _] = *self.fixed;
        let counts = u64::from_be_bytes(counts) & 0xffff_ffff_ffff;
        1 << 48 | counts.wrapping_add(opt.into())
    }

    /// ANCOUNT, NSCOUNT and ARCOUNT as they stand in a header.
    pub fn counts(&self) -> [u8; 6] {
        let [.., a0, a1, n0, n1, r0, r1, _, _, _, _, _, _] = *self.fixed;
        [a0, a1, n0, n1, r0, r1]
    }

    /// The response code.
    #[inline(always)]
    pub fn rcode(&self) -> u8 {
        let [.., code, _, _, _, _, _] = *self.fixed;
        code
    }

    /// Whether it is a NOERROR without an Extended DNS Error, as most are.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        // One comparison: two octets before, the code, the flags, the error, two octets after.
        let last = self.fixed.last_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(last) & 0x0000_ffff_00ff_0000 == 0
    }

    /// The upstream says that the data are authentic.
    #[inline(always)]
    pub fn authentic(&self) -> bool {
        let [.., flags, _, _, _, _] = *self.fixed;
        flags & FLAG_AD != 0
    }

    /// Whether it is one of [`Answer::truncated`].
    pub fn is_truncated(&self) -> bool {
        let [.., flags, _, _, _, _] = *self.fixed;
        flags & FLAG_TC != 0
    }

    /// Whether [`stale`](Self::stale) made it. The Extended DNS Error does not tell: an upstream may have
    /// given a stale answer of its own.
    pub fn is_stale(&self) -> bool {
        let [.., flags, _, _, _, _] = *self.fixed;
        flags & FLAG_STALE != 0
    }

    /// The octets that follow the question.
    #[inline(always)]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The body's sum ([`checksum::add`]), before ageing.
    #[inline(always)]
    pub fn sum(&self) -> u64 {
        let [.., s0, s1] = *self.fixed;
        u16::from_ne_bytes([s0, s1]).into()
    }

    /// Copies the body to the start of `out`. `None`: it has no room.
    #[inline(always)]
    pub(super) fn copy_body(&self, out: &mut [u8]) -> Option<()> {
        let body = self.body;
        let out = out.get_mut(..body.len())?;
        // One address or two: two vectors, which may overlap, in place of a call.
        match (body.first_chunk::<16>(), body.last_chunk::<16>()) {
            (Some(first), Some(last)) if body.len() <= 32 => {
                *out.first_chunk_mut()? = *first;
                *out.last_chunk_mut()? = *last;
            }
            _ => out.copy_from_slice(body),
        }
        Some(())
    }

    /// Lowers the TTLs in `body`, a copy of [`body`](Self::body), by `age` seconds, to 0 at least.
    /// Returns what the body's sum grows by, below 2^56.
    #[inline(always)]
    pub fn age_ttls(&self, body: &mut [u8], age: u32) -> u64 {
        match self.ttls.as_chunks() {
            ([only], _) => self.age_ttl(*only, body, age),
            (several, _) => (several.iter())
                .map(|offset| self.age_ttl(*offset, body, age))
                .sum(),
        }
    }

    /// Lowers the TTL at `offset`.
    #[inline(always)]
    fn age_ttl(&self, offset: [u8; 2], body: &mut [u8], age: u32) -> u64 {
        let at = usize::from(u16::from_le_bytes(offset));
        let field = |body: &[u8]| body.get(at..at + 4)?.first_chunk().copied();
        // As it stands here: the copy would have to arrive first.
        let Some(old) = field(self.body) else {
            return 0;
        };
        let new = u32::from_be_bytes(old).saturating_sub(age).to_be_bytes();
        if let Some(ttl) = body.get_mut(at..at + 4) {
            ttl.copy_from_slice(&new);
        }
        let [old, new] = [old, new].map(u32::from_ne_bytes);
        checksum::at(at, checksum::change(old, new))
    }

    /// The TTL of the first record, if there is one, before ageing.
    pub fn first_ttl(&self) -> Option<u32> {
        let at = usize::from(u16::from_le_bytes(*self.ttls.first_chunk()?));
        u32_at(self.body, at)
    }

    /// The longest TTL of its records, before ageing; 0 without any.
    pub fn longest_ttl(&self) -> u32 {
        let ttls = self
            .ttl_offsets()
            .filter_map(|at| u32_at(self.body, at.into()));
        ttls.max().unwrap_or_default()
    }

    /// Info-code of the Extended DNS Error that goes with the answer (RFC 8914).
    #[inline(always)]
    pub fn ede(&self) -> Option<u16> {
        let [.., e0, e1, _, _] = *self.fixed;
        u16::from_le_bytes([e0, e1]).checked_sub(1)
    }

    fn ttl_offsets(&self) -> impl Iterator<Item = u16> + 'a {
        let (offsets, _) = self.ttls.as_chunks::<2>();
        offsets.iter().map(|offset| u16::from_le_bytes(*offset))
    }

    fn to_answer(self) -> Answer {
        Answer(
            [&self.fixed[..], self.body, self.ttls]
                .concat()
                .into_boxed_slice(),
        )
    }

    /// The answer as it is `age` seconds later: TTLs and life are less by so much.
    pub fn aged(&self, age: u32) -> Answer {
        let mut answer = self.to_answer();
        answer.edit_ttls(|ttl| ttl.saturating_sub(age));
        answer.set_life(self.life().saturating_sub(age));
        answer
    }

    /// The answer as it is served when its life is over and no upstream gives a newer one
    /// (RFC 8767): with [`STALE_TTL`], the Extended DNS Error 3 or 19, and without AD.
    pub fn stale(&self) -> Answer {
        let offsets: Vec<u16> = self.ttl_offsets().collect();
        let [a0, a1, n0, n1, r0, r1] = self.counts();
        let stale = match self.rcode() {
            rcode::NXDOMAIN => ede::STALE_NXDOMAIN,
            _ => ede::STALE,
        };
        let mut answer = Answer::new(&Parts {
            rcode: self.rcode(),
            counts: [[a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes),
            body: self.body,
            ttl_offsets: &offsets,
            life: STALE_TTL,
            authentic: false,
            ede: Some(stale),
        });
        answer.edit_ttls(|_| STALE_TTL);
        if let Some(flags) = answer.0.get_mut(FLAGS) {
            *flags |= FLAG_STALE;
        }
        answer
    }

    /// The record at `at` of the body, which begins at offset `start` of its message. `None`: its owner
    /// name is not valid, or the body ends before its data; these may reach beyond the body.
    pub(super) fn record(&self, at: usize, start: usize) -> Option<BodyRecord> {
        let fixed = end_of_body_name(self.body, at, start)?;
        let rdata = fixed + 10;
        Some(BodyRecord {
            rtype: u16_at(self.body, fixed)?,
            ttl: fixed + 4,
            rdata,
            end: rdata + usize::from(u16_at(self.body, fixed + 8)?),
        })
    }

    /// Whether the body holds as many records as the answer says, with their TTLs where it says, adds
    /// up to its sum, and a reply to a question of `question` octets can be as long; and whether it is
    /// one that an upstream's response was kept as, neither stale nor truncated. Names are not
    /// followed.
    pub fn is_sound(&self, question: usize) -> bool {
        let [a0, a1, n0, n1, r0, r1] = self.counts();
        let counts = [[a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
        let mut at = 0;
        let mut offsets = self.ttl_offsets();
        for _ in 0..counts.into_iter().map(u32::from).sum() {
            let Some(record) = self.record(at, header::LEN + question) else {
                return false;
            };
            if offsets.next().map(usize::from) != Some(record.ttl) {
                return false;
            }
            at = record.end;
        }
        let [.., flags, _, _, _, _] = *self.fixed;
        at == self.body.len()
            && flags & !FLAG_AD == 0
            && checksum::fold(checksum::add(0, self.body)) == checksum::fold(self.sum())
            && offsets.next().is_none()
            && header::LEN + question + at <= usize::from(u16::MAX)
    }

    /// Writes the flat form behind what is in `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.fixed);
        out.extend_from_slice(self.body);
        out.extend_from_slice(self.ttls);
    }

    /// Writes the flat form over `out`. `None`: that has another length.
    pub(crate) fn copy_to(&self, out: &mut [u8]) -> Option<()> {
        let (fixed, rest) = out.split_at_mut_checked(FIXED)?;
        let (body, ttls) = rest.split_at_mut_checked(self.body.len())?;
        if ttls.len() != self.ttls.len() {
            return None;
        }
        fixed.copy_from_slice(self.fixed);
        body.copy_from_slice(self.body);
        ttls.copy_from_slice(self.ttls);
        Some(())
    }

    /// Octets of the flat form.
    #[inline(always)]
    pub fn flat_len(&self) -> usize {
        FIXED + self.body.len() + self.ttls.len()
    }
}
