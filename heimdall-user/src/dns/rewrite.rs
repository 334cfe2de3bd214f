//! Responses without some of their records.
//!
//! Names in the records that stay may point into those that go, so what is left is written anew
//! with every name in full. Only responses of upstreams that do not keep to the rules get here.

use super::{
    header::{self, field},
    name::{end_of_record_name, is_whole, walk},
    u16_at,
};

/// A compression pointer to the question's name.
const QUESTION_NAME: [u8; 2] = [0xc0, header::LEN as u8];

/// Writes `msg`, whose question ends at `start`, anew with only those records whose type `keeps`.
///
/// `None`: its records cannot be read, or do not fit into a message any more.
pub(super) fn only(msg: &[u8], start: usize, keeps: impl Fn(u16) -> bool) -> Option<Vec<u8>> {
    let mut out = msg.get(..start)?.to_vec();
    let qname = expand(msg, header::LEN)?;
    let mut at = start;
    for count_at in [field::ANCOUNT, field::NSCOUNT, field::ARCOUNT] {
        let mut kept = 0u16;
        for _ in 0..u16_at(msg, count_at)? {
            let fixed = end_of_record_name(msg, at)?;
            let rtype = u16_at(msg, fixed)?;
            let rdata = fixed + 10;
            let next = rdata + usize::from(u16_at(msg, fixed + 8)?);
            if keeps(rtype) {
                let owner = expand(msg, at)?;
                if owner == qname {
                    out.extend_from_slice(&QUESTION_NAME);
                } else {
                    out.extend_from_slice(&owner);
                }
                out.extend_from_slice(msg.get(fixed..fixed + 8)?);
                let rdlen_at = out.len();
                out.extend_from_slice(&[0, 0]);
                write_rdata(&mut out, msg.get(..next)?, rtype, rdata)?;
                let rdlen = u16::try_from(out.len() - rdlen_at - 2).ok()?;
                *out.get_mut(rdlen_at..)?.first_chunk_mut()? = rdlen.to_be_bytes();
                kept += 1;
            }
            at = next;
        }
        *out.get_mut(count_at..)?.first_chunk_mut()? = kept.to_be_bytes();
    }
    (out.len() <= usize::from(u16::MAX)).then_some(out)
}

/// Octets before the names in the data of a type, and how many names there are: the types whose
/// names may be compressed (RFC 1035 section 3.3, RFC 3597 section 4).
fn names_in(rtype: u16) -> (usize, usize) {
    match rtype {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR, DNAME.
        2..=5 | 7..=9 | 12 | 39 => (0, 1),
        // SOA, MINFO, RP.
        6 | 14 | 17 => (0, 2),
        // MX, AFSDB, RT, KX.
        15 | 18 | 21 | 36 => (2, 1),
        // PX.
        26 => (2, 2),
        // SRV.
        33 => (6, 1),
        _ => (0, 0),
    }
}

/// Writes the data of a record, which starts at `rdata` and ends where `msg` does.
fn write_rdata(out: &mut Vec<u8>, msg: &[u8], rtype: u16, rdata: usize) -> Option<()> {
    let (before, names) = names_in(rtype);
    let mut at = rdata + before;
    out.extend_from_slice(msg.get(rdata..at)?);
    for _ in 0..names {
        out.extend_from_slice(&expand(msg, at)?);
        at = end_of_record_name(msg, at)?;
    }
    out.extend_from_slice(msg.get(at..)?);
    Some(())
}

/// The name at `at`, in full.
fn expand(msg: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    walk(msg, at, |_, label| name.extend_from_slice(label))?;
    Some(name)
}

/// Whether the names in the data of a record, which starts at `rdata` and ends at `end`, are names;
/// `is_ttl` is as [`is_whole`] wants it.
pub(super) fn names_are_whole(
    msg: &[u8],
    rtype: u16,
    rdata: usize,
    end: usize,
    is_ttl: impl Fn(usize) -> bool,
) -> bool {
    let (before, names) = names_in(rtype);
    let mut at = rdata + before;
    (0..names).all(|_| {
        let whole = is_whole(msg, at, &is_ttl);
        at = end_of_record_name(msg, at).unwrap_or(usize::MAX);
        whole && at <= end
    })
}
