#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::json;

use super::*;
use crate::exit::OnExit;

fn serve(path: &Path) -> ControlServer {
    let control = Control::bind(path).unwrap();
    control
        .serve(OnExit::default(), |command, to| match command {
            ControlCommand::Dump(scope) => (0..3).try_for_each(|number| {
                writeln!(
                    to,
                    "{}",
                    json!({ "number": number, "of": scope.to_string() })
                )
            }),
            _ => writeln!(to, "{}", json!({ "backend": "socket" })),
        })
        .unwrap()
}

#[test]
fn dropping_the_server_removes_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/control.sock");
    let server = serve(&path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o660
    );
    assert_eq!(ask(&path, "stats").unwrap(), json!({ "backend": "socket" }));
    let error = ask(&path, "shutdown").unwrap_err().to_string();
    assert_eq!(
        error,
        "the server refused the command: unknown command \"shutdown\""
    );
    drop(server);
    assert!(!path.exists());
    let error = ask(&path, "stats").unwrap_err();
    assert!(matches!(error, ControlError::NotRunning(_)), "{error}");
}

#[test]
fn scopes_are_written_as_they_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    let zone = Scope::zone("a\\032b.Example").unwrap();
    let mut lines = Vec::new();
    ask_each(&path, &format!("dump {}", words(&zone)), |line| {
        lines.push(line);
        Ok(())
    })
    .unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2], json!({ "number": 2, "of": "a\\ b.Example." }));
    for scope in [Scope::All, Scope::name("x").unwrap(), zone] {
        let line = format!("flush {}\n", words(&scope));
        assert_eq!(
            ControlCommand::parse(line.as_bytes()),
            Ok(ControlCommand::Flush(scope))
        );
    }
    for bad in [
        "flush",
        "flush some",
        "flush name",
        "flush name",
        "dump zone a..b",
        "\u{e4}",
    ] {
        let error = ask(&path, bad).unwrap_err();
        assert!(matches!(error, ControlError::Refused(_)), "{error}");
    }
    drop(server);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let control = Control::bind(&path).unwrap();
    // Live from the bind on, even before it serves.
    let error = Control::bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::Taken(_)), "{error}");
    let server = control
        .serve(OnExit::default(), |_, to| writeln!(to, "{{}}"))
        .unwrap();
    assert_eq!(ask(&path, "stats").unwrap(), json!({}));
    drop(server);
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = Control::bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_that_is_too_long_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x".repeat(120));
    assert!(matches!(
        Control::bind(&path),
        Err(ControlError::Bind { .. })
    ));
    assert!(matches!(ask(&path, "stats"), Err(ControlError::Ask { .. })));
}

#[test]
fn a_path_is_checked_without_making_anything() {
    let directory = tempfile::tempdir().unwrap();
    let within = |name: &str| directory.path().join(name);
    fs::write(within("file"), "").unwrap();
    let control = Control::bind(&within("taken.sock")).unwrap();
    for good in ["new.sock", "a/b/c/new.sock", "taken.sock"] {
        check(&within(good)).unwrap();
    }
    check(Path::new("relative.sock")).unwrap();
    assert!(!within("a").exists());
    assert!(matches!(
        check(&within("file")),
        Err(ControlError::NotASocket(_))
    ));
    for bad in ["file/new.sock", "file/a/new.sock"] {
        let error = check(&within(bad)).unwrap_err();
        assert!(matches!(error, ControlError::Bind { .. }), "{error}");
    }
    drop(control);
}

/// A server with an answer of 4 MiB: more than a socket's buffer, so that a client that does not
/// read fills it.
fn serve_long(path: &Path) -> ControlServer {
    let long = "x".repeat(4 << 20);
    Control::bind(path)
        .unwrap()
        .serve(OnExit::default(), move |_, to| {
            writeln!(to, "{}", json!({ "long": long }))
        })
        .unwrap()
}

fn ask_long(path: &Path) -> Duration {
    let begin = Instant::now();
    let answer = ask(path, "stats").unwrap();
    assert_eq!(answer["long"].as_str().unwrap().len(), 4 << 20);
    begin.elapsed()
}

#[test]
fn no_client_delays_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve_long(&path);
    let silent = UnixStream::connect(&path).unwrap();
    let mut not_reading = UnixStream::connect(&path).unwrap();
    not_reading.write_all(b"stats\n").unwrap();
    let mut endless = UnixStream::connect(&path).unwrap();
    endless.write_all(&[b'x'; 300]).unwrap();
    let mut short = UnixStream::connect(&path).unwrap();
    short.write_all(b"sta").unwrap();
    short.shutdown(Shutdown::Write).unwrap();
    // Half of the time that any of them may take.
    assert!(ask_long(&path) < Duration::from_millis(2500));
    let mut rest = Vec::new();
    short.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(2));
    drop((silent, not_reading, endless));
}

#[test]
fn the_longest_silent_of_too_many_clients_are_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve_long(&path);
    let silent: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let mut not_reading: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for client in &mut not_reading {
        // Closed already, or not.
        let _ = client.write_all(b"stats\n");
    }
    ask_long(&path);
    // The first came first.
    for mut client in silent.into_iter().take(80) {
        client
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn clients_are_answered_concurrently() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // No client gets an answer before all have sent their commands.
    let all = std::sync::Barrier::new(8);
    let server = Control::bind(&path)
        .unwrap()
        .serve(OnExit::default(), move |_, to| {
            all.wait();
            writeln!(to, "{{}}")
        })
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask(&path, "stats").unwrap(), json!({})));
        }
    });
    drop(server);
}

#[test]
fn a_stop_does_not_wait_for_a_long_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let (begun, has_begun) = std::sync::mpsc::channel();
    let server = Control::bind(&path)
        .unwrap()
        .serve(OnExit::default(), move |_, _| {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        })
        .unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"reload\n").unwrap();
    has_begun.recv().unwrap();
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(!path.exists());
}
