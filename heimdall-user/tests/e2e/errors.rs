//! Bad input is reported in one line, the error and its remedy, and changes nothing.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use lab::{Lab, SERVER_V4, UPSTREAM};
use tempfile::TempDir;

use crate::{heimdall, lab, program};

/// Runs a command that has to fail; its error line.
pub(crate) fn error_line(mut command: Command) -> String {
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

/// `heimdall run` on AF_XDP.
fn on_xdp(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.on_server(program());
    let listen = format!("{SERVER_V4}:53");
    let control = format!("/tmp/heimdall-errors-{}.sock", std::process::id());
    command
        .args(["run", "--listen", &listen, "--control", &control])
        .args(["--backend", "xdp"])
        .args(arguments);
    command
}

/// A copy of the program that any user may run; the build directory may be closed to others.
pub(crate) struct PublicCopy {
    pub(crate) directory: TempDir,
    program: PathBuf,
}

impl PublicCopy {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = directory.path().join("heimdall");
        lab::copy_program(program(), &copy).unwrap();
        Self {
            directory,
            program: copy,
        }
    }

    /// A command that runs it without privileges.
    pub(crate) fn unprivileged(&self, lab: &Lab) -> Command {
        let mut command = lab.on_server("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["--inh-caps=-all", "--"])
            .arg(&self.program);
        command
    }
}

#[test]
fn errors_are_reported_in_one_line() {
    let Some(lab) = lab("errors_are_reported") else {
        return;
    };
    let interface = lab.server_if.as_str();
    let no_queue = format!("{interface}:7");
    let with_upstream: &[(&str, &str, &str)] = &[
        (
            "nonesuch0",
            UPSTREAM,
            "there is no interface nonesuch0; use one of: lo, ",
        ),
        (&no_queue, UPSTREAM, "has no queue 7, but 1"),
        (interface, "10.0.0.300", "10.0.0.300"),
        ("lo", UPSTREAM, "name the addresses of lo with --listen"),
    ];
    let complete = with_upstream.iter().map(|(interface, upstream, expected)| {
        let arguments = vec!["--interface", *interface, "--upstream", *upstream];
        (arguments, *expected)
    });
    let incomplete = [
        (vec!["--interface", interface], "upstream"),
        (vec!["--upstream", UPSTREAM], "--interface"),
    ];
    for (arguments, expected) in complete.chain(incomplete) {
        let output = on_xdp(&lab, &arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(expected),
            "{arguments:?}: {text}"
        );
        assert!(!lab.has_xdp().unwrap(), "{arguments:?}");
    }
    let unknown = error_line(on_xdp(
        &lab,
        &["--interface", "nonesuch0", "--upstream", UPSTREAM],
    ));
    assert!(unknown.starts_with("heimdall: "), "{unknown}");
    let queue = error_line(on_xdp(
        &lab,
        &["--interface", &no_queue, "--upstream", UPSTREAM],
    ));
    assert!(
        queue.starts_with("heimdall: ") && queue.contains("ethtool -l"),
        "{queue}"
    );
}

#[test]
fn missing_privileges_are_named() {
    let Some(lab) = lab("without_privileges") else {
        return;
    };
    let copy = PublicCopy::new();
    let mut command = copy.unprivileged(&lab);
    let control = format!("/tmp/heimdall-unprivileged-{}.sock", std::process::id());
    command
        .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
        .args(["--upstream", UPSTREAM, "--listen", "127.0.0.1:5353"])
        .args(["--control", &control]);
    let line = error_line(command);
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
            // Ends it, should it start.
            .args(["timeout", "20", "prlimit", "--memlock=65536", "--"])
            .arg(program())
            .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
            .args(["--upstream", UPSTREAM, "--listen", "127.0.0.1:5353"]);
        let line = error_line(command);
        assert!(line.contains(named), "{without}: {line}");
    }
}

#[test]
fn taken_ports_and_other_programs_are_named() {
    let Some(lab) = lab("taken_ports") else {
        return;
    };
    let first = heimdall(&lab);
    let arguments = ["--interface", &lab.server_if, "--upstream", UPSTREAM];
    let line = error_line(on_xdp(&lab, &arguments));
    assert!(
        line.contains(SERVER_V4) && line.contains("53"),
        "port taken: {line}"
    );

    let id = first.stats().unwrap()["interfaces"][0]["program_id"]
        .as_u64()
        .unwrap();
    // Whose it is, is known to those only who keep all capabilities.
    for (sandbox, name, remedy) in [
        ("off", " (heimdall)", "stop the process that owns it"),
        ("auto", "", "as root, `heimdall doctor` tells whose it is"),
    ] {
        let mut command = lab.on_server(program());
        let control = format!("/tmp/heimdall-other-{}.sock", std::process::id());
        command
            .args(["run", "--listen", "127.0.0.1:5399", "--control", &control])
            .args(["--backend", "xdp", "--sandbox", sandbox])
            .args(arguments);
        let line = error_line(command);
        assert!(
            line.contains(&format!("XDP program {id}{name} is already attached"))
                && line.contains(remedy),
            "another program: {line}"
        );
    }
    assert!(lab.has_xdp().unwrap(), "the first server's program stays");
    assert_eq!(first.stats().unwrap()["backend"], "xdp");
}
