//! A start that fails at any of its steps leaves nothing behind: no thread, no descriptor (and so no
//! socket, program or map), no file.
//!
//! Each case starts a server in a process of its own, this program again, which compares what it
//! has before and after. Some faults are real: an address that is taken, another XDP program, too
//! little memory. The others are system calls that strace makes fail, the first of a kind in one
//! run, the second in the next, until none is left. It traces the main thread alone, which starts
//! the server.
//!
//! It needs root and Debian's package strace. It has no test harness, whose threads would be in the
//! way.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    env, fs,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, ExitCode, Output},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use heimdall_user::{
    config::{Config, ConfigError, Flags, Host},
    server::{Requests, Server},
    xdp::{AttachPolicy, Interface, Program, ProgramOptions, xsk::Xsk},
};
use lab::{Lab, SERVER_V4, UPSTREAM};
use nix::sys::resource::{Resource, setrlimit};

/// Environment variable of the process that starts the server: the interface, the backend and the fault.
const CASE: &str = "HEIMDALL_FAILED_START";

/// Faults that need no strace, and a part of the error message.
const FAULTS: [(&str, &str); 8] = [
    ("control socket", "another heimdall runs"),
    ("metrics address", "cannot serve metrics on 10.53.0.1:9453"),
    ("listen address", "10.53.0.1:53"),
    ("no interface", "there is no interface"),
    ("other program", "is already attached"),
    ("queue in use", "queue 1"),
    ("little memory", "cannot reserve"),
    ("policy", "cannot read"),
];

/// System calls that are made to fail, and the error.
const CALLS: [(&str, &str); 7] = [
    ("clone3", "EAGAIN"),
    ("epoll_create1", "EMFILE"),
    ("eventfd2", "EMFILE"),
    ("socket", "EMFILE"),
    ("bind", "EACCES"),
    ("setsockopt", "ENOMEM"),
    ("bpf", "EPERM"),
];

fn main() -> ExitCode {
    if let Ok(case) = env::var(CASE) {
        start(&case);
    } else if lab::available("failed_start") {
        let lab = Lab::with_queues(2).unwrap();
        for (fault, error) in FAULTS {
            let output = run(&lab, program(), "xdp", fault);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                text.contains("failed: ") && text.contains(error),
                "{fault}: {output:?}"
            );
            println!("failed_start: {fault} ... ok");
        }
        // Most of their time they wait for the kernel to detach programs.
        thread::scope(|scope| {
            for backend in ["xdp", "auto"] {
                for (call, error) in CALLS {
                    scope.spawn(move || fail_each(backend, call, error));
                }
            }
        });
    }
    ExitCode::SUCCESS
}

fn program() -> Command {
    Command::new(env::current_exe().unwrap())
}

/// Starts a server in a process of its own, which fails if anything is left behind.
fn run(lab: &Lab, program: Command, backend: &str, fault: &str) -> Output {
    let mut command = lab.on_server(program.get_program());
    command
        .args(program.get_args())
        .env(CASE, [&lab.server_if, backend, fault].join("/"));
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{backend} {fault} {program:?}: {output:?}"
    );
    assert!(!lab.has_xdp().unwrap(), "{backend} {fault} {program:?}");
    output
}

/// Has each call of a kind fail in turn.
fn fail_each(backend: &str, call: &str, error: &str) {
    let lab = Lab::with_queues(2).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let (mut failed, mut on_sockets) = (0, 0);
    for number in 1.. {
        let mut strace = Command::new("strace");
        strace
            .arg("-o")
            .arg(log.path())
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error={error}:when={number}")])
            .arg("--")
            .arg(env::current_exe().unwrap());
        let output = run(&lab, strace, backend, "system call");
        let text = String::from_utf8_lossy(&output.stdout);
        failed += u32::from(text.contains("failed: "));
        on_sockets += u32::from(text.contains("started: sockets"));
        let trace = fs::read_to_string(log.path()).unwrap();
        if !trace.contains("INJECTED") {
            assert!(text.contains("started: AF_XDP"), "{output:?}");
            break;
        }
    }
    println!(
        "failed_start: {call} with the backend {backend} ... ok ({failed} failed, {on_sockets} on sockets)"
    );
    // Otherwise the fault is not where it should be.
    assert!(failed + on_sockets > 0, "{call}");
    if (backend, call) == ("auto", "clone3") {
        assert!(on_sockets > 0, "workers start when everything is open");
    }
}

/// Starts a server after bringing about a fault. Fails if it leaves anything behind.
fn start(case: &str) {
    let mut case = case.split('/');
    let [interface, backend, fault] = [(); 3].map(|()| case.next().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let Ok(config) = config(directory.path(), interface, backend, fault) else {
        println!("the settings cannot be read");
        return;
    };
    let control = &config.control;
    let _held: Box<dyn std::any::Any> = match fault {
        "control socket" => Box::new(UnixListener::bind(control).unwrap()),
        "metrics address" => Box::new(TcpListener::bind((SERVER_V4, 9453)).unwrap()),
        "listen address" => Box::new(UdpSocket::bind((SERVER_V4, 53)).unwrap()),
        "other program" => Box::new(attach(interface)),
        "queue in use" => Box::new(Xsk::open(interface, 1, 64, 1500, None).unwrap()),
        _ => Box::new(()),
    };
    if fault == "little memory" {
        setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30).unwrap();
    }
    let (requests, inbox) = Requests::channel();
    let before = Footprint::read(directory.path());
    let no_reload = || -> Result<Config, ConfigError> { unreachable!("no reload was requested") };
    let started = Server::start(&config, Arc::new(no_reload), requests);
    match started {
        Err(error) => {
            println!("failed: {error}");
            before.wait_for(directory.path());
        }
        Ok(server) => {
            println!("started: {}", server.summary());
            let mut now = Footprint::read(directory.path());
            // With one it attaches later what was left out.
            let is_supervised = now.threads.iter().any(|name| name == "supervisor");
            if !server.summary().starts_with("AF_XDP") && !is_supervised {
                let of_xdp = |what: &&String| what.contains("worker") || what.contains("bpf");
                // A thread that was joined is listed for a moment more.
                let end = Instant::now() + Duration::from_secs(1);
                while now.threads.iter().any(|name| of_xdp(&name)) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(1));
                    now = Footprint::read(directory.path());
                }
                assert_eq!(now.threads.iter().find(of_xdp), None);
                assert_eq!(now.descriptors.keys().find(of_xdp), None);
            }
            drop(server);
            fs::remove_file(directory.path().join("snapshot")).unwrap();
            before.wait_for(directory.path());
        }
    }
    assert!(inbox.is_unused(), "a thread's end was reported");
}

fn attach(interface: &str) -> Program {
    let interface = Interface::find(interface).unwrap();
    Program::attach(
        &interface,
        AttachPolicy::NativeThenGeneric,
        ProgramOptions::default(),
    )
    .unwrap()
}

fn config(
    directory: &Path,
    interface: &str,
    backend: &str,
    fault: &str,
) -> Result<Config, Box<dyn std::error::Error>> {
    let interface = if fault == "no interface" {
        "none0"
    } else {
        interface
    };
    let memory = if fault == "little memory" { "1G" } else { "1M" };
    let hosts = if fault == "policy" {
        "[local]\nhosts = [\"/none\"]\n"
    } else {
        ""
    };
    let path = directory.join("heimdall.toml");
    let snapshot = directory.join("snapshot");
    let control = directory.join("control.sock");
    let text = format!(
        "interface = [{interface:?}]
listen = [\"{SERVER_V4}:53\"]
upstream = [{UPSTREAM:?}]
backend = {backend:?}
control = {control:?}
[cache]
size = {memory:?}
snapshot = {snapshot:?}
[metrics]
listen = \"{SERVER_V4}:9453\"
[forward]
threads = 2
{hosts}"
    );
    fs::write(&path, text)?;
    let flags = Flags {
        config: Some(path),
        ..Flags::default()
    };
    Ok(Config::load(&flags, &Host::read())?)
}

/// The resources of a process.
#[derive(Debug, PartialEq)]
struct Footprint {
    /// Their names.
    threads: Vec<String>,
    /// The targets of descriptors, and the number of descriptors of each.
    descriptors: BTreeMap<String, usize>,
    /// In the test's directory.
    files: Vec<String>,
}

impl Footprint {
    fn read(directory: &Path) -> Self {
        let names = |directory: &Path| -> Vec<_> {
            let entries = fs::read_dir(directory).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let mut threads: Vec<_> = names(Path::new("/proc/self/task"))
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect();
        threads.sort();
        let mut descriptors = BTreeMap::new();
        for descriptor in names(Path::new("/proc/self/fd")) {
            // Gone: the one that listed them.
            let Ok(target) = fs::read_link(descriptor) else {
                continue;
            };
            *descriptors.entry(target.display().to_string()).or_insert(0) += 1;
        }
        let mut files: Vec<_> = names(directory)
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        files.sort();
        Self {
            threads,
            descriptors,
            files,
        }
    }

    /// Fails if what there is now is not the same. A thread that was joined is listed for a moment
    /// more.
    fn wait_for(&self, directory: &Path) {
        let now = Self::read(directory);
        assert_eq!(
            (&now.descriptors, &now.files),
            (&self.descriptors, &self.files)
        );
        let end = Instant::now() + Duration::from_secs(1);
        while Self::read(directory) != *self {
            assert!(
                Instant::now() < end,
                "{:?}, not {self:?}",
                Self::read(directory)
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}
