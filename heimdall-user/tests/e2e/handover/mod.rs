//! A server takes over from another one, under load: `heimdall run --take-over`, and the service manager's FD store.
//!
//! For longer runs, with a release build:
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `HEIMDALL_HANDOVERS` | 10 | hand-overs in a row |
//! | `HEIMDALL_HANDOVER_RATE` | 1000 | queries a second of each of the three dnsperf, beside the clients that check replies |
//! | `HEIMDALL_HANDOVER_PROGRAM` | the one under test | the program |

mod gap;
pub(crate) mod load;
mod manager;
mod systemd;
mod watched;

use std::{
    env,
    fmt::Debug,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use lab::{Knot, Lab, Process, SERVER_V4, SERVER_V6, UPSTREAM};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use self::load::{Dnsperf, OTHER, assert_answers, checked, second_link};
use crate::{lab, program};

const TIMEOUT: Duration = Duration::from_secs(20);

fn variable<T: FromStr<Err: Debug>>(name: &str, default: T) -> T {
    let given = env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

/// Where servers run one after another: a lab with an upstream and two links, and a control socket.
struct Place {
    lab: Lab,
    _knot: Process,
    directory: TempDir,
    program: PathBuf,
}

impl Place {
    fn new(test: &str) -> Option<Self> {
        let lab = lab(test)?;
        second_link(&lab);
        lab.receive_xdp_tx().unwrap();
        Some(Self {
            _knot: Knot::upstream(&lab).unwrap(),
            lab,
            directory: tempfile::tempdir().unwrap(),
            program: variable("HEIMDALL_HANDOVER_PROGRAM", program().to_owned()),
        })
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// A command that runs a server, on AF_XDP and two socket threads.
    fn run(&self) -> Command {
        let mut command = self.lab.on_server(&self.program);
        command.args([
            "run",
            "--backend",
            "xdp",
            "--tier",
            "on",
            "--interface",
            &self.lab.server_if,
        ]);
        for address in [SERVER_V4, SERVER_V6, OTHER] {
            let address = SocketText(address).to_string();
            command.args(["--listen", &address]);
        }
        command
            .args(["--upstream", UPSTREAM, "--cache-size", "16M", "--control"])
            .arg(self.control());
        command
    }

    /// Starts a server, and waits until it is ready.
    fn start(&self) -> Process {
        ready(Process::start(&mut self.run()).unwrap())
    }

    /// Starts one that takes over.
    fn take_over(&self) -> Process {
        Process::start(self.run().arg("--take-over")).unwrap()
    }

    /// Waits until it answers by AF_XDP: the kernel releases a queue some time after its socket was closed.
    fn wait_for_xdp(&self) {
        let end = Instant::now() + TIMEOUT;
        while self.stats()["backend"] != "xdp" {
            assert!(Instant::now() < end, "{:#}", self.stats());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stats(&self) -> Value {
        let mut command = Command::new(&self.program);
        command
            .args(["stats", "--json", "--control"])
            .arg(self.control());
        let output = lab::run(&mut command).unwrap();
        serde_json::from_str(&output).unwrap()
    }
}

/// An address with port 53.
struct SocketText(&'static str);

impl std::fmt::Display for SocketText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.contains(':') {
            true => write!(f, "[{}]:53", self.0),
            false => write!(f, "{}:53", self.0),
        }
    }
}

fn ready(mut process: Process) -> Process {
    process.wait_for("ready: AF_XDP on", TIMEOUT).unwrap();
    process
}

/// Waits for the end of a server that was taken over from.
fn assert_taken_over(mut predecessor: Process, successor: &Process) {
    let status = predecessor.wait(TIMEOUT).unwrap();
    let log = predecessor.output();
    assert!(status.success(), "{status}: {log}");
    let line = format!("process {} has taken over, this one ends", successor.pid());
    assert!(log.contains(&line), "{log}");
    let line = format!("process {} ends, this one serves", predecessor.pid());
    let log = successor.output();
    assert!(log.contains(&line), "{log}");
}

#[test]
fn hand_overs_in_a_row_under_load_lose_nothing() {
    let Some(place) = Place::new("hand_overs_in_a_row_under_load_lose_nothing") else {
        return;
    };
    let lab = &place.lab;
    let queries = place.directory.path().join("queries");
    Dnsperf::queries(&queries);
    let rate = variable("HEIMDALL_HANDOVER_RATE", 1000);
    let first = place.start();
    let ([xdp, sockets, tcp], mut running) = checked(lab, || {
        let mut running = first;
        let loads = [(SERVER_V4, "udp"), (OTHER, "udp"), (SERVER_V4, "tcp")]
            .map(|(server, mode)| Dnsperf::start(lab, server, mode, &queries, rate));
        for _ in 0..variable("HEIMDALL_HANDOVERS", 10) {
            // For the caches to fill, and queries to be steered again.
            thread::sleep(Duration::from_millis(300));
            let successor = ready(place.take_over());
            assert_taken_over(running, &successor);
            running = successor;
            let log = running.output();
            assert!(
                log.contains("answers of the predecessor's cache restored"),
                "{log}"
            );
            let steered = || place.stats()["workers"][0]["received"].as_u64().unwrap();
            let (before, end) = (steered(), Instant::now() + TIMEOUT);
            while steered() == before {
                assert!(Instant::now() < end, "nothing is steered: {log}");
                thread::sleep(Duration::from_millis(50));
            }
        }
        for load in loads {
            load.assert_complete();
        }
        running
    });
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    tcp.assert_complete("TCP");
    assert_eq!(tcp.closed, 0, "connections move");
    let checked = xdp.asked + sockets.asked + tcp.asked;
    eprintln!("{checked} replies were checked");
    assert!(lab.has_xdp().unwrap());
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
    assert!(!lab.has_xdp().unwrap());
    assert!(!place.control().exists());
}

#[test]
fn without_a_running_server_take_over_is_an_ordinary_start() {
    let Some(place) = Place::new("without_a_running_server") else {
        return;
    };
    let successor = ready(place.take_over());
    let log = successor.output();
    let line = format!(
        "no server to take over from: none listens on the control socket {}",
        place.control().display()
    );
    assert!(log.contains(&line), "{log}");
    assert_answers(&place.lab);
}

#[test]
fn a_successor_with_bad_settings_changes_nothing() {
    let Some(place) = Place::new("a_successor_with_bad_settings") else {
        return;
    };
    let predecessor = place.start();
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        let taken = "127.0.0.1:5399";
        let _other = place
            .lab
            .in_server(|| UdpSocket::bind(taken).unwrap())
            .unwrap();
        let mut command = place.run();
        command.args(["--take-over", "--listen", taken]);
        let mut failed = Process::start(&mut command).unwrap();
        assert_eq!(failed.wait(TIMEOUT).unwrap().code(), Some(1));
        let log = failed.output();
        assert!(log.contains("is taken by another program"), "{log}");
        thread::sleep(Duration::from_millis(200));
    });
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    tcp.assert_complete("TCP");
    assert!(place.control().exists());
    let log = predecessor.output();
    assert!(log.contains("failed: the other process has ended"), "{log}");
    assert_answers(&place.lab);
}

/// A peer that asks to take over, and does some steps.
fn begin_to_take_over(control: &Path, steps: usize) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(control).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let requests = [
        r#"{"command":"take-over","version":1}"#,
        r#"{"step":"sockets-are-served"}"#,
        r#"{"step":"programs-are-replaced"}"#,
    ];
    for (request, last) in requests
        .iter()
        .zip(["\"descriptors\":[", "\"done\"", "\"done\""])
        .take(steps)
    {
        writeln!(stream, "{request}").unwrap();
        let mut reply = String::new();
        while !reply.contains(last) {
            reply.clear();
            assert!(replies.read_line(&mut reply).unwrap() > 0, "{request}");
        }
    }
    replies
}

#[test]
fn a_peer_that_gives_up_at_any_step_leaves_a_server_that_serves() {
    let Some(place) = Place::new("a_peer_that_gives_up") else {
        return;
    };
    let mut server = place.start();
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        for (failures, steps) in [1, 2, 3, 1, 2, 3].into_iter().enumerate() {
            drop(begin_to_take_over(&place.control(), steps));
            let end = Instant::now() + TIMEOUT;
            while server
                .output()
                .matches("this server serves as before")
                .count()
                <= failures
            {
                assert!(Instant::now() < end, "{}", server.output());
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(200));
        }
    });
    // The peer never read a socket, so all that came meanwhile waited there. Connections went with it.
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    assert!(tcp.wrong.is_empty(), "{tcp:?}");
    assert_answers(&place.lab);
    place.wait_for_xdp();
    server.signal(Signal::SIGTERM).unwrap();
    assert!(server.wait(TIMEOUT).unwrap().success());
}

#[test]
fn a_server_that_is_told_to_stop_does_so_at_any_step_and_leaves_its_socket() {
    let Some(place) = Place::new("a_server_that_is_told_to_stop_does_so_at_any_step") else {
        return;
    };
    for steps in [1, 2, 3] {
        let mut server = place.start();
        let mut replies = begin_to_take_over(&place.control(), steps);
        server.signal(Signal::SIGTERM).unwrap();
        let status = server.wait(TIMEOUT).unwrap();
        let log = server.output();
        assert!(status.success(), "{steps}: {log}");
        let line = format!("take-over: process {} goes on alone", std::process::id());
        assert!(log.contains(&line), "{steps}: {log}");
        // The successor is not told to give up: it sees the end.
        let mut reply = String::new();
        let read = replies.read_line(&mut reply).unwrap_or_default();
        assert_eq!(read, 0, "{steps}: {reply}");
        assert!(place.control().exists(), "{steps}");
        assert!(!place.lab.has_xdp().unwrap(), "{steps}");
    }
}

#[test]
fn a_predecessor_that_is_told_to_stop_leaves_a_successor_that_serves() {
    let Some(place) = Place::new("a_predecessor_that_is_told_to_stop") else {
        return;
    };
    let mut running = place.start();
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        for delay in [0, 20, 50, 80, 110, 150] {
            let successor = place.take_over();
            running
                .wait_for("starts as the successor of this one", TIMEOUT)
                .unwrap();
            thread::sleep(Duration::from_millis(delay));
            running.signal(Signal::SIGTERM).unwrap();
            assert!(running.wait(TIMEOUT).unwrap().success());
            running = ready(successor);
            thread::sleep(Duration::from_millis(100));
        }
    });
    xdp.assert_complete("AF_XDP");
    sockets.assert_complete("UDP sockets");
    // Its end closes those that were not handed over.
    assert!(tcp.wrong.is_empty(), "{tcp:?}");
    assert_answers(&place.lab);
    place.wait_for_xdp();
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
    assert!(!place.control().exists());
}

#[test]
fn while_a_successor_starts_the_server_does_what_it_is_told() {
    let Some(place) = Place::new("while_a_successor_starts") else {
        return;
    };
    let mut server = place.start();
    // It never serves the sockets.
    let _silent = begin_to_take_over(&place.control(), 1);
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&place.program);
        command
            .args(arguments)
            .arg("--control")
            .arg(place.control());
        command.output().unwrap()
    };
    let refusals: [(&[&str], &str); 2] = [
        (&["reload"], "another server is taking over from this one"),
        (
            &["flush", "--all"],
            "not flushed: another server is taking over",
        ),
    ];
    for (arguments, why) in refusals {
        let output = command(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(why), "{arguments:?}: {text}");
    }
    server.signal(Signal::SIGHUP).unwrap();
    let end = Instant::now() + TIMEOUT;
    // Once for the command.
    while server.output().matches("not reloaded, all stays").count() < 2 {
        assert!(Instant::now() < end, "{}", server.output());
        thread::sleep(Duration::from_millis(5));
    }
    let mut second = place.take_over();
    assert_eq!(second.wait(TIMEOUT).unwrap().code(), Some(1));
    let why = format!("process {} is taking over from it", std::process::id());
    assert!(second.output().contains(&why), "{}", second.output());
    assert_answers(&place.lab);
    let drain = command(&["drain"]);
    let said = format!(
        "drained; process {}, which was taking over, serves on\n",
        std::process::id()
    );
    assert_eq!(String::from_utf8_lossy(&drain.stdout), said);
    assert!(server.wait(TIMEOUT).unwrap().success());
}

#[test]
fn a_successor_that_is_killed_leaves_a_server_that_serves() {
    let Some(place) = Place::new("a_successor_that_is_killed") else {
        return;
    };
    let mut running = place.start();
    let ([xdp, sockets, tcp], gaps) = checked(&place.lab, || {
        let mut gaps = 0;
        // All of a start takes some 200 ms.
        for delay in [1, 10, 20, 40, 60, 80, 100, 120, 150, 200] {
            let mut successor = place.take_over();
            thread::sleep(Duration::from_millis(delay));
            successor.signal(Signal::SIGKILL).unwrap();
            successor.wait(TIMEOUT).unwrap();
            let taken_over = "has taken over, this one ends";
            thread::sleep(Duration::from_millis(100));
            if running.output().contains(taken_over) {
                // It was killed after the last step.
                assert!(running.wait(TIMEOUT).unwrap().success());
                running = ready(place.take_over());
                gaps += 1;
            }
        }
        gaps
    });
    for (tally, clients) in [(xdp, 2), (sockets, 1), (tcp, 2)] {
        // What the successor had read is lost with it: a client's one query over UDP.
        assert!(tally.wrong.is_empty(), "{tally:?}");
        eprintln!("{} asked, lost: {:?}", tally.asked, tally.lost);
        assert!(gaps > 0 || tally.lost.len() <= 10 * clients, "{tally:?}");
    }
    assert_answers(&place.lab);
    place.wait_for_xdp();
}

#[test]
fn a_predecessor_that_is_killed_is_taken_over_from() {
    let Some(place) = Place::new("a_predecessor_that_is_killed") else {
        return;
    };
    let mut running = place.start();
    let ([xdp, sockets, tcp], ()) = checked(&place.lab, || {
        for delay in [1, 10, 20, 40, 60, 80, 100, 120, 150, 200] {
            let successor = place.take_over();
            thread::sleep(Duration::from_millis(delay));
            running.signal(Signal::SIGKILL).unwrap();
            running.wait(TIMEOUT).unwrap();
            running = ready(successor);
            thread::sleep(Duration::from_millis(100));
        }
    });
    for tally in [xdp, sockets, tcp] {
        // What the predecessor had read is lost with it.
        assert!(tally.wrong.is_empty(), "{tally:?}");
        eprintln!("{} asked, lost: {:?}", tally.asked, tally.lost);
    }
    assert_answers(&place.lab);
    place.wait_for_xdp();
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
    assert!(!place.control().exists());
}

#[test]
fn drain_answers_what_waits_and_ends_the_server() {
    let Some(place) = Place::new("drain_answers_what_waits") else {
        return;
    };
    let mut server = place.start();
    assert_answers(&place.lab);
    let mut command = Command::new(&place.program);
    command.args(["drain", "--control"]).arg(place.control());
    let output = lab::run(&mut command).unwrap();
    assert_eq!(output, "drained\n");
    assert!(server.wait(TIMEOUT).unwrap().success());
    assert!(!place.lab.has_xdp().unwrap());
    assert!(!place.control().exists());
    let again = command.output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8(again.stderr).unwrap();
    assert!(
        text.contains("no server listens on the control socket"),
        "{text}"
    );
}
