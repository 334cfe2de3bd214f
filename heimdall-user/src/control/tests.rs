#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::{fs::MetadataExt, net::UnixStream},
    time::{Duration, Instant},
};

use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::getgid,
};
use serde_json::{Value, json};

use super::{server::MAX_REQUEST, *};
use crate::{
    exit::OnExit,
    maintenance::{Scope, presentation},
};

/// For the server's user alone.
const OWN: Permissions = Permissions {
    mode: 0o600,
    group: None,
};

/// A request that every server here answers.
const STATS: &[u8] = b"{\"command\":\"stats\"}\n";

fn stats(path: &Path) -> Result<Value, ControlError> {
    ask(path, &ControlCommand::Stats)
}

fn serve(path: &Path) -> ControlServer {
    let control = Control::bind(path, &OWN).unwrap();
    serve_with(control, |command, to| match command {
        ControlCommand::Dump(Scope::Zone(zone)) => (0..3).try_for_each(|number| {
            let document = json!({ "number": number, "of": presentation(&zone) });
            writeln!(to, "{document}")
        }),
        _ => writeln!(to, "{}", json!({ "backend": "socket" })),
    })
}

/// A server whose owner tells its clients what they asked for.
fn serve_with(
    control: Control,
    respond: impl Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
) -> ControlServer {
    let to_owner = |command: ControlCommand, mut client: UnixStream| {
        let asked = format!("{command:?}");
        writeln!(client, "{}", json!({ "asked": asked })).unwrap();
    };
    control.serve(OnExit::default(), respond, to_owner).unwrap()
}

#[test]
fn dropping_the_server_removes_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/control.sock");
    let server = serve(&path);
    assert_eq!(stats(&path).unwrap(), json!({ "backend": "socket" }));
    drop(server);
    assert!(!path.exists());
    let error = stats(&path).unwrap_err();
    assert!(matches!(error, ControlError::NotRunning(_)), "{error}");
}

#[test]
fn a_link_in_the_place_of_the_socket_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let link = directory.path().join("link");
    let _listener = listen(&path).unwrap();
    assert!(open_socket(&path).is_ok());
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(open_socket(&link).is_err());
    fs::write(directory.path().join("file"), "").unwrap();
    assert!(open_socket(&directory.path().join("file")).is_err());
}

#[test]
fn the_mode_and_the_group_are_those_of_the_settings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let is = |permissions: &Permissions| {
        let _control = Control::bind(&path, permissions).unwrap();
        let found = fs::metadata(&path).unwrap();
        (found.mode() & 0o777, found.gid())
    };
    let own = getgid().as_raw();
    assert_eq!(is(&OWN), (0o600, own));
    let by_number = Permissions {
        mode: 0o660,
        group: Some(own.to_string()),
    };
    assert_eq!(is(&by_number), (0o660, own));
    let name = Group::from_gid(getgid()).unwrap().map(|group| group.name);
    let by_name = Permissions {
        mode: 0o660,
        group: name,
    };
    assert_eq!(is(&by_name), (0o660, own));
    let none = Permissions {
        mode: 0o660,
        group: Some("no such group".to_owned()),
    };
    let error = Control::bind(&path, &none).unwrap_err();
    assert!(matches!(error, ControlError::NoGroup(_)), "{error}");
    assert!(check_group(&none).is_err() && check_group(&by_name).is_ok());
    assert!(!path.exists());
}

/// The line that a server sends after these octets.
fn answer_to(path: &Path, octets: &[u8]) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(octets).unwrap();
    // A server that refuses a long request closes the connection before all is read.
    let _ = stream.shutdown(Shutdown::Write);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn what_is_no_request_gets_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    let long = [b"{\"command\":\"".as_slice(), &[b'x'; MAX_REQUEST]].concat();
    for (octets, error) in [
        (&b"\xff\0\x01\n"[..], "a request is a JSON object"),
        (b"GET / HTTP/1.1\r\n\r\n", "a request is a JSON object"),
        (b"stats\n", "a request is a JSON object"),
        (b"{\"command\":\"stats\"}", "does not end with a newline"),
        (b"{\"command\":\"shutdown\"}\n", "there is no command"),
        (&long, "a request has at most 4096 octets"),
    ] {
        let answer = answer_to(&path, octets);
        let text = answer["error"].as_str().unwrap();
        assert!(text.contains(error), "{answer}");
    }
    assert_eq!(answer_to(&path, STATS), json!({ "backend": "socket" }));
    drop(server);
}

#[test]
fn a_silent_client_is_told_so_and_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    let mut silent = UnixStream::connect(&path).unwrap();
    let timeout = Duration::from_secs(30);
    silent.set_read_timeout(Some(timeout)).unwrap();
    let mut text = String::new();
    silent.read_to_string(&mut text).unwrap();
    assert_eq!(text, "{\"error\":\"no request within 5 s\"}\n");
    drop(server);
}

#[test]
fn an_error_of_the_server_is_that_of_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve_with(Control::bind(&path, &OWN).unwrap(), |_, to| {
        writeln!(to, "{}", json!({ "error": "out of order" }))
    });
    assert_eq!(stats(&path).unwrap_err().to_string(), "out of order");
    drop(server);
}

#[test]
fn a_dump_has_a_document_on_each_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    let zone = Scope::zone("a\\032b.Example").unwrap();
    let mut lines = Vec::new();
    ask_each(&path, &ControlCommand::Dump(zone), |line| {
        lines.push(line);
        Ok(())
    })
    .unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2], json!({ "number": 2, "of": "a\\ b.Example." }));
    drop(server);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let control = Control::bind(&path, &OWN).unwrap();
    // Live from the bind on, even before it serves.
    let error = Control::bind(&path, &OWN).unwrap_err();
    assert!(matches!(error, ControlError::Taken(_)), "{error}");
    let server = serve_with(control, |_, to| writeln!(to, "{{}}"));
    assert_eq!(stats(&path).unwrap(), json!({}));
    drop(server);
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = Control::bind(&path, &OWN).unwrap_err();
    assert!(matches!(error, ControlError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_that_is_too_long_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x".repeat(120));
    assert!(matches!(
        Control::bind(&path, &OWN),
        Err(ControlError::Bind { .. })
    ));
    assert!(matches!(stats(&path), Err(ControlError::Ask { .. })));
}

#[test]
fn a_path_is_checked_without_making_anything() {
    let directory = tempfile::tempdir().unwrap();
    let within = |name: &str| directory.path().join(name);
    fs::write(within("file"), "").unwrap();
    let control = Control::bind(&within("taken.sock"), &OWN).unwrap();
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
    serve_with(Control::bind(path, &OWN).unwrap(), move |_, to| {
        writeln!(to, "{}", json!({ "long": long }))
    })
}

fn ask_long(path: &Path) -> Duration {
    let begin = Instant::now();
    let answer = stats(path).unwrap();
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
    not_reading.write_all(STATS).unwrap();
    let mut endless = UnixStream::connect(&path).unwrap();
    endless.write_all(&[b'x'; 300]).unwrap();
    let mut short = UnixStream::connect(&path).unwrap();
    short.write_all(b"sta").unwrap();
    short.shutdown(Shutdown::Write).unwrap();
    // Half of the time that any of them may take.
    assert!(ask_long(&path) < Duration::from_millis(2500));
    let mut rest = Vec::new();
    short.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"{\"error\":"), "{rest:?}");
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
        let _ = client.write_all(STATS);
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
    let server = serve_with(Control::bind(&path, &OWN).unwrap(), move |_, to| {
        all.wait();
        writeln!(to, "{{}}")
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(stats(&path).unwrap(), json!({})));
        }
    });
    drop(server);
}

#[test]
fn a_stop_does_not_wait_for_a_long_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let (begun, has_begun) = std::sync::mpsc::channel();
    let server = serve_with(Control::bind(&path, &OWN).unwrap(), move |_, _| {
        begun.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(STATS).unwrap();
    has_begun.recv().unwrap();
    let begin = Instant::now();
    drop(server);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(!path.exists());
}

#[test]
fn a_process_without_descriptors_answers() {
    const NAME: &str = "control::tests::a_process_without_descriptors_answers";
    // The limit is one of the process.
    if !lab::in_own_process(NAME).unwrap() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    // It has reserved its descriptors now.
    stats(&path).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut others = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        others.push(file);
    }
    for _ in 0..100 {
        // The client's own, and none besides.
        others.pop();
        stats(&path).unwrap();
        while let Ok(file) = fs::File::open("/dev/null") {
            others.push(file);
        }
    }
    drop((others, server));
}

#[test]
fn the_owner_gets_commands_that_end_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let server = serve(&path);
    let asked = ask(&path, &ControlCommand::Drain).unwrap();
    assert_eq!(asked, json!({ "asked": "Drain" }));
    let asked = ask(&path, &ControlCommand::TakeOver(9)).unwrap();
    assert_eq!(asked, json!({ "asked": "TakeOver(9)" }));
    assert_eq!(stats(&path).unwrap(), json!({ "backend": "socket" }));
    drop(server);
}

#[test]
fn a_successor_changes_the_file_when_it_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
    let predecessor = serve(&path);
    let wider = Permissions {
        mode: 0o660,
        group: None,
    };
    let adopt = || Control::adopt(predecessor.duplicate().unwrap(), &path, &wider).unwrap();
    drop(adopt());
    assert_eq!(mode(), 0o600, "that one has failed");
    let successor = serve_with(adopt(), |_, to| writeln!(to, "{{}}"));
    assert_eq!(mode(), 0o600);
    successor.own();
    assert_eq!(mode(), 0o660);
    predecessor.release();
}

#[test]
fn a_successor_makes_a_file_that_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let predecessor = serve(&path);
    fs::remove_file(&path).unwrap();
    let adopt = || Control::adopt(predecessor.duplicate().unwrap(), &path, &OWN).unwrap();
    drop(adopt());
    assert!(!path.exists(), "that one has failed");
    let successor = serve_with(adopt(), |_, to| {
        writeln!(to, "{}", json!({ "successor": true }))
    });
    predecessor.release();
    successor.own();
    assert_eq!(stats(&path).unwrap(), json!({ "successor": true }));
    drop(successor);
    assert!(!path.exists());
}

#[test]
fn a_successor_answers_on_the_same_socket_and_owns_its_file_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let predecessor = serve(&path);
    let successor = |listener| {
        let control = Control::adopt(listener, &path, &OWN).unwrap();
        serve_with(control, |_, to| {
            writeln!(to, "{}", json!({ "successor": true }))
        })
    };
    let failed = successor(predecessor.duplicate().unwrap());
    drop(failed);
    assert_eq!(stats(&path).unwrap(), json!({ "backend": "socket" }));

    let second = successor(predecessor.duplicate().unwrap());
    predecessor.release();
    assert_eq!(stats(&path).unwrap(), json!({ "successor": true }));
    second.own();
    drop(second);
    assert!(!path.exists());
}
