//! Executes the control commands: `stats`, `ready`, `reload`, `flush`, `dump`, `trace` and `route`.

use std::{
    io::{self, Write},
    sync::Arc,
};

use domain::{
    base::{
        Message,
        iana::{Class, Rcode, Rtype},
        zonefile_fmt::{DisplayKind, ZonefileFmt},
    },
    rdata::AllRecordData,
};
use serde_json::{Value, json};

use super::{
    Requests,
    readiness::Readiness,
    reload::{self, Reloader},
    report::Report,
    tier::HotTier,
    trace::Tracer,
};
use crate::{
    anycast::Obstacle,
    cache::Record,
    control::ControlCommand,
    dns::{
        AnswerRef, KEY_FLAG_CD, KEY_FLAG_DO, QUESTION_FIXED,
        header::{self, field},
    },
    maintenance::{Caches, Scope, presentation},
};

/// The components that commands act on.
pub(super) struct Commands {
    /// For what only the server's owner can do.
    pub(super) requests: Requests,
    pub(super) reloader: Arc<Reloader>,
    pub(super) report: Arc<Report>,
    pub(super) readiness: Readiness,
    pub(super) caches: Caches,
    pub(super) tier: Option<Arc<HotTier>>,
    pub(super) tracer: Tracer,
}

impl Commands {
    /// Executes a command, and writes its result: JSON documents, one a line.
    ///
    /// # Errors
    /// Those of `to`.
    pub(super) fn run(&self, command: ControlCommand, to: &mut dyn Write) -> io::Result<()> {
        match command {
            ControlCommand::Stats => writeln!(to, "{}", self.report.json()),
            ControlCommand::Ready => {
                let obstacle = self.readiness.check().err();
                let reason = obstacle.as_ref().map(Obstacle::to_string);
                writeln!(
                    to,
                    "{}",
                    json!({ "ready": reason.is_none(), "reason": reason })
                )
            }
            ControlCommand::Reload { dry_run: false } => writeln!(to, "{}", self.reload()),
            ControlCommand::Reload { dry_run: true } => {
                let preview = match self.reloader.preview() {
                    Ok(preview) => preview.json("dry_run"),
                    Err(error) => json!({ "error": format!("a reload would fail: {error}") }),
                };
                writeln!(to, "{preview}")
            }
            // The server's owner answers them.
            ControlCommand::Drain | ControlCommand::TakeOver(_) => Ok(()),
            ControlCommand::Flush(_) if self.reloader.refuses_changes() => {
                // What is flushed here would come back with the copy that the other server has.
                let why = "not flushed: another server is taking over; flush again when it has";
                writeln!(to, "{}", json!({ "error": why }))
            }
            ControlCommand::Flush(scope) => {
                writeln!(to, "{}", json!({ "flushed": self.flush(scope) }))
            }
            ControlCommand::Dump(scope) => self.dump(scope, to),
            ControlCommand::Trace(query) => writeln!(to, "{}", self.tracer.trace(&query)),
            ControlCommand::Route(query) => writeln!(to, "{}", self.tracer.route(&query)),
        }
    }

    /// Reloads, or has the server's owner do it if that takes another server.
    fn reload(&self) -> Value {
        match self.reloader.reload_in_place() {
            Some(outcome) => reload::document(&outcome),
            None => self.requests.reload(),
        }
    }

    /// Removes the entries in `scope` from all caches and from the hot tier. Returns how many the caches had.
    fn flush(&self, scope: Scope) -> u64 {
        match &self.tier {
            Some(tier) => tier.flush(&scope, || self.caches.flush(scope.clone())),
            None => self.caches.flush(scope),
        }
    }

    /// Writes the entries of all caches, and then how many there were.
    fn dump(&self, scope: Scope, to: &mut dyn Write) -> io::Result<()> {
        let mut entries = 0u64;
        self.caches.copy(scope, |cache, mut records| {
            while let Some(record) = Record::take(&mut records) {
                entries += 1;
                writeln!(to, "{}", entry(cache, &record, self.tier.as_deref()))?;
            }
            io::Result::Ok(())
        })?;
        writeln!(to, "{}", json!({ "entries": entries }))
    }
}

/// An entry of the cache with this name, as JSON.
pub(super) fn entry(cache: &str, record: &Record<'_>, tier: Option<&HotTier>) -> Value {
    let in_tier = tier.is_some_and(|tier| tier.contains(record.question, record.flags));
    let answer = record.answer;
    let (name, fixed) = match record.question.split_last_chunk::<QUESTION_FIXED>() {
        Some((name, fixed)) => (name, *fixed),
        None => (record.question, [0; QUESTION_FIXED]),
    };
    let [t0, t1, c0, c1] = fixed;
    let [qtype, class] = [[t0, t1], [c0, c1]].map(u16::from_be_bytes);
    let flags = [(KEY_FLAG_DO, "DO"), (KEY_FLAG_CD, "CD")];
    let flags = flags.iter().filter(|(bit, _)| record.flags & bit != 0);
    json!({
        "cache": cache,
        "name": presentation(name),
        "class": Class::from_int(class).to_string(),
        // The entry is for all types of a name.
        "type": if qtype == 0 { "*".to_owned() } else { Rtype::from_int(qtype).to_string() },
        "flags": flags.map(|(_, name)| *name).collect::<Vec<_>>(),
        "rcode": Rcode::masked_from_int(answer.rcode()).to_string(),
        "ede": answer.ede(),
        "age": record.age,
        // Negative: the seconds since it expired.
        "ttl": i64::from(answer.ttl()) - i64::from(record.age),
        "octets": record.encoded_len(),
        "tier": in_tier,
        "records": records(record.question, answer, record.age),
    })
}

/// The records in the form of zone files, with the TTLs that a client would get.
pub(super) fn records(question: &[u8], answer: AnswerRef<'_>, age: u32) -> Vec<String> {
    let mut message = vec![0; header::LEN];
    if let Some(fields) = message.get_mut(field::QDCOUNT..field::ANCOUNT) {
        fields.copy_from_slice(&[0, 1]);
    }
    if let Some(fields) = message.get_mut(field::ANCOUNT..header::LEN) {
        fields.copy_from_slice(&answer.counts());
    }
    message.extend_from_slice(question);
    message.extend_from_slice(answer.aged(age).as_ref().body());
    let Ok(message) = Message::from_octets(&message) else {
        return Vec::new();
    };
    let sections = message
        .sections()
        .map(|(_, answer, authority, additional)| [answer, authority, additional]);
    let records = sections.into_iter().flatten().flatten().flatten();
    records
        .filter_map(|record| {
            let record = record.to_any_record::<AllRecordData<_, _>>().ok()?;
            Some(record.display_zonefile(DisplayKind::Simple).to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::dns::{Answer, TtlLimits};

    #[test]
    fn an_entry_is_described_in_full() {
        let question = b"\x03WWW\x07example\0\0\x01\0\x01";
        let mut msg = b"\0\x01\x81\x80\0\x01\0\x02\0\0\0\0".to_vec();
        msg.extend_from_slice(question);
        msg.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x06\x03web\xc0\x10");
        msg.extend_from_slice(b"\xc0\x29\0\x01\0\x01\0\0\0\x64\0\x04\xc0\0\x02\x01");
        let answer = Answer::from_response(&msg, question, 0, &TtlLimits::default()).unwrap();
        let record = Record {
            question,
            flags: 3,
            age: 30,
            answer: answer.as_ref(),
        };
        let expected = json!({
            "cache": "eth0:0",
            "name": "WWW.example.",
            "class": "IN",
            "type": "A",
            "flags": ["DO", "CD"],
            "rcode": "NOERROR",
            "ede": null,
            "age": 30,
            "ttl": 70,
            "octets": record.encoded_len(),
            "tier": false,
            "records": ["WWW.example. 270 IN CNAME web.example.", "web.example. 70 IN A 192.0.2.1"],
        });
        assert_eq!(entry("eth0:0", &record, None), expected);
        let nothing = Answer::failure(2, Some(22), 5);
        let record = Record {
            question: b"\0\0\0\0\x01",
            flags: 0x80,
            age: 7,
            answer: nothing.as_ref(),
        };
        let entry = entry("forwarder", &record, None);
        assert_eq!(entry.get("name").unwrap(), ".");
        assert_eq!(entry.get("type").unwrap(), "*");
        assert_eq!(entry.get("rcode").unwrap(), "SERVFAIL");
        assert_eq!(entry.get("ttl").unwrap(), -2);
    }
}
