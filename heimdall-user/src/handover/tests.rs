//! Both sides over a real control socket, with a server that only notes what is asked of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod conversations;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsFd,
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use lab::Scratch;
use serde_json::{Value, json};

use super::*;
use crate::{
    control::{Control, ControlCommand, ControlServer, Permissions},
    exit::OnExit,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A server that notes what is asked of it.
#[derive(Default)]
struct Noting {
    asked: Vec<&'static str>,
    /// What it offers, in this order of [`Inheritance`]: two sockets, a link, the cache, the listeners of control socket and
    /// metrics.
    files: Vec<File>,
    connections: Vec<Connection>,
    state: State,
    fails: bool,
}

impl Retire for Noting {
    fn offer(&self) -> io::Result<Inheritance> {
        let mut files = self
            .files
            .iter()
            .map(|file| file.try_clone().unwrap().into());
        Ok(Inheritance {
            sockets: files.by_ref().take(2).collect(),
            links: files.by_ref().take(1).collect(),
            cache: files.next(),
            control: files.next(),
            metrics: files.next(),
            state: self.state.clone(),
            ..Inheritance::default()
        })
    }

    fn retire_sockets(&mut self, sink: &mut dyn FnMut(Connection)) -> io::Result<()> {
        self.asked.push("sockets");
        self.connections.drain(..).for_each(sink);
        Ok(())
    }

    fn retire_workers(&mut self) -> io::Result<()> {
        self.asked.push("workers");
        if self.fails {
            return Err(io::Error::other("a worker is stuck"));
        }
        Ok(())
    }

    fn expect_gap(&mut self) {
        self.asked.push("gap");
    }

    fn resume(&mut self) {
        self.asked.push("resume");
    }

    fn adopt(&mut self, connection: Connection) {
        self.connections.push(connection);
    }
}

/// A path for a control socket.
fn scratch() -> Scratch {
    Scratch::new("control.sock")
}

/// The server as it is then.
type Outcome = (Noting, Result<(), HandOverError>);

/// The predecessor: hands `server` over to the first that asks. `is_cancelled` is asked once the sockets are served.
fn predecessor(
    path: &Path,
    mut server: Noting,
    is_cancelled: impl Fn() -> bool + Send + 'static,
) -> (ControlServer, thread::JoinHandle<Outcome>) {
    let permissions = Permissions {
        mode: 0o600,
        group: None,
    };
    let control = Control::bind(path, &permissions).unwrap();
    let (asked, asks) = mpsc::channel();
    let to_owner = move |command, client| match command {
        ControlCommand::TakeOver(version) => {
            if let Some(successor) = Successor::accept(client, version) {
                asked.send(successor).unwrap();
            }
        }
        other => panic!("{other:?}"),
    };
    let control = control.serve(OnExit::default(), |_, _| Ok(()), to_owner);
    let thread = thread::spawn(move || {
        let successor = asks.recv_timeout(LIMIT).unwrap();
        let (then, started) = mpsc::channel();
        let starting = successor.start(&server, move |outcome| then.send(outcome).unwrap());
        let outcome = started.recv_timeout(LIMIT).unwrap();
        drop(starting.unwrap());
        let outcome = outcome
            .and_then(|mut successor| successor.hand_over(&mut server, &mut || is_cancelled()));
        (server, outcome)
    });
    (control.unwrap(), thread)
}

fn inode(descriptor: &impl AsFd) -> u64 {
    let file = File::from(descriptor.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().ino()
}

/// A server with two sockets, four other files, and a connection with unread octets, and the connection's other end.
fn server() -> (Noting, TcpStream) {
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut files = vec![File::from(udp), File::from(OwnedFd::from(listener))];
    files.extend((0..4).map(|_| tempfile::tempfile().unwrap()));
    let server = Noting {
        files,
        connections: vec![Connection {
            stream: stream.into(),
            unread: b"\0\x1dunread".to_vec(),
        }],
        state: State {
            cookie_key: Some([9; 16]),
            ..State::default()
        },
        ..Noting::default()
    };
    (server, client)
}

fn connect(path: &Path) -> (Inheritance, Box<Remote>) {
    let (inheritance, remote) = Remote::connect(path).unwrap().unwrap();
    (inheritance, Box::new(remote))
}

#[test]
fn a_server_is_handed_over() {
    let scratch = scratch();
    let (server, mut client) = server();
    let inodes: Vec<u64> = server.files.iter().map(inode).collect();
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    let (inheritance, mut remote) = connect(&scratch.path);
    let sockets: Vec<u64> = inheritance.sockets.iter().map(inode).collect();
    assert_eq!(sockets, inodes[..2]);
    assert_eq!(inode(&inheritance.links[0]), inodes[2]);
    assert_eq!(inode(&inheritance.cache.unwrap()), inodes[3]);
    assert_eq!(inode(&inheritance.control.unwrap()), inodes[4]);
    assert_eq!(inode(&inheritance.metrics.unwrap()), inodes[5]);
    assert_eq!(inheritance.state.cookie_key, Some([9; 16]));

    let mut adopted = Vec::new();
    remote
        .sockets_are_served(&mut |connection| adopted.push(connection))
        .unwrap();
    let [connection] = &adopted[..] else {
        panic!("{adopted:?}");
    };
    assert_eq!(connection.unread, b"\0\x1dunread");
    let stream = TcpStream::from(connection.stream.try_clone().unwrap());
    (&stream).write_all(b"reply").unwrap();
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"reply");
    remote.programs_are_replaced().unwrap();
    remote.finish().unwrap();
    let (server, outcome) = thread.join().unwrap();
    outcome.unwrap();
    assert_eq!(server.asked, ["sockets", "workers"]);
}

#[test]
fn a_successor_that_disappears_leaves_a_server_that_serves() {
    for steps in 0..=2 {
        let scratch = scratch();
        let (server, _client) = server();
        let (_control, thread) = predecessor(&scratch.path, server, || false);
        let (_, mut remote) = connect(&scratch.path);
        if steps > 0 {
            remote.sockets_are_served(&mut drop).unwrap();
        }
        if steps > 1 {
            remote.programs_are_replaced().unwrap();
        }
        drop(remote);
        let (server, outcome) = thread.join().unwrap();
        assert!(outcome.unwrap_err().is_end());
        let asked = ["sockets", "workers"].into_iter().take(steps);
        let resumed = ["resume"].into_iter().take(steps);
        assert_eq!(server.asked, asked.chain(resumed).collect::<Vec<_>>());
    }
}

#[test]
fn connections_that_a_successor_did_not_get_return() {
    let scratch = scratch();
    let (mut server, _client) = server();
    // More than the socket's buffer.
    for _ in 0..100 {
        let unread = vec![b'x'; 60_000];
        let stream = server.connections[0].stream.try_clone().unwrap();
        server.connections.push(Connection { stream, unread });
    }
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    let mut stream = UnixStream::connect(&scratch.path).unwrap();
    let requests = "{\"command\":\"take-over\",\"version\":1}\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    stream
        .write_all(b"{\"step\":\"sockets-are-served\"}\n")
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    drop((stream, lines));
    let (server, outcome) = thread.join().unwrap();
    assert!(outcome.unwrap_err().is_end());
    assert_eq!(server.asked, ["sockets", "resume"]);
    assert!(
        server.connections.len() > 50,
        "{}",
        server.connections.len()
    );
}

#[test]
fn a_server_that_cannot_retire_says_why_and_serves() {
    let scratch = scratch();
    let (mut server, _client) = server();
    server.fails = true;
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    let (_, mut remote) = connect(&scratch.path);
    remote.sockets_are_served(&mut drop).unwrap();
    let error = remote.programs_are_replaced().unwrap_err();
    assert_eq!(error.to_string(), "a worker is stuck");
    let (server, outcome) = thread.join().unwrap();
    assert!(outcome.is_err());
    assert_eq!(server.asked, ["sockets", "workers", "resume"]);
}

#[test]
fn a_server_that_is_told_to_end_undoes_nothing() {
    for steps in 1..=2 {
        let scratch = scratch();
        let (server, _client) = server();
        let cancelled = Arc::new(AtomicBool::new(false));
        let is_cancelled = Arc::clone(&cancelled);
        let (_control, thread) = predecessor(&scratch.path, server, move || {
            is_cancelled.load(Ordering::SeqCst)
        });
        let (_, mut remote) = connect(&scratch.path);
        remote.sockets_are_served(&mut drop).unwrap();
        if steps > 1 {
            remote.programs_are_replaced().unwrap();
        }
        cancelled.store(true, Ordering::SeqCst);
        let (server, outcome) = thread.join().unwrap();
        assert!(matches!(outcome, Err(HandOverError::Cancelled)));
        let asked = ["sockets", "workers"].into_iter().take(steps);
        assert_eq!(server.asked, asked.collect::<Vec<_>>());
    }
}

#[test]
fn a_server_that_waits_for_its_successor_may_end_before() {
    let (near, far) = UnixStream::pair().unwrap();
    let (server, _client) = server();
    let successor = Successor::accept(far, 1).unwrap();
    let starting = successor.start(&server, |outcome| panic!("{outcome:?}"));
    drop(starting.unwrap());
    assert_eq!(server.asked, [""; 0]);
    // The successor is not told to give up: it finds that the process has ended, or has not.
    let mut said = String::new();
    (&near).read_to_string(&mut said).unwrap();
    assert!(said.starts_with("{\"offer\""), "{said}");
    assert!(!said.contains("error"), "{said}");
}

#[test]
fn a_second_successor_is_told_of_the_first() {
    let (near, far) = UnixStream::pair().unwrap();
    let second = Successor::accept(far, 1).unwrap();
    second.refuse("process 7 takes over from it");
    let mut line = String::new();
    BufReader::new(near).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"error\":\"process 7 takes over from it\"}\n");
}

#[test]
fn a_server_that_ends_is_waited_for_and_another_one_in_its_place_is_asked() {
    let scratch = scratch();
    // It closes the connection without an answer.
    let ending = UnixListener::bind(&scratch.path).unwrap();
    let path = scratch.path.clone();
    let asking = thread::spawn(move || Remote::connect(&path).unwrap());
    drop(ending.accept().unwrap());
    drop(ending);
    assert!(asking.join().unwrap().is_none());

    fs::remove_file(&scratch.path).unwrap();
    let ending = UnixListener::bind(&scratch.path).unwrap();
    let path = scratch.path.clone();
    let asking = thread::spawn(move || Remote::connect(&path).unwrap().is_some());
    let (first, _) = ending.accept().unwrap();
    fs::remove_file(&scratch.path).unwrap();
    let (server, _client) = server();
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    drop((first, ending));
    assert!(asking.join().unwrap());
    let (_, outcome) = thread.join().unwrap();
    assert!(outcome.unwrap_err().is_end(), "it was asked and left");
}

/// A predecessor that answers each request with the next of these lines, and ends after the last.
fn scripted(path: &Path, replies: &[Value]) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let replies: Vec<String> = replies.iter().map(Value::to_string).collect();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut requests = BufReader::new(stream.try_clone().unwrap());
        for reply in replies {
            requests.read_line(&mut String::new()).unwrap();
            writeln!(stream, "{reply}").unwrap();
        }
        requests.read_line(&mut String::new()).unwrap();
    })
}

#[test]
fn a_server_resumes_if_its_successor_does_not_learn_that_it_ends() {
    let scratch = scratch();
    let (server, _client) = server();
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    let stream = UnixStream::connect(&scratch.path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    for (request, last) in [
        (r#"{"command":"take-over","version":1}"#, "{\"descriptors\""),
        (r#"{"step":"sockets-are-served"}"#, "{\"done\""),
        (r#"{"step":"programs-are-replaced"}"#, "{\"done\""),
    ] {
        writeln!(&stream, "{request}").unwrap();
        let mut reply = String::new();
        while !reply.starts_with(last) {
            reply.clear();
            assert!(lines.read_line(&mut reply).unwrap() > 0);
        }
    }
    stream.shutdown(Shutdown::Read).unwrap();
    writeln!(&stream, r#"{{"step":"finish"}}"#).unwrap();
    let (server, outcome) = thread.join().unwrap();
    assert!(outcome.unwrap_err().is_end());
    assert_eq!(server.asked, ["sockets", "workers", "resume"]);
}

#[test]
fn other_versions_are_told_to_restart() {
    for (reply, says) in [
        (
            json!({ "error": "there is no command \"take-over\"; there are stats, reload" }),
            "is of a version that cannot; restart it instead",
        ),
        (
            json!({ "offer": { "version": 99, "pid": 1, "descriptors": 0 } }),
            "speaks version 99 of the hand-over, and this program versions 1 to 1; restart it instead",
        ),
        (
            json!({ "offer": { "version": 0, "pid": 1, "descriptors": 0 } }),
            "speaks version 0",
        ),
        (json!({ "error": "not now" }), "not now"),
        (json!({ "done": "finish" }), "no message that this version"),
        (
            json!({ "offer": { "version": 1, "pid": 1, "descriptors": 1_u64 << 40 } }),
            "1099511627776 descriptors",
        ),
    ] {
        let scratch = scratch();
        let thread = scripted(&scratch.path, &[reply]);
        let error = Remote::connect(&scratch.path).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        thread.join().unwrap();
    }
    // A successor of an older version.
    let (near, far) = UnixStream::pair().unwrap();
    assert!(Successor::accept(near, 0).is_none());
    let mut line = String::new();
    BufReader::new(far).read_line(&mut line).unwrap();
    assert!(line.contains("restart the server instead"), "{line}");
    // A later one gets this version.
    let (near, far) = UnixStream::pair().unwrap();
    let successor = Successor::accept(near, 99).unwrap();
    drop(far);
    let outcome = successor.start(&Noting::default(), |outcome| panic!("{outcome:?}"));
    assert!(outcome.unwrap_err().is_end());
}

#[test]
fn without_a_server_there_is_nothing_to_take_over() {
    let scratch = scratch();
    assert!(Remote::connect(&scratch.path).unwrap().is_none());
    drop(UnixListener::bind(&scratch.path).unwrap());
    assert!(Remote::connect(&scratch.path).unwrap().is_none());
}
