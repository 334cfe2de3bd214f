//! Logs that cannot be written, unusual files, signals, and bad settings.

use std::{
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{FakeUpstream, Lab, SERVER_V4, UPSTREAM};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    asking::{Asker, Settings},
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

/// A full pipe: a writer blocks until somebody reads.
fn full_pipe() -> (PipeReader, OwnedFd) {
    let (reader, mut writer) = io::pipe().unwrap();
    let page = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; page as usize]).unwrap();
    (reader, writer.into())
}

#[test]
fn a_log_that_cannot_be_written_blocks_and_ends_nothing() {
    let Some(lab) = lab("a_log_that_cannot_be_written") else {
        return;
    };
    let _upstream = FakeUpstream::start(&lab, UPSTREAM).unwrap();
    for backend in ["socket", "xdp"] {
        for how in ["no reader", "no space", "size limit", "reader stands still"] {
            let mut reader = None;
            let limited = ["prlimit", "--fsize=1024"];
            let wrapper = if how == "size limit" {
                &limited[..]
            } else {
                &[]
            };
            let log: Stdio = match how {
                "no reader" => io::pipe().unwrap().1.into(),
                "no space" => File::create("/dev/full").unwrap().into(),
                "size limit" => tempfile::tempfile().unwrap().into(),
                _ => {
                    let (end, writer) = full_pipe();
                    reader = Some(end);
                    writer.into()
                }
            };
            let mut server = Server::start_within(&lab, wrapper, backend, log);
            let asker = Asker::v4(&lab);
            assert_eq!(asker.udp(QUERY), ANSWER, "{backend}, {how}");
            for _ in 0..10 {
                server.reload();
            }
            server.signal(Signal::SIGHUP);
            server.signal(Signal::SIGUSR1);
            assert_eq!(asker.udp(QUERY), ANSWER, "{backend}, {how}");
            let lost = server.lost_lines();
            assert_eq!(lost > 0, reader.is_none(), "{backend}, {how}: {lost}");
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

/// A file system of 64 KiB.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let arguments = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        let mut command = Command::new("mount");
        let status = command.args(arguments).arg(disk.0.path()).status();
        assert!(status.unwrap().success());
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        let _ = command.arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn lines_that_are_lost_are_reported_once_there_is_space_again() {
    let Some(lab) = lab("lines_that_are_lost") else {
        return;
    };
    let disk = SmallDisk::mount();
    let (log, fill) = (disk.0.path().join("log"), disk.0.path().join("fill"));
    let append = || {
        File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap()
    };
    let server = Server::start(&lab, "socket", append());
    let mut file = File::create(&fill).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // The log's last page has space left.
    while append().write_all(b"x").is_ok() {}
    server.reload();
    let end = Instant::now() + Duration::from_secs(10);
    while server.lost_lines() == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let lost = server.lost_lines();
    assert!(lost > 0);
    drop(file);
    fs::remove_file(&fill).unwrap();
    server.reload();
    let told = || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("lines could not be logged")
    };
    while !told() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(told(), "{}", fs::read_to_string(&log).unwrap());
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
    let _upstream = FakeUpstream::start(&lab, UPSTREAM).unwrap();
    let mut heimdall = Settings::new("").on_xdp(&lab);
    let asker = Asker::v4(&lab);
    for _ in 0..2 {
        assert_eq!(asker.udp(QUERY), ANSWER);
    }
    assert_eq!(asker.tcp(QUERY), ANSWER);
    for signal in [Signal::SIGPIPE, Signal::SIGUSR2, Signal::SIGUSR1] {
        heimdall.process.signal(signal).unwrap();
    }
    let second = Duration::from_secs(10);
    let line = "statistics: 3 queries (2 over AF_XDP, 0 over UDP, 1 over TCP), 1 hits, 2 misses";
    heimdall.process.wait_for(line, second).unwrap();
    heimdall.process.wait_for("USR2: ignored", second).unwrap();
    assert_eq!(asker.udp(QUERY), ANSWER);
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
    let _upstream = FakeUpstream::start(&lab, UPSTREAM).unwrap();
    let server = Server::start(&lab, "socket", Stdio::null());
    assert_eq!(Asker::v4(&lab).udp(QUERY), ANSWER);
    let config = server.directory.path().join("heimdall.toml");
    let config = config.to_str().unwrap();
    for arguments in [
        &["stats"][..],
        &["stats", "--json"],
        &["dump", "--all"],
        &["dump", "--json"],
        &["reload"],
        &["flush", "--all"],
        &["check", "--upstream", UPSTREAM, "--config", config],
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

/// Whether `check` accepts a configuration file and `run` starts with it, and their output.
fn check_and_run(lab: &Lab, config: &Path) -> ((bool, String), (bool, String)) {
    let command = |what: &str| {
        let mut command = lab.on_server(program());
        command.arg(what).arg("--config").arg(config);
        command.env_remove("RUST_LOG");
        command
    };
    let output = command("check").output().unwrap();
    let checked = String::from_utf8(output.stderr).unwrap();
    let mut process = lab::Process::start(&mut command("run")).unwrap();
    let starts = process.wait_for("ready: ", Duration::from_secs(20));
    let starts = starts.is_ok();
    (
        (output.status.success(), checked),
        (starts, process.output()),
    )
}

#[test]
fn check_says_what_a_start_would() {
    let Some(lab) = lab("check_says_what_a_start_would") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let within = |name: &str| directory.path().join(name).display().to_string();
    fs::write(within("good.hosts"), "10.0.0.9 nas.lan\n").unwrap();
    fs::write(
        within("odd.hosts"),
        "fe80::1%lo0 localhost\n10.0.0.9 nas.lan a..b\n",
    )
    .unwrap();
    fs::write(within("odd.list"), "a.example\nb.example##.banner\n").unwrap();
    fs::write(
        within("foreign"),
        "a file of somebody else, and no snapshot",
    )
    .unwrap();
    mkfifo(Path::new(&within("fifo")), Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(within("socket")).unwrap();
    let interface = lab.server_if.as_str();
    let control = format!("control = {:?}", within("control.sock"));
    let long = "x".repeat(108);
    let (good, bad) = (true, false);
    for (text, starts, says) in [
        ("", good, ""),
        (
            "[local]\nrecords = [\"a.lan. 300 IN A 192.0.2.1\"]",
            good,
            "",
        ),
        ("[local]\nhosts = [\"{}/good.hosts\"]", good, ""),
        (
            "[local]\nhosts = [\"{}/odd.hosts\"]",
            good,
            "odd.hosts: skipped 2 line(s), in whole or in part; the first is line 1: \"fe80::1%lo0\"",
        ),
        (
            "[[blocklist]]\nfile = \"{}/odd.list\"",
            good,
            "1 lines hold no name",
        ),
        // Bad records.
        (
            "[local]\nrecords = [\"nonsense\"]",
            bad,
            ":5: key `local.records`: ",
        ),
        (
            "[local]\n\nrecords = [\"*.lan. A 192.0.2.1\"]",
            bad,
            ":6: key `local.records`: ",
        ),
        (
            "[local]\nrecords = [\n\"b.lan. A 192.0.2.1\",\n\"a.lan. CNAME www.example.\"]",
            bad,
            ":7: key `local.records`: ",
        ),
        (
            "[local]\nrecords = [\n\"b.lan. CNAME c.lan.\",\n\"b.lan. A 192.0.2.1\"]",
            bad,
            ":6: key `local.records`: ",
        ),
        // Bad files.
        (
            "[local]\nhosts = [\"{}/none\"]",
            bad,
            ":5: key `local.hosts`: cannot read ",
        ),
        (
            "[local]\nhosts = [\"{}/fifo\"]",
            bad,
            "it is a FIFO, and not a regular file",
        ),
        (
            "[local]\nhosts = [\"{}\"]",
            bad,
            "it is a directory, and not a regular file",
        ),
        (
            "[local]\nhosts = [\"/dev/zero\"]",
            bad,
            "it is a device, and not a regular file",
        ),
        (
            "[[blocklist]]\nfile = \"{}/none\"",
            bad,
            ":5: key `blocklist.file`: cannot read ",
        ),
        (
            "[[blocklist]]\nfile = \"{}/fifo\"",
            bad,
            "it is a FIFO, and not a regular file",
        ),
        (
            "[[blocklist]]\nfile = \"{}\"",
            bad,
            "it is a directory, and not a regular file",
        ),
        (
            "[[blocklist]]\nfile = \"/dev/zero\"",
            bad,
            "it is a device, and not a regular file",
        ),
        // Sizes.
        (
            "[cache]\nsize = \"99999G\"",
            bad,
            ":5: key `cache.size`: cannot reserve ",
        ),
        // The control socket; the last such key counts here, as the first is left out.
        ("control = \"\"", bad, ":4: key `control`: "),
        (
            "control = \"{}/long\"",
            bad,
            ":4: key `control`: the path has ",
        ),
        ("control = \"{}/foreign\"", bad, ":4: key `control`: "),
        (
            "control = \"{}/foreign/new.sock\"",
            bad,
            ":4: key `control`: ",
        ),
        ("control = \"{}\"", bad, ":4: key `control`: "),
        ("control = \"{}/new/directory/new.sock\"", good, ""),
        // Interfaces.
        ("backend = \"xdp\"", bad, ":4: key `backend`: "),
        (
            "backend = \"xdp\"\ninterface = [\"none0\"]",
            bad,
            ":5: key `interface`: there is no interface none0",
        ),
        (
            "backend = \"xdp\"\ninterface = [\"@if:7\"]",
            bad,
            ":5: key `interface`: @if has no queue 7",
        ),
        ("backend = \"xdp\"\ninterface = [\"@if\"]", good, ""),
        (
            "interface = [\"none0\"]",
            good,
            "there is no interface none0",
        ),
        ("interface = [\"@if:7\"]", good, "has no queue 7"),
        // A server without a snapshot is better than none.
        (
            "[cache]\nsnapshot = \"{}/none/snapshot\"",
            good,
            ":5: key `cache.snapshot`: no snapshot can be written to ",
        ),
        (
            "[cache]\nsnapshot = \"{}/foreign\"",
            good,
            "is no snapshot of Heimdall",
        ),
        ("[cache]\nsnapshot = \"{}/fifo\"", good, "it is a FIFO"),
        ("[cache]\nsnapshot = \"{}\"", good, "it is a directory"),
    ] {
        let fill = |text: &str| {
            let text = text.replace("{}", directory.path().to_str().unwrap());
            text.replace("/long", &format!("/{long}"))
                .replace("@if", interface)
        };
        let first = if text.contains("control") {
            ""
        } else {
            &control
        };
        let config = within("heimdall.toml");
        let common = format!("upstream = [{UPSTREAM:?}]\nlisten = [\"{SERVER_V4}:53\"]\n{first}\n");
        fs::write(&config, format!("{common}{}\n", fill(text))).unwrap();
        let ((checked, warned), (started, log)) = check_and_run(&lab, Path::new(&config));
        assert_eq!(started, starts, "{text}: {log}");
        assert_eq!(checked, starts, "{text}: {warned}");
        let says = fill(says);
        assert!(
            warned.contains(&says) && log.contains(&says),
            "{text}: {warned}, {log}"
        );
        assert!(starts || warned.lines().count() == 1, "{text}: {warned}");
        assert!(!says.is_empty() || warned.is_empty(), "{text}: {warned}");
    }
    let ip = |arguments: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["-n", &lab.server]).args(arguments);
        assert!(command.status().unwrap().success(), "{arguments:?}");
    };
    ip(&["link", "set", interface, "mtu", "9000"]);
    let config = within("heimdall.toml");
    let text = format!(
        "upstream = [{UPSTREAM:?}]\nbackend = \"xdp\"\ninterface = [{interface:?}]\n{control}\n"
    );
    fs::write(&config, text).unwrap();
    let ((checked, warned), (started, _)) = check_and_run(&lab, Path::new(&config));
    assert!(!checked && !started);
    let place = format!(":3: key `interface`: the MTU of {interface} is 9000");
    assert!(warned.contains(&place), "{warned}");
}

#[test]
fn a_configuration_that_is_no_text_file_is_named() {
    let Some(lab) = lab("a_configuration_that_is_no_text_file") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let latin = directory.path().join("latin.toml");
    fs::write(&latin, b"# Settings\n# f\xfcr den Server\n").unwrap();
    for (path, says) in [
        (fifo.as_path(), "it is a FIFO"),
        (directory.path(), "it is a directory"),
        (Path::new("/dev/zero"), "it is a device"),
        (&latin, "latin.toml:2: not UTF-8"),
    ] {
        let ((checked, warned), (started, log)) = check_and_run(&lab, path);
        assert!(!checked && !started, "{path:?}");
        assert!(
            warned.contains(says) && log.contains(says),
            "{warned}, {log}"
        );
    }
}

#[test]
fn without_permission_the_control_directory_is_named() {
    let Some(lab) = lab("without_permission") else {
        return;
    };
    // The build directory may be closed to others: run a copy.
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(directory.path());
    let copy = directory.path().join("heimdall");
    fs::copy(program(), &copy).unwrap();
    for what in ["check", "run"] {
        let mut command = lab.on_server("setpriv");
        command
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--",
            ])
            .arg(&copy)
            .args([what, "--upstream", UPSTREAM, "--listen", "127.0.0.1:5353"])
            .arg("--control")
            .arg(directory.path().join("new/control.sock"));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(
            text.contains("--control: cannot make the control socket's directory")
                && text.contains("Permission denied"),
            "{what}: {text}"
        );
    }
}

#[test]
fn a_reload_skips_bad_lines_and_rejects_other_than_files() {
    let Some(lab) = lab("a_reload_skips_bad_lines") else {
        return;
    };
    let _upstream = FakeUpstream::start(&lab, UPSTREAM).unwrap();
    let files = tempfile::tempdir().unwrap();
    let hosts = files.path().join("hosts");
    fs::write(&hosts, "10.0.0.9 nas.lan\n").unwrap();
    let settings = Settings::new(&format!("[local]\nhosts = [{hosts:?}]"));
    let mut heimdall = settings.on_xdp(&lab);
    let asker = Asker::v4(&lab);
    let nas = |address: &str| format!("NOERROR qr rd ra | nas.lan. A | 300 A {address}");
    assert_eq!(asker.udp("nas.lan A rd"), nas("10.0.0.9"));
    fs::write(
        &hosts,
        b"\xef\xbb\xbf10.0.0.8 nas.lan a..b\r\nfe80::1%lo0 localhost\r\n127.1 x\r\n\0\r\n",
    )
    .unwrap();
    let output = heimdall.reload().unwrap();
    assert!(output.status.success(), "{output:?}");
    let warning = "skipped 4 line(s), in whole or in part; the first is line 1: \"a..b\"";
    heimdall
        .process
        .wait_for(warning, Duration::from_secs(10))
        .unwrap();
    assert_eq!(asker.udp("nas.lan A rd"), nas("10.0.0.8"));

    fs::remove_file(&hosts).unwrap();
    mkfifo(&hosts, Mode::S_IRWXU).unwrap();
    let output = heimdall.reload().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let place = format!("{}:2: key `local.hosts`: cannot read ", settings.path());
    assert!(
        text.contains(&place) && text.contains("it is a FIFO"),
        "{text}"
    );
    assert_eq!(asker.udp("nas.lan A rd"), nas("10.0.0.8"), "the old policy");
}
