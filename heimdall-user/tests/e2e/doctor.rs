//! `heimdall doctor`, and what a start says of its findings.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use lab::{Heimdall, Lab, SERVER_V4, UPSTREAM};
use serde_json::Value;

use crate::{errors::PublicCopy, lab, program};

/// `heimdall doctor` with these arguments in the lab's server.
fn doctor(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.on_server(program());
    let command = command.arg("doctor").args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

/// The findings as JSON.
fn findings(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"))
}

/// The level and the finding of a check on a subject.
fn finding(all: &[Value], check: &str, subject: &str) -> (String, String) {
    let of = |one: &&Value| one["check"] == check && one["subject"] == subject;
    let found = all.iter().find(of);
    let found = found.unwrap_or_else(|| panic!("no {check} of {subject}: {all:#?}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("level"), text("finding"))
}

/// The exit code that findings of these levels give.
fn code(all: &[Value]) -> i32 {
    let any = |level: &str| all.iter().any(|one| one["level"] == level);
    if any("bad") {
        2
    } else {
        i32::from(any("warn"))
    }
}

#[test]
fn the_doctor_judges_what_would_be_run() {
    let Some(lab) = lab("the_doctor_judges_what_would_be_run") else {
        return;
    };
    let interface = lab.server_if.as_str();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("heimdall.toml");
    let path = file.to_str().unwrap();
    let text = format!("upstream = [{UPSTREAM:?}]\ninterface = [{interface:?}]\n");
    fs::write(&file, &text).unwrap();

    let output = doctor(&lab, &["--config", path, "--json"]);
    let all = findings(&output);
    assert_eq!(output.status.code(), Some(code(&all)), "{all:#?}");
    assert_eq!(finding(&all, "settings", path).0, "good");
    assert_eq!(finding(&all, "nic.usable", interface).0, "good");
    assert!(finding(&all, "nic.driver", interface).1.starts_with("veth"));

    // What is on the interface, and its state.
    lab.server_ip(&format!("link set {interface} down"))
        .unwrap();
    let output = doctor(&lab, &["--config", path, "--json"]);
    let all = findings(&output);
    assert_eq!(output.status.code(), Some(2), "{all:#?}");
    assert_eq!(finding(&all, "nic.link", interface).0, "bad");
    // For people: the bad ones first, with what to do.
    let output = doctor(&lab, &["--config", path]);
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("bad   "), "{text}");
    let fix = format!("      ip link set dev {interface} up\n");
    assert!(text.contains(&fix), "{text}");
    assert!(!text.contains("good  "), "{text}");
    let output = doctor(&lab, &["--config", path, "--verbose"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("good  ") && text.contains("      why: "),
        "{text}"
    );

    // Bad settings are a finding, and not the end.
    fs::write(&file, "upstream = [\"nonsense\"]").unwrap();
    let output = doctor(&lab, &["--config", path, "--json"]);
    let all = findings(&output);
    assert_eq!(output.status.code(), Some(2));
    let (level, text) = finding(&all, "settings", "settings");
    assert_eq!(level, "bad");
    assert!(text.contains("heimdall.toml:1: key `upstream`"), "{text}");
    assert!(all.len() > 10, "{all:#?}");

    // Without settings, the interfaces that could be served.
    let all = findings(&doctor(&lab, &["--json"]));
    assert!(
        finding(&all, "settings", "settings")
            .1
            .contains("no settings are given")
    );
}

#[test]
fn the_doctor_needs_no_privilege_and_asks_before_it_changes_anything() {
    let Some(lab) = lab("the_doctor_needs_no_privilege") else {
        return;
    };
    let copy = PublicCopy::new();
    let mut command = copy.unprivileged(&lab);
    command.args(["doctor", "--json", "--interface", &lab.server_if]);
    let output = command.output().unwrap();
    let all = findings(&output);
    assert_eq!(output.status.code(), Some(2), "{all:#?}");
    let (level, text) = finding(&all, "privilege.capabilities", "this process");
    assert_eq!(level, "bad");
    assert!(text.contains("CAP_NET_ADMIN"), "{text}");

    let output = doctor(&lab, &["--interface", &lab.server_if, "--fix"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("give --yes"), "{said}");
}

#[test]
fn the_doctor_says_when_its_output_cannot_be_written_or_its_usage_is_wrong() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = Command::new(program());
    let output = command
        .args(["doctor", "--backend", "socket"])
        .stdout(full)
        .output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write the output"), "{said}");
    for wrong in [&["--yes"][..], &["--json", "--fix"], &["--nonsense"]] {
        let output = Command::new(program())
            .arg("doctor")
            .args(wrong)
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(2), 0),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_start_warns_of_what_is_bad() {
    let Some(lab) = lab("a_start_warns_of_what_is_bad") else {
        return;
    };
    let listen = format!("{SERVER_V4}:53");
    let log = || {
        let interface = lab.server_if.as_str();
        let arguments = [
            "--listen",
            &listen,
            "--upstream",
            UPSTREAM,
            "--interface",
            interface,
        ];
        let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
        heimdall.process.output()
    };
    let warning = "it has no carrier: no queries arrive on it";
    let good = log();
    assert!(!good.contains(warning), "{good}");
    lab.client_ip(&format!("link set {} down", lab.client_if))
        .unwrap();
    let bad = log();
    assert_eq!(bad.matches(warning).count(), 1, "{bad}");
    assert!(bad.contains("heimdall doctor: nic.link"), "{bad}");
}
