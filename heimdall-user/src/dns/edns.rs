//! EDNS(0): the OPT pseudo-record, [RFC 6891 section 6.1](https://www.rfc-editor.org/rfc/rfc6891#section-6.1).
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+
//! |         NAME          |  the root: a zero octet
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! |                   TYPE = 41                   |
//! |     CLASS: the sender's UDP payload size      |
//! | TTL:  EXTENDED-RCODE  |        VERSION        |
//! |DO|                     Z                      |
//! |                   RDLENGTH                    |
//! /          RDATA: options, `options`            /
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use core::{fmt, num::NonZeroU64, ops::Range, time::Duration};

use super::{
    options::{self, EdnsOption},
    record::Record,
    reply::{Reply, ReplySettings},
    rrtype,
};
use crate::checksum;

/// Octets of an OPT record without options, its root owner included.
pub(super) const OPT_LEN: usize = 11;

/// The DO bit in the TTL field (RFC 3225).
const DO: u32 = 0x0000_8000;

/// The DO bit in its octet.
const FLAG_DO: u8 = 0x80;

/// Info-codes of Extended DNS Errors (RFC 8914 section 4) that Heimdall gives.
pub(crate) mod ede {
    /// No other code fits. Heimdall does not give it itself.
    pub(crate) const OTHER: u16 = 0;
    /// The answer has expired, and no upstream gave a newer one.
    pub(crate) const STALE: u16 = 3;
    /// The failure is cached: no upstream was queried.
    pub(crate) const CACHED_ERROR: u16 = 13;
    /// The query cannot be queued: too many wait for an upstream.
    pub(crate) const NOT_READY: u16 = 14;
    /// The name is on a blocklist, or in a route that refuses it.
    pub(crate) const BLOCKED: u16 = 15;
    /// The access list refuses the client.
    pub(crate) const PROHIBITED: u16 = 18;
    /// As [`STALE`], for a name that did not exist.
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    /// The answer is not cached, and the client does not want it looked up.
    pub(crate) const NOT_AUTHORITATIVE: u16 = 20;
    /// The kind of question is not supported.
    pub(crate) const NOT_SUPPORTED: u16 = 21;
    /// No upstream gave an answer.
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// No upstream could be reached.
    pub(crate) const NETWORK_ERROR: u16 = 23;
}

/// Option codes (IANA, DNS EDNS0 option codes).
pub(crate) mod option {
    /// Name server identifier (RFC 5001).
    pub(super) const NSID: u16 = 3;
    /// Client subnet (RFC 7871).
    pub(crate) const CLIENT_SUBNET: u16 = 8;
    /// DNS cookies (RFC 7873).
    pub(in crate::dns) const COOKIE: u16 = 10;
    /// For how long an unused TCP connection is kept (RFC 7828).
    pub(in crate::dns) const TCP_KEEPALIVE: u16 = 11;
    /// Padding (RFC 7830).
    pub(in crate::dns) const PADDING: u16 = 12;
    /// Extended DNS Error (RFC 8914).
    pub(crate) const EDE: u16 = 15;
}

/// A query's OPT record, in one word, because every query carries it.
///
/// ```text
/// bits  0–15 payload size | 16–23 version | 24 DO | 25 NSID | 26 keepalive | 27 padding
///      32–47 offset of the first COOKIE option's data, 0: none | 48–55 its octets
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Edns(NonZeroU64);

/// Field access.
impl Edns {
    const DO: u32 = 24;
    const NSID: u32 = 25;
    const KEEPALIVE: u32 = 26;
    const PADDING: u32 = 27;
    const COOKIE_AT: u32 = 32;
    const COOKIE_LEN: u32 = 48;

    /// An OPT record without options.
    #[inline(always)]
    pub(super) fn new(udp_size: u16, version: u8, dnssec_ok: bool) -> Option<Self> {
        let word = u64::from(udp_size.max(512)) | u64::from(version) << 16;
        NonZeroU64::new(word | u64::from(dnssec_ok) << Self::DO).map(Self)
    }

    fn word(self) -> u64 {
        self.0.get()
    }

    /// The requestor's UDP payload size in octets; values below 512 count as 512.
    #[inline(always)]
    pub(super) fn udp_size(self) -> u16 {
        self.word() as u16
    }

    /// EDNS version; anything but 0 is answered BADVERS.
    #[inline(always)]
    pub(crate) fn version(self) -> u8 {
        (self.word() >> 16) as u8
    }

    /// The requestor wants DNSSEC records (DO).
    #[inline(always)]
    pub(super) fn dnssec_ok(self) -> bool {
        self.word() >> Self::DO & 1 != 0
    }

    /// The requestor wants to know which server answers (RFC 5001).
    #[inline(always)]
    pub(crate) fn nsid(self) -> bool {
        self.word() >> Self::NSID & 1 != 0
    }

    /// The requestor asks for how long an idle connection is kept (RFC 7828).
    #[inline(always)]
    pub(crate) fn keepalive(self) -> bool {
        self.word() >> Self::KEEPALIVE & 1 != 0
    }

    /// The requestor has padded the query (RFC 7830).
    #[inline(always)]
    pub(crate) fn padding(self) -> bool {
        self.word() >> Self::PADDING & 1 != 0
    }

    /// Whether the query has a COOKIE option.
    #[inline(always)]
    pub(crate) fn has_cookie(self) -> bool {
        self.word() >> Self::COOKIE_AT != 0
    }

    /// Whether it has no option that is answered, and is of version 0.
    #[inline(always)]
    pub(super) fn is_plain(self) -> bool {
        const PLAIN: u64 = 0xffff | 1 << Edns::DO;
        self.word() & !PLAIN == 0
    }

    /// The octets of the first COOKIE option's data: few queries have any, and a range is cheaper to
    /// pass on than the data.
    fn cookie_range(self) -> Range<usize> {
        let at = usize::from((self.word() >> Self::COOKIE_AT) as u16);
        let len = usize::from((self.word() >> Self::COOKIE_LEN) as u8);
        at..at + len
    }

    /// Offset after the COOKIE option, 0 without one.
    pub(super) fn end_of_cookie(self) -> usize {
        self.cookie_range().end
    }

    /// The first COOKIE option of the query, which was read from `msg`.
    pub(crate) fn cookie(self, msg: &[u8]) -> Option<Cookie> {
        Cookie::read(msg.get(self.cookie_range())?).filter(|_| self.has_cookie())
    }

    /// Adds an option's fields.
    fn set(&mut self, shift: u32, value: u64) {
        self.0 |= value << shift;
    }
}

impl fmt::Debug for Edns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edns")
            .field("udp_size", &self.udp_size())
            .field("version", &self.version())
            .field("dnssec_ok", &self.dnssec_ok())
            .field("nsid", &self.nsid())
            .field("keepalive", &self.keepalive())
            .field("padding", &self.padding())
            .field("cookie", &self.cookie_range())
            .finish()
    }
}

/// A COOKIE option (RFC 7873 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// The client's cookie.
    pub client: [u8; 8],
    /// The server cookie, which the client has from an earlier reply.
    pub server: ServerCookie,
}

/// The server's part of a COOKIE option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerCookie {
    /// The client has none yet.
    Absent,
    /// Of the length that this server's have (RFC 9018 section 4).
    Sixteen([u8; 16]),
    /// Of another length: another server's.
    Foreign,
}

impl Cookie {
    /// Reads an option's data. `None`: no cookie has this length.
    fn read(data: &[u8]) -> Option<Self> {
        let (&client, server) = data.split_first_chunk()?;
        let server = match server.len() {
            0 => ServerCookie::Absent,
            16 => ServerCookie::Sixteen(*server.first_chunk()?),
            8..=32 => ServerCookie::Foreign,
            _ => return None,
        };
        Some(Self { client, server })
    }
}

/// The options in the OPT record of a reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Info-code of an Extended DNS Error.
    pub ede: Option<u16>,
    /// The name server identifier.
    pub nsid: Option<&'a [u8]>,
    /// The client's cookie and the server's.
    pub cookie: Option<&'a [u8; 24]>,
    /// For how long an idle connection is kept.
    pub keepalive: Option<Duration>,
    /// Pad the reply to whole blocks of [`PADDED_BLOCK`].
    pub padding: bool,
}

/// Octets of the blocks that replies are padded to ([RFC 8467 section
/// 4.1](https://www.rfc-editor.org/rfc/rfc8467#section-4.1)).
const PADDED_BLOCK: usize = 468;

/// Octets of an option before its data.
const OPTION_HEAD: usize = 4;

impl Options<'_> {
    /// Octets that the options take; of the padding, what it takes at least: a reply that fits without it is not shortened
    /// for its sake.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let ede = if self.ede.is_some() { 6 } else { 0 };
        let nsid = self.nsid.map_or(0, |nsid| 4 + nsid.len());
        let cookie = if self.cookie.is_some() { 28 } else { 0 };
        let keepalive = if self.keepalive.is_some() { 6 } else { 0 };
        let padding = if self.padding { OPTION_HEAD } else { 0 };
        ede + nsid + cookie + keepalive + padding
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the options to the OPT record at `at`, which has none yet. Gives the offset after it and its
    /// sum.
    #[inline(never)]
    fn complete(&self, buf: &mut [u8], at: usize) -> Option<Reply> {
        let start = at + OPT_LEN;
        let len = self.write(buf, start)?;
        let rdlen = u16::try_from(len - start).ok()?;
        *buf.get_mut(start - 2..)?.first_chunk_mut()? = rdlen.to_be_bytes();
        let sum = checksum::add(0, buf.get(at..len)?);
        Some(Reply { len, sum })
    }

    /// Writes the options at `at`. Gives the offset after them. The OPT record is the last of the message.
    fn write(&self, buf: &mut [u8], at: usize) -> Option<usize> {
        let room = buf.len().min(u16::MAX.into());
        let mut put = |at: usize, code: u16, data: &[u8]| {
            let (head, rest) = buf.get_mut(at..)?.split_first_chunk_mut::<OPTION_HEAD>()?;
            let [c0, c1] = code.to_be_bytes();
            let [l0, l1] = (data.len() as u16).to_be_bytes();
            *head = [c0, c1, l0, l1];
            rest.get_mut(..data.len())?.copy_from_slice(data);
            Some(at + OPTION_HEAD + data.len())
        };
        let mut end = at;
        if let Some(code) = self.ede {
            end = put(end, option::EDE, &code.to_be_bytes())?;
        }
        if let Some(nsid) = self.nsid {
            end = put(end, option::NSID, nsid)?;
        }
        if let Some(cookie) = self.cookie {
            end = put(end, option::COOKIE, cookie)?;
        }
        if let Some(time) = self.keepalive {
            // In units of 100 ms.
            let units = (time.as_millis() / 100) as u16;
            end = put(end, option::TCP_KEEPALIVE, &units.to_be_bytes())?;
        }
        if self.padding {
            let len = end + OPTION_HEAD;
            let padded = len.next_multiple_of(PADDED_BLOCK).min(room);
            end = put(
                end,
                option::PADDING,
                ZEROS.get(..padded.saturating_sub(len))?,
            )?;
        }
        Some(end)
    }
}

/// The data of padding (RFC 7830 section 3).
static ZEROS: [u8; PADDED_BLOCK] = [0; PADDED_BLOCK];

impl Edns {
    /// Reads an OPT record.
    ///
    /// Returns `None` if an option's length runs past the record, or a cookie has a length that
    /// none can have (RFC 7873 section 5.2.2). Other options are ignored (RFC 6891 section
    /// 6.1.2), and so are all of another version than 0.
    pub(super) fn read(record: &Record<'_>) -> Option<Self> {
        let [_, version, _, _] = record.ttl.to_be_bytes();
        let mut edns = Self::new(record.class, version, record.ttl & DO != 0)?;
        if version == 0 {
            for option in options::in_record(record.rdata) {
                edns.note(&option?)?;
            }
        }
        Some(edns)
    }

    fn note(&mut self, option: &EdnsOption<'_>) -> Option<()> {
        match option.code {
            option::NSID => self.set(Self::NSID, 1),
            option::TCP_KEEPALIVE => self.set(Self::KEEPALIVE, 1),
            option::PADDING => self.set(Self::PADDING, 1),
            option::COOKIE if !self.has_cookie() => {
                Cookie::read(option.data)?;
                self.set(Self::COOKIE_AT, u16::try_from(option.at).ok()?.into());
                self.set(
                    Self::COOKIE_LEN,
                    u8::try_from(option.data.len()).ok()?.into(),
                );
            }
            _ => {}
        }
        Some(())
    }

    /// As [`read`](Self::read), for what most queries end with: an OPT record without options, of
    /// version 0. `None`: it is something else.
    #[inline(always)]
    pub(super) fn read_bare(rest: &[u8]) -> Option<Self> {
        // A load and a comparison of NAME, TYPE and VERSION, rather than field by field: this is on the
        // path of each hit. Then RDLENGTH.
        const FIXED: u64 = 0xffff_ff00_0000_ff00;
        const BARE: u64 = (rrtype::OPT as u64) << 40;
        let (first, last) = rest.first_chunk::<OPT_LEN>()?.split_first_chunk::<8>()?;
        let first = u64::from_be_bytes(*first);
        let [_, 0, 0] = *last else { return None };
        if first & FIXED != BARE {
            return None;
        }
        Self::new((first >> 24) as u16, 0, first & 0x80 != 0)
    }

    /// The OPT record of a message that Heimdall sends: its UDP payload size, DO (RFC 3225), a response
    /// code below 16; `rdlength` octets of options follow.
    pub(super) fn record(udp_size: u16, dnssec_ok: bool, rdlength: u16) -> [u8; OPT_LEN] {
        let ([t0, t1], [s0, s1]) = (rrtype::OPT.to_be_bytes(), udp_size.to_be_bytes());
        let [l0, l1] = rdlength.to_be_bytes();
        let flags = if dnssec_ok { FLAG_DO } else { 0 };
        [0, t0, t1, s0, s1, 0, 0, flags, 0, l0, l1]
    }

    /// Writes the OPT record of a reply to this requestor at `at`. Gives the offset after it and its sum.
    #[inline(always)]
    pub(super) fn reply(
        self,
        buf: &mut [u8],
        at: usize,
        server: &ReplySettings,
        rcode: u8,
        options: Option<&Options<'_>>,
    ) -> Option<Reply> {
        let flags = (self.word() >> (Self::DO - FLAG_DO.trailing_zeros())) as u8 & FLAG_DO;
        let record = buf.get_mut(at..)?.first_chunk_mut::<OPT_LEN>()?;
        // Two overlapping words: fewer stores than octet by octet.
        *record.first_chunk_mut()? = server.opt;
        *record.last_chunk_mut()? = [flags, 0, 0, 0];
        let mut sum = u64::from(server.opt_sum) + u64::from(u16::from_ne_bytes([0, flags]));
        if rcode > 0xf {
            let [_, _, _, _, _, upper, ..] = record;
            *upper = rcode >> 4;
            sum += u64::from(u16::from_ne_bytes([0, rcode >> 4]));
        }
        if let Some(options) = options {
            return options.complete(buf, at);
        }
        Some(Reply {
            len: at + OPT_LEN,
            sum,
        })
    }
}
