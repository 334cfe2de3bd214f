//! What the service manager keeps between two processes of the service: the listening sockets from the start on, so that their
//! queues take queries while none runs; and at the end the cache, the state and clients' connections. It also passes the
//! sockets that it has opened itself (systemd.socket(5)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Seek, Write},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::atomic::{AtomicBool, Ordering},
};

use data_encoding::BASE64;
use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    socket::{SockType, getsockopt, setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Connection, Inheritance, Retire, State};
use crate::service;

const LISTENER: &str = "heimdall-listener";
const CACHE: &str = "heimdall-cache";
const STATE: &str = "heimdall-state";
const CONNECTION: &str = "heimdall-connection";

/// Receive buffer of a UDP socket, in octets, that nobody reads for the time of a restart. Only what waits in it takes memory.
const GAP_BUFFER: usize = 64 << 20;

/// Octets that are kept for all connections together. A connection with more is closed.
const MAX_UNREAD: usize = 8 << 20;

/// Octets of the state that are read: [`MAX_UNREAD`] in base64, and the rest.
const MAX_STATE: u64 = 16 << 20;

/// The state, as JSON in a memory file. Another version of the program may read it: fields may be added, and do not change.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    state: State,
    /// Unread octets in base64, by the connection's addresses ([`name`]).
    unread: BTreeMap<String, String>,
}

/// What the service manager has passed to this process: its own sockets, and what [`keep_listeners`] and [`keep`] of an earlier
/// process gave it. Nothing from the second call on.
pub(crate) fn inherited() -> Inheritance {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut inheritance = Inheritance::default();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return inheritance;
    }
    let passed = match sd_notify::listen_fds_with_names() {
        Ok(passed) => passed,
        Err(error) => {
            warn!("the service manager's sockets cannot be taken over: {error}");
            return inheritance;
        }
    };
    let mut connections = Vec::new();
    let mut stored = Stored::default();
    // One socket may be there by its unit and in the store.
    let mut known = BTreeSet::new();
    for (descriptor, name) in passed {
        // SAFETY: LISTEN_PID says that this process was started with the descriptor open, for nothing but this; and this is
        // the only time that it is taken.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        match name.as_str() {
            CACHE => inheritance.cache = Some(descriptor),
            STATE => match read_state(descriptor) {
                Ok(read) => stored = read,
                Err(error) => warn!("the state that the service manager kept is bad: {error}"),
            },
            CONNECTION => connections.push(descriptor),
            _ if !is_listening(&descriptor) => {
                warn!(
                    "the service manager passed {name:?}, which is no bound UDP or listening TCP socket: not used"
                );
            }
            _ => {
                let file = File::from(descriptor);
                if file.metadata().is_ok_and(|file| known.insert(file.ino())) {
                    inheritance.sockets.push(file.into());
                }
            }
        }
    }
    inheritance.state = stored.state;
    inheritance.connections = connections
        .into_iter()
        .filter_map(|stream| connection(stream, &mut stored.unread))
        .collect();
    if !inheritance.sockets.is_empty() {
        info!(
            "the service manager passes {} sockets and {} TCP connections",
            inheritance.sockets.len(),
            inheritance.connections.len()
        );
    }
    inheritance
}

/// Has the service manager keep no connection any more: this process is about to read them, after which the octets that are
/// kept with them are not those that come next. (All else it keeps until [`keep_listeners`], for another attempt.)
pub(crate) fn claim_connections() {
    service::remove(CONNECTION);
    log_failure("forget the TCP connections", service::wait_until_read());
}

/// Has the service manager keep the listening sockets and the state, and nothing else: this process has started.
pub(crate) fn keep_listeners(listeners: &[OwnedFd], state: State) {
    let size = service::store_size();
    if size == 0 {
        return;
    }
    if listeners.len() > size {
        warn!(
            "the service manager keeps {size} descriptors, and there are {} sockets; a restart may lose queries: raise \
             FileDescriptorStoreMax= in the unit",
            listeners.len()
        );
    }
    for name in [LISTENER, CACHE, STATE, CONNECTION] {
        service::remove(name);
    }
    let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    if let Err(error) = service::store(LISTENER, &descriptors) {
        warn!("the service manager cannot keep the sockets: {error}; a restart may lose queries");
    }
    // Also for the process after a crash.
    store_state(Stored {
        state,
        ..Stored::default()
    });
}

fn store_state(stored: Stored) {
    let stored = write_state(&stored).and_then(|state| service::store(STATE, &[state.as_fd()]));
    log_failure("keep the state", stored);
}

/// Retires `server` for the service's next process: what it has received is answered, the sockets' queues stay, and the
/// service manager gets the cache, the state and the connections. Returns whether the manager keeps descriptors; otherwise
/// nothing has happened.
pub(crate) fn keep(server: &mut impl Retire, listeners: &[OwnedFd], state: State) -> bool {
    let size = service::store_size();
    if size == 0 {
        return false;
    }
    for listener in listeners {
        if getsockopt(listener, sockopt::SockType) == Ok(SockType::Datagram) {
            // Without CAP_NET_ADMIN they stay as they are.
            let _ = setsockopt(listener, sockopt::RcvBufForce, &GAP_BUFFER);
        }
    }
    let connections = retire(server, size.saturating_sub(listeners.len()), state);
    info!(
        "the service manager keeps the sockets, the cache and {connections} TCP connections for the next process"
    );
    true
}

/// Has the service manager keep no socket any more: the server ends for good, and its ports are to be closed.
pub(crate) fn leave() {
    if service::store_size() > 0 {
        service::remove(LISTENER);
        log_failure("forget the sockets", service::wait_until_read());
    }
}

/// Stores the cache, the state and the connections, `room` descriptors at most. Returns how many connections. What fails is
/// logged; the rest is stored.
fn retire(server: &mut impl Retire, room: usize, state: State) -> usize {
    // While it serves: copying and writing a large cache takes seconds. And before all that waits: whatever happens to this
    // process then, the manager has the cache.
    let offered = server.offer().unwrap_or_else(|error| {
        warn!("the next process gets no cache: {error}");
        Inheritance::default()
    });
    if let Some(cache) = &offered.cache {
        log_failure("keep the cache", service::store(CACHE, &[cache.as_fd()]));
    }
    server.expect_gap();
    if let Err(error) = server.retire_workers() {
        warn!("not all packets received over AF_XDP are answered: {error}");
    }
    let mut unread = BTreeMap::new();
    let mut connections = Vec::new();
    let mut octets = 0;
    let retired = server.retire_sockets(&mut |connection| {
        let all = octets + connection.unread.len();
        // Beyond the bounds it is closed.
        if all > MAX_UNREAD || connections.len() + 2 >= room {
            return;
        }
        octets = all;
        if !connection.unread.is_empty() {
            let text = BASE64.encode(&connection.unread);
            unread.extend(name(&connection.stream).map(|name| (name, text)));
        }
        connections.push(connection.stream);
    });
    if let Err(error) = retired {
        warn!("not all queries received over the sockets are answered: {error}");
    }
    if !unread.is_empty() {
        service::remove(STATE);
        store_state(Stored { state, unread });
    }
    let streams: Vec<BorrowedFd<'_>> = connections.iter().map(AsFd::as_fd).collect();
    log_failure(
        "keep the TCP connections",
        service::store(CONNECTION, &streams),
    );
    log_failure("read what it is to keep", service::wait_until_read());
    connections.len()
}

fn log_failure(what: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        warn!("the service manager cannot {what}: {error}");
    }
}

/// Whether it is a UDP socket, or one that accepts TCP connections.
fn is_listening(descriptor: &OwnedFd) -> bool {
    match getsockopt(descriptor, sockopt::SockType) {
        Ok(SockType::Datagram) => true,
        Ok(SockType::Stream) => getsockopt(descriptor, sockopt::AcceptConn).unwrap_or(false),
        _ => false,
    }
}

/// A connection with its unread octets, unless its client has closed it.
fn connection(stream: OwnedFd, unread: &mut BTreeMap<String, String>) -> Option<Connection> {
    let unread = unread.remove(&name(&stream)?).unwrap_or_default();
    let unread = BASE64.decode(unread.as_bytes()).ok()?;
    Some(Connection { stream, unread })
}

/// The addresses of a connection, which no other has at the same time.
fn name(stream: &OwnedFd) -> Option<String> {
    let stream = TcpStream::from(stream.try_clone().ok()?);
    let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
    Some(format!("{local} {peer}"))
}

fn write_state(stored: &Stored) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(STATE, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(stored)?)?;
    Ok(file.into())
}

fn read_state(file: OwnedFd) -> io::Result<Stored> {
    let mut file = File::from(file);
    file.rewind()?;
    let mut octets = Vec::new();
    file.take(MAX_STATE).read_to_end(&mut octets)?;
    Ok(serde_json::from_slice(&octets)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_state_round_trips_with_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let far = OwnedFd::from(far);
        let stored = Stored {
            state: State {
                cookie_key: Some([7; 16]),
                ..State::default()
            },
            unread: BTreeMap::from([(name(&far).unwrap(), BASE64.encode(b"\0\x1d12"))]),
        };
        let file = write_state(&stored).unwrap();
        for _ in 0..2 {
            let mut read = read_state(file.try_clone().unwrap()).unwrap();
            assert_eq!(read.state, stored.state);
            let stream = far.try_clone().unwrap();
            let found = connection(stream, &mut read.unread).unwrap();
            assert_eq!(found.unread, b"\0\x1d12");
            let other = connection(near.try_clone().unwrap().into(), &mut read.unread).unwrap();
            assert!(other.unread.is_empty());
        }
        let bad = File::from(memfd_create("bad", MFdFlags::MFD_CLOEXEC).unwrap());
        (&bad).write_all(b"{").unwrap();
        assert!(read_state(bad.into()).is_err());
    }

    #[test]
    fn the_state_is_stored_as_other_versions_read_it() {
        const RECORDED: &str = r#"{"state":{"cookie_key":[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7]},"unread":{"10.53.0.1:53 10.53.0.2:40000":"AB0xMg=="}}"#;
        const LATER: &str = r#"{"since":1,"state":{"cookie_key":[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7],"zones":[]},"unread":{"10.53.0.1:53 10.53.0.2:40000":"AB0xMg=="}}"#;
        let file = |text: &str| {
            let mut file = File::from(memfd_create("recorded", MFdFlags::MFD_CLOEXEC).unwrap());
            file.write_all(text.as_bytes()).unwrap();
            OwnedFd::from(file)
        };
        for text in [RECORDED, LATER] {
            let stored = read_state(file(text)).unwrap();
            let mut written = File::from(write_state(&stored).unwrap());
            written.rewind().unwrap();
            let mut octets = String::new();
            written.read_to_string(&mut octets).unwrap();
            assert_eq!(octets, RECORDED);
        }
        // One that says less.
        let stored = read_state(file("{}")).unwrap();
        assert_eq!(stored.state, State::default());
    }

    #[test]
    fn only_sockets_that_listen_are_taken() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is_listening(&udp.into()) && is_listening(&listener.into()));
        assert!(!is_listening(&stream.into()));
        assert!(!is_listening(&tempfile::tempfile().unwrap().into()));
    }
}
