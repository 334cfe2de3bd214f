//! The socket front over TLS: rustls at the other end, and clients that break rules.

mod limits;

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

use super::*;
use crate::socket::testing::{VALID, certificate};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A server that listens for TLS, too.
struct TlsBench {
    bench: Bench,
    address: SocketAddr,
    server: Arc<TlsServer>,
    directory: TempDir,
}

impl TlsBench {
    fn new(upstreams: Vec<SocketAddr>, max_pending: usize) -> Self {
        let (listeners, server, directory) = listeners();
        let address = listeners.tls_addresses()[0];
        Self {
            bench: Bench::with(listeners, upstreams, max_pending),
            address,
            server,
            directory,
        }
    }

    /// What clients trust.
    fn client(&self) -> ClientConfig {
        config(&self.directory, &[&TLS13, &TLS12])
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> io::Result<Tls> {
        handshake(TcpStream::connect(self.address)?, config)
    }

    fn count(&self, name: &str) -> u64 {
        self.bench.count(name)
    }

    /// Waits until a counter has this value.
    fn wait_for(&self, name: &str, value: u64) {
        let end = Instant::now() + READ_TIMEOUT;
        while self.count(name) != value {
            assert!(Instant::now() < end, "{name} is {}", self.count(name));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Listeners for UDP and TCP, and for TLS, with a certificate in a directory.
fn listeners() -> (Listeners, Arc<TlsServer>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(directory.path(), VALID);
    let server = Arc::new(TlsServer::new().unwrap());
    server.set_certificate(TlsPair::read(&files.certificate, &files.key).unwrap());
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listeners = Listeners::bind(&[any], &mut Vec::new()).unwrap();
    listeners.bind_tls(any, &server, &mut Vec::new()).unwrap();
    (listeners, server, directory)
}

fn config(
    directory: &TempDir,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let path = directory.path().join("certificate.pem");
    roots
        .add(CertificateDer::from_pem_file(path).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("dns.example").unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

fn handshake(mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Tls> {
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut session = session(config);
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

#[test]
fn queries_are_answered_over_both_versions_and_sessions_are_resumed() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let msg = query(1, "name", Some(1232));
    let mut handshakes = 0;
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(config(&tls.directory, &[version]));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = tls.connect(&config).unwrap();
            assert_answers(&msg, &ask_tcp(&mut stream, &msg));
            assert_answers(&msg, &ask_tcp(&mut stream, &msg));
            assert_eq!(stream.conn.handshake_kind(), Some(kind), "{version:?}");
            handshakes += 1;
        }
    }
    assert_eq!(tls.count("tls_handshakes"), handshakes);
    assert_eq!(tls.count("tls_resumed"), handshakes / 2);
    assert_eq!(tls.count("tls_connections"), handshakes);
    assert_eq!(tls.count("tls_received"), 2 * handshakes);
    assert_eq!(tls.count("tls_answered"), 2 * handshakes);
    assert_eq!(tls.count("tcp_received") + tls.count("tcp_connections"), 0);
    // All clients are gone, and nothing failed.
    tls.wait_for("tls_open", 0);
    assert_eq!(tls.count("tls_failed_closed"), 0);
    tls.bench.finish();
}

#[test]
fn a_new_certificate_is_for_new_connections_and_sessions_outlive_it() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let old = Arc::new(tls.client());
    let msg = query(1, "name", None);
    let mut open = tls.connect(&old).unwrap();
    assert_answers(&msg, &ask_tcp(&mut open, &msg));

    let files = certificate(tls.directory.path(), VALID);
    tls.server
        .set_certificate(TlsPair::read(&files.certificate, &files.key).unwrap());
    let new = Arc::new(tls.client());
    let mut stream = tls.connect(&new).unwrap();
    assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
    assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    assert_answers(&msg, &ask_tcp(&mut open, &msg));
    // A session that began with the old one.
    let stream = tls.connect(&old).unwrap();
    assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    // Who knows the old one only does not trust the new one.
    let strict = Arc::new({
        let mut config = (*old).clone();
        config.resumption = rustls::client::Resumption::disabled();
        config
    });
    tls.connect(&strict).unwrap_err();
    tls.wait_for("tls_failed_rejected", 1);
    tls.bench.finish();
}

#[test]
fn without_a_certificate_connections_are_closed_and_all_else_is_served() {
    let upstream = answers();
    let server = Arc::new(TlsServer::new().unwrap());
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listeners = Listeners::bind(&[any], &mut Vec::new()).unwrap();
    listeners.bind_tls(any, &server, &mut Vec::new()).unwrap();
    let address = listeners.tls_addresses()[0];
    let bench = Bench::with(listeners, vec![upstream.address], 64);
    let msg = query(1, "name", None);
    assert!(is_closed(&mut TcpStream::connect(address).unwrap()));
    assert_answers(&msg, &ask(&client(bench.addresses[0]), &msg));
    assert_eq!(bench.count("tls_failed_no_certificate"), 1);
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(directory.path(), VALID);
    server.set_certificate(TlsPair::read(&files.certificate, &files.key).unwrap());
    let config = Arc::new(config(&directory, &[&TLS13]));
    let mut stream = handshake(TcpStream::connect(address).unwrap(), &config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    bench.finish();
}

#[test]
fn a_protocol_is_not_needed_but_no_other_is_accepted() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let msg = query(1, "name", None);
    for (offered, chosen) in [
        (&[][..], Some(None)),
        (&["dot"], Some(Some(&b"dot"[..]))),
        (&["h2", "dot"], Some(Some(b"dot"))),
        (&["h2", "http/1.1"], None),
    ] {
        let mut config = tls.client();
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = tls.connect(&Arc::new(config));
        match chosen {
            Some(protocol) => {
                let mut stream = stream.unwrap();
                assert_eq!(stream.conn.alpn_protocol(), protocol);
                assert_answers(&msg, &ask_tcp(&mut stream, &msg));
            }
            None => {
                let error = stream.unwrap_err().to_string();
                assert!(error.contains("NoApplicationProtocol"), "{error}");
            }
        }
    }
    tls.wait_for("tls_failed_alpn", 1);
    tls.bench.finish();
}

#[test]
fn what_is_not_tls_is_closed_and_counted() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let plain = frame(&query(1, "name", None));
    for (failed, garbage) in [
        plain.as_slice(),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
        &[0xff; 300],
        // A record that is longer than any.
        &[22, 3, 1, 0xff, 0xff, 1, 2, 3],
    ]
    .iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(tls.address).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.write_all(garbage).unwrap();
        let mut read = Vec::new();
        // An alert at most.
        let _ = stream.read_to_end(&mut read);
        assert!(read.len() <= 7, "{read:?}");
        tls.wait_for("tls_failed_malformed", failed as u64 + 1);
    }
    // A handshake that does not end, however long it is.
    let mut stream = TcpStream::connect(tls.address).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    let record = [&[22, 3, 1, 0x10, 0][..], &[1, 0, 0xff, 0xff], &[0; 0xffc]].concat();
    for _ in 0..5 {
        let _ = stream.write_all(&record);
    }
    let _ = io::copy(&mut stream, &mut io::sink());
    tls.wait_for("tls_failed_malformed", 6);
    // A client that goes away.
    let config = Arc::new(tls.client());
    let mut stream = TcpStream::connect(tls.address).unwrap();
    session(&config).write_tls(&mut stream).unwrap();
    drop(stream);
    tls.wait_for("tls_failed_closed", 1);
    assert_eq!(tls.count("tls_handshakes"), 0);
    tls.wait_for("tls_open", 0);
    tls.bench.finish();
}

#[test]
fn a_silent_handshake_is_ended_and_one_is_served_a_turn() {
    let upstream = answers();
    let (listeners, _server, directory) = listeners();
    let address = listeners.tls_addresses()[0];
    let (mut turn, counters, forwarder) = stopped(listeners, upstream.address);
    let now = turn.sockets.now;
    let config = Arc::new(config(&directory, &[&TLS13]));
    let mut clients: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    // The listener for TLS follows that for TCP.
    while turn.sockets.connections.len() < 4 {
        turn.sockets.accept(1, &turn.engine);
    }
    // All but the first say hello.
    for client in &mut clients[1..] {
        session(&config).write_tls(client).unwrap();
        client.set_nonblocking(true).unwrap();
    }
    let has_reply = |client: &TcpStream| client.peek(&mut [0; 9]).is_ok();
    for connection in 1..4 {
        assert!(turn.sockets.connections.waits_for_handshake(connection));
        // Reported twice, served once.
        assert!(turn.sockets.connections.waits_for_handshake(connection));
    }
    for served in 0..4 {
        let replies = clients[1..]
            .iter()
            .filter(|client| has_reply(client))
            .count();
        assert_eq!(replies, served);
        assert_eq!(turn.sockets.connections.has_handshakes(), served < 3);
        turn.serve_handshake();
    }
    // One that is closed does not wait any more, nor one that takes its place.
    assert!(turn.sockets.connections.waits_for_handshake(0));
    for (seconds, left) in [(3, 4), (5, 0)] {
        turn.sockets.now = now + Duration::from_secs(seconds);
        turn.sockets.sweep(&turn.engine);
        assert_eq!(turn.sockets.connections.len(), left, "after {seconds} s");
    }
    assert!(!turn.sockets.connections.has_handshakes());
    assert!(is_closed(&mut clients[0]));
    assert_eq!(counters.tls_failed_timeout.get(), 4);
    turn.sockets.count_connections();
    assert_eq!(counters.tls_open.get(), 0);
    drop(forwarder);
}

#[test]
fn the_handshakes_of_one_network_are_a_share_of_the_connections() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    if lacks_descriptors() {
        return tls.bench.finish();
    }
    let silent: Vec<TcpStream> = (0..300)
        .map(|i| tcp_from(&format!("127.66.0.{}", i % 200 + 1), tls.address))
        .collect();
    tls.wait_for("tls_failed_no_room", 300 - 1024 / 4);
    // Others are served, and even that network's own: the oldest make room.
    let config = Arc::new(tls.client());
    let msg = query(1, "name", None);
    for address in ["127.1.0.1", "127.66.0.1"] {
        let mut stream = handshake(tcp_from(address, tls.address), &config).unwrap();
        assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    }
    drop(silent);
    tls.bench.finish();
}

#[test]
fn a_full_table_closes_a_connection_of_the_largest_holder_over_tls() {
    const FLOOD: usize = 1100;
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    if lacks_descriptors() {
        return tls.bench.finish();
    }
    let config = Arc::new(tls.client());
    let msg = query(9, "name", None);
    let mut others: Vec<_> = ["127.1.0.1", "127.66.0.2"]
        .map(|address| handshake(tcp_from(address, tls.address), &config).unwrap())
        .into();
    for stream in &mut others {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let held: Vec<Tls> = (0..FLOOD)
        .map(|_| handshake(tcp_from("127.66.0.1", tls.address), &config).unwrap())
        .collect();
    for stream in &mut others {
        assert_answers(&msg, &ask_tcp(stream, &msg));
    }
    let mut new = handshake(tcp_from("127.3.0.1", tls.address), &config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut new, &msg));
    // Over TCP the table is the same one.
    assert_answers(&msg, &ask_tcp(&mut tls.bench.tcp(), &msg));
    assert!(tls.count("tcp_closed_full") >= (FLOOD - 1024) as u64);
    assert_eq!(
        tls.count("tls_failed_no_room"),
        0,
        "they were all established"
    );
    drop(held);
    tls.bench.finish();
}

#[test]
fn queries_are_pipelined_split_and_merged_and_a_client_may_stop_reading_for_a_while() {
    let upstream = Upstream::start(|seen: &Seen| match (seen.tcp, seen.msg[12]) {
        (false, 5) => vec![bare(&seen.msg, 0x200)],
        (true, _) => vec![response(&seen.msg, 50_000)],
        _ => vec![response(&seen.msg, 20)],
    });
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    let large = query(7, "large", None);
    let mut lazy = tls.connect(&config).unwrap();
    assert_answers(&large, &ask_tcp(&mut lazy, &large));
    // 2 MB of replies, in one record of queries: more than a session encrypts at once.
    lazy.write_all(&frame(&large).repeat(40)).unwrap();

    let mut stream = tls.connect(&config).unwrap();
    stream.sock.set_nodelay(true).unwrap();
    let msg = query(8, "bits", None);
    for octet in frame(&msg) {
        // Each in a record of its own.
        stream.write_all(&[octet]).unwrap();
        stream.flush().unwrap();
    }
    assert_answers(&msg, &read_frame(&mut stream));
    for _ in 0..40 {
        assert_answers(&large, &read_frame(&mut lazy));
    }
    tls.bench.finish();
}

#[test]
fn a_client_that_leaves_too_much_unread_is_closed_over_tls() {
    const QUERIES: u16 = 128;
    let upstream = Upstream::start(|seen: &Seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => {
            thread::sleep(Duration::from_millis(300));
            vec![response(&seen.msg, 60_000)]
        }
    });
    let tls = TlsBench::new(vec![upstream.address], 4096);
    let config = Arc::new(tls.client());
    let mut lazy = tls.connect(&config).unwrap();
    let queries = (0..QUERIES).flat_map(|id| frame(&query(id, "large", None)));
    lazy.write_all(&queries.collect::<Vec<_>>()).unwrap();
    tls.wait_for("tls_open", 0);
    assert!(tls.count("tls_answered") < u64::from(QUERIES));
    let msg = query(1, "large", None);
    let mut other = tls.connect(&config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut other, &msg));
    tls.bench.finish();
}

#[test]
fn a_stream_ends_with_an_alert_or_without() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    let msg = query(1, "name", None);
    for goodbye in [true, false].repeat(10) {
        let mut stream = tls.connect(&config).unwrap();
        stream.write_all(&frame(&msg)).unwrap();
        if goodbye {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
        assert_answers(&msg, &read_frame(&mut stream));
        // The server says so itself: else this would be an error.
        assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
    }
    tls.wait_for("tls_open", 0);
    assert_eq!(tls.count("tcp_closed_idle"), 0);
    tls.bench.finish();
}

#[test]
fn a_client_that_closes_at_once_has_had_its_handshake() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    for _ in 0..50 {
        let stream = tls.connect(&config).unwrap();
        // A reset: the tickets cannot be sent any more.
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        nix::sys::socket::setsockopt(&stream.sock, nix::sys::socket::sockopt::Linger, &linger)
            .unwrap();
    }
    tls.wait_for("tls_open", 0);
    tls.wait_for("tls_connections", 50);
    // A reset may also come before what the client sent last is read.
    assert_eq!(
        tls.count("tls_handshakes") + tls.count("tls_failed_closed"),
        50
    );
    tls.bench.finish();
}

#[test]
fn the_threads_share_the_tickets() {
    let (listeners, _server, directory) = listeners();
    let address = listeners.tls_addresses()[0];
    let threads = listeners.split(4, MAX_CONNECTIONS).unwrap();
    let upstream = answers();
    let parts: Vec<_> = threads
        .into_iter()
        .map(|one| Bench::with(one, vec![upstream.address], 64))
        .collect();
    let config = Arc::new(config(&directory, &[&TLS13]));
    let msg = query(1, "name", None);
    let mut kinds = Vec::new();
    for _ in 0..32 {
        let mut stream = handshake(TcpStream::connect(address).unwrap(), &config).unwrap();
        // Its tickets come with the reply.
        assert_answers(&msg, &ask_tcp(&mut stream, &msg));
        kinds.push(stream.conn.handshake_kind().unwrap());
    }
    let resumed = kinds.iter().filter(|kind| **kind == HandshakeKind::Resumed);
    assert_eq!(resumed.count(), 31);
    let served = parts.iter().filter(|part| part.count("tls_handshakes") > 0);
    assert!(served.count() > 1);
    parts.into_iter().for_each(Bench::finish);
}

#[test]
fn a_server_in_the_place_of_another_one_resumes_its_sessions() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    let msg = query(1, "name", None);
    let mut first = tls.connect(&config).unwrap();
    // Its tickets come with the reply.
    assert_answers(&msg, &ask_tcp(&mut first, &msg));

    let server = Arc::new(TlsServer::new().unwrap());
    let files = ["certificate.pem", "key.pem"].map(|name| tls.directory.path().join(name));
    server.set_certificate(TlsPair::read(&files[0], &files[1]).unwrap());
    let mut inherited = tls.bench.front.listeners().unwrap();
    let mut listeners = Listeners::bind(&tls.bench.addresses, &mut inherited).unwrap();
    listeners
        .bind_tls(tls.address, &server, &mut inherited)
        .unwrap();
    tls.bench.finish();
    let new = Bench::with(listeners, vec![upstream.address], 64);
    let mut second = handshake(TcpStream::connect(tls.address).unwrap(), &config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut second, &msg));
    assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    new.finish();
}

#[test]
fn any_name_of_a_client_gets_the_certificate() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    let other = ServerName::try_from("other.example").unwrap();
    let mut session = ClientConnection::new(config, other).unwrap();
    let mut socket = TcpStream::connect(tls.address).unwrap();
    let error = loop {
        if let Err(error) = session.complete_io(&mut socket) {
            break error;
        }
    };
    assert!(error.to_string().contains("not valid for name"), "{error}");
    tls.wait_for("tls_failed_rejected", 1);
    tls.bench.finish();
}

#[test]
fn sessions_end_by_their_rules_when_a_successor_takes_over() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    let config = Arc::new(tls.client());
    let msg = query(1, "name", None);
    let mut idle = tls.connect(&config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut idle, &msg));
    // One that has begun its handshake.
    let mut socket = TcpStream::connect(tls.address).unwrap();
    socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    let mut session = session(&config);
    session.write_tls(&mut socket).unwrap();
    tls.wait_for("tls_open", 2);

    let mut inherited = tls.bench.front.listeners().unwrap();
    let mut listeners = Listeners::bind(&tls.bench.addresses, &mut inherited).unwrap();
    listeners
        .bind_tls(tls.address, &tls.server, &mut inherited)
        .unwrap();
    assert_eq!(inherited.len(), 0);
    let new = Bench::with(listeners, vec![upstream.address], 64);
    thread::scope(|scope| {
        let front = std::slice::from_ref(&tls.bench.front);
        let retiring = scope.spawn(move || {
            let mut sink = |_| panic!("sessions do not move");
            SocketFront::retire(front, Ending::HandOver, READ_TIMEOUT, &mut sink).unwrap();
        });
        // A close_notify: rustls would report an end without one as an error.
        assert_eq!(idle.read(&mut [0; 9]).unwrap(), 0);
        drop(idle);
        while session.is_handshaking() {
            session.complete_io(&mut socket).unwrap();
        }
        let mut stream = StreamOwned::new(session, socket);
        assert_answers(&msg, &ask_tcp(&mut stream, &msg));
        assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
        drop(stream);
        retiring.join().unwrap();
    });
    assert_eq!(tls.count("tcp_drained"), 2);
    assert_eq!(tls.count("tcp_drained_late"), 0);
    let mut stream = tls.connect(&config).unwrap();
    assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    assert_eq!(new.count("tls_answered"), 1);
    new.finish();
    tls.bench.finish();
}
