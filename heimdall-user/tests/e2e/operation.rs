//! Configurations: `check` and a start accept and report the same; files that are no text.

use std::{
    fs::{self},
    os::unix::net::UnixListener,
    path::Path,
    time::Duration,
};

use lab::{Lab, SERVER_V4, ScriptedUpstream, UPSTREAM};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    client::{DnsClient, Settings},
    errors::PublicCopy,
    lab, program,
};

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
        "a file of another program, and no snapshot",
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
            "1 lines contain no name",
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
        (
            "control-group = \"no such group\"",
            bad,
            ":4: key `control-group`: there is no group",
        ),
        (
            "control-mode = \"0600\"\ncontrol = \"{}/own.sock\"",
            good,
            "",
        ),
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
        (
            "backend = \"xdp\"\ninterface = [\"lo\"]",
            bad,
            ":5: key `interface`: AF_XDP cannot serve lo",
        ),
        ("backend = \"xdp\"\ninterface = [\"@if\"]", good, ""),
        (
            "interface = [\"none0\"]",
            good,
            "there is no interface none0",
        ),
        ("interface = [\"@if:7\"]", good, "has no queue 7"),
        (
            "[privileges]\nuser = \"no-such-user\"",
            bad,
            ":5: key `privileges.user`: there is no user \"no-such-user\"",
        ),
        (
            "[metrics]\nlisten = \"0.0.0.0:9453\"",
            good,
            "for all who reach that address, without authentication",
        ),
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
    let copy = PublicCopy::new();
    for (subcommand, path, said) in [
        ("check", "new/control.sock", "control socket's directory"),
        ("run", "new/control.sock", "control socket's directory"),
        // This directory exists.
        ("check", "control.sock", "control socket in the directory"),
        ("run", "control.sock", "control socket in the directory"),
    ] {
        let mut command = copy.unprivileged(&lab);
        command
            .args([
                subcommand,
                "--upstream",
                UPSTREAM,
                "--listen",
                "127.0.0.1:5353",
            ])
            .arg("--control")
            .arg(copy.directory.path().join(path));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{subcommand}: {text}");
        assert!(
            text.contains(&format!("--control: cannot make the {said}"))
                && text.contains("Permission denied"),
            "{subcommand}: {text}"
        );
    }
}

#[test]
fn a_reload_skips_bad_lines_and_rejects_other_than_files() {
    let Some(lab) = lab("a_reload_skips_bad_lines") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = tempfile::tempdir().unwrap();
    let hosts = files.path().join("hosts");
    fs::write(&hosts, "10.0.0.9 nas.lan\n").unwrap();
    let settings = Settings::new(&format!("[local]\nhosts = [{hosts:?}]"));
    let mut heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    let nas = |address: &str| format!("NOERROR qr rd ra | nas.lan. A | 300 A {address}");
    assert_eq!(client.udp("nas.lan A rd"), nas("10.0.0.9"));
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
    assert_eq!(client.udp("nas.lan A rd"), nas("10.0.0.8"));

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
    assert_eq!(
        client.udp("nas.lan A rd"),
        nas("10.0.0.8"),
        "the old policy"
    );
}
