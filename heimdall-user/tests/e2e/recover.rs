//! Interfaces that disappear and return, threads that end, and immediate restarts.

use std::{
    io,
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Frames, Heimdall, Kdig, Knot, Lab, Process, QueryFrame, SERVER_V4, SERVER_V6, ScriptedUpstream,
    UPSTREAM,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{asking::query, heimdall, lab, program};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until the statistics fulfil a condition.
fn wait_for(heimdall: &Heimdall, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + TIMEOUT;
    loop {
        let stats = heimdall.stats().unwrap();
        if is_so(&stats) {
            return stats;
        }
        assert!(
            Instant::now() < end,
            "not {what}: {stats:#}\n{}",
            heimdall.process.output()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_running(stats: &Value, restarts: u64) -> bool {
    stats["workers"]
        .as_array()
        .unwrap()
        .iter()
        .all(|worker| worker["state"] == "running" && worker["restarts"].as_u64() >= Some(restarts))
}

fn kdig(lab: &Lab, server: &str, name: &str) -> String {
    let server = format!("@{server}");
    Kdig::ask(lab, &[&server, name, "+retry=3"]).unwrap().status
}

/// Sends queries as long as `on` is set, and ignores the replies.
fn load(lab: &Lab, on: &AtomicBool) {
    lab.in_client(|| {
        let mut id = 0;
        while on.load(Ordering::Relaxed) {
            // The client's address goes with the interface.
            if let Ok(socket) = UdpSocket::bind("0.0.0.0:0") {
                for _ in 0..20 {
                    id += 1;
                    let name = format!("n{}.example.com", id % 100);
                    let _ = socket.send_to(&query(id, &name), (SERVER_V4, 53));
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    })
    .unwrap();
}

#[test]
fn an_interface_that_is_deleted_and_created_again_is_served() {
    let Some(lab) = lab("an_interface_that_is_deleted") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    // Another link between the two, which AF_XDP does not serve.
    lab.server_ip(&format!(
        "link add other type veth peer name other netns {}",
        lab.client
    ))
    .unwrap();
    lab.server_ip("addr add 10.54.0.1/24 dev other").unwrap();
    lab.client_ip("addr add 10.54.0.2/24 dev other").unwrap();
    lab.server_ip("link set other up").unwrap();
    lab.client_ip("link set other up").unwrap();
    let arguments = ["--listen", "10.54.0.1:53", "--upstream", UPSTREAM];
    let mut heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| load(&lab, &on));
        // The load ends in any case.
        let _off = Off(&on);
        let mut received = 0;
        let received_by = |stats: &Value| stats["workers"][0]["received"].as_u64().unwrap();
        for round in 1..=3 {
            wait_for(&heimdall, "serving", |stats| {
                is_running(stats, round - 1) && received_by(stats) > received
            });
            lab.server_ip(&format!("link del {}", lab.server_if))
                .unwrap();
            let gone = wait_for(&heimdall, "gone", |stats| stats["backend"] == "socket");
            let (interface, worker) = (&gone["interfaces"][0], &gone["workers"][0]);
            assert_eq!(
                (&interface["state"], &worker["state"]),
                (&"gone".into(), &"gone".into())
            );
            assert_eq!(worker["reason"], "there is no such interface");
            assert_eq!(worker["frames"]["total"], 0);
            received = received_by(&gone);
            assert!(interface["verdicts"]["steered"].as_u64() >= Some(received));
            assert_eq!(kdig(&lab, "10.54.0.1", "n1.example.com"), "NOERROR");
            let name = format!("{round}.n2.example.com");
            assert_eq!(kdig(&lab, "10.54.0.1", &name), "NXDOMAIN", "a miss");

            lab.connect(1).unwrap();
            let back = wait_for(&heimdall, "back", |stats| {
                is_running(stats, round) && received_by(stats) > received
            });
            assert_eq!(back["backend"], "xdp");
            assert_eq!(back["interfaces"][0]["state"], "up");
            assert_eq!(back["workers"][0]["frames"]["missing"], 0);
            received = received_by(&back);
        }
    });
    assert!(lab.has_xdp().unwrap());
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    assert_eq!(kdig(&lab, SERVER_V6, "n1.example.com"), "NOERROR");
    // Flushing reaches the new worker's cache.
    let flushed = heimdall.command(&["flush", "--all"]).unwrap();
    assert!(flushed.status.success(), "{flushed:?}");
    let log = heimdall.process.output();
    for line in [
        "is gone, and its queues with it",
        "is back: XDP program attached",
    ] {
        assert_eq!(log.matches(line).count(), 3, "{line}: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    assert!(heimdall.process.wait(TIMEOUT).unwrap().success());
    assert!(!lab.has_xdp().unwrap());
}

/// Clears a flag when it is dropped.
struct Off<'a>(&'a AtomicBool);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn an_interface_that_returns_unfit_is_attempted_again() {
    let Some(lab) = lab("an_interface_that_returns_unfit") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let interface = &lab.server_if;
    let state = |state: &'static str| move |stats: &Value| stats["interfaces"][0]["state"] == state;
    // Another name is another interface.
    lab.server_ip(&format!("link set {interface} down"))
        .unwrap();
    lab.server_ip(&format!("link set {interface} name other"))
        .unwrap();
    wait_for(&heimdall, "gone", state("gone"));
    let other = lab.server_ip("-details link show dev other").unwrap();
    assert!(!other.contains("xdp"), "{other}");
    // AF_XDP cannot serve packets of this size.
    lab.server_ip("link set other mtu 9000").unwrap();
    lab.server_ip(&format!("link set other name {interface}"))
        .unwrap();
    let failed = wait_for(&heimdall, "failed", |stats| {
        let reason = stats["interfaces"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("MTU"))
    });
    assert_eq!(failed["interfaces"][0]["state"], "failed");
    assert_eq!(failed["backend"], "socket");
    lab.server_ip(&format!("link set {interface} mtu 1500 up"))
        .unwrap();
    wait_for(&heimdall, "up", state("up"));
    let stats = wait_for(&heimdall, "running", |stats| is_running(stats, 1));
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let log = heimdall.process.output();
    assert_eq!(log.matches("failed: the MTU of").count(), 1, "{log}");
}

#[test]
fn an_interface_whose_name_another_kind_takes_is_released() {
    let Some(lab) = lab("an_interface_whose_name_another") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let interface = &lab.server_if;
    // Both changes are seen at once: an interface of that name always exists.
    heimdall.process.signal(Signal::SIGSTOP).unwrap();
    lab.server_ip(&format!("link del {interface}")).unwrap();
    lab.server_ip(&format!("link add {interface} type bridge"))
        .unwrap();
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    let failed = wait_for(&heimdall, "failed", |stats| {
        let reason = stats["interfaces"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("AF_XDP cannot serve"))
    });
    assert_eq!(failed["interfaces"][0]["state"], "failed");
    assert_eq!(failed["workers"][0]["state"], "gone");
    assert_eq!(failed["backend"], "socket");
    lab.server_ip(&format!("link del {interface}")).unwrap();
    wait_for(&heimdall, "gone", |stats| {
        stats["interfaces"][0]["state"] == "gone"
    });
    lab.connect(1).unwrap();
    let stats = wait_for(&heimdall, "running", |stats| is_running(stats, 1));
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}

#[test]
fn an_interface_that_goes_down_and_up_is_reported_and_served() {
    let Some(lab) = lab("an_interface_that_goes_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    lab.server_ip(&format!("link set {} down", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "down", |stats| {
        stats["interfaces"][0]["state"] == "down"
    });
    lab.server_ip(&format!("link set {} up", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "up", |stats| {
        stats["interfaces"][0]["state"] == "up"
    });
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let stats = heimdall.stats().unwrap();
    assert!(
        stats["workers"][0]["received"].as_u64() >= Some(1),
        "{stats:#}"
    );
    let log = heimdall.process.output();
    assert_eq!(
        log.matches("is down: no queries come by it").count(),
        1,
        "{log}"
    );
}

#[test]
fn replies_that_an_interface_that_is_down_does_not_take_cost_no_processor() {
    let Some(lab) = lab("replies_that_an_interface_that_is_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let interface = &lab.server_if;
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    // The queries arrive while it is up, the replies come when it is down.
    heimdall.process.signal(Signal::SIGSTOP).unwrap();
    lab.in_client(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for id in 0..20 {
            let query = query(id, "n1.example.com");
            socket.send_to(&query, (SERVER_V4, 53)).unwrap();
        }
    })
    .unwrap();
    lab.server_ip(&format!("link set {interface} down"))
        .unwrap();
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    let worker = |stats: &Value, of: &str| stats["workers"][0][of].as_u64().unwrap();
    let waiting = |stats: &Value| stats["workers"][0]["frames"]["tx"].as_u64().unwrap();
    let stuck = wait_for(&heimdall, "stuck", |stats| waiting(stats) == 20);
    let sleeps = worker(&stuck, "sleeps");
    let stuck = wait_for(&heimdall, "asleep", |stats| {
        worker(stats, "sleeps") > sleeps + 20
    });
    assert_eq!(waiting(&stuck), 20);
    lab.server_ip(&format!("link set {interface} up")).unwrap();
    wait_for(&heimdall, "sent", |stats| waiting(stats) == 0);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}

/// The thread of a process with this name.
fn thread_named(pid: u32, name: &str) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let found = tasks.flatten().find(|task| {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        comm.trim_end() == name
    });
    let found = found.unwrap_or_else(|| panic!("no thread {name}"));
    found.file_name().to_string_lossy().parse().unwrap()
}

/// Makes the system call in which a thread waits for events fail with EBADF.
#[cfg(target_arch = "x86_64")]
fn fail_wait(thread: i32) {
    use nix::{
        sys::wait::{WaitPidFlag, waitpid},
        unistd::Pid,
    };
    let none = std::ptr::null_mut::<libc::c_void>();
    let end = Instant::now() + TIMEOUT;
    loop {
        // SAFETY: none of these requests takes a pointer.
        let attached = unsafe { libc::ptrace(libc::PTRACE_ATTACH, thread, none, none) };
        assert_eq!(attached, 0, "{}", io::Error::last_os_error());
        waitpid(Pid::from_raw(thread), Some(WaitPidFlag::__WALL)).unwrap();
        // SAFETY: plain integers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let to = (&raw mut registers).cast::<libc::c_void>();
        // SAFETY: the kernel writes a user_regs_struct to `registers`.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, none, to) };
        assert_eq!(got, 0, "{}", io::Error::last_os_error());
        let waits = [libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
        let caught = waits.contains(&registers.orig_rax.cast_signed());
        if caught {
            registers.rax = (-i64::from(libc::EBADF)).cast_unsigned();
            // No system call: it is not to be started again.
            registers.orig_rax = u64::MAX;
            // SAFETY: the kernel reads a user_regs_struct from `registers`.
            let set = unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, none, to) };
            assert_eq!(set, 0, "{}", io::Error::last_os_error());
        }
        // SAFETY: none of these requests takes a pointer.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, none, none) };
        if caught {
            return;
        }
        assert!(Instant::now() < end, "the thread does not wait");
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_worker_that_fails_is_started_again_and_the_others_go_on() {
    if !lab::available("a_worker_that_fails") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| load(&lab, &on));
        let _off = Off(&on);
        for restarts in 1..=2 {
            let worker = format!("{}:1", lab.server_if);
            fail_wait(thread_named(heimdall.process.pid(), &worker));
            let failed = wait_for(&heimdall, "failed", |stats| {
                stats["workers"][1]["state"] == "restarting"
            });
            let reason = failed["workers"][1]["reason"].as_str().unwrap();
            assert!(reason.contains("Bad file descriptor"), "{reason}");
            assert_eq!(failed["workers"][0]["state"], "running");
            assert_eq!(failed["backend"], "xdp");
            // The failed one's packets go to the sockets.
            assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
            let again = wait_for(&heimdall, "running again", |stats| {
                stats["workers"][1]["restarts"] == restarts
            });
            assert_eq!(again["workers"][1]["state"], "running");
            assert_eq!(again["workers"][0]["restarts"], 0);
        }
    });
    // Flows to every queue are answered.
    for _ in 0..20 {
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    }
    let log = heimdall.process.output();
    assert_eq!(
        log.matches(":1 failed: Bad file descriptor").count(),
        2,
        "{log}"
    );
    assert_eq!(log.matches(":1 runs again").count(), 2, "{log}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn outcomes_for_a_worker_that_failed_reach_no_other() {
    const FIRST: &str = "127.0.0.1:5301";
    const QUERIES: u16 = 100;
    let Some(lab) = lab("outcomes_for_a_worker") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let ask = |name: &str| {
        for id in 0..QUERIES {
            let query = QueryFrame {
                id,
                port: 41_000 + id,
                ..QueryFrame::new(frames.macs, &format!("{name}.n{id}.example"), 1)
            };
            frames.send(&query.bytes()).unwrap();
        }
    };
    let in_flight = |stats: &Value| stats["forwarder"]["in_flight"].as_u64().unwrap();
    ask("drop");
    wait_for(&heimdall, "asking", |stats| {
        in_flight(stats) == u64::from(QUERIES)
    });
    // The forwarder gives up after 3 s: were the worker started again at once, that would be
    // while the next queries wait.
    thread::sleep(Duration::from_millis(1500));
    fail_wait(thread_named(
        heimdall.process.pid(),
        &format!("{}:0", lab.server_if),
    ));
    wait_for(&heimdall, "running again", |stats| is_running(stats, 1));
    // Their tokens are those of the queries that got no answer.
    ask("slow-900");
    let stats = wait_for(&heimdall, "answered", |stats| {
        stats["workers"][0]["answered"] == QUERIES && in_flight(stats) == 0
    });
    let rcodes = &stats["workers"][0]["rcodes"];
    assert_eq!(
        (&rcodes["noerror"], &rcodes["servfail"]),
        (&QUERIES.into(), &0.into())
    );
    wait_for(&heimdall, "rid of them", |stats| {
        let frames = &stats["workers"][0]["frames"];
        frames["pending"] == 0 && frames["missing"] == 0
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_end_of_a_thread_that_is_needed_ends_the_process() {
    let Some(lab) = lab("the_end_of_a_thread") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    for (thread, said) in [
        (
            "sockets",
            "the socket front thread ended unexpectedly; stopping the server",
        ),
        (
            "forward-0",
            "the forwarder thread ended unexpectedly; stopping the server",
        ),
    ] {
        let mut heimdall = heimdall(&lab);
        fail_wait(thread_named(heimdall.process.pid(), thread));
        let status = heimdall.process.wait(TIMEOUT).unwrap();
        let log = heimdall.process.output();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(said), "{log}");
        assert!(!lab.has_xdp().unwrap());
    }
    // Without this one, queries are still answered.
    let mut heimdall = heimdall(&lab);
    fail_wait(thread_named(heimdall.process.pid(), "control"));
    heimdall
        .process
        .wait_for(
            "the control thread ended unexpectedly; until a restart",
            TIMEOUT,
        )
        .unwrap();
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}

#[test]
fn a_successor_waits_for_the_end_of_a_killed_predecessor() {
    let Some(lab) = lab("a_successor_waits") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let listen = format!("{SERVER_V4}:53");
    let start = || -> Process {
        let mut command: Command = lab.on_server(program());
        command
            .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
            .args(["--listen", &listen, "--upstream", UPSTREAM])
            .args(["--cache-size", "1M", "--control"])
            .arg(&control);
        Process::start(&mut command).unwrap()
    };
    let mut running = start();
    running.wait_for("ready", TIMEOUT).unwrap();
    for round in 0..20 {
        // Its successor starts before it is dead.
        running.signal(Signal::SIGKILL).unwrap();
        let mut next = start();
        if let Err(error) = next.wait_for("ready", TIMEOUT) {
            panic!("round {round}: {error:#}");
        }
        running.wait(TIMEOUT).unwrap();
        running = next;
    }
    assert!(lab.has_xdp().unwrap());
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
}
