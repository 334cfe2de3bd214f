//! Faults of the process and of its host under a steady load, with the lost queries counted (docs/faults.md).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use lab::{Disk, Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, UPSTREAM, run};
use nix::sys::signal::Signal;

use crate::{
    client::{DnsClient, Settings, query},
    errors::error_line,
    heimdall, lab, program,
    recover::{TIMEOUT, kdig, wait_for},
    steady::{popular, under_load},
};

#[test]
fn a_kill_under_load_loses_only_what_arrives_until_the_next_start() {
    let Some(lab) = lab("a_kill_under_load") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let mut first = heimdall(&lab);
    let ((without, _second), counted) = under_load(&lab, "kill -9", popular, || {
        let killed = Instant::now();
        first.process.signal(Signal::SIGKILL).unwrap();
        first.process.wait(TIMEOUT).unwrap();
        let second = heimdall(&lab);
        ((killed, Instant::now()), second)
    });
    assert!(counted.lost() > 0, "nobody answered meanwhile");
    assert_eq!(
        (counted.lost_outside(&[without]), counted.wrong),
        (vec![], 0)
    );
}

#[test]
fn a_link_that_flaps_loses_only_what_is_sent_while_it_is_down() {
    const DOWN: Duration = Duration::from_millis(200);
    let Some(lab) = lab("a_link_that_flaps") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let _heimdall = heimdall(&lab);
    let question = query(1, "n1.example.com");
    let (periods, counted) = under_load(&lab, "link flap", popular, || {
        let flap = |_| {
            let set = |state| {
                let change = format!("link set {} {state}", lab.server_if);
                lab.server_ip(&change).unwrap();
            };
            let down = Instant::now();
            set("down");
            thread::sleep(DOWN);
            set("up");
            // The kernel tells the other end of it once a second at most (linkwatch). Queries that waited for that are answered
            // all at once, so each flap has a socket that gets no replies of the one before.
            let client = DnsClient::v4(&lab);
            let end = Instant::now() + TIMEOUT;
            while client.udp_octets(&question, DOWN / 10).is_none() {
                assert!(Instant::now() < end, "no answer after it was up");
            }
            (down, Instant::now())
        };
        (0..3).map(flap).collect::<Vec<_>>()
    });
    assert!(counted.lost() > 0, "it was down");
    assert_eq!((counted.lost_outside(&periods), counted.wrong), (vec![], 0));
}

#[test]
fn an_upstream_that_is_gone_costs_no_hit() {
    let Some(lab) = lab("an_upstream_that_is_gone_costs") else {
        return;
    };
    let mut knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    for number in 0..100 {
        assert_eq!(kdig(&lab, SERVER_V4, &popular(number)), "NOERROR");
    }
    let (_knot, counted) = under_load(&lab, "upstream gone", popular, || {
        knot.signal(Signal::SIGKILL).unwrap();
        knot.wait(TIMEOUT).unwrap();
        assert_eq!(kdig(&lab, SERVER_V4, "n7777.example.com"), "SERVFAIL");
        thread::sleep(Duration::from_secs(1));
        let knot = Knot::upstream(&lab).unwrap();
        let end = Instant::now() + TIMEOUT;
        while kdig(&lab, SERVER_V4, "n7777.example.com") != "NOERROR" {
            assert!(Instant::now() < end, "{}", heimdall.process.output());
            thread::sleep(Duration::from_millis(100));
        }
        knot
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
}

#[test]
fn a_full_disk_costs_no_query() {
    let Some(lab) = lab("a_full_disk_costs_no_query") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let disk = Disk::new("64k").unwrap();
    let settings = Settings::new(&format!(
        "[cache]\nsnapshot = {:?}\nsnapshot-interval = 1\n[query-log]\nsample = \"1/1\"\nfile = {:?}",
        disk.path("cache.snapshot"),
        disk.path("queries.json")
    ));
    let mut heimdall = settings.on_sockets(&lab);
    let ((), counted) = under_load(&lab, "full disk", popular, || {
        let message = "cannot write the snapshot: ";
        heimdall.process.wait_for(message, TIMEOUT).unwrap();
        wait_for(&heimdall, "full", |stats| {
            stats["query_log"]["state"] == "waiting"
        });
        disk.resize("64m").unwrap();
        wait_for(&heimdall, "written again", |stats| {
            stats["query_log"]["state"] == "open"
        });
        let message = format!("octets to {}", disk.path("cache.snapshot").display());
        heimdall.process.wait_for(&message, TIMEOUT).unwrap();
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
    let log = heimdall.process.output();
    assert!(log.contains("No space left"), "{log}");
}

/// The library that changes what a process takes for the time of day (Debian: `libfaketime`).
fn faketime() -> PathBuf {
    let mut triplets = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = triplets.find_map(|entry| {
        let library = entry.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    });
    library.expect("libfaketime is not installed")
}

/// The time of day as a server sees it, less the true one, in seconds: by the date of an HTTP response.
fn clock_error(lab: &Lab) -> i64 {
    let mut curl = lab.on_server("curl");
    let head = run(curl.args(["-sI", "http://127.0.0.1:9453/healthz"])).unwrap();
    let date = head
        .lines()
        .find_map(|line| line.strip_prefix("date: ").or(line.strip_prefix("Date: ")));
    let date = httpdate::parse_http_date(date.unwrap().trim()).unwrap();
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64
    };
    seconds(date) - seconds(SystemTime::now())
}

#[test]
fn a_jump_of_the_systems_clock_loses_and_ages_no_answer() {
    /// Two days, in seconds.
    const JUMP: i64 = 2 * 86_400;
    if !lab::available("a_jump_of_the_systems_clock") {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| jump("+2d", JUMP));
        scope.spawn(|| jump("-2d", -JUMP));
    });
}

/// Has a server's clock jump while it is under load, and jump back.
fn jump(by: &str, seconds: i64) {
    let lab = Lab::new().unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let mut command = lab.on_server(program());
    command
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", by)
        .env("FAKETIME_START_AFTER_SECONDS", "4")
        .env("FAKETIME_STOP_AFTER_SECONDS", "12")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let arguments = ["--upstream", UPSTREAM, "--metrics-listen", "9453"];
    let start = Instant::now();
    let heimdall = Heimdall::on_xdp_by(&lab, command, program(), &arguments).unwrap();
    // Clients with cookies, which carry the time of day, are answered, too.
    let with_cookie = || {
        let server = format!("@{SERVER_V4}");
        Kdig::ask(&lab, &[&server, "www.example.com", "+cookie"]).unwrap()
    };
    let what = format!("clock {by}");
    let (answers, counted) = under_load(&lab, &what, popular, || {
        let mut answers = vec![with_cookie()];
        for error in [seconds, 0] {
            let end = Instant::now() + TIMEOUT;
            while (clock_error(&lab) - error).abs() > 60 {
                assert!(Instant::now() < end, "{by}: the clock did not jump");
                thread::sleep(Duration::from_millis(50));
            }
            thread::sleep(Duration::from_millis(500));
            answers.push(with_cookie());
        }
        answers
    });
    let passed = start.elapsed().as_secs();
    assert_eq!((counted.lost(), counted.wrong), (0, 0), "{by}");
    for answer in answers {
        assert_eq!(answer.status, "NOERROR", "{by}");
        let ttl = answer.answer[0].split(' ').nth(1).unwrap();
        let age = 3600 - ttl.parse::<u64>().unwrap();
        assert!(age <= passed, "{by}: {age} s old after {passed} s");
    }
    let log = heimdall.process.output();
    assert!(!log.contains("panicked"), "{log}");
}

/// A control group with a limit on memory, of either version. It is removed when this is dropped.
struct MemoryGroup {
    directory: PathBuf,
}

impl MemoryGroup {
    /// One with a limit of so many octets; none if this host has no such groups.
    fn new(limit: u64) -> io::Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let (parent, file) = match v1.join("memory.limit_in_bytes").exists() {
            true => (v1, "memory.limit_in_bytes"),
            false => {
                // Groups below the root have a limit only then.
                fs::write(v2.join("cgroup.subtree_control"), "+memory")?;
                (v2, "memory.max")
            }
        };
        // Tests of this process run at the same time.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("heimdall-test-{}-{number}", std::process::id());
        let directory = parent.join(name);
        fs::create_dir(&directory)?;
        let group = Self { directory };
        fs::write(group.directory.join(file), limit.to_string())?;
        Ok(group)
    }

    /// A shell that runs a command in it.
    fn shell(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
            .arg(self.directory.join("cgroup.procs"));
        command
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes have just ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_end_for_want_of_memory_is_that_of_a_kill() {
    let Some(lab) = lab("an_end_for_want_of_memory") else {
        return;
    };
    let group = match MemoryGroup::new(512 << 20) {
        Ok(group) => group,
        Err(error) => {
            let why = format!("no control groups with limits on memory: {error}");
            assert!(env::var_os("CI").is_none(), "CI needs them: {why}");
            eprintln!("SKIPPED an_end_for_want_of_memory: {why}");
            return;
        }
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let start = || {
        let mut command = group.shell();
        command
            .args(["ip", "netns", "exec", &lab.server])
            .arg(program());
        let arguments = ["--upstream", UPSTREAM, "--cache-size", "8M"];
        Heimdall::on_xdp_by(&lab, command, program(), &arguments).unwrap()
    };
    let mut first = start();
    // The kernel is to choose it.
    let score = format!("/proc/{}/oom_score_adj", first.process.pid());
    fs::write(score, "1000").unwrap();
    let ((without, _second), counted) = under_load(&lab, "out of memory", popular, || {
        let begin = Instant::now();
        // One line without an end.
        let mut hog = Process::start(group.shell().args(["tail", "/dev/zero"])).unwrap();
        let status = first.process.wait(TIMEOUT).unwrap();
        let log = first.process.output();
        assert!(status.to_string().contains("signal: 9"), "{status}: {log}");
        hog.wait(TIMEOUT).unwrap();
        let second = start();
        ((begin, Instant::now()), second)
    });
    assert!(counted.lost() > 0, "nobody answered meanwhile");
    assert_eq!(
        (counted.lost_outside(&[without]), counted.wrong),
        (vec![], 0)
    );
}

#[test]
fn a_start_that_needs_more_than_its_control_group_has_is_refused() {
    let Some(lab) = lab("a_start_that_needs_more_than_its_control_group") else {
        return;
    };
    let Ok(group) = MemoryGroup::new(100 << 20) else {
        assert!(
            env::var_os("CI").is_none(),
            "CI needs control groups with limits on memory"
        );
        eprintln!("SKIPPED a_start_that_needs_more: no control groups with limits on memory");
        return;
    };
    let mut command = group.shell();
    let listen = format!("{SERVER_V4}:53");
    command
        // `ip netns exec` would hide /sys/fs/cgroup.
        .args(["nsenter", &format!("--net=/run/netns/{}", lab.server)])
        .arg(program())
        .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
        .args(["--tier", "off", "--upstream", UPSTREAM, "--listen", &listen])
        .args([
            "--control",
            "/tmp/heimdall-too-large.sock",
            "--cache-size",
            "64M",
        ]);
    let line = error_line(command);
    let sum = "memory: caches of 1 worker, 1 socket thread and 1 forwarder thread (192 MiB), frames of 1 queue \
               (16 MiB) take 208 MiB, and ";
    assert!(line.contains(sum), "{line}");
    assert!(
        line.contains("lower cache.size or xdp.frames, serve fewer queues"),
        "{line}"
    );
    assert!(!lab.has_xdp().unwrap());
}

#[test]
fn a_namespace_that_is_deleted_lives_as_long_as_its_server() {
    let Some(lab) = lab("a_namespace_that_is_deleted") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let mut heimdall = heimdall(&lab);
    let ((), counted) = under_load(&lab, "netns deleted", popular, || {
        run(Command::new("ip").args(["netns", "del", &lab.server])).unwrap();
        thread::sleep(Duration::from_secs(1));
        assert_eq!(heimdall.stats().unwrap()["backend"], "xdp");
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    assert!(heimdall.process.wait(TIMEOUT).unwrap().success());
}

#[test]
fn without_its_control_socket_it_answers_reloads_and_stops() {
    let Some(lab) = lab("without_its_control_socket") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let mut heimdall = heimdall(&lab);
    let ((), counted) = under_load(&lab, "control socket gone", popular, || {
        fs::remove_file(heimdall.control()).unwrap();
        let output = heimdall.command(&["stats"]).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("no server listens on the control socket"),
            "{text}"
        );
        heimdall.process.signal(Signal::SIGHUP).unwrap();
        heimdall.process.wait_for("reloaded", TIMEOUT).unwrap();
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    assert!(heimdall.process.wait(TIMEOUT).unwrap().success());
}

#[test]
fn reloads_in_a_loop_lose_nothing_and_leave_nothing_open() {
    const RELOADS: usize = 100;
    let Some(lab) = lab("reloads_in_a_loop") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new("[access]\nallow = [\"10.0.0.0/8\"]");
    let heimdall = settings.on_xdp(&lab);
    let descriptors = || {
        let directory = format!("/proc/{}/fd", heimdall.process.pid());
        fs::read_dir(directory).unwrap().count()
    };
    let reload = |number: usize| {
        // Each changes the policy and the routes.
        let routes = format!("[[route]]\nzone = \"r{number}.example\"\nanswer = \"nxdomain\"\n");
        settings.write(&format!(
            "{routes}[access]\nallow = [\"10.{number}.0.0/16\", \"10.0.0.0/8\"]"
        ));
        let output = heimdall.reload().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let ((), counted) = under_load(&lab, "reload in a loop", popular, || {
        reload(0);
        let before = descriptors();
        (1..RELOADS).for_each(reload);
        // Sockets to the upstream come and go.
        let after = descriptors();
        assert!(
            after <= before + 32,
            "{before} descriptors, {after} afterwards"
        );
    });
    assert_eq!((counted.lost(), counted.wrong), (0, 0));
}
