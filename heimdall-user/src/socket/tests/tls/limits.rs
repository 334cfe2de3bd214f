//! What one client can take of a thread's time and memory over TLS.

use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage},
};

use super::*;
use crate::{
    answer::access::Access,
    socket::{holders::Holders, stream::Stream, tcp::Connection},
};

/// What a client writes after its handshake: records of any length, which the session of rustls does not write.
struct Records {
    socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Records {
    /// A client that has made its handshake over TLS 1.3.
    fn new(stream: Tls) -> Self {
        let (session, socket) = stream.into_parts();
        let suite = session.negotiated_cipher_suite().unwrap();
        let algorithm = suite.tls13().unwrap().aead_alg;
        let (sequence, secrets) = session.dangerous_extract_secrets().unwrap().tx;
        let encrypter = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                algorithm.encrypter(key, iv)
            }
            _ => unreachable!("all that TLS 1.3 has"),
        };
        Self {
            socket,
            encrypter,
            sequence,
        }
    }

    /// Records of this type, one for each content.
    fn of<'a>(
        &mut self,
        typ: ContentType,
        contents: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<u8> {
        let mut records = Vec::new();
        for content in contents {
            let message = OutboundPlainMessage {
                typ,
                version: ProtocolVersion::TLSv1_3,
                payload: OutboundChunks::Single(content),
            };
            let record = self.encrypter.encrypt(message, self.sequence).unwrap();
            records.extend(record.encode());
            self.sequence += 1;
        }
        records
    }
}

/// Octets of a record with one octet: its header, that octet, the type and the tag.
const SHORT_RECORD: usize = 23;

fn extractable(directory: &TempDir) -> Arc<ClientConfig> {
    let mut config = config(directory, &[&TLS13]);
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// A query that is answered without an upstream: NOTIMP.
fn update() -> Vec<u8> {
    let mut msg = query(1, "name", None);
    msg[2] = 5 << 3;
    msg
}

#[test]
fn a_turn_reads_a_bound_of_octets_whatever_is_in_them() {
    let upstream = answers();
    let (listeners, _server, directory) = listeners();
    let address = listeners.tls_addresses()[0];
    let (mut turn, counters, forwarder) = stopped(listeners, upstream.address);
    let config = extractable(&directory);
    let client = thread::spawn(move || {
        Records::new(handshake(TcpStream::connect(address).unwrap(), &config).unwrap())
    });
    while counters.tls_handshakes.get() == 0 {
        turn.sockets.accept(1, &turn.engine);
        turn.serve(0);
    }
    let mut client = client.join().unwrap();
    let msg = frame(&update());

    // Many messages, each octet in a record of its own: 64 KiB of them a turn.
    let octets = msg.repeat(400);
    let records = client.of(ContentType::ApplicationData, octets.chunks(1));
    let of_one = SHORT_RECORD * msg.len();
    let mut writer = client.socket.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(&records));
    let mut received = 0;
    while received < 400 {
        turn.serve(0);
        let more = counters.tls_received.get() - received;
        assert!(more <= (72 << 10) / of_one as u64, "{more} in a turn");
        received += more;
    }
    writing.join().unwrap().unwrap();

    // Records may be empty.
    for _ in 0..4 {
        let empty = std::iter::repeat_n(&[][..], 30);
        let records = client.of(ContentType::ApplicationData, empty.chain([msg.as_slice()]));
        client.socket.write_all(&records).unwrap();
        received += 1;
        while counters.tls_received.get() < received {
            turn.serve(0);
            assert_eq!(turn.sockets.connections.len(), 1);
        }
    }
    // A key update of 64 KiB that does not end, in single octets.
    let update = [&[24, 0, 0xff, 0xf0][..], &[0; (40 << 10) / SHORT_RECORD]].concat();
    let records = client.of(ContentType::Handshake, update.chunks(1));
    client.socket.write_all(&records).unwrap();
    let end = Instant::now() + READ_TIMEOUT;
    while turn.sockets.connections.len() == 1 {
        assert!(Instant::now() < end, "it stays open");
        turn.serve(0);
    }
    drop(forwarder);
}

#[test]
fn an_address_with_many_handshakes_ends_none_of_its_neighbours() {
    let upstream = answers();
    let tls = TlsBench::new(vec![upstream.address], 64);
    if lacks_descriptors() {
        return tls.bench.finish();
    }
    // The oldest of its network.
    let neighbour = tcp_from("127.66.0.2", tls.address);
    let silent: Vec<TcpStream> = (0..300)
        .map(|_| tcp_from("127.66.0.1", tls.address))
        .collect();
    tls.wait_for("tls_failed_no_room", 301 - 1024 / 4);
    let config = Arc::new(tls.client());
    let mut stream = handshake(neighbour, &config).unwrap();
    let msg = query(1, "name", None);
    assert_answers(&msg, &ask_tcp(&mut stream, &msg));
    drop(silent);
    tls.bench.finish();
}

#[test]
fn a_client_that_takes_replies_slowly_is_not_idle() {
    use nix::sys::socket::{setsockopt, sockopt};
    let (_listeners, server, directory) = listeners();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config(&directory, &[&TLS13]));
    let client = thread::spawn(move || {
        let socket = TcpStream::connect(address).unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
        handshake(socket, &config).unwrap()
    });
    let (socket, peer) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    setsockopt(&socket, sockopt::SndBuf, &4096).unwrap();
    let stream = Stream::new(mio::net::TcpStream::from_std(socket), server.accept());
    let hold = Holders::default().open(peer.ip());
    let now = Instant::now();
    let mut connection = Connection::new(stream, peer.ip(), 1, hold, now);
    while connection.stream.is_handshaking() {
        connection.read(&mut [0; 4096]).unwrap();
    }
    let mut client = client.join().unwrap();
    connection.used = true;
    for _ in 0..3 {
        connection.reply(&[0; 40_000], now);
    }
    connection.write(now).unwrap();
    assert!(!connection.stream.is_flushed());
    // Long before the 64 KiB that were encrypted at once are taken.
    let later = now + Duration::from_secs(5);
    let mut taken = 0;
    while connection.last_used != later {
        assert!(taken < 40_000, "{taken} octets were taken");
        taken += client.sock.read(&mut [0; 1024]).unwrap();
        connection.write(later).unwrap();
    }
    assert!(!connection.stream.is_flushed());
}

#[test]
fn a_client_that_the_access_list_drops_gets_no_handshake() {
    let upstream = answers();
    let (listeners, _server, _directory) = listeners();
    let (plain, over_tls) = (listeners.local_addresses()[0], listeners.tls_addresses()[0]);
    let policy = Policy {
        access: Access::new(&[], &[], &["127.66.0.0/16".parse().unwrap()]),
        ..Policy::default()
    };
    let (mut turn, counters, forwarder) = stopped_with(listeners, upstream.address, policy);
    let mut dropped = tcp_from("127.66.0.1", over_tls);
    let _refused = tcp_from("127.0.0.1", over_tls);
    let _plain = tcp_from("127.66.0.1", plain);
    while turn.sockets.connections.len() < 2 {
        turn.sockets.accept(0, &turn.engine);
        turn.sockets.accept(1, &turn.engine);
    }
    assert!(is_closed(&mut dropped));
    assert_eq!(counters.tls_connections.get(), 1);
    assert_eq!(counters.tcp_connections.get(), 1);
    drop(forwarder);
}
