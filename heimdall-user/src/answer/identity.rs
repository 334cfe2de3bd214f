//! The server's identity, in the Chaos class (RFC 4892) and with the NSID option (RFC
//! 5001), and the record that answers ANY (RFC 8482).

use super::body::{Body, QUESTION};
use crate::dns::{Answer, CLASS_CH, CLASS_IN, header::rcode, name::eq_ignore_case, rrtype};

/// Names whose TXT record is the version.
const VERSION: [&[u8]; 2] = [b"\x07version\x04bind\0", b"\x07version\x06server\0"];
/// Names whose TXT record is the server's identifier.
const SERVER_ID: [&[u8]; 2] = [b"\x02id\x06server\0", b"\x08hostname\x04bind\0"];

/// The server's version and identifier, as far as the operator discloses them; by default neither.
#[derive(Debug, Default)]
pub struct Identity {
    version: Option<Answer>,
    server_id: Option<Answer>,
    nsid: Option<Box<[u8]>>,
}

impl Identity {
    /// `version` answers version.bind and version.server, `server_id` answers id.server and hostname.bind
    /// and is the NSID; the first 255 octets of each are used.
    pub fn new(version: Option<&str>, server_id: Option<&str>) -> Self {
        Self {
            version: version.map(chaos_text),
            server_id: server_id.map(chaos_text),
            nsid: server_id.map(|id| character_string(id).into()),
        }
    }

    /// The answer to a question in the Chaos class. Only TXT is answered.
    pub(super) fn lookup(&self, qname: &[u8], qtype: u16) -> Option<&Answer> {
        let is = |names: &[&[u8]]| names.iter().any(|name| eq_ignore_case(name, qname));
        if qtype != rrtype::TXT {
            None
        } else if is(&VERSION) {
            self.version.as_ref()
        } else if is(&SERVER_ID) {
            self.server_id.as_ref()
        } else {
            None
        }
    }

    /// The name server identifier.
    pub(super) fn nsid(&self) -> Option<&[u8]> {
        self.nsid.as_deref()
    }
}

fn character_string(text: &str) -> &[u8] {
    let text = text.as_bytes();
    text.get(..255).unwrap_or(text)
}

/// A TXT record of the Chaos class with the question's name; its TTL of 0 keeps it out of caches.
fn chaos_text(text: &str) -> Answer {
    let text = character_string(text);
    let rdata = [&[text.len() as u8], text].concat();
    one_record(rrtype::TXT, CLASS_CH, 0, &rdata)
}

/// The answer to ANY: a HINFO record that names the RFC, so that replies are no larger than needed
/// (RFC 8482 section 4.2).
pub(crate) fn minimal_any() -> Answer {
    one_record(rrtype::HINFO, CLASS_IN, 3_600, b"\x07RFC8482\0")
}

fn one_record(rtype: u16, class: u16, ttl: u32, rdata: &[u8]) -> Answer {
    let mut body = Body::default();
    body.answer(QUESTION, rtype, class, ttl, rdata);
    body.into_small_answer(rcode::NOERROR, None)
}
