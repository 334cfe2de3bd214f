//! Answers in the flat form in which they are cached, passed between threads and sent.
//!
//! ```text
//!  0  ttl         u32   seconds from its arrival for which the answer is fresh; 0: not cached
//!  4  body_len    u16
//!  6  ttl_count   u16
//!  8  counts      3×u16 ANCOUNT, NSCOUNT, ARCOUNT, big-endian as in a header
//! 14  rcode       u8
//! 15  flags       u8    bit 0: AD; bit 1: served stale; bit 2: TC, only in answers that are not cached
//! 16  ede         u16   info-code of an Extended DNS Error, plus 1; 0: none
//! 18  sum         u16   of the body, folded, as in a checksum field (RFC 1071)
//! 20  body              the octets after the question, without OPT
//!     ttls        u16…  offsets in the body of the TTL fields, little-endian
//! ```
//!
//! Numbers are little-endian unless noted. Names in the body may point back to the
//! question at offset 12, and to one another: the question of every client that gets this answer
//! has the same length, so all offsets hold.
//!
//! [`Answer::from_response`] makes one from an upstream's response. What is made from an answer, or
//! without one, is in `derived`, `shorten` and [`denial`](super::denial).

mod derived;
mod shorten;

use core::ops::Range;

use super::{cursor::Cursor, header, record::Records, u32_at};
use crate::checksum;

pub(crate) use derived::STALE_TTL;

/// The fields before the body, by their octets.
mod field {
    use core::ops::Range;

    pub(super) const TTL: Range<usize> = 0..4;
    pub(super) const BODY_LEN: Range<usize> = 4..6;
    pub(super) const TTL_COUNT: Range<usize> = 6..8;
    pub(super) const COUNTS: Range<usize> = 8..14;
    pub(super) const RCODE: Range<usize> = 14..15;
    pub(super) const FLAGS: Range<usize> = 15..16;
    pub(super) const EDE: Range<usize> = 16..18;
    pub(super) const SUM: Range<usize> = 18..20;
    /// Where the body begins.
    pub(super) const BODY: usize = 20;
}

/// The octets before the body.
type Fixed = [u8; field::BODY];

/// A field of `fixed`, which is `N` octets.
#[inline(always)]
fn get<const N: usize>(fixed: &Fixed, field: Range<usize>) -> [u8; N] {
    let octets = fixed.get(field).and_then(<[u8]>::first_chunk);
    octets.copied().unwrap_or([0; N])
}

/// Sets a field of `fixed`, which is `N` octets.
#[inline(always)]
fn set<const N: usize>(fixed: &mut Fixed, field: Range<usize>, octets: [u8; N]) {
    if let Some(field) = fixed.get_mut(field).and_then(<[u8]>::first_chunk_mut) {
        *field = octets;
    }
}

const FLAG_AD: u8 = 1;
const FLAG_STALE: u8 = 2;
const FLAG_TC: u8 = 4;

/// What an answer holds, for [`Answer::new`]. In flat form it has at most 64 KiB, as a message does.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerFields<'a> {
    /// The response code.
    pub rcode: u8,
    /// ANCOUNT, NSCOUNT and ARCOUNT.
    pub counts: [u16; 3],
    /// The records, as they follow the question. Names in them may point back to the question at
    /// offset 12, and to one another.
    pub body: &'a [u8],
    /// Offsets of the TTL fields in the body.
    pub ttl_offsets: &'a [u16],
    /// Seconds for which the answer is fresh; 0: it must not be cached.
    pub ttl: u32,
    /// The upstream set AD: the data are authentic.
    pub authentic: bool,
    /// Info-code of an Extended DNS Error that goes with the answer (RFC 8914).
    pub ede: Option<u16>,
}

/// An answer that owns its octets. An empty one by default, whose view is that of no records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Brings an answer into its flat form.
    pub fn new(fields: &AnswerFields<'_>) -> Self {
        let mut answer = Self::default();
        answer.write(fields, core::iter::empty());
        answer
    }

    /// Writes an answer over this one, in the same memory if that is large enough. In place of the TTLs
    /// in the body it gets `ttls`, in their order, as many as there are.
    pub(super) fn write(&mut self, fields: &AnswerFields<'_>, ttls: impl IntoIterator<Item = u32>) {
        let ede = fields.ede.map_or(0, |code| code.saturating_add(1));
        let mut fixed = [0; field::BODY];
        set(&mut fixed, field::TTL, fields.ttl.to_le_bytes());
        set(
            &mut fixed,
            field::BODY_LEN,
            (fields.body.len() as u16).to_le_bytes(),
        );
        set(
            &mut fixed,
            field::TTL_COUNT,
            (fields.ttl_offsets.len() as u16).to_le_bytes(),
        );
        let [[a0, a1], [n0, n1], [r0, r1]] = fields.counts.map(u16::to_be_bytes);
        set(&mut fixed, field::COUNTS, [a0, a1, n0, n1, r0, r1]);
        set(&mut fixed, field::RCODE, [fields.rcode]);
        set(
            &mut fixed,
            field::FLAGS,
            [if fields.authentic { FLAG_AD } else { 0 }],
        );
        set(&mut fixed, field::EDE, ede.to_le_bytes());
        let flat = &mut self.0;
        flat.clear();
        flat.reserve_exact(field::BODY + fields.body.len() + 2 * fields.ttl_offsets.len());
        flat.extend_from_slice(&fixed);
        flat.extend_from_slice(fields.body);
        let body = flat.get_mut(field::BODY..).unwrap_or_default();
        for (offset, ttl) in fields.ttl_offsets.iter().zip(ttls) {
            let field = body.get_mut(usize::from(*offset)..);
            if let Some(field) = field.and_then(<[u8]>::first_chunk_mut) {
                *field = ttl.to_be_bytes();
            }
        }
        let sum = checksum::fold(checksum::add(0, body));
        flat.extend(
            fields
                .ttl_offsets
                .iter()
                .flat_map(|offset| offset.to_le_bytes()),
        );
        self.edit_fixed(|fixed| set(fixed, field::SUM, sum));
    }

    /// The answer's octets, which [`AnswerRef::read`] reads.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An empty answer, with memory for another one of up to `octets` octets.
    pub(crate) fn with_capacity(octets: usize) -> Self {
        Self(Vec::with_capacity(octets))
    }

    /// Octets for which it has memory.
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// A view of the answer.
    pub fn as_ref(&self) -> AnswerRef<'_> {
        AnswerRef::read(&self.0).unwrap_or(AnswerRef::EMPTY)
    }
}

/// A view of an answer in its flat form. If [`read`](Self::read) returned `Some`, every accessor
/// is within bounds.
#[derive(Clone, Copy, Debug)]
pub struct AnswerRef<'a> {
    fixed: &'a Fixed,
    body: &'a [u8],
    ttls: &'a [u8],
}

impl<'a> AnswerRef<'a> {
    const EMPTY: AnswerRef<'static> = AnswerRef {
        fixed: &[0; field::BODY],
        body: &[],
        ttls: &[],
    };

    /// Reads what [`Answer::as_bytes`] gave, which may be followed by other octets.
    #[inline(always)]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk()?;
        // TTL, length and count in one load: this is on the path of each hit.
        let sizes = u64::from_le_bytes(*fixed.first_chunk()?);
        let (body, rest) = rest.split_at_checked(usize::from((sizes >> 32) as u16))?;
        let ttls = rest.get(..2 * usize::from((sizes >> 48) as u16))?;
        Some(Self { fixed, body, ttls })
    }

    /// Seconds from its arrival for which the answer is fresh; 0: it must not be cached.
    #[inline(always)]
    pub fn ttl(&self) -> u32 {
        u32::from_le_bytes(get(self.fixed, field::TTL))
    }

    /// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT of a reply to one question, the first on top; `opt`: with
    /// an OPT record besides.
    #[inline(always)]
    pub(super) fn reply_counts(&self, opt: bool) -> u64 {
        // The counts and the two octets before them in one load, rather than three.
        let counts = get(self.fixed, field::COUNTS.end - 8..field::COUNTS.end);
        let counts = u64::from_be_bytes(counts) & 0xffff_ffff_ffff;
        1 << 48 | counts.wrapping_add(opt.into())
    }

    /// ANCOUNT, NSCOUNT and ARCOUNT as in a header.
    pub fn counts(&self) -> [u8; 6] {
        get(self.fixed, field::COUNTS)
    }

    pub(super) fn section_counts(&self) -> [u16; 3] {
        let [a0, a1, n0, n1, r0, r1] = self.counts();
        [[a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes)
    }

    /// The response code.
    #[inline(always)]
    pub fn rcode(&self) -> u8 {
        let [code] = get(self.fixed, field::RCODE);
        code
    }

    /// Whether it is a NOERROR without an Extended DNS Error, as most are.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        // One load and comparison: the last count, the code, the flags, the error, the sum.
        let last = self.fixed.last_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(last) & 0x0000_ffff_00ff_0000 == 0
    }

    /// The upstream set AD: the data are authentic.
    #[inline(always)]
    pub(crate) fn authentic(&self) -> bool {
        self.flags() & FLAG_AD != 0
    }

    #[inline(always)]
    fn flags(&self) -> u8 {
        let [flags] = get(self.fixed, field::FLAGS);
        flags
    }

    /// Whether it is one of [`Answer::truncated`].
    pub(crate) fn is_truncated(&self) -> bool {
        self.flags() & FLAG_TC != 0
    }

    /// Whether [`stale`](Self::stale) made it. The Extended DNS Error does not show that: an upstream may
    /// have given a stale answer of its own.
    pub(crate) fn is_stale(&self) -> bool {
        self.flags() & FLAG_STALE != 0
    }

    /// The octets that follow the question.
    #[inline(always)]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The body's sum ([`checksum::add`]), before ageing.
    #[inline(always)]
    pub(crate) fn sum(&self) -> u64 {
        u16::from_ne_bytes(get(self.fixed, field::SUM)).into()
    }

    /// Copies the body to the start of `out`. `None`: it does not fit.
    #[inline(always)]
    pub(super) fn copy_body(&self, out: &mut [u8]) -> Option<()> {
        let body = self.body;
        let out = out.get_mut(..body.len())?;
        // One address or two: two vector copies, which may overlap, in place of a call.
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
        // From the original: a load from the copy would wait for its stores.
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
    #[cfg(test)]
    pub(crate) fn first_ttl(&self) -> Option<u32> {
        let at = usize::from(u16::from_le_bytes(*self.ttls.first_chunk()?));
        u32_at(self.body, at)
    }

    /// The longest TTL of its records, before ageing; 0 without any.
    pub(crate) fn longest_ttl(&self) -> u32 {
        let ttls = self
            .ttl_offsets()
            .filter_map(|at| u32_at(self.body, at.into()));
        ttls.max().unwrap_or_default()
    }

    /// Info-code of the Extended DNS Error that goes with the answer (RFC 8914).
    #[inline(always)]
    pub fn ede(&self) -> Option<u16> {
        u16::from_le_bytes(get(self.fixed, field::EDE)).checked_sub(1)
    }

    /// Offsets in the body of the TTL fields.
    pub(crate) fn ttl_offsets(&self) -> impl Iterator<Item = u16> + 'a {
        let (offsets, _) = self.ttls.as_chunks::<2>();
        offsets.iter().map(|offset| u16::from_le_bytes(*offset))
    }

    /// The records of the body, which begins at offset `start` of its message.
    pub(super) fn records(&self, start: usize) -> Records<'a> {
        Records::new(Cursor::in_body(self.body, start), self.section_counts())
    }

    /// Whether a reply to a question of `question` octets can have this answer: the body holds as many
    /// records as the counts, with their TTLs at the offsets, and adds up to the sum; it fits in a
    /// message; and the answer was made from an upstream's response and is neither stale nor truncated.
    /// Pointers in names are not followed.
    pub(crate) fn is_sound(&self, question: usize) -> bool {
        let start = header::LEN + question;
        let mut records = self.records(start);
        let mut offsets = self.ttl_offsets().map(usize::from);
        records
            .by_ref()
            .all(|record| record.is_some_and(|record| offsets.next() == Some(record.ttl_at())))
            && records.at() == self.body.len()
            && offsets.next().is_none()
            && self.flags() & !FLAG_AD == 0
            && checksum::fold(checksum::add(0, self.body)) == checksum::fold(self.sum())
            && start + self.body.len() <= usize::from(u16::MAX)
    }

    /// Writes the flat form behind what is in `out`.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.fixed);
        out.extend_from_slice(self.body);
        out.extend_from_slice(self.ttls);
    }

    /// Writes the flat form over `out`. `None`: that has another length.
    pub(crate) fn copy_to(&self, out: &mut [u8]) -> Option<()> {
        let (fixed, rest) = out.split_at_mut_checked(field::BODY)?;
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
        field::BODY + self.body.len() + self.ttls.len()
    }
}
