//! Bad input is reported in one line that says what is wrong and what to do, and changes nothing.

use std::process::Command;

use lab::{Lab, SERVER_V4, UPSTREAM};

use crate::{heimdall, lab, program};

/// Runs a command that has to fail; its error line.
fn complaint(mut command: Command) -> String {
    let output = command.env_remove("RUST_LOG").output().unwrap();
    assert!(!output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains(" INFO "))
        .collect();
    assert_eq!(lines.len(), 1, "{command:?}: {text}");
    lines[0].to_owned()
}

fn run_with(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.on_server(program());
    let listen = format!("{SERVER_V4}:53");
    let control = format!("/tmp/heimdall-errors-{}.sock", std::process::id());
    command
        .args(["run", "--listen", &listen, "--control", &control])
        .args(arguments);
    command
}

#[test]
fn errors_are_reported_in_one_line() {
    let Some(lab) = lab("errors_are_reported") else {
        return;
    };
    let interface = lab.server_if.as_str();
    let no_queue = format!("{interface}:7");
    let table: &[(&[&str], &str)] = &[
        (
            &[
                "--backend",
                "xdp",
                "--interface",
                "nonesuch0",
                "--upstream",
                UPSTREAM,
            ],
            "there is no interface nonesuch0; use one of: lo, ",
        ),
        (
            &[
                "--backend",
                "xdp",
                "--interface",
                &no_queue,
                "--upstream",
                UPSTREAM,
            ],
            "has no queue 7, but 1",
        ),
        (
            &[
                "--backend",
                "xdp",
                "--interface",
                interface,
                "--upstream",
                "10.0.0.300",
            ],
            "10.0.0.300",
        ),
        (
            &[
                "--backend",
                "xdp",
                "--interface",
                "lo",
                "--upstream",
                UPSTREAM,
            ],
            "name the addresses of lo with --listen",
        ),
        (&["--backend", "xdp", "--interface", interface], "upstream"),
        (&["--backend", "xdp", "--upstream", UPSTREAM], "--interface"),
    ];
    for (arguments, expected) in table {
        let output = run_with(&lab, arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(expected),
            "{arguments:?}: {text}"
        );
        assert!(!lab.has_xdp().unwrap(), "{arguments:?}");
    }
    let unknown = complaint(run_with(&lab, table[0].0));
    assert!(unknown.starts_with("heimdall: "), "{unknown}");
    let queue = complaint(run_with(&lab, table[1].0));
    assert!(
        queue.starts_with("heimdall: ") && queue.contains("ethtool -l"),
        "{queue}"
    );
}

#[test]
fn without_privileges_it_says_which_are_missing() {
    let Some(lab) = lab("without_privileges") else {
        return;
    };
    let mut command = lab.on_server("setpriv");
    let control = format!("/tmp/heimdall-unprivileged-{}.sock", std::process::id());
    // Others may have no access to the build directory: run a copy.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("heimdall");
    std::fs::copy(program(), &copy).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
        ])
        .arg(&copy);
    command.args([
        "run",
        "--backend",
        "xdp",
        "--interface",
        &lab.server_if,
        "--upstream",
        UPSTREAM,
    ]);
    command.args(["--listen", "127.0.0.1:5353", "--control", &control]);
    let line = complaint(command);
    assert!(
        line.contains("CAP_BPF") && line.contains("--backend socket"),
        "{line}"
    );
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let Some(lab) = lab("a_capability_that_is_missing") else {
        return;
    };
    for (without, named) in [
        ("net_raw", "grant CAP_NET_RAW"),
        ("ipc_lock", "raise the memory lock limit"),
        ("bpf,-sys_admin", "CAP_BPF"),
        ("net_admin,-sys_admin", "CAP_NET_ADMIN"),
    ] {
        let mut command = lab.on_server("setpriv");
        command
            .arg(format!("--bounding-set=-{without}"))
            // Should it start, it does not run for ever.
            .args(["timeout", "20", "prlimit", "--memlock=65536", "--"])
            .arg(program())
            .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
            .args(["--upstream", UPSTREAM, "--listen", "127.0.0.1:5353"]);
        let line = complaint(command);
        assert!(line.contains(named), "{without}: {line}");
    }
}

#[test]
fn taken_ports_and_other_programs_are_named() {
    let Some(lab) = lab("taken_ports") else {
        return;
    };
    let first = heimdall(&lab);
    let upstream = [
        "--backend",
        "xdp",
        "--interface",
        &lab.server_if,
        "--upstream",
        UPSTREAM,
    ];
    let line = complaint(run_with(&lab, &upstream));
    assert!(
        line.contains(SERVER_V4) && line.contains("53"),
        "port taken: {line}"
    );

    let mut command = lab.on_server(program());
    let control = format!("/tmp/heimdall-other-{}.sock", std::process::id());
    command
        .args(["run", "--listen", "127.0.0.1:5399", "--control", &control])
        .args(upstream);
    let id = first.stats().unwrap()["interfaces"][0]["program_id"]
        .as_u64()
        .unwrap();
    let line = complaint(command);
    assert!(
        line.contains(&format!("XDP program {id} (heimdall) is already attached"))
            && line.contains("stop the process that owns it"),
        "another program: {line}"
    );
    assert!(lab.has_xdp().unwrap(), "which stays");
    assert_eq!(first.stats().unwrap()["backend"], "xdp");
}
