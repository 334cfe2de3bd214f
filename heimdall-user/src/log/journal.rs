//! Entries of systemd's journal, with its fields ([journal native protocol][protocol]).
//!
//! systemd says in the environment which stream is the journal's (systemd.exec(5), `JOURNAL_STREAM`). If
//! stderr is that, entries go to the journal's socket as datagrams instead, so that each has its level,
//! its place in the code and its fields, and may have several lines. Sending blocks while the journal does
//! not read, and so it is the log's thread that does.
//!
//! [protocol]: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::PathBuf,
};

use nix::sys::stat::fstat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::queue::Log;

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Octets of a message, at most: the kernel sends no datagram that is larger than a socket's buffer,
/// 212,992 by default (`net.core.wmem_default`).
const MAX_MESSAGE: usize = 64 << 10;

/// Whether stderr is the journal's stream.
fn is_stderr() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// What the journal takes as the level of an error, in front of a line on its stream (sd-daemon(3)); nothing
/// if stderr is another.
pub(super) fn error_prefix() -> &'static str {
    if is_stderr() { "<3>" } else { "" }
}

/// The journal's socket.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal, if stderr is its stream and its socket is there.
    pub(super) fn of_stderr() -> Option<Self> {
        let journal = is_stderr().then(|| Self::at(SOCKET.into()))?;
        journal.ok()
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(&path)?;
        // Not connected: the journal may be restarted.
        let socket = UnixDatagram::unbound()?;
        Ok(Self { socket, path })
    }
}

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.socket.send_to(entry, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends events to the queue, as entries.
pub(super) struct JournalLayer(pub(super) &'static Log);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.push(&entry(event));
    }
}

/// The entry for an event.
fn entry(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut fields = Fields::default();
    event.record(&mut fields);
    let Fields { message, others } = fields;
    let mut entry = Vec::new();
    put(&mut entry, "PRIORITY", priority(*metadata.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", "heimdall");
    put(&mut entry, "TARGET", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    let mut text = message;
    for (name, value) in others {
        // Writing to memory cannot fail.
        let _ = write!(text, " {name}={value}");
        put(
            &mut entry,
            &format!("F_{}", name.to_ascii_uppercase()),
            &value,
        );
    }
    let mut ends = (0..=MAX_MESSAGE).rev();
    if let Some(end) = ends.find(|end| text.is_char_boundary(*end)) {
        text.truncate(end);
    }
    put(&mut entry, "MESSAGE", &text);
    entry
}

/// The level by syslog's numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// Appends a field: `NAME=value`, or its name, length and value if that has several lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.others.push((name, text)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tracing::{error, subscriber::with_default, warn};
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;

    /// The fields of an entry, as the journal reads them.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry
                .iter()
                .position(|octet| b"=\n".contains(octet))
                .unwrap();
            let (name, rest) = entry.split_at(end);
            let (separator, rest) = rest.split_first().unwrap();
            let (len, rest) = match separator {
                b'=' => (rest.iter().position(|octet| *octet == b'\n').unwrap(), rest),
                _ => {
                    let (len, rest) = rest.split_first_chunk().unwrap();
                    (u64::from_le_bytes(*len) as usize, rest)
                }
            };
            let (value, rest) = rest.split_at(len);
            fields.push((text(name), text(value)));
            entry = rest.strip_prefix(b"\n").unwrap();
        }
        fields
    }

    #[test]
    fn an_event_is_an_entry_with_its_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(Journal::at(path.clone()).is_err(), "there is no journal");
        let received = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(path).unwrap();
        let log: &'static Log = Box::leak(Box::new(Log::new()));
        with_default(registry().with(JournalLayer(log)), || {
            warn!(front = 3, "a mailbox is full");
            error!("two\nlines, PRIORITY=7\n");
            error!("{}", "\u{e4}".repeat(MAX_MESSAGE));
            log.close();
            log.write_to(&mut journal);
        });
        let mut buf = vec![0; 1 << 20];
        let mut next = || {
            let len = received.recv(&mut buf).unwrap();
            fields(buf.get(..len).unwrap())
        };
        let first = next();
        let value = |fields: &[(String, String)], name: &str| {
            let mut found = fields.iter().filter(|(field, _)| field == name);
            let value = found.next().map(|(_, value)| value.clone());
            assert!(found.next().is_none(), "{name} twice");
            value.unwrap_or_default()
        };
        for (name, expected) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "heimdall"),
            ("TARGET", "heimdall_user::log::journal::tests"),
            ("CODE_FILE", file!()),
            ("F_FRONT", "3"),
            ("MESSAGE", "a mailbox is full front=3"),
        ] {
            assert_eq!(value(&first, name), expected, "{first:?}");
        }
        assert!(value(&first, "CODE_LINE").parse::<u32>().is_ok());
        let second = next();
        assert_eq!(value(&second, "PRIORITY"), "3");
        assert_eq!(value(&second, "MESSAGE"), "two\nlines, PRIORITY=7\n");
        let long = value(&next(), "MESSAGE");
        assert!(long.len() <= MAX_MESSAGE && long.len() > MAX_MESSAGE - 4);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn entries_without_a_journal_are_lost_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let received = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(path.clone()).unwrap();
        drop(received);
        let log: &'static Log = Box::leak(Box::new(Log::new()));
        log.push(b"MESSAGE=lost\n");
        log.close();
        log.write_to(&mut journal);
        assert_eq!(log.lost(), 1);
    }
}
