//! The listener with real clients, good and bad ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use serde_json::json;

use super::*;
use crate::exit::OnExit;

/// Octets of the metrics: more than the kernel buffers for a connection.
const LARGE: usize = 32 << 20;

/// How long a test waits for what has to come.
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Content {
    /// The metrics are [`LARGE`].
    large: bool,
    ready: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Source for Content {
    fn metrics(&self) -> Families {
        let mut families = Families::default();
        let help = match self.large {
            true => "x".repeat(LARGE),
            false => "Help.".to_owned(),
        };
        families.counter("heimdall_tests", &help, &[], 1);
        families
    }

    fn stats(&self) -> Value {
        json!({ "asked": self.asked.fetch_add(1, Ordering::Relaxed) })
    }

    fn config(&self) -> Value {
        json!({ "cache": { "size": "64M" } })
    }

    fn doctor(&mut self) -> Value {
        json!([])
    }

    fn ready(&mut self) -> Result<(), String> {
        match self.ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("no upstream responds: 192.0.2.1:53".to_owned()),
        }
    }
}

struct Site {
    address: SocketAddr,
    _server: HttpServer,
}

fn site(timeouts: Timeouts, content: Content) -> Site {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = HttpListener::bind(any, vec!["dns1.example.net".to_owned()], None).unwrap();
    let address = listener.local_addr();
    let server = listener.serve_within(timeouts, OnExit::default(), content);
    Site {
        address,
        _server: server.unwrap(),
    }
}

fn usual() -> Site {
    site(Timeouts::default(), Content::default())
}

impl Site {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// The response to these octets.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        String::from_utf8(response).unwrap()
    }

    fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Connects from 127.0.0.`last`.
    fn connect_from(&self, last: u8) -> TcpStream {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let own = SocketAddr::from(([127, 0, 0, last], 0));
        bind(socket.as_raw_fd(), &SockaddrStorage::from(own)).unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(self.address)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Connects and asks for events.
    fn events(&self) -> BufReader<TcpStream> {
        events(self.connect())
    }
}

/// Fails unless the server has closed the connection, by an end of file or a reset: a time-out is
/// another error.
fn assert_closed(read: io::Result<usize>) {
    if let Err(error) = read {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
}

/// Asks for events.
fn events(mut stream: TcpStream) -> BufReader<TcpStream> {
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    BufReader::new(stream)
}

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or(response)
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn each_path_has_its_content() {
    let content = Content::default();
    let ready = Arc::clone(&content.ready);
    let site = site(Timeouts::default(), content);
    for (path, media_type, text) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "heimdall_tests_total 1\n",
        ),
        ("/healthz", "text/plain; charset=utf-8", "alive\n"),
        ("/stats.json", "application/json", "{\"asked\":0}\n"),
        (
            "/config.json",
            "application/json",
            "{\"cache\":{\"size\":\"64M\"}}\n",
        ),
        ("/doctor.json?now", "application/json", "[]\n"),
    ] {
        let response = site.get(path);
        assert_eq!(status(&response), "200", "{path}: {response}");
        assert!(body(&response).contains(text), "{response}");
        for field in [
            format!("Content-Type: {media_type}"),
            format!("Content-Length: {}", body(&response).len()),
            "Connection: close".to_owned(),
            "Cache-Control: no-store".to_owned(),
            "X-Content-Type-Options: nosniff".to_owned(),
            "Content-Security-Policy: default-src 'none'".to_owned(),
        ] {
            assert!(
                response.contains(&format!("\r\n{field}")),
                "{path}: {field}"
            );
        }
    }
    let response = site.get("/readyz");
    assert_eq!(status(&response), "503");
    assert_eq!(
        body(&response),
        "not ready: no upstream responds: 192.0.2.1:53\n"
    );
    ready.store(true, Ordering::Relaxed);
    assert_eq!(body(&site.get("/readyz")), "ready\n");
    assert_eq!(status(&site.get("/nothing")), "404");
    let accept =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n\r\n";
    let response = site.exchange(accept);
    assert!(response.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0"));
    assert!(response.ends_with("\n# EOF\n"));
}

#[test]
fn a_head_request_gets_no_body() {
    let site = usual();
    for path in ["/metrics", "/events", "/nothing"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: dns1.example.net\r\n\r\n");
        assert_eq!(body(&site.exchange(&request)), "", "{path}");
    }
    // Nor one that is refused.
    for (rest, expected) in [
        ("/ HTTP/1.1\r\nHost: attacker.example\r\n\r\n", "421"),
        ("/ HTTP/1.1\r\n\r\n", "400"),
        ("/ HTTP/2.0\r\n\r\n", "505"),
    ] {
        for start in ["", "\r\n"] {
            let response = site.exchange(&format!("{start}HEAD {rest}"));
            assert_eq!(status(&response), expected, "{rest}");
            assert_eq!(body(&response), "", "{rest}");
        }
    }
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let site = usual();
    for (request, expected) in [
        (
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
            "405",
        ),
        ("GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n", "421"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("\r\n\r\n\x01\x02", "400"),
        (
            &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(60_000)),
            "431",
        ),
    ] {
        let response = site.exchange(request);
        assert_eq!(status(&response), expected, "{request:.40}");
    }
    let response = site.exchange("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(response.contains("\r\nAllow: GET, HEAD\r\n"));
    let response = site.exchange("GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n");
    assert!(body(&response).contains("\"attacker.example\" is none of `names` in [metrics]"));
    assert_eq!(status(&site.get("/healthz")), "200");
}

#[test]
fn a_request_that_does_not_arrive_gets_408() {
    let timeouts = Timeouts {
        request: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let site = site(timeouts, Content::default());
    for part in ["", "GET / HT"] {
        assert_eq!(status(&site.exchange(part)), "408", "{part}");
    }
    assert_eq!(body(&site.exchange("HEAD / HT")), "");
    // The time is for the whole of it, however many pieces arrive.
    let mut slow = site.connect();
    let mut response = String::new();
    let ended = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(20));
        slow.write_all(b"x").is_err()
    });
    let _ = slow.read_to_string(&mut response);
    assert!(ended || status(&response) == "408", "{response}");
}

#[test]
fn a_scraper_that_never_reads_disturbs_no_other_and_is_closed() {
    let timeouts = Timeouts {
        response: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let content = Content {
        large: true,
        ..Content::default()
    };
    let site = site(timeouts, content);
    let mut lazy = site.connect();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    lazy.write_all(request).unwrap();
    for _ in 0..20 {
        assert_eq!(status(&site.get("/healthz")), "200");
    }
    assert!(site.get("/metrics").len() > LARGE);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(status(&site.get("/healthz")), "200");
    // It gets what the kernel has kept for it, and then the end.
    let mut rest = Vec::new();
    assert_closed(lazy.read_to_end(&mut rest));
    assert!(rest.len() < LARGE, "{}", rest.len());
}

#[test]
fn connections_are_bounded_and_the_oldest_is_closed_first() {
    let site = usual();
    let mut idle = Vec::new();
    for _ in 0..4 {
        // Fewer than the listener's backlog, and all accepted once a later request is answered.
        idle.extend((0..50).map(|_| site.connect()));
        let response = site.get("/healthz");
        assert_eq!(status(&response), "200", "whatever the others do");
    }
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Only the first ones were closed.
    let served: Vec<bool> = idle
        .iter_mut()
        .map(|stream| {
            let mut response = String::new();
            let sent = stream.write_all(request);
            let read = sent.and_then(|()| stream.read_to_string(&mut response));
            read.is_ok() && status(&response) == "200"
        })
        .collect();
    let first = served.iter().position(|served| *served).unwrap();
    assert_eq!(first, 200 - (MAX_CONNECTIONS - 1), "one was the scraper's");
    assert!(served[first..].iter().all(|served| *served));
}

#[test]
fn event_streams_have_a_bound_of_their_own() {
    let site = usual();
    let mut streams: Vec<_> = (0..MAX_EVENT_STREAMS).map(|_| site.events()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut lines = stream.lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
        assert!(lines.any(|line| line == "Content-Type: text/event-stream"));
        let event = lines.find(|line| line.starts_with("data: ")).unwrap();
        assert_eq!(event, format!("data: {{\"asked\":{number}}}"));
    }
    let mut line = String::new();
    site.events().read_line(&mut line).unwrap();
    assert_eq!(status(&line), "503");
    // They outlive any number of other connections, and go on.
    let _idle: Vec<TcpStream> = (0..200).map(|_| site.connect()).collect();
    assert_eq!(status(&site.get("/metrics")), "200");
    for stream in &mut streams {
        let mut lines = stream.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with("data: ")));
    }
    // Once one is closed there is room for another.
    drop(streams.pop());
    let mut lines = 0;
    while !site
        .events()
        .lines()
        .next()
        .unwrap()
        .unwrap()
        .contains("200")
    {
        lines += 1;
        assert!(lines < 1000, "no room");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_address_gets_a_share_of_the_event_streams() {
    let site = usual();
    let asks = |last: u8| {
        let mut stream = events(site.connect_from(last));
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (status(&line) == "200").then_some(stream)
    };
    let mut first: Vec<_> = (0..MAX_EVENT_STREAMS).map(|_| asks(1).unwrap()).collect();
    assert!(asks(1).is_none(), "it has all of them");
    let half = MAX_EVENT_STREAMS / 2;
    let mut second: Vec<_> = (0..half).map(|_| asks(2).unwrap()).collect();
    assert!(asks(2).is_none() && asks(1).is_none(), "each has a half");
    let _third = [asks(3).unwrap(), asks(3).unwrap()];
    assert!(asks(3).is_none(), "they have 3, 3 and 2");
    let is_open = |stream: &mut BufReader<TcpStream>| {
        stream.get_ref().set_nonblocking(true).unwrap();
        let read = stream.read_to_end(&mut Vec::new());
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    let open = [&mut first, &mut second].map(|streams| {
        let open = streams.iter_mut().map(is_open);
        open.filter(|is_open| *is_open).count()
    });
    assert_eq!(open, [3, 3]);
}

#[test]
fn an_event_is_made_once_for_all_streams_and_never_without_one() {
    let content = Content::default();
    let asked = Arc::clone(&content.asked);
    let site = site(Timeouts::default(), content);
    let next = |stream: &mut BufReader<TcpStream>| -> String {
        let mut lines = stream.lines().map(Result::unwrap);
        lines.find(|line| line.starts_with("data: ")).unwrap()
    };
    let mut streams = [site.events(), site.events()];
    let _ = streams.each_mut().map(next);
    let [first, second] = streams.each_mut().map(next);
    assert_eq!(first, second);
    drop(streams);
    // An event that was under way may still be made.
    thread::sleep(2 * EVENT_INTERVAL);
    let before = asked.load(Ordering::Relaxed);
    thread::sleep(2 * EVENT_INTERVAL);
    assert_eq!(asked.load(Ordering::Relaxed), before);
}

#[test]
fn dropping_the_server_closes_its_connections() {
    let site = usual();
    let mut idle = site.connect();
    let mut events = site.events();
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    drop(site);
    assert_closed(idle.read_to_end(&mut Vec::new()));
    assert_closed(events.read_to_end(&mut Vec::new()));
}

#[test]
fn a_predecessors_listener_is_taken_if_it_has_the_address() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = std::net::TcpListener::bind(any).unwrap();
    let local = listener.local_addr().unwrap();
    let is_taken = |address| {
        let duplicate = listener.try_clone().unwrap();
        HttpListener::adopt(duplicate.into(), address, Vec::new()).is_ok()
    };
    assert!(is_taken(any) && is_taken(local));
    assert!(!is_taken("127.0.0.1:1".parse().unwrap()));
    assert!(!is_taken("127.0.0.2:0".parse().unwrap()));
}

#[test]
fn a_listener_is_bound_beside_a_predecessors_that_overlaps() {
    for (now, next) in [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")] {
        let predecessor = std::net::TcpListener::bind((now, 0)).unwrap();
        let port = predecessor.local_addr().unwrap().port();
        let address = SocketAddr::new(next.parse().unwrap(), port);
        let inherited = predecessor.try_clone().unwrap();
        let inherited = HttpListener::adopt(inherited.into(), address, Vec::new()).unwrap_err();
        let bind = |beside| HttpListener::bind(address, Vec::new(), beside);
        let error = bind(None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let listener = bind(Some(&inherited)).unwrap();
        assert_eq!(listener.local_addr(), address);
        // The other one goes on, and ends.
        drop((predecessor, inherited));
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
