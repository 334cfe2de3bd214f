//! An interface that has programs of others already, run by libxdp's dispatcher (Debian's package xdp-tools).

use std::{
    io::{self, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Result;
use lab::{Heimdall, Knot, Lab, Process, SERVER_V4, UPSTREAM};

use crate::{heimdall, lab, program, recover::kdig};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Where Debian has the dispatcher.
const DISPATCHER: &str = "/usr/lib/x86_64-linux-gnu/bpf/xdp-dispatcher.o";

/// Whether Debian's xdp-tools is installed, with the library that has the dispatcher.
fn has_xdp_tools(test: &str) -> bool {
    let is_installed = Path::new("/usr/sbin/xdp-filter").exists() && Path::new(DISPATCHER).exists();
    if !is_installed {
        let _ = writeln!(io::stderr(), "SKIPPED {test}: it needs xdp-tools");
    }
    is_installed
}

/// Has xdp-filter load its program for the server's interface, by libxdp. The process keeps the mount with the files that keep
/// the program in the dispatcher.
fn load_filter(lab: &Lab) -> Result<Process> {
    // `ip netns exec` gives the process a /sys of its own, without bpffs.
    let mut command: Command = lab.on_server("sh");
    command.args([
        "-c",
        "mount -t bpf bpf /sys/fs/bpf && xdp-filter load --mode native $0 && echo loaded && exec sleep 600",
    ]);
    command.arg(&lab.server_if);
    let mut process = Process::start(&mut command)?;
    process.wait_for("loaded", TIMEOUT)?;
    Ok(process)
}

/// Requires that Heimdall leaves the dispatcher where it is, and that it says that the dispatcher `runs` this.
fn is_left_alone_and_named(lab: &Lab, runs: &str) {
    let before = lab.server_link().unwrap();
    let runs = format!("libxdp's dispatcher runs {runs}");
    let unload = format!("`xdp-loader unload {} --all`", lab.server_if);
    let listen = format!("{SERVER_V4}:53");
    let common = [
        "--listen",
        &listen,
        "--upstream",
        UPSTREAM,
        "--interface",
        &lab.server_if,
    ];

    // In its sandbox it may not see whose programs there are.
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab.on_server(program());
    command
        .args(["run", "--sandbox", "off", "--backend", "xdp", "--control"])
        .arg(directory.path().join("control.sock"))
        .args(common);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    for part in ["(xdp_dispatcher) is already attached", &runs, &unload] {
        assert!(error.contains(part), "{part}: {error}");
    }

    // The sockets serve it otherwise, and the doctor says the same.
    let mut sockets = Heimdall::start(lab.on_server(program()), program(), &common).unwrap();
    // They answer before it is tried to attach.
    let process = &mut sockets.process;
    process
        .wait_for("the sockets alone serve", TIMEOUT)
        .unwrap();
    process
        .wait_for("AF_XDP is not in use now", TIMEOUT)
        .unwrap();
    assert_eq!(kdig(lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let mut doctor = lab.on_server(program());
    let output = doctor.arg("doctor").args(common).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&runs) && text.contains(&unload), "{text}");
    drop(sockets);
    assert_eq!(lab.server_link().unwrap(), before, "nothing has changed");
}

#[test]
fn libxdps_dispatcher_is_left_alone_and_named_and_leaves_heimdall_alone() {
    const NAME: &str = "libxdps_dispatcher_is_left_alone_and_named_and_leaves_heimdall_alone";
    let Some(lab) = lab(NAME).filter(|_| has_xdp_tools(NAME)) else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let xdp = |what: &str| {
        lab.server_ip(&format!("link set dev {} xdp {what}", lab.server_if))
            .unwrap();
    };
    xdp(&format!("obj {DISPATCHER} sec xdp"));
    is_left_alone_and_named(&lab, "no program now, ");
    xdp("off");
    let heimdall = heimdall(&lab);
    assert!(load_filter(&lab).is_err());
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    assert_eq!(heimdall.stats().unwrap()["interfaces"][0]["state"], "up");
}

#[test]
fn programs_in_libxdps_dispatcher_are_named() {
    const NAME: &str = "programs_in_libxdps_dispatcher_are_named";
    let Some(lab) = lab(NAME).filter(|_| has_xdp_tools(NAME)) else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let _filter = load_filter(&lab).unwrap();
    if !lab.server_link().unwrap().contains("xdp_dispatcher") {
        // libxdp attaches the program itself then.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {NAME}: this kernel replaces no functions of programs (freplace)"
        );
        return;
    }
    is_left_alone_and_named(&lab, "xdpfilt_alw_all (");
}
