//! What every name has: a pure function of the name and the type, so that any reply can be checked.

/// Octets of a DNS header.
pub(super) const HEADER: usize = 12;
const A: u16 = 1;
const TXT: u16 = 16;

/// Largest reply that a client without EDNS takes over UDP.
const UDP_LIMIT: usize = 512;

/// What an upstream answers to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Truth {
    pub(super) rcode: u8,
    pub(super) counts: [u8; 6],
    /// The records, which point to the question where names begin.
    pub(super) records: Vec<u8>,
    /// Where their TTLs are.
    ttls: Vec<usize>,
}

/// What is told of a question: name, type and class in wire form.
pub(super) fn truth(question: &[u8]) -> Truth {
    let qtype = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let hash = hash(&question[..question.len() - 4]);
    let ttl = 1 + (hash >> 8) as u32 % 30;
    let mut truth = Truth {
        rcode: 0,
        counts: [0; 6],
        records: Vec::new(),
        ttls: Vec::new(),
    };
    let mut record = |section: usize, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]| {
        truth.counts[2 * section + 1] += 1;
        truth.records.extend_from_slice(owner);
        truth.records.extend_from_slice(&rtype.to_be_bytes());
        truth.records.extend_from_slice(&[0, 1]);
        truth.ttls.push(truth.records.len());
        truth.records.extend_from_slice(&ttl.to_be_bytes());
        truth
            .records
            .extend_from_slice(&(data.len() as u16).to_be_bytes());
        truth.records.extend_from_slice(data);
    };
    const SELF: &[u8] = &[0xc0, HEADER as u8];
    let address = |number: u64| (hash.rotate_left(number as u32) as u32).to_be_bytes();
    match (hash % 16, qtype) {
        // The name does not exist, or has nothing of the type.
        (kind @ (0 | 1), _) => {
            let soa = [&[0, 0][..], &[7; 16], &5u32.to_be_bytes()].concat();
            record(1, &[0], 6, 5, &soa);
            truth.rcode = if kind == 0 { 3 } else { 0 };
        }
        // An alias below the name.
        (2, A) => {
            record(0, SELF, 5, ttl + 3, &[1, b'x', 0xc0, HEADER as u8]);
            record(0, &[1, b'x', 0xc0, HEADER as u8], A, ttl, &address(0));
        }
        (_, TXT) => {
            for _ in 0..2 + hash % 12 {
                let text = [&[250][..], &[b'a' + (hash % 26) as u8; 250]].concat();
                record(0, SELF, TXT, ttl, &text);
            }
        }
        (kind, _) => {
            for number in 0..1 + kind % 4 {
                record(0, SELF, A, ttl, &address(number));
            }
        }
    }
    truth
}

/// FNV-1a of a name in small letters.
fn hash(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, octet| {
        (hash ^ u64::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 29)
}

/// Where the question of a message ends.
fn question_end(message: &[u8]) -> usize {
    let name = message[HEADER..].iter().position(|octet| *octet == 0);
    HEADER + name.unwrap() + 5
}

/// What the upstream sends back: the truth, cut over UDP if it is long.
pub(super) fn respond(query: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
    let end = question_end(query);
    let truth = truth(&query[HEADER..end]);
    let cut = !over_tcp && end + truth.records.len() > 1232;
    let mut reply = query[..end].to_vec();
    reply[2..4].copy_from_slice(&[if cut { 0x83 } else { 0x81 }, 0x80 | truth.rcode]);
    reply[6..12].fill(0);
    if !cut {
        reply[6..12].copy_from_slice(&truth.counts);
        reply.extend_from_slice(&truth.records);
    }
    vec![reply]
}

/// What is wrong with a reply to `query`, sent without EDNS over UDP or TCP. `Ok(false)`: it is
/// right, and has to be asked for over TCP; `Err` also for SERVFAIL, which says so.
pub(super) fn check(query: &[u8], reply: &[u8], over_tcp: bool) -> Result<bool, &'static str> {
    let end = query.len();
    let truth = truth(&query[HEADER..]);
    if reply.len() < end || reply[..2] != query[..2] || reply[HEADER..end] != query[HEADER..] {
        return Err("another ID or question");
    }
    let long = !over_tcp && end + truth.records.len() > UDP_LIMIT;
    let (cut, rcode) = (reply[2] & 2 != 0, reply[3] & 15);
    if rcode == 2 {
        return Err(SERVFAIL);
    }
    if rcode != truth.rcode || cut != long {
        return Err("another response code, or TC");
    }
    if cut {
        return if reply.len() == end {
            Ok(false)
        } else {
            Err("cut, with records")
        };
    }
    let records = &reply[end..];
    if reply[6..12] != truth.counts || records.len() != truth.records.len() {
        return Err("other records");
    }
    let mut as_told = records.to_vec();
    let mut ages = Vec::new();
    for at in truth.ttls {
        let told = u32::from_be_bytes(truth.records[at..at + 4].try_into().unwrap());
        let left = u32::from_be_bytes(records[at..at + 4].try_into().unwrap());
        ages.push(told.checked_sub(left).ok_or("a TTL that has grown")?);
        as_told[at..at + 4].copy_from_slice(&told.to_be_bytes());
    }
    if as_told != truth.records {
        return Err("other data");
    }
    if ages.iter().any(|age| *age != ages[0]) {
        return Err("TTLs of different ages");
    }
    Ok(true)
}

/// The one error that overload may bring.
pub(super) const SERVFAIL: &str = "SERVFAIL";

/// A query for a name, `a.example`, in letters as they come.
pub(super) fn query(id: u16, name: &str, txt: bool) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query[..2].copy_from_slice(&id.to_be_bytes());
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, if txt { TXT } else { A } as u8, 0, 1]);
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_knows_right_from_wrong() {
        let mut kinds = std::collections::HashSet::new();
        for number in 0..500u16 {
            let query = query(number, &format!("N{number}.test"), number % 5 == 0);
            let mut reply = respond(&query, true).remove(0);
            assert_eq!(check(&query, &reply, true), Ok(true));
            kinds.insert((reply[3], reply[7], reply[9]));
            let last = reply.len() - 1;
            reply[last] ^= 1;
            assert!(check(&query, &reply, true).is_err());
            reply[last] ^= 1;
            reply[3] ^= 1;
            assert!(check(&query, &reply, true).is_err());
        }
        assert!(kinds.len() > 6, "{kinds:?}");
    }
}
