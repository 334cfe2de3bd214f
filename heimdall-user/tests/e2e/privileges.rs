//! What the server gives up at its start, and that an open resolver is not run by accident.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use lab::{Heimdall, Knot, Lab, Process, SERVER_V4, UPSTREAM};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    client::Settings,
    errors::PublicCopy,
    lab, program,
    recover::{TIMEOUT, kdig, wait_for},
};

/// Capabilities, by their numbers (linux/capability.h).
const CHOWN: u64 = 1 << 0;
const DAC_OVERRIDE: u64 = 1 << 1;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const XDP: u64 = 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// The fields of each thread's status (proc(5)).
fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let fields = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    status.map(fields).collect()
}

/// Checks that each thread has exactly these capabilities, in the sets that can hold any, and is restricted.
fn check(pid: u32, capabilities: u64, least: usize) {
    let threads = threads(pid);
    assert!(threads.len() >= least, "{}", threads.len());
    for thread in threads {
        let expected = format!("{capabilities:016x}");
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(thread[set], expected, "{set} of {}", thread["Name"]);
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(
                thread[set],
                format!("{:016x}", 0),
                "{set} of {}",
                thread["Name"]
            );
        }
        assert_eq!((&*thread["NoNewPrivs"], &*thread["Seccomp"]), ("1", "2"));
    }
}

#[test]
fn every_thread_gives_up_what_the_settings_do_not_need() {
    let Some(lab) = lab("every_thread_gives_up") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let root = NET_BIND_SERVICE | NET_ADMIN | DAC_OVERRIDE | CHOWN;
    let arguments = [
        "--upstream",
        UPSTREAM,
        "--metrics-listen",
        "9453",
        "--sandbox",
        "require",
    ];
    {
        let heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
        check(heimdall.process.pid(), root, 6);
        let sandbox = &heimdall.stats().unwrap()["sandbox"];
        let kept = json!(["CHOWN", "DAC_OVERRIDE", "NET_ADMIN", "NET_BIND_SERVICE"]);
        assert_eq!(sandbox["capabilities"], kept);
        assert_eq!(
            (&sandbox["mode"], &sandbox["user"]),
            (&json!("require"), &json!(null))
        );
        assert_ne!(sandbox["files"], "all");
        assert!(sandbox["system_calls"].as_u64() > Some(50), "{sandbox}");
        // The kernel doubles what it is asked for (socket(7)); without CAP_NET_ADMIN it would be net.core.rmem_max.
        let mut sockets = lab.on_server("ss");
        let sockets = lab::run(sockets.args(["-Huamn", "sport = :53"])).unwrap();
        assert!(sockets.contains(",rb25165824,"), "{sockets}");
    }
    let heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    check(heimdall.process.pid(), root | XDP, 8);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let log = heimdall.process.output();
    assert!(
        log.contains("sandbox: capabilities left: BPF CHOWN"),
        "{log}"
    );
    drop(heimdall);

    // All of it can be left out.
    let off = ["--upstream", UPSTREAM, "--sandbox", "off"];
    let heimdall = Heimdall::on_sockets(&lab, program(), &off).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for thread in threads(heimdall.process.pid()) {
        assert!(own.contains(&format!("CapEff:\t{}\n", thread["CapEff"])));
        assert_eq!(thread["Seccomp"], "0");
    }
    assert_eq!(heimdall.stats().unwrap()["sandbox"]["files"], "all");
}

#[test]
fn a_server_that_root_starts_can_run_as_another_user() {
    let Some(lab) = lab("a_server_that_root_starts") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let copy = PublicCopy::new();
    let path = copy.directory.path();
    // It makes the directory of the control socket, and gives it to the user.
    let control = path.join("run/control.sock");
    let state = path.join("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let settings = path.join("heimdall.toml");
    fs::write(&settings, "[log]\nlevel = \"info\"\n").unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let run = |user: Option<&str>| {
        let mut command = lab.on_server(path.join("heimdall"));
        command
            .args([
                "run",
                "--backend",
                "xdp",
                "--tier",
                "off",
                "--interface",
                &lab.server_if,
            ])
            .args([
                "--listen",
                &format!("{SERVER_V4}:53"),
                "--upstream",
                UPSTREAM,
            ])
            .args(["--snapshot", &state.join("snapshot").display().to_string()])
            .arg("--config")
            .arg(&settings)
            .arg("--control")
            .arg(&control);
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        command
    };
    let mut process = Process::start(&mut run(Some("nobody"))).unwrap();
    process.wait_for("ready", TIMEOUT).unwrap();
    check(process.pid(), NET_BIND_SERVICE | NET_ADMIN | XDP, 6);
    for thread in threads(process.pid()) {
        let ids = [NOBODY; 4].map(|id| id.to_string()).join("\t");
        assert_eq!((&thread["Uid"], &thread["Gid"]), (&ids, &ids));
    }
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let mut stats = Command::new(program());
    stats.args(["stats", "--json", "--control"]).arg(&control);
    let stats: serde_json::Value = serde_json::from_str(&lab::run(&mut stats).unwrap()).unwrap();
    assert_eq!(stats["sandbox"]["user"], "nobody");
    assert!(
        stats["process"]["open_files"].as_u64() > Some(0),
        "{}",
        stats["process"]
    );
    assert_eq!(stats["workers"][0]["state"], "running");

    // Root can take over from it, and it not from root.
    let mut roots = Process::start(run(None).arg("--take-over")).unwrap();
    roots.wait_for("ready", TIMEOUT).unwrap();
    assert!(
        process.wait(TIMEOUT).unwrap().success(),
        "{}",
        process.output()
    );
    // Its socket is still nobody's, that of the next one is not.
    for why in [
        "only root and the server's user (number 0) may take over from it; for another `user`",
        "this process may not use it: run as root or as the server's user; for another `user`",
    ] {
        let refused = run(Some("nobody")).arg("--take-over").output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(text.contains(why), "{text}");
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
        roots.signal(Signal::SIGTERM).unwrap();
        assert!(roots.wait(TIMEOUT).unwrap().success(), "{}", roots.output());
        assert!(!control.exists());
        roots = Process::start(&mut run(None)).unwrap();
        roots.wait_for("ready", TIMEOUT).unwrap();
    }
    roots.signal(Signal::SIGTERM).unwrap();
    assert!(roots.wait(TIMEOUT).unwrap().success());
    let written = fs::metadata(state.join("snapshot")).unwrap();
    assert!(written.len() > 0);
    assert!(!control.exists());

    // Root reads the settings at the start, and the user cannot.
    let said = format!("the server's user cannot read {}", settings.display());
    let log = process.output();
    assert!(log.contains(&said), "{log}");

    // As after a run as root.
    chown(control.parent().unwrap(), Some(0), Some(0)).unwrap();
    let output = run(Some("nobody")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("give the directory to the server's user (chown)"),
        "{text}"
    );

    let output = run(Some("nonesuch")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("--user: there is no user \"nonesuch\"; make it"),
        "{text}"
    );
}

/// A server with these settings whose temporary files are in the directory of the settings: else all of /tmp is open to it.
fn on_sockets_without_tmp(lab: &Lab, settings: &Settings) -> Heimdall {
    let mut command = lab.on_server(program());
    command.env("TMPDIR", Path::new(settings.path()).parent().unwrap());
    let listen = format!("{SERVER_V4}:53");
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--upstream",
        UPSTREAM,
        "--config",
        settings.path(),
    ];
    Heimdall::start(command, program(), &arguments).unwrap()
}

#[test]
fn the_group_of_the_control_socket_may_not_end_the_server() {
    let Some(lab) = lab("the_group_of_the_control_socket") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let copy = PublicCopy::new();
    let control = copy.directory.path().join("control.sock");
    let settings = Settings::new(&format!("control-group = \"{NOBODY}\""));
    let mut command = lab.on_server(program());
    command
        .args(["run", "--backend", "socket", "--upstream", UPSTREAM])
        .args(["--config", settings.path(), "--control"])
        .arg(&control);
    let mut process = Process::start(&mut command).unwrap();
    process.wait_for("ready", TIMEOUT).unwrap();
    let of_group = |arguments: &[&str]| {
        let mut command = copy.unprivileged(&lab);
        let command = command.args(arguments).arg("--control").arg(&control);
        command.output().unwrap()
    };
    let stats = of_group(&["stats"]);
    assert!(stats.status.success(), "{stats:?}");
    let drain = of_group(&["drain"]);
    assert_eq!(drain.status.code(), Some(1), "{drain:?}");
    let text = String::from_utf8_lossy(&drain.stderr);
    assert!(
        text.contains(
            "not drained: only root and the server's user (number 0) may, and user 65534 asks"
        ),
        "{text}"
    );
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let mut drain = Command::new(program());
    drain.args(["drain", "--control"]).arg(&control);
    assert_eq!(lab::run(&mut drain).unwrap(), "drained\n");
    assert!(process.wait(TIMEOUT).unwrap().success());
}

#[test]
fn a_reload_that_the_sandbox_forbids_says_so_and_changes_nothing() {
    let Some(lab) = lab("a_reload_that_the_sandbox_forbids") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new("");
    let directory = Path::new(settings.path()).parent().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let blocked = |directory: &Path| {
        let list = directory.join("blocked.txt");
        fs::write(&list, "n1.example.com\n").unwrap();
        settings.write(&format!("[[blocklist]]\nfile = {list:?}\n"));
    };
    let config = settings.path().to_owned();
    let heimdall = on_sockets_without_tmp(&lab, &settings);
    if heimdall.stats().unwrap()["sandbox"]["files"] == "all" {
        eprintln!("a_reload_that_the_sandbox_forbids: skipped, as this kernel has no Landlock");
        return;
    }
    blocked(elsewhere.path());
    let output = heimdall.reload().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    let named = text
        .contains("heimdall.toml:2: key `blocklist.file`: the sandbox cannot let the server use");
    assert!(named && text.contains("a restart can"), "{text}");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    // A new file in a directory that it has is no matter.
    blocked(&directory);
    let output = heimdall.reload().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NXDOMAIN");
    // The settings file is a link that leads elsewhere now.
    let target = elsewhere.path().join("heimdall.toml");
    fs::copy(&config, &target).unwrap();
    fs::remove_file(&config).unwrap();
    symlink(&target, &config).unwrap();
    let output = heimdall.reload().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    let said = format!("the sandbox cannot let the server read {config}, in a directory");
    assert!(
        text.contains(&said) && text.contains("a restart can"),
        "{text}"
    );
}

#[test]
fn an_open_resolver_is_not_run_by_accident() {
    let Some(lab) = lab("an_open_resolver") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    lab.server_ip("addr add 203.0.113.7/32 dev lo").unwrap();
    let check = |arguments: &[&str]| {
        let mut command = lab.on_server(program());
        command
            .args(["check", "--upstream", UPSTREAM])
            .args(arguments);
        command.output().unwrap()
    };
    let everybody = ["--allow", "10.0.0.0/8", "--allow", "0.0.0.0/0"];
    for (listen, opens) in [
        ("203.0.113.7:53", true),
        ("0.0.0.0:53", true),
        ("10.53.0.1:53", false),
    ] {
        let arguments = [&everybody[..], &["--listen", listen]].concat();
        let output = check(&arguments);
        assert_eq!(output.status.code(), Some(i32::from(opens)), "{listen}");
        let text = String::from_utf8_lossy(&output.stderr);
        let said =
            "--allow: 0.0.0.0/0 is much of the Internet, from where 203.0.113.7:53 can be reached";
        assert_eq!(text.contains(said), opens, "{text}");
        let allowed = check(&[&arguments[..], &["--allow-public"]].concat());
        assert!(allowed.status.success(), "{allowed:?}");
        let clients = ["--allow", "203.0.113.0/24", "--listen", listen];
        assert!(check(&clients).status.success(), "{listen}");
    }
    // A start says the same.
    let mut command = lab.on_server(program());
    let arguments = [&everybody[..], &["--listen", "203.0.113.7:53"]].concat();
    command
        .args(["run", "--backend", "socket", "--upstream", UPSTREAM])
        .args(&arguments);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("--allow-public"), "{text}");
    let permitted = [
        &arguments[..],
        &[
            "--backend",
            "socket",
            "--upstream",
            UPSTREAM,
            "--allow-public",
        ],
    ];
    let heimdall =
        Heimdall::start(lab.on_server(program()), program(), &permitted.concat()).unwrap();
    wait_for(&heimdall, "started", |stats| stats["backend"] == "socket");
}

#[test]
fn what_the_sandbox_forbids_and_no_reload_has_changed_keeps_none_from_being_applied() {
    let Some(lab) = lab("what_the_sandbox_forbids_and_no_reload_has_changed") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let current = elsewhere.path().join("current");
    for directory in ["first", "second"] {
        fs::create_dir(elsewhere.path().join(directory)).unwrap();
    }
    symlink("first", &current).unwrap();
    let text = |snapshot: &Path, allow: &str| {
        format!("[cache]\nsnapshot = {snapshot:?}\n[access]\nallow = [{allow:?}]\n")
    };
    let settings = Settings::new(&text(&current.join("snapshot"), "10.0.0.0/8"));
    let heimdall = on_sockets_without_tmp(&lab, &settings);
    if heimdall.stats().unwrap()["sandbox"]["files"] == "all" {
        eprintln!("what_the_sandbox_forbids: skipped, as this kernel has no Landlock");
        return;
    }
    // The link leads elsewhere now.
    fs::remove_file(&current).unwrap();
    symlink("second", &current).unwrap();
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    settings.write(&text(&current.join("snapshot"), "192.0.2.0/24"));
    let output = heimdall.reload().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "REFUSED");
    let log = heimdall.process.output();
    assert!(
        log.contains("`cache.snapshot`: the sandbox cannot let"),
        "{log}"
    );
    // A changed one does, also if its directory is still to be made.
    for snapshot in [
        current.join("other"),
        elsewhere.path().join("none/snapshot"),
    ] {
        settings.write(&text(&snapshot, "10.0.0.0/8"));
        let output = heimdall.reload().unwrap();
        assert!(!output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("a restart can"), "{text}");
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "REFUSED");
    }
}

#[test]
fn a_file_of_etc_is_open_without_the_others_and_a_successor_needs_none_of_them() {
    let Some(lab) = lab("a_file_of_etc_is_open") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let text =
        |more: &str| format!("control-group = \"adm\"\n{more}[local]\nhosts = [\"/etc/hosts\"]\n");
    let settings = Settings::new(&text(""));
    let heimdall = on_sockets_without_tmp(&lab, &settings);
    if heimdall.stats().unwrap()["sandbox"]["files"] == "all" {
        eprintln!("a_file_of_etc_is_open: skipped, as this kernel has no Landlock");
        return;
    }
    let log = heimdall.process.output();
    assert!(log.contains("/etc/hosts is read by itself"), "{log}");
    // The group is known, and the file is read again.
    settings.write(&text("max-udp-size = 1400\n"));
    let output = heimdall.reload().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("(take-over)"), "{said}");
    settings.write(&(text("") + "[[blocklist]]\nfile = \"/etc/passwd\"\n"));
    let output = heimdall.reload().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("of /etc it reads no other files"), "{said}");
}
