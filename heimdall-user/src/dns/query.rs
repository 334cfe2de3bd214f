//! A query's fields once it is read, and the key under which its answer is cached.

use super::{CLASS_IN, DnsPacketView, Edns, NameHasher, QUESTION_FIXED, header, rrtype};

/// DO in [`Query::key_flags`].
pub(crate) const KEY_FLAG_DO: u8 = 1;

/// CD in [`Query::key_flags`].
pub(crate) const KEY_FLAG_CD: u8 = 2;

/// The fields of a query that the answer core needs: no borrow, so that a batch of
/// them can be held while the frames are written to.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Hash of the key: name, type, class, DO, CD.
    pub hash: u64,
    /// Offset after the question, 17 to 271; 12 for a query without one, for a cookie alone.
    pub question_end: u16,
    /// The header's flags word.
    pub flags: u16,
    /// The queried type, on top, and the queried class.
    kind: u32,
    /// The OPT record, if there is one.
    pub edns: Option<Edns>,
}

#[inline(always)]
fn key_rest(kind: u32, flags: u8) -> u64 {
    u64::from(kind) << 8 | u64::from(flags)
}

/// As [`key_rest`], from the question.
fn question_rest(question: &[u8], flags: u8) -> u64 {
    let kind = *question.last_chunk().unwrap_or(&[0; QUESTION_FIXED]);
    key_rest(u32::from_be_bytes(kind), flags)
}

/// The hash under which the answer to a question, in wire form, is cached: [`Query::hash`].
pub(crate) fn question_hash(hasher: &NameHasher, question: &[u8], flags: u8) -> u64 {
    key_hash(hasher, hasher.hash_name(question), question, flags)
}

/// As [`question_hash`], from the hash of the question's name.
pub(crate) fn key_hash(hasher: &NameHasher, name: u64, question: &[u8], flags: u8) -> u64 {
    hasher.with_rest(name, question_rest(question, flags))
}

/// The hash of a question's name, from that of the question: the name is not hashed again.
pub(crate) fn name_hash(hasher: &NameHasher, hash: u64, question: &[u8], flags: u8) -> u64 {
    hasher.with_rest(hash, question_rest(question, flags))
}

impl Query {
    /// Takes what the view found, and hashes the key.
    #[inline(always)]
    pub fn new(view: &DnsPacketView<'_>, hasher: &NameHasher) -> Self {
        let mut query = Self {
            hash: 0,
            question_end: (header::LEN + view.question().len()) as u16,
            flags: view.flags(),
            kind: view.kind(),
            edns: view.edns(),
        };
        let rest = key_rest(query.kind, query.key_flags());
        query.hash = hasher.with_rest(hasher.hash_name(view.question()), rest);
        query
    }

    /// Whether it has no OPT record, or one of version 0 with nothing but DO.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.edns.is_none_or(Edns::is_plain)
    }

    /// The queried type.
    #[inline(always)]
    pub fn qtype(&self) -> u16 {
        (self.kind >> 16) as u16
    }

    /// The queried class.
    #[inline(always)]
    pub(crate) fn qclass(&self) -> u16 {
        self.kind as u16
    }

    /// The client wants DNSSEC records.
    #[inline(always)]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(Edns::dnssec_ok)
    }

    /// CD is set: the client validates itself.
    #[inline(always)]
    fn checking_disabled(&self) -> bool {
        self.flags & header::CD != 0
    }

    /// The part of the key beside name, type and class: `KEY_FLAG_DO` and `KEY_FLAG_CD`. Answers
    /// for DO and for CD are cached apart (RFC 4035 sections 3.2.1 and 3.2.2).
    #[inline(always)]
    pub fn key_flags(&self) -> u8 {
        let dnssec_ok = if self.dnssec_ok() { KEY_FLAG_DO } else { 0 };
        let checking_disabled = if self.checking_disabled() {
            KEY_FLAG_CD
        } else {
            0
        };
        dnssec_ok | checking_disabled
    }

    /// Octets at the message's start without which no reply can be written: to the end of the
    /// question, and of the cookie.
    pub(crate) fn needed(&self) -> usize {
        let cookie = self.edns.map_or(0, Edns::end_of_cookie);
        cookie.max(usize::from(self.question_end))
    }

    /// Whether there is a question at all.
    #[inline(always)]
    pub(crate) fn has_question(&self) -> bool {
        usize::from(self.question_end) > header::LEN
    }

    /// Whether this is a query that a cache or an upstream may answer: Internet class, and a type
    /// of records.
    #[inline(always)]
    pub(crate) fn is_forwardable(&self) -> bool {
        // Nearly all queried types are less than OPT.
        let has_records = |qtype| (1..rrtype::OPT).contains(&qtype) || is_type_of_records(qtype);
        self.qclass() == CLASS_IN && has_records(self.qtype())
    }
}

/// Whether a type is one of records: it is not reserved, nor OPT's, nor for queries only.
#[inline(never)]
fn is_type_of_records(rtype: u16) -> bool {
    !matches!(rtype, rrtype::RESERVED | rrtype::OPT) && !rrtype::QUERY.contains(&rtype)
}
