//! The service manager's part: a socket for notifications that keeps descriptors, and passes them to the next process
//! (sd_notify(3), sd_listen_fds(3)).

use std::{
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixDatagram, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use heimdall_user::xdp::{AttachPolicy, Interface, Program, ProgramOptions};
use lab::Process;
use nix::{
    cmsg_space,
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::Signal,
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
    },
};
use tempfile::TempDir;

use super::{Place, TIMEOUT, assert_answers, checked, ready};

/// A service manager with one service.
pub(super) struct Manager {
    path: PathBuf,
    kept: Arc<Mutex<Kept>>,
    _directory: TempDir,
}

#[derive(Default)]
struct Kept {
    /// Assignments of all messages, in their order.
    said: Vec<String>,
    store: Vec<(String, OwnedFd)>,
}

impl Manager {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        // It ends with the test's process.
        thread::spawn(move || {
            loop {
                let (text, descriptors) = receive(&socket);
                shared.lock().unwrap().take(&text, descriptors);
            }
        });
        Self {
            path,
            kept,
            _directory: directory,
        }
    }

    /// Starts the service's process: `command` with what is kept.
    pub(super) fn start(&self, command: &Command) -> Process {
        let kept = self.kept.lock().unwrap();
        let names: Vec<&str> = kept.store.iter().map(|(name, _)| name.as_str()).collect();
        // `exec` keeps the process ID.
        let mut service = Command::new("sh");
        service.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
        service.arg(command.get_program()).args(command.get_args());
        service
            .env("NOTIFY_SOCKET", &self.path)
            .env("FDSTORE", "512")
            .env("WATCHDOG_USEC", "30000000")
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        // Above those that they are to be.
        let sources: Vec<RawFd> = kept
            .store
            .iter()
            .map(|(_, one)| fcntl(one, FcntlArg::F_DUPFD_CLOEXEC(1000)).unwrap())
            .collect();
        let passed = sources.clone();
        let pass = move || {
            for (source, target) in passed.iter().zip(3..) {
                // SAFETY: it changes this process's descriptors only, none of which has an owner between fork and exec.
                if unsafe { nix::libc::dup2(*source, target) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
        unsafe { service.pre_exec(pass) };
        let process = Process::start(&mut service).unwrap();
        for source in sources {
            // SAFETY: it was made above for this process, and is used no more.
            drop(unsafe { OwnedFd::from_raw_fd(source) });
        }
        process
    }

    /// Waits until the service has said something, and forgets all that it has said.
    pub(super) fn wait_for(&self, assignment: &str) {
        let end = Instant::now() + TIMEOUT;
        loop {
            let mut kept = self.kept.lock().unwrap();
            if kept.has_said(assignment) {
                kept.said.clear();
                return;
            }
            assert!(Instant::now() < end, "not {assignment}: {:?}", kept.said);
            drop(kept);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the service has said something since it was last forgotten.
    pub(super) fn has_heard(&self, assignment: &str) -> bool {
        self.kept.lock().unwrap().has_said(assignment)
    }

    /// Forgets what the service has said.
    pub(super) fn forget(&self) {
        self.kept.lock().unwrap().said.clear();
    }

    /// How many descriptors of this name are kept.
    fn count(&self, name: &str) -> usize {
        let kept = self.kept.lock().unwrap();
        kept.store.iter().filter(|(kept, _)| kept == name).count()
    }
}

impl Kept {
    fn has_said(&self, assignment: &str) -> bool {
        self.said.iter().any(|said| said == assignment)
    }

    fn take(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let lines: Vec<&str> = text.lines().collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME="));
        if lines.contains(&"FDSTORE=1") {
            let name = name.unwrap_or("stored");
            self.store
                .extend(descriptors.into_iter().map(|one| (name.to_owned(), one)));
        } else if lines.contains(&"FDSTOREREMOVE=1") {
            self.store.retain(|(kept, _)| Some(kept.as_str()) != name);
        }
        // The descriptor of a BARRIER=1 is closed here.
        self.said.extend(lines.into_iter().map(str::to_owned));
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut octets = [0; 4096];
    let mut control = cmsg_space!([RawFd; 253]);
    let mut slices = [IoSliceMut::new(&mut octets)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags).unwrap();
    let mut descriptors = Vec::new();
    for message in received.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has made them for this process with this message.
            descriptors.extend(
                raw.into_iter()
                    .map(|one| unsafe { OwnedFd::from_raw_fd(one) }),
            );
        }
    }
    let len = received.bytes;
    (
        String::from_utf8(octets[..len].to_vec()).unwrap(),
        descriptors,
    )
}

#[test]
fn restarts_by_a_service_manager_lose_nothing() {
    let Some(place) = Place::new("restarts_by_a_service_manager") else {
        return;
    };
    let manager = Manager::new();
    let mut running = ready(manager.start(&place.run()));
    manager.wait_for("READY=1");
    assert!(
        manager.count("heimdall-listener") >= 6,
        "UDP and TCP on three addresses"
    );
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(300));
            running.signal(Signal::SIGTERM).unwrap();
            assert!(running.wait(TIMEOUT).unwrap().success());
            manager.wait_for("STOPPING=1");
            assert_eq!(manager.count("heimdall-cache"), 1);
            assert_eq!(manager.count("heimdall-connection"), 2);
            running = ready(manager.start(&place.run()));
            manager.wait_for("READY=1");
            assert_eq!(manager.count("heimdall-cache"), 0, "it is of use once");
            let log = running.output();
            assert!(
                log.contains("answers of the predecessor's cache restored"),
                "{log}"
            );
        }
    });
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    tcp.assert_complete("TCP");
    assert_eq!(tcp.closed, 0, "connections are kept");
    assert_answers(&place.lab);
}

#[test]
fn connections_that_a_failed_start_has_read_are_closed() {
    let Some(place) = Place::new("connections_that_a_failed_start_has_read") else {
        return;
    };
    let lab = &place.lab;
    let manager = Manager::new();
    let mut running = ready(manager.start(&place.run()));
    manager.wait_for("READY=1");
    let connect = || {
        let stream = std::net::TcpStream::connect((super::OTHER, 53)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    };
    let mut stream = lab.in_client(connect).unwrap();
    let query = crate::client::query(7, "n1.example.com");
    lab::message::exchange(&mut stream, &query).unwrap();
    // The beginning of the next message is read, and kept.
    let framed = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
    stream.write_all(&framed[..9]).unwrap();
    thread::sleep(Duration::from_millis(100));
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.count("heimdall-connection"), 1);

    // A start that fails after it has taken the connection.
    let attach = || {
        let interface = Interface::find(&lab.server_if).unwrap();
        Program::attach(
            &interface,
            AttachPolicy::NativeThenGeneric,
            ProgramOptions::default(),
        )
        .unwrap()
    };
    let foreign = lab.in_server(attach).unwrap();
    let mut failed = manager.start(&place.run());
    assert_eq!(failed.wait(TIMEOUT).unwrap().code(), Some(1));
    let log = failed.output();
    assert!(log.contains("sockets and 1 TCP connections"), "{log}");
    drop(foreign);
    assert_eq!(manager.count("heimdall-connection"), 0);
    assert_eq!(manager.count("heimdall-cache"), 1, "that is of use again");
    let _next = ready(manager.start(&place.run()));
    manager.wait_for("READY=1");
    // A reply to this would be to something else.
    let _ = stream.write_all(&framed[9..]);
    assert!(!stream.read(&mut [0]).is_ok_and(|len| len > 0));
    assert_answers(lab);
}

#[test]
fn a_crash_under_a_service_manager_keeps_the_sockets() {
    let Some(place) = Place::new("a_crash_under_a_service_manager") else {
        return;
    };
    let manager = Manager::new();
    let mut running = ready(manager.start(&place.run()));
    manager.wait_for("READY=1");
    for _ in 0..3 {
        assert_eq!(manager.count("heimdall-state"), 1, "clients' cookies");
        running.signal(Signal::SIGKILL).unwrap();
        running.wait(TIMEOUT).unwrap();
        let asked = place.lab.in_client(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            let query = crate::client::query(7, "n1.example.com");
            socket.send_to(&query, (super::OTHER, 53)).unwrap();
            socket
        });
        let asked = asked.unwrap();
        running = ready(manager.start(&place.run()));
        manager.wait_for("READY=1");
        asked.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut reply = [0; 512];
        let len = asked.recv(&mut reply).unwrap();
        assert_eq!(reply[..2], [0, 7], "{len}");
    }
    assert_answers(&place.lab);
}

#[test]
fn sockets_that_the_service_manager_has_opened_are_used() {
    let Some(place) = Place::new("sockets_that_the_service_manager_has_opened") else {
        return;
    };
    let manager = Manager::new();
    let opened = place.lab.in_server(|| {
        let any = "0.0.0.0:53";
        let udp: OwnedFd = std::net::UdpSocket::bind(any).unwrap().into();
        // PassPacketInfo=yes of the unit.
        setsockopt(&udp, sockopt::Ipv4PacketInfo, &true).unwrap();
        let tcp: OwnedFd = std::net::TcpListener::bind(any).unwrap().into();
        [udp, tcp]
    });
    let opened = opened.unwrap();
    let mut command = place.lab.on_server(&place.program);
    command
        .args(["run", "--backend", "socket", "--listen", "0.0.0.0:53"])
        .args(["--upstream", lab::UPSTREAM, "--control"])
        .arg(place.control());
    let asked = place.lab.in_client(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let query = crate::client::query(9, "n1.example.com");
        socket.send_to(&query, (super::OTHER, 53)).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket
    });
    let asked = asked.unwrap();
    {
        let mut kept = manager.kept.lock().unwrap();
        let named = opened
            .into_iter()
            .map(|one| ("heimdall.socket".to_owned(), one));
        kept.store.extend(named);
    }
    let mut server = manager.start(&command);
    server.wait_for("ready: ", TIMEOUT).unwrap();
    let mut reply = [0; 512];
    let (_, from) = asked.recv_from(&mut reply).unwrap();
    assert_eq!(reply[..2], [0, 9]);
    // A wildcard socket of the manager's does not tell by itself which address a query came to.
    assert_eq!(from.ip().to_string(), super::OTHER);
    let log = server.output();
    assert!(
        log.contains("the service manager passes 2 sockets"),
        "{log}"
    );
}
