//! Entries, made of cached answers.
//!
//! There is an entry only for an answer that the program can give exactly as the core does, to every query that it
//! answers at all: `answer::Core` and `dns::reply` write options only for Extended DNS Errors, and for a response
//! code that is not NOERROR or NXDOMAIN they look at the client's port.

use heimdall_ebpf::tier::{Entry, Key, MAX_BODY, MIN_BODY, hit_counter};

use super::nominate::Offer;
use crate::{dns::header::rcode, stats};

/// Seconds for which an answer has to be usable yet. The promoter needs a good part of one.
const SHORTEST_LIFE: u32 = 2;

/// Whether promotion would be worth it at this second.
pub(super) fn is_worthwhile(offer: &Offer<'_>, now: u32) -> bool {
    offer.refresh > now.saturating_add(SHORTEST_LIFE)
}

/// Writes the entry of an answer, without a generation. `None`: the program cannot give this answer; what `entry` is
/// then does not matter.
pub(super) fn write(entry: &mut Entry, offer: &Offer<'_>) -> Option<()> {
    let answer = &offer.answer;
    let (body, rcode) = (answer.body(), answer.rcode());
    let is_exact = matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN)
        && answer.ede().is_none()
        && !answer.is_stale()
        && !answer.is_truncated();
    if !is_exact || !(MIN_BODY..=MAX_BODY).contains(&body.len()) {
        return None;
    }
    let key = Key::new(offer.question, offer.flags)?;
    let (_, [t0, t1, _, _]) = offer.question.split_last_chunk()?;
    let kind = stats::type_index(u16::from_be_bytes([*t0, *t1]));
    let [0, answers, 0, authorities, 0, additionals] = answer.counts() else {
        return None;
    };
    *entry = Entry {
        until: offer.refresh,
        received: offer.received,
        counter: hit_counter(kind.into(), rcode == rcode::NXDOMAIN),
        body_len: body.len() as u16,
        counts: [answers, authorities, additionals],
        rcode,
        authentic: answer.authentic().into(),
        // It is folded.
        body_sum: answer.sum() as u16,
        key,
        ..Entry::EMPTY
    };
    entry.body.get_mut(..body.len())?.copy_from_slice(body);
    let mut offsets = answer.ttl_offsets();
    for (field, offset) in entry.ttl_offsets.iter_mut().zip(offsets.by_ref()) {
        body.get(usize::from(offset)..)?.first_chunk::<4>()?;
        *field = offset;
        entry.ttl_count += 1;
    }
    let used = entry.ttl_offsets.get(..entry.ttl_count.into())?;
    (offsets.next().is_none() && used.is_sorted()).then_some(())
}

/// Whether two entries give the same answer to the same question, whenever it was received and with whatever TTLs.
pub(super) fn is_same_answer(one: &Entry, other: &Entry) -> bool {
    without_times(one) == without_times(other)
}

/// An entry without what depends on when its answer was received.
fn without_times(entry: &Entry) -> Entry {
    let mut rest = Entry {
        generation: 0,
        until: 0,
        received: 0,
        body_sum: 0,
        ..*entry
    };
    for offset in entry.ttl_offsets.iter().take(entry.ttl_count.into()) {
        let ttl = rest.body.get_mut(usize::from(*offset)..);
        if let Some(ttl) = ttl.and_then(<[u8]>::first_chunk_mut) {
            *ttl = [0; 4];
        }
    }
    rest
}

/// The question in wire form, its name in lower case.
pub(super) fn question(key: &Key) -> Vec<u8> {
    let name = key.name.iter().flat_map(|word| word.to_ne_bytes());
    let name = name.take(key.name_len.into());
    name.chain(key.kind.to_ne_bytes()).collect()
}
