//! A denial of one name as the answer for a name below it (RFC 8020).
//!
//! Names in an answer point back into the message, which begins with the question. A longer question
//! moves everything behind its extra labels by their length, and its last labels are the shorter
//! name. So every pointer grows by the same distance, and nothing else changes.

use super::{
    Answer, AnswerRef,
    answer::AnswerFields,
    cursor::Cursor,
    header,
    name::{POINTER_LEN, pointer_to},
    response::rdata::{self, Field},
    rrtype,
};

/// Rewrites `answer`, to a question of `from` octets that names an ancestor, for a question of
/// `to` octets.
///
/// `None` if it holds records other than SOA, NSEC, NSEC3 and RRSIG, which a denial is made of,
/// or a name that cannot be read, or a pointer would not reach that far.
pub fn for_descendant(answer: AnswerRef<'_>, from: usize, to: usize) -> Option<Answer> {
    const OF_A_DENIAL: [u16; 4] = [rrtype::SOA, rrtype::NSEC, rrtype::NSEC3, rrtype::RRSIG];
    let start = header::LEN + from;
    let distance = to.checked_sub(from)?;
    let mut body = answer.body().to_vec();
    let mut ttl_offsets = Vec::new();
    let mut records = answer.records(start);
    for record in records.by_ref() {
        let record = record.filter(|record| OF_A_DENIAL.contains(&record.rtype))?;
        ttl_offsets.push(u16::try_from(record.ttl_at()).ok()?);
        let owner = Cursor::in_body(answer.body(), start).moved_to(record.owner);
        move_pointer(&mut body, owner, distance)?;
        rdata::fields(record.rtype, record.rdata, |field| match field {
            Field::Name(name) => move_pointer(&mut body, name.start, distance),
            Field::Octets(_) => Some(()),
        })?;
    }
    (records.at() == body.len()).then(|| {
        Answer::new(&AnswerFields {
            rcode: answer.rcode(),
            counts: answer.section_counts(),
            body: &body,
            ttl_offsets: &ttl_offsets,
            ttl: answer.ttl(),
            authentic: answer.authentic(),
            ede: answer.ede(),
        })
    })
}

/// Moves the pointer of `name`, if it ends in one, in `body`, a copy of the octets that `name` is in.
fn move_pointer(body: &mut [u8], mut name: Cursor<'_>, distance: usize) -> Option<()> {
    let Some(target) = name.name()? else {
        return Some(());
    };
    let target = Some(target).filter(|target| *target >= header::LEN)?;
    let pointer = body.get_mut(name.at() - POINTER_LEN..)?;
    *pointer.first_chunk_mut()? = pointer_to(target + distance)?;
    Some(())
}

#[cfg(test)]
mod tests;
