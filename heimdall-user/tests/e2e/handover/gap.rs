//! The time in which no process runs, when a service manager restarts the service: the sockets' queues take queries, which
//! wait for their answers.

use std::{
    fs,
    io::Write,
    net::UdpSocket,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, SERVER_V4, ScriptedUpstream, Step};
use nix::sys::signal::Signal;

use super::{Place, TIMEOUT, assert_answers, checked, load::OTHER, manager::Manager, ready};
use crate::{client::query, dot::Files};

/// An upstream that never answers.
const SILENT: &str = "127.0.0.1:5301";

/// Seconds that queries under way are given when a server stops for good, and that their upstream has to answer: far longer
/// than clients wait.
const PATIENCE: u64 = 50;

/// A client that keeps a TLS connection open.
struct TlsClient {
    process: Child,
    input: ChildStdin,
}

impl TlsClient {
    fn connect(lab: &Lab) -> Self {
        let mut command = lab.on_client("openssl");
        command
            .args([
                "s_client",
                "-quiet",
                "-connect",
                &format!("{SERVER_V4}:853"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        Self { process, input }
    }

    /// Sends a message.
    fn send(&mut self, message: &[u8]) {
        let length = (message.len() as u16).to_be_bytes();
        self.input
            .write_all(&[&length[..], message].concat())
            .unwrap();
    }
}

impl Drop for TlsClient {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_restart_waits_neither_for_a_silent_upstream_nor_for_tls_clients() {
    let Some(place) = Place::new("a_restart_waits_neither") else {
        return;
    };
    let lab = &place.lab;
    let silent = ScriptedUpstream::with_script(lab, SILENT, |_| Vec::<Step>::new()).unwrap();
    let files = Files::new();
    let settings = place.directory.path().join("heimdall.toml");
    let snapshot = place.directory.path().join("snapshot");
    let text = format!(
        "stop-timeout = {PATIENCE}\n[cache]\nsnapshot = {snapshot:?}\n[forward]\ntimeout-ms = {PATIENCE}000\n\
         [[route]]\nzone = \"silent.example\"\nupstream = [\"{SILENT}\"]\n"
    );
    fs::write(&settings, text).unwrap();
    let run = || -> Command {
        let mut command = place.run();
        command.arg("--config").arg(&settings).args(files.flags());
        command
    };
    let manager = Manager::new();
    let mut running = ready(manager.start(&run()));
    manager.wait_for("READY=1");
    let ([xdp, sockets, tcp], ()) = checked(lab, || {
        for round in 0..3 {
            // Nobody will answer these.
            let mut over_tls = TlsClient::connect(lab);
            over_tls.send(&query(1, &format!("tls{round}.silent.example")));
            let idle = TlsClient::connect(lab);
            let over_udp = lab.in_client(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for server in [SERVER_V4, OTHER] {
                    let query = query(2, &format!("udp{round}.silent.example"));
                    socket.send_to(&query, (server, 53)).unwrap();
                }
                socket
            });
            let end = Instant::now() + TIMEOUT;
            let asked = |kind| silent.queries(&format!("{kind}{round}.silent.example")) > 0;
            while !(asked("tls") && asked("udp")) {
                assert!(Instant::now() < end, "{}", running.output());
                thread::sleep(Duration::from_millis(10));
            }
            running.signal(Signal::SIGTERM).unwrap();
            let stopping = Instant::now();
            assert!(running.wait(TIMEOUT).unwrap().success());
            assert!(stopping.elapsed() < Duration::from_secs(PATIENCE) / 2);
            assert!(snapshot.exists());
            running = ready(manager.start(&run()));
            manager.wait_for("READY=1");
            drop((over_tls, idle, over_udp));
        }
    });
    for (tally, what) in [(&xdp, "AF_XDP"), (&sockets, "UDP sockets"), (&tcp, "TCP")] {
        // No query waits for longer than a client does.
        tally.assert_complete(what);
        eprintln!(
            "{what}: the longest wait of {} was {:?}",
            tally.asked, tally.longest
        );
    }
    assert_answers(lab);
}
