//! `heimdall top` and `heimdall stats` as people use them: in a terminal (tmux), beside a server on loopback that has
//! queries to answer. Without Debian's package tmux, what needs it is skipped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use lab::{Process, ScriptedUpstream, by_label, message};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::{OpenptyResult, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{FlowArg, LocalFlags, tcflow, tcgetattr},
    },
    unistd::Pid,
};
use tempfile::TempDir;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_heimdall"))
}

/// How long something may take that is to happen at once.
const SOON: Duration = Duration::from_secs(20);

/// A place for a server, and one at a time in it.
struct Server {
    directory: TempDir,
    address: SocketAddr,
    upstream: ScriptedUpstream,
    process: Option<Process>,
}

impl Server {
    fn start() -> Self {
        // An address of its own: nothing else takes a port of it meanwhile.
        let socket = UdpSocket::bind("127.0.53.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            address,
            upstream: ScriptedUpstream::on_loopback("127.0.0.1:0", by_label).unwrap(),
            process: None,
        };
        server.run();
        server
    }

    /// Runs the server; again, if it was stopped.
    fn run(&mut self) {
        let mut command = Command::new(program());
        let upstream = self.upstream.address().to_string();
        let listen = self.address.to_string();
        command.args([
            "run",
            "--backend",
            "socket",
            "--listen",
            &listen,
            "--upstream",
            &upstream,
        ]);
        command.arg("--control").arg(self.control());
        let mut process = Process::start(&mut command).unwrap();
        process.wait_for("ready", SOON).unwrap();
        self.process = Some(process);
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--control").arg(self.control());
        command.output().unwrap()
    }

    /// The command's output.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A client that queries until it is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn start(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            for number in 0u16.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Some names again and again, and now and then a new one, with a terminal's escape sequences.
                let name = match number % 50 {
                    0 => format!("\\027[2J\\007n{number}.example"),
                    n => format!("n{}.example", n % 5),
                };
                let query = message::query(number, &name, RecordType::A);
                // The server may be away.
                let _ = socket.send_to(&message::octets(&query), server);
                while socket.recv(&mut [0; 1500]).is_ok() {}
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A tmux server with one window.
struct Tmux(String);

impl Tmux {
    /// Starts a shell command in a terminal of this size, unless there is no tmux.
    fn start(test: &str, (width, height): (u16, u16), command: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tmux = Self(format!("heimdall-{}-{number}", std::process::id()));
        let [width, height] = [width, height].map(|size| size.to_string());
        let size = ["-x", &width, "-y", &height];
        let arguments = [&["new-session", "-d"][..], &size, &[command]].concat();
        match tmux.command(&arguments).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => {
                assert!(env::var_os("CI").is_none(), "{test}: CI has to have tmux");
                let _ = writeln!(io::stderr(), "SKIPPED {test}: it needs tmux");
                return None;
            }
        }
        Some(tmux)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.0, "-f", "/dev/null"])
            .args(arguments);
        command.env_remove("TMUX");
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    fn resize(&self, width: u16, height: u16) {
        let [width, height] = [width, height].map(|size| size.to_string());
        self.ask(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// The first screen that is as wanted.
    fn wait(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if is_wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "not to be seen: {what}\n{screen}");
            thread::sleep(Duration::from_millis(30));
        }
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

/// The command that runs `heimdall top` in a shell, which says how it ended and goes on.
fn top(server: &Server, arguments: &str) -> String {
    format!(
        "{} top --control {} --interval 0.2 {arguments}; echo \"ENDED with $?\"; stty -a; sleep 600",
        program().display(),
        server.control().display()
    )
}

/// The terminal is as a shell left it.
fn assert_restored(tmux: &Tmux) {
    let screen = tmux.wait("the shell", |screen| {
        screen.contains("ENDED with 0") && screen.contains("isig")
    });
    assert!(
        screen.contains(" icanon") && screen.contains(" echo "),
        "{screen}"
    );
    assert!(!screen.contains("TRAFFIC"), "{screen}");
    let state = tmux.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    assert_eq!(state, "0 1\n", "{screen}");
}

#[test]
fn top_shows_what_happens_at_any_size() {
    let server = Server::start();
    let _traffic = Traffic::start(server.address);
    let Some(tmux) = Tmux::start("top_shows", (80, 24), &top(&server, "")) else {
        return;
    };
    let screen = tmux.wait("rates", |screen| {
        screen.contains("QUERIES/s") && !screen.contains("average") && screen.contains('█')
    });
    for text in [
        "heimdall 0.",
        "socket",
        "TRAFFIC",
        "UDP",
        "hit ratio",
        "FORWARDER",
        "? help",
    ] {
        assert!(screen.contains(text), "{text}\n{screen}");
    }
    tmux.keys(&["2"]);
    let screen = tmux.wait_for("REPLIES/s");
    assert!(
        screen.contains("sockets") && screen.contains("running"),
        "{screen}"
    );
    tmux.keys(&["Tab"]);
    tmux.wait_for("UPSTREAM ");
    tmux.keys(&["BTab"]);
    tmux.wait_for("REPLIES/s");
    tmux.keys(&["?"]);
    tmux.wait_for("any key closes this");
    tmux.keys(&["Escape"]);
    tmux.wait("no help", |screen| !screen.contains("any key closes this"));
    tmux.keys(&["/", "nothing", "Enter"]);
    tmux.wait_for("none matches the filter");
    tmux.keys(&["Escape"]);
    tmux.wait_for("running");

    // Another size at once, also while nothing else changes.
    tmux.keys(&["p", "1"]);
    tmux.wait("a pause", |screen| {
        screen.contains("PAUSED") && screen.contains("TRAFFIC")
    });
    tmux.resize(40, 12);
    // Before that tmux shows a part of the earlier frame.
    tmux.wait("a small frame", |screen| {
        ["↓", "TRAFFIC", "? help"]
            .iter()
            .all(|text| screen.contains(text))
    });
    tmux.keys(&["Down", "Down", "Down", "Down", "Down", "Down"]);
    tmux.wait_for("hit ratio");
    tmux.resize(200, 60);
    tmux.wait("a large frame", |screen| {
        let last = screen.trim_end().lines().last();
        let is_at_the_end = last.is_some_and(|last| last.contains("q quit"));
        is_at_the_end && screen.trim_end().lines().count() > 55 && !screen.contains("more lines")
    });
    tmux.keys(&["p"]);
    tmux.wait("no pause", |screen| !screen.contains("PAUSED"));
    tmux.resize(80, 24);
    tmux.keys(&["q"]);
    assert_restored(&tmux);
}

#[test]
fn signals_and_control_c_end_top_and_restore_the_terminal() {
    let server = Server::start();
    for end in ["C-c", "SIGINT", "SIGTERM", "SIGHUP", "SIGTERM SIGINT"] {
        let Some(tmux) = Tmux::start("signals", (80, 24), &top(&server, "")) else {
            return;
        };
        tmux.wait_for("TRAFFIC");
        if end == "C-c" {
            tmux.keys(&[end]);
        } else {
            let shell = tmux.ask(&["display-message", "-p", "#{pane_pid}"]);
            let shell = shell.trim();
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
            let top = children.unwrap().trim().parse().unwrap();
            for signal in end.split(' ') {
                let sent = kill(Pid::from_raw(top), signal.parse::<Signal>().unwrap());
                // It may have ended by the first of two.
                assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
            }
        }
        assert_restored(&tmux);
    }
}

/// Without a signal: the terminal is not the one that controls the process.
#[test]
fn top_ends_when_its_terminal_is_gone() {
    let server = Server::start();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // Else the program has it, too.
    fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let terminal = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new(program());
    command.arg("top").arg("--control").arg(server.control());
    command
        .stdin(terminal())
        .stdout(terminal())
        .stderr(terminal());
    let mut top = command.spawn().unwrap();
    drop((command, slave));
    let mut screen = File::from(master);
    let mut shown = [0; 4096];
    assert!(screen.read(&mut shown).unwrap() > 0);
    drop(screen);
    assert_eq!(ended(&mut top).code(), Some(1));
}

/// Waits for the end of a process that has a reason to end.
fn ended(process: &mut Child) -> ExitStatus {
    let end = Instant::now() + SOON;
    loop {
        match process.try_wait().unwrap() {
            Some(status) => return status,
            None if Instant::now() > end => {
                process.kill().unwrap();
                panic!("it still runs");
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn a_signal_ends_top_while_its_terminal_takes_nothing() {
    let server = Server::start();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // As Ctrl-S does, but not undone by the raw mode.
    tcflow(&slave, FlowArg::TCOOFF).unwrap();
    let terminal = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new(program());
    command.arg("top").arg("--control").arg(server.control());
    command
        .stdin(terminal())
        .stdout(terminal())
        .stderr(terminal());
    let mut top = command.spawn().unwrap();
    // From the raw mode on it waits to draw.
    let is_raw = || {
        let state = tcgetattr(&slave).unwrap();
        !state.local_flags.contains(LocalFlags::ICANON)
    };
    let end = Instant::now() + SOON;
    while !is_raw() {
        assert!(Instant::now() < end, "it does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(top.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(ended(&mut top).code(), Some(128 + Signal::SIGTERM as i32));
    drop(master);
}

#[test]
fn top_says_that_the_server_is_lost_and_finds_the_next_one() {
    let mut server = Server::start();
    let Some(tmux) = Tmux::start("top_says", (80, 24), &top(&server, "")) else {
        return;
    };
    tmux.wait_for("over 0.2 s");
    server.stop();
    let screen = tmux.wait_for("SERVER LOST");
    assert!(
        screen.contains("no server listens on the control socket"),
        "{screen}"
    );
    assert!(screen.contains("TRAFFIC"), "{screen}");
    server.run();
    let pid = format!("pid {}", server.process.as_ref().unwrap().pid());
    let screen = tmux.wait("the next server", |screen| {
        screen.contains(&pid) && screen.contains("over 0.2 s")
    });
    assert!(!screen.contains("LOST"), "{screen}");
}

#[test]
fn no_color_has_no_colours() {
    let server = Server::start();
    for no_color in [false, true] {
        let set = if no_color { "export NO_COLOR=1; " } else { "" };
        let command = format!("{set}{}", top(&server, ""));
        let Some(tmux) = Tmux::start("no_color", (80, 24), &command) else {
            return;
        };
        tmux.wait_for("TRAFFIC");
        let screen = tmux.ask(&["capture-pane", "-p", "-e"]);
        // Foreground colours: one of eight, in either of the two forms.
        let codes = screen
            .split("\x1b[")
            .skip(1)
            .filter_map(|part| part.split_once('m'));
        let mut colors = Vec::new();
        for (codes, _) in codes {
            let codes: Vec<u8> = codes
                .split(';')
                .filter_map(|code| code.parse().ok())
                .collect();
            match codes[..] {
                [.., 38, 5, color] => colors.push(color),
                _ => colors.extend(
                    codes
                        .iter()
                        .filter(|code| (30..38).contains(*code))
                        .map(|code| code - 30),
                ),
            }
            assert!(!codes.contains(&48), "a background: {screen:?}");
        }
        assert!(colors.iter().all(|color| *color < 8), "{screen:?}");
        assert_eq!(colors.is_empty(), no_color, "{screen:?}");
    }
}

#[test]
fn one_frame_is_plain_text() {
    let server = Server::start();
    let traffic = Traffic::start(server.address);
    let frame = server.text(&["top", "--once", "--interval", "0.5", "--size", "80x24"]);
    assert_eq!(frame.lines().count(), 24);
    assert!(
        frame.lines().all(|line| line.chars().count() <= 80),
        "{frame}"
    );
    assert!(
        frame.contains("TRAFFIC") && !frame.contains("average"),
        "{frame}"
    );
    assert!(
        !frame.contains(|c: char| c.is_control() && c != '\n'),
        "{frame:?}"
    );
    let queues = [
        "top",
        "--once",
        "--interval",
        "0.5",
        "--size",
        "120x10",
        "--pane",
        "queues",
    ];
    assert!(server.text(&queues).contains("sockets"));
    drop(traffic);
    // Without a terminal there is no screen, and without a server nothing to show.
    let error = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = error(server.command(&["top"]));
    assert_eq!(
        text,
        "heimdall: the output is no terminal; --once prints a frame for scripts\n"
    );
    let mut server = server;
    server.stop();
    assert!(error(server.command(&["top"])).contains("no server listens on the control socket"));
    assert_eq!(
        server
            .command(&["top", "--once", "--size", "1x1"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn stats_has_counts_rates_and_a_comparison_with_a_file() {
    let mut server = Server::start();
    let traffic = Traffic::start(server.address);
    let rates = server.text(&["stats", "--since", "1"]);
    assert!(rates.contains("\nRates over 1"), "{rates}");
    let row = |text: &str, name: &str| {
        let row = text.lines().find(|line| line.starts_with(name));
        row.unwrap_or_else(|| panic!("{name}\n{text}")).to_owned()
    };
    assert!(
        row(&rates, "  over UDP").ends_with("/s   100.0 %"),
        "{rates}"
    );
    let file = server.directory.path().join("before.json");
    fs::write(&file, server.text(&["stats", "--json"])).unwrap();
    let file = file.to_str().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(row(&server.text(&["stats", "--since", file]), "QUERIES").contains("/s"));
    drop(traffic);
    // Nothing more is counted.
    let counts = server.text(&["stats"]);
    let json: serde_json::Value = serde_json::from_str(&server.text(&["stats", "--json"])).unwrap();
    let received = json["sockets"]["udp_received"].as_u64().unwrap();
    assert!(received > 100);
    let shown = row(&counts, "QUERIES").replace(',', "");
    assert_eq!(
        shown.split_whitespace().last(),
        Some(received.to_string().as_str())
    );
    assert!(
        !counts.contains("TCP") && !counts.contains(" 0 "),
        "zeros are left out\n{counts}"
    );
    assert_eq!(json["version"], 1);
    assert_eq!(json["pid"], server.process.as_ref().unwrap().pid());
    // Of another server.
    server.stop();
    server.run();
    let output = server.command(&["stats", "--since", file]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("the server has been started since"), "{text}");
    let output = server.command(&["stats", "--since", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn stats_watch_prints_lines_into_a_pipe_and_a_block_on_a_terminal() {
    let server = Server::start();
    let _traffic = Traffic::start(server.address);
    let mut command = Command::new(program());
    command
        .args(["stats", "--watch", "0.2", "--control"])
        .arg(server.control());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    let mut line = || lines.next().unwrap().unwrap();
    let heading = line();
    assert!(
        heading.trim_start().starts_with("time  queries/s"),
        "{heading}"
    );
    for _ in 0..3 {
        let line = line();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert!(cells[0].ends_with('Z') && cells[1] != "0", "{line}");
    }
    // It ends with its reader.
    drop(lines);
    let end = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it does not end");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status:?}");

    let command = format!(
        "{} stats --watch 0.2 --control {}",
        program().display(),
        server.control().display()
    );
    let Some(tmux) = Tmux::start("stats_watch", (80, 24), &command) else {
        return;
    };
    let first = tmux.wait_for("Rates over");
    assert!(first.contains("more lines; see heimdall top"), "{first}");
    // The next one is written over it.
    let next = tmux.wait("another block", |screen| {
        screen != first && screen.contains("Rates over")
    });
    assert_eq!(next.matches("Rates over").count(), 1, "{next}");
}
