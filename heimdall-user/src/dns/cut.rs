//! A denial of one name as the answer for a name below it (RFC 8020).
//!
//! An answer's names point back into the message, which begins with the question. Under a longer
//! question everything after the longer name's extra labels lies further back by as much as they
//! take; the shorter name is the end of the longer one. So every pointer moves by one and the
//! same distance, and nothing else changes.

use super::{Answer, AnswerRef, answer::Parts, header, name::MAX_NAME, rrtype, u16_at, u32_at};

/// Largest offset that a compression pointer can hold (RFC 1035 section 4.1.4).
const MAX_POINTER: usize = 0x3fff;

/// Octets after the names of a SOA record: five numbers (RFC 1035 section 3.3.13).
const SOA_FIXED: usize = 20;

/// Octets before the signer's name in an RRSIG record (RFC 4034 section 3.1).
const RRSIG_FIXED: usize = 18;

/// Rewrites `answer`, to a question of `from` octets that names an ancestor, for a question of
/// `to` octets.
///
/// `None` if it holds records other than SOA, NSEC, NSEC3 and RRSIG, which a denial is made of,
/// or a name that cannot be read, or a pointer would not reach that far.
pub fn move_down(answer: AnswerRef<'_>, from: usize, to: usize) -> Option<Answer> {
    let mut moved = Mover {
        body: answer.body().to_vec(),
        start: header::LEN + from,
        distance: to.checked_sub(from)?,
    };
    let [a0, a1, n0, n1, r0, r1] = answer.counts();
    let counts = [[a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
    let mut ttl_offsets = Vec::new();
    let mut at = 0;
    for _ in 0..counts.into_iter().map(u32::from).sum() {
        let fixed = moved.name(at)?;
        ttl_offsets.push(u16::try_from(fixed + 4).ok()?);
        at = moved.record(fixed)?;
    }
    (at == moved.body.len()).then(|| {
        Answer::new(&Parts {
            rcode: answer.rcode(),
            counts,
            body: &moved.body,
            ttl_offsets: &ttl_offsets,
            life: answer.life(),
            authentic: answer.authentic(),
            ede: answer.ede(),
        })
    })
}

struct Mover {
    body: Vec<u8>,
    /// The body's offset in the message that it is from.
    start: usize,
    /// What to add to each pointer.
    distance: usize,
}

impl Mover {
    /// Moves the pointer of the name at `start`, if it ends in one; returns where the name ends.
    fn name(&mut self, start: usize) -> Option<usize> {
        let mut at = start;
        loop {
            let len = usize::from(*self.body.get(at)?);
            match len {
                0 => return Some(at + 1),
                1..=63 => at += 1 + len,
                0xc0.. => {
                    let target = usize::from(u16_at(&self.body, at)?) & MAX_POINTER;
                    let moved = target + self.distance;
                    let backwards = target >= header::LEN && target < self.start + at;
                    if !backwards || moved > MAX_POINTER {
                        return None;
                    }
                    let pointer: &mut [u8; 2] = self.body.get_mut(at..)?.first_chunk_mut()?;
                    *pointer = (0xc000 | moved as u16).to_be_bytes();
                    return Some(at + 2);
                }
                _ => return None,
            }
            if at - start > MAX_NAME {
                return None;
            }
        }
    }

    /// Moves the pointers in the data of the record whose owner ends at `fixed`; returns where
    /// the record ends.
    fn record(&mut self, fixed: usize) -> Option<usize> {
        let rtype = u16_at(&self.body, fixed)?;
        u32_at(&self.body, fixed + 4)?;
        let rdata = fixed + 10;
        let end = rdata + usize::from(u16_at(&self.body, fixed + 8)?);
        // Names in NSEC and RRSIG ought not to be compressed, and some servers do it.
        let names_end = match rtype {
            rrtype::SOA => {
                let responsible = self.name(rdata)?;
                self.name(responsible)? + SOA_FIXED
            }
            rrtype::NSEC => self.name(rdata)?,
            rrtype::RRSIG => self.name(rdata + RRSIG_FIXED)?,
            rrtype::NSEC3 => rdata,
            _ => return None,
        };
        (names_end <= end && end <= self.body.len()).then_some(end)
    }
}

#[cfg(test)]
mod tests;
