//! Logs that cannot be written, signals, and commands whose output is lost.

use std::{
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{Disk, Lab, SERVER_V4, ScriptedUpstream, UPSTREAM};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::{Signal, kill},
        stat::fstat,
    },
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{DnsClient, Settings},
    lab, program,
};

const QUERY: &str = "www.example A rd edns";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";

/// A server with a given standard error.
struct Server {
    child: Child,
    control: PathBuf,
    directory: TempDir,
}

impl Server {
    /// Starts one, and waits until its control socket answers: its log may be lost.
    fn start(lab: &Lab, backend: &str, log: impl Into<Stdio>) -> Self {
        Self::start_within(lab, &[], backend, log)
    }

    /// As [`start`](Self::start), by a command that becomes the one behind it.
    fn start_within(lab: &Lab, wrapper: &[&str], backend: &str, log: impl Into<Stdio>) -> Self {
        Self::start_with(lab, wrapper, backend, log, &[])
    }

    /// The same with more arguments.
    fn start_with(
        lab: &Lab,
        wrapper: &[&str],
        backend: &str,
        log: impl Into<Stdio>,
        arguments: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control.sock");
        let config = directory.path().join("heimdall.toml");
        let snapshot = directory.path().join("snapshot");
        fs::write(
            &config,
            format!("[cache]\nsize = \"1M\"\nsnapshot = {snapshot:?}\nsnapshot-interval = 1\n"),
        )
        .unwrap();
        let mut command = lab.on_server("env");
        command
            .args(wrapper)
            .arg(program())
            .args(["run", "--backend", backend, "--upstream", UPSTREAM])
            .args(["--listen", &format!("{SERVER_V4}:53"), "--control"])
            .arg(&control)
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if backend == "xdp" {
            command.args(["--interface", &lab.server_if]);
        }
        let mut server = Self {
            child: command.spawn().unwrap(),
            control,
            directory,
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !server.command(&["stats"]).status.success() {
            assert!(Instant::now() < end, "it does not start");
            assert_eq!(server.child.try_wait().unwrap(), None);
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--control").arg(&self.control);
        command.output().unwrap()
    }

    fn reload(&self) {
        let output = self.command(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    }

    fn lost_lines(&self) -> u64 {
        let output = self.command(&["stats", "--json"]);
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        stats["log"]["lost"].as_u64().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A full pipe: a writer blocks until it is read.
fn full_pipe() -> (PipeReader, OwnedFd) {
    let (reader, mut writer) = io::pipe().unwrap();
    let page = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; page as usize]).unwrap();
    (reader, writer.into())
}

/// The reader of a pipe, which does not read.
enum Reader {
    /// This process.
    Here(#[allow(dead_code, reason = "it is held")] PipeReader),
    /// One that a signal has stopped.
    Stopped(Child),
}

impl Reader {
    fn new(end: PipeReader, stopped: bool) -> Self {
        if !stopped {
            return Self::Here(end);
        }
        let mut command = Command::new("sh");
        command.args(["-c", "kill -STOP $$; exec cat"]).stdin(end);
        let reader = command.stdout(Stdio::null()).spawn().unwrap();
        let state = format!("/proc/{}/stat", reader.id());
        while !fs::read_to_string(&state).unwrap().contains(" T ") {
            thread::sleep(Duration::from_millis(1));
        }
        Self::Stopped(reader)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Self::Stopped(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_blocks_and_ends_nothing() {
    let Some(lab) = lab("a_log_that_cannot_be_written") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    for backend in ["socket", "xdp"] {
        for how in [
            "no reader",
            "no space",
            "size limit",
            "closed",
            "full",
            "reader is stopped",
        ] {
            let mut reader = None;
            let wrapper = match how {
                "size limit" => &["prlimit", "--fsize=1024"][..],
                "closed" => &["sh", "-c", "exec \"$@\" 2>&-", "sh"],
                _ => &[],
            };
            let log: Stdio = match how {
                "no reader" => io::pipe().unwrap().1.into(),
                "no space" => File::create("/dev/full").unwrap().into(),
                "size limit" => tempfile::tempfile().unwrap().into(),
                "closed" => Stdio::null(),
                _ => {
                    let (end, writer) = full_pipe();
                    reader = Some(Reader::new(end, how == "reader is stopped"));
                    writer.into()
                }
            };
            let mut server = Server::start_within(&lab, wrapper, backend, log);
            let client = DnsClient::v4(&lab);
            assert_eq!(client.udp(QUERY), ANSWER, "{backend}, {how}");
            for _ in 0..10 {
                server.reload();
            }
            server.signal(Signal::SIGHUP);
            server.signal(Signal::SIGUSR1);
            assert_eq!(client.udp(QUERY), ANSWER, "{backend}, {how}");
            let lost = server.lost_lines();
            // Rust's runtime opens /dev/null in place of a stderr that is closed.
            let keeps = reader.is_some() || how == "closed";
            assert_eq!(lost > 0, !keeps, "{backend}, {how}: {lost}");
            server.stop();
            assert!(!lab.has_xdp().unwrap(), "{backend}, {how}");
            // The thread that writes snapshots logs, too.
            let snapshot = server.directory.path().join("snapshot");
            assert!(snapshot.exists(), "{backend}, {how}");
        }
    }
}

#[test]
fn a_log_that_can_be_written_again_gets_the_lines_that_waited() {
    let Some(lab) = lab("a_log_that_can_be_written_again") else {
        return;
    };
    let (mut reader, log) = full_pipe();
    let mut server = Server::start(&lab, "socket", log);
    server.reload();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    server.stop();
    let text = reading.join().unwrap();
    let mut rest = text.as_str();
    for line in ["ready: ", "reloaded: ", "TERM: stopping", "stopped\n"] {
        let at = rest.find(line);
        rest = &rest[at.unwrap_or_else(|| panic!("{line:?} in {text}"))..];
    }
}

#[test]
fn lines_are_json_if_that_is_asked_for() {
    let Some(lab) = lab("lines_are_json") else {
        return;
    };
    let (mut reader, writer) = io::pipe().unwrap();
    let format = ["env", "RUST_BACKTRACE=0"];
    let mut server = Server::start_with(
        &lab,
        &format,
        "socket",
        OwnedFd::from(writer),
        &["--log-format", "json"],
    );
    server.reload();
    server.stop();
    drop(server);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let ready = lines.iter().find(|line| {
        let message = line["message"].as_str().unwrap();
        message.starts_with("ready: ")
    });
    let ready = ready.unwrap_or_else(|| panic!("{text}"));
    assert_eq!(ready["level"], "INFO");
    assert_eq!(ready["target"], "heimdall_user::cli::run");
    assert!(ready["timestamp"].as_str().unwrap().ends_with('Z'));
}

/// The fields of an entry that have one line.
fn journal_fields(entry: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(entry);
    let fields = text.lines().filter_map(|line| line.split_once('='));
    fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_journal_gets_entries_with_its_fields() {
    let Some(lab) = lab("the_journal_gets_entries") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let journal = UnixDatagram::bind(directory.path().join("socket")).unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let stream = tempfile::tempfile().unwrap();
    let stat = fstat(&stream).unwrap();
    let stream_of = format!("JOURNAL_STREAM={}:{}", stat.st_dev, stat.st_ino);
    // The journal's directory, where this process alone sees it.
    let mount = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                 mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let directory = directory.path().to_str().unwrap();
    let wrapper = [
        "env", &stream_of, "unshare", "--mount", "sh", "-c", mount, directory,
    ];
    let copy = stream.try_clone().unwrap();
    let mut server = Server::start_within(&lab, &wrapper, "socket", copy);
    // More than a reader that is stopped lets the kernel keep: nobody waits for it.
    for _ in 0..50 {
        server.reload();
    }
    let next = || {
        let mut buf = vec![0; 1 << 17];
        let len = journal.recv(&mut buf).unwrap();
        journal_fields(&buf[..len])
    };
    let value = |fields: &[(String, String)], name: &str| {
        let mut fields = fields.iter();
        let field = fields.find(|(field, _)| field == name);
        field.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let mut entry = next();
    while !value(&entry, "MESSAGE").starts_with("ready: ") {
        entry = next();
    }
    for (name, expected) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "heimdall"),
        ("TARGET", "heimdall_user::cli::run"),
    ] {
        assert_eq!(value(&entry, name), expected, "{entry:?}");
    }
    server.signal(Signal::SIGTERM);
    while value(&entry, "MESSAGE") != "stopped" {
        entry = next();
    }
    assert!(server.wait().success());
    assert_eq!(
        stream.metadata().unwrap().len(),
        0,
        "all went to the socket"
    );
}

#[test]
fn lines_that_are_lost_are_reported_once_there_is_space_again() {
    let Some(lab) = lab("lines_that_are_lost") else {
        return;
    };
    let disk = Disk::new("64k").unwrap();
    let log = disk.path("log");
    let append = || {
        File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap()
    };
    let server = Server::start(&lab, "socket", append());
    let ballast = disk.fill().unwrap();
    // The log's last page has space left.
    while append().write_all(b"x").is_ok() {}
    server.reload();
    let end = Instant::now() + Duration::from_secs(10);
    while server.lost_lines() == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let lost = server.lost_lines();
    assert!(lost > 0);
    fs::remove_file(ballast).unwrap();
    server.reload();
    let reported = || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("lines could not be logged")
    };
    while !reported() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(reported(), "{}", fs::read_to_string(&log).unwrap());
}

#[test]
fn a_failed_start_reports_its_error_to_a_slow_reader() {
    let Some(lab) = lab("a_failed_start") else {
        return;
    };
    let run = |log: Stdio| {
        let mut command = lab.on_server(program());
        command
            .args(["run", "--upstream", UPSTREAM, "--config", "/nonesuch"])
            .stderr(log);
        command
    };
    let output = run(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("heimdall: cannot read /nonesuch: "),
        "{text}"
    );
    let (_reader, stuck) = full_pipe();
    for log in [
        io::pipe().unwrap().1.into(),
        File::create("/dev/full").unwrap().into(),
        stuck.into(),
    ] {
        assert_eq!(run(log).status().unwrap().code(), Some(1));
    }
}

#[test]
fn signals_that_others_send_do_not_end_it() {
    let Some(lab) = lab("signals_that_others_send") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut heimdall = Settings::new("").on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    for _ in 0..2 {
        assert_eq!(client.udp(QUERY), ANSWER);
    }
    assert_eq!(client.tcp(QUERY), ANSWER);
    for signal in [Signal::SIGPIPE, Signal::SIGUSR2, Signal::SIGUSR1] {
        heimdall.process.signal(signal).unwrap();
    }
    let second = Duration::from_secs(10);
    let line = "statistics: 3 queries (0 in the kernel, 2 over AF_XDP, 0 over UDP, 1 over TCP, 0 over TLS), 1 hits, 2 misses";
    heimdall.process.wait_for(line, second).unwrap();
    heimdall.process.wait_for("USR2: ignored", second).unwrap();
    assert_eq!(client.udp(QUERY), ANSWER);
}

#[test]
fn a_second_signal_ends_the_stop() {
    let Some(lab) = lab("a_second_signal") else {
        return;
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // Writing the log's last lines is given a second.
        let (_reader, log) = full_pipe();
        let mut server = Server::start(&lab, "socket", log);
        let end = Instant::now() + Duration::from_secs(10);
        let status = loop {
            // Gone between the look and the signal, it has ended all the same.
            let _ = kill(Pid::from_raw(server.child.id() as i32), signal);
            thread::sleep(Duration::from_millis(50));
            if let Some(status) = server.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end");
        };
        assert_eq!(status.code(), Some(1), "{signal}");
    }
}

#[test]
fn a_command_whose_output_is_lost_fails() {
    let Some(lab) = lab("a_command_whose_output_is_lost") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let server = Server::start(&lab, "socket", Stdio::null());
    assert_eq!(DnsClient::v4(&lab).udp(QUERY), ANSWER);
    let config = server.directory.path().join("heimdall.toml");
    let config = config.to_str().unwrap();
    for arguments in [
        &["stats"][..],
        &["stats", "--json"],
        &["trace", "www.example"],
        &["trace", "www.example", "--json"],
        &["dump", "--all"],
        &["dump", "--json"],
        &["reload"],
        &["flush", "--all"],
        &["check", "--upstream", UPSTREAM, "--config", config],
        &["check", "--example"],
        &["stats", "--help"],
        &["--version"],
    ] {
        let run = |out: Stdio| {
            let mut command = Command::new(program());
            command
                .args(arguments)
                .arg("--control")
                .arg(&server.control);
            command.stdout(out).stderr(Stdio::piped());
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), text)
        };
        let (code, text) = run(File::create("/dev/full").unwrap().into());
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert_eq!(
            text, "heimdall: cannot write the output: No space left on device (os error 28)\n",
            "{arguments:?}"
        );
        // A reader that closes the pipe early.
        let gone = io::pipe().unwrap().1;
        assert_eq!(run(gone.into()), (Some(0), String::new()), "{arguments:?}");
    }
}
