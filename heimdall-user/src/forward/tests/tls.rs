//! Upstreams over TLS.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData,
    SanType, date_time_ymd,
};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{DnsName, PrivateKeyDer},
};
use tempfile::NamedTempFile;

use super::{
    streams::{Peer, read, serve},
    *,
};
use crate::forward::{TlsOptions, TlsPeer, UpstreamAddress, UpstreamTransport};

pub(super) const NAME: &str = "dns.example";

/// A certificate authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate in PEM.
    file: NamedTempFile,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Issuers are found by name.
        let name = format!("authority {}", fastrand::u64(..));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// A server with a certificate, and the digest of its public key.
    pub(super) fn server(
        &self,
        change: impl Fn(&mut CertificateParams),
    ) -> (Arc<ServerConfig>, [u8; 32]) {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let spki = key.subject_public_key_info();
        let digest = ::ring::digest::digest(&::ring::digest::SHA256, &spki);
        let config = server(&certificate, &key);
        (config, digest.as_ref().try_into().unwrap())
    }

    pub(super) fn options(&self, upstreams: Vec<UpstreamAddress>) -> ForwardOptions {
        ForwardOptions {
            upstreams,
            tls: TlsOptions {
                roots: Some(self.file.path().to_owned()),
                opportunistic: false,
            },
            ..options(Vec::new())
        }
    }
}

/// A server with this certificate.
fn server(certificate: &Certificate, key: &KeyPair) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = vec![b"dot".to_vec()];
    Arc::new(config)
}

/// An upstream that answers everything. Counts its queries.
fn answering(config: Arc<ServerConfig>) -> (Peer, Arc<AtomicUsize>) {
    let queries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&queries);
    let peer = Peer::start(move |_, stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::Stream::new(&mut session, stream);
        let msg = read(&mut stream)?;
        counted.fetch_add(1, Ordering::SeqCst);
        answer(&mut stream, &msg)?;
        serve(&mut stream)
    });
    (peer, queries)
}

pub(super) fn answer(
    stream: &mut rustls::Stream<'_, ServerConnection, TcpStream>,
    msg: &[u8],
) -> Option<()> {
    let msg = response(msg, 20);
    let framed = [&(msg.len() as u16).to_be_bytes()[..], &msg].concat();
    stream.write_all(&framed).ok()?;
    stream.flush().ok()
}

pub(super) fn over_tls(
    address: SocketAddr,
    name: Option<&str>,
    pins: Vec<[u8; 32]>,
) -> UpstreamAddress {
    let name = name.map(|name| DnsName::try_from(name.to_owned()).unwrap());
    UpstreamAddress {
        address,
        transport: UpstreamTransport::Tls(TlsPeer { name, pins }),
    }
}

pub(super) fn ask(bench: &mut Bench, label: &str) -> bool {
    bench.submit(&query(9, label, None), 1);
    answered(&bench.outcome())
}

pub(super) fn problem(bench: &Bench) -> Option<String> {
    let plan = bench.forwarder.plans().current();
    let problem = plan.upstreams[0].threads[0].problem();
    problem.map(|problem| problem.to_string())
}

#[test]
fn queries_share_a_session_and_are_padded() {
    let authority = Authority::new();
    let (config, _) = authority.server(|_| {});
    let peer = Peer::start(move |_, stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::Stream::new(&mut session, stream);
        while let Some(msg) = read(&mut stream) {
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"dot"[..]));
            assert_eq!(msg.len(), 128, "RFC 8467");
            answer(&mut stream, &msg)?;
        }
        None
    });
    let mut bench = Bench::new(authority.options(vec![over_tls(peer.address, Some(NAME), vec![])]));
    for number in 0..50 {
        assert!(ask(&mut bench, &format!("n{number}")));
    }
    let counts = [
        "connections_opened",
        "tls_handshakes",
        "tls_resumed",
        "sent_udp",
    ];
    assert_eq!(counts.map(|name| bench.count(name)), [1, 1, 0, 0]);
    assert_eq!(problem(&bench), None);
    bench.finish();
}

#[test]
fn sessions_are_resumed_unless_the_upstream_refuses() {
    for refuses in [false, true] {
        let authority = Authority::new();
        let configs = [authority.server(|_| {}).0, authority.server(|_| {}).0];
        let peer = Peer::start(move |number, stream| {
            // Another configuration knows no session of the first.
            let config = &configs[if refuses { number % 2 } else { 0 }];
            let mut session = ServerConnection::new(Arc::clone(config)).unwrap();
            let mut stream = rustls::Stream::new(&mut session, stream);
            let msg = read(&mut stream)?;
            answer(&mut stream, &msg)?;
            stream.conn.send_close_notify();
            stream.flush().ok()
        });
        let upstream = over_tls(peer.address, Some(NAME), vec![]);
        let mut bench = Bench::new(authority.options(vec![upstream]));
        for label in ["a", "b"] {
            assert!(ask(&mut bench, label));
            let deadline = Instant::now() + Duration::from_secs(30);
            while bench.count("connections") > 0 {
                assert!(Instant::now() < deadline, "it stays open");
                // The thread publishes that at its next turn, to which an answer from its cache leads.
                assert!(ask(&mut bench, label));
                thread::sleep(Duration::from_millis(1));
            }
        }
        let resumed = u64::from(!refuses);
        let counts = ["tls_handshakes", "tls_resumed", "upstream_errors"];
        assert_eq!(counts.map(|name| bench.count(name)), [2, resumed, 0]);
        bench.finish();
    }
}

#[test]
fn an_upstream_that_is_not_to_be_trusted_gets_no_query() {
    let expire = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    };
    let authority = Authority::new();
    let (other, pin) = (Authority::new(), [7; 32]);
    for (config, name, pins, expected) in [
        (
            authority.server(expire),
            NAME,
            vec![],
            "has expired on Wed, 01 Jan 2020",
        ),
        (
            authority.server(|_| {}),
            "other.example",
            vec![],
            "is not for other.example, but for dns.example",
        ),
        (
            authority.server(|_| {}),
            NAME,
            vec![pin],
            "none of the pins",
        ),
        (
            other.server(|_| {}),
            NAME,
            vec![],
            "no root certificate vouches",
        ),
    ] {
        let (peer, queries) = answering(config.0);
        let good = answers();
        let upstream = over_tls(peer.address, Some(name), pins.clone());
        let upstreams = vec![upstream.clone(), good.address.into()];
        let mut bench = Bench::new(authority.options(upstreams));
        assert!(ask(&mut bench, "a"), "the next upstream answers");
        assert_eq!(queries.load(Ordering::SeqCst), 0);
        let said = problem(&bench).unwrap_or_default();
        assert!(said.contains(expected), "{said}");
        bench.finish();

        // Whoever does not mind is served, but a pin holds.
        let mut options = authority.options(vec![upstream]);
        options.tls.opportunistic = true;
        let mut bench = Bench::new(options);
        assert_eq!(ask(&mut bench, "a"), pins.is_empty());
        assert_eq!(problem(&bench).is_none(), pins.is_empty());
        bench.finish();
    }
}

#[test]
fn a_certificate_that_is_signed_by_itself_must_not_be_an_authoritys() {
    for (is_ca, expected) in [
        (IsCa::Ca(BasicConstraints::Unconstrained), Some("(CA:TRUE)")),
        (IsCa::ExplicitNoCa, None),
    ] {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.is_ca = is_ca;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        let (peer, queries) = answering(server(&certificate, &key));
        let options = ForwardOptions {
            upstreams: vec![over_tls(peer.address, Some(NAME), vec![])],
            tls: TlsOptions {
                roots: Some(file.path().to_owned()),
                opportunistic: false,
            },
            ..options(Vec::new())
        };
        let mut bench = Bench::new(options);
        assert_eq!(ask(&mut bench, "a"), expected.is_none());
        let said = problem(&bench);
        assert_eq!(said.is_some(), expected.is_some(), "{said:?}");
        let said = said.unwrap_or_default();
        assert!(said.contains(expected.unwrap_or_default()), "{said}");
        assert_eq!(queries.load(Ordering::SeqCst) > 0, expected.is_none());
        bench.finish();
    }
}

#[test]
fn a_session_that_ends_with_an_alert_is_no_problem_of_tls() {
    let authority = Authority::new();
    let (config, _) = authority.server(|_| {});
    let peer = Peer::start(move |number, stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        {
            let mut stream = rustls::Stream::new(&mut session, &mut *stream);
            let msg = read(&mut stream)?;
            answer(&mut stream, &msg)?;
            if number > 0 {
                return serve(&mut stream);
            }
        }
        // The next query cannot be read: the server says so in an alert.
        stream.read_exact(&mut [0; 5]).ok()?;
        assert!(session.read_tls(&mut &[23, 3, 3, 0, 17][..]).is_ok());
        assert!(session.read_tls(&mut &[0; 17][..]).is_ok());
        assert!(session.process_new_packets().is_err());
        while session.wants_write() {
            session.write_tls(stream).ok()?;
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).ok().map(drop)
    });
    let upstream = over_tls(peer.address, Some(NAME), vec![]);
    let mut bench = Bench::new(authority.options(vec![upstream]));
    assert!(ask(&mut bench, "a"));
    assert!(ask(&mut bench, "b"));
    assert_eq!(problem(&bench), None);
    let counts = ["moved", "upstream_errors", "tls_handshakes"];
    assert_eq!(counts.map(|name| bench.count(name)), [1, 0, 2]);
    bench.finish();
}

#[test]
fn a_pin_or_an_address_is_enough_without_a_name() {
    let authority = Authority::new();
    let with_address = |params: &mut CertificateParams| {
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        params.subject_alt_names = vec![address];
    };
    let (config, _) = authority.server(with_address);
    let (peer, _) = answering(config);
    let upstream = over_tls(peer.address, None, vec![]);
    let mut bench = Bench::new(authority.options(vec![upstream]));
    assert!(ask(&mut bench, "a"));
    bench.finish();

    // No root knows its issuer, and the name is another one.
    let (config, pin) = Authority::new().server(|_| {});
    let (peer, _) = answering(config);
    let upstream = over_tls(peer.address, None, vec![[7; 32], pin]);
    let mut bench = Bench::new(authority.options(vec![upstream]));
    assert!(ask(&mut bench, "a"));
    bench.finish();
}

#[test]
fn a_problem_ends_with_a_response() {
    let authority = Authority::new();
    let configs = [
        Authority::new().server(|_| {}).0,
        authority.server(|_| {}).0,
    ];
    let peer = Peer::start(move |number, stream| {
        let config = Arc::clone(&configs[number.min(1)]);
        let mut session = ServerConnection::new(config).unwrap();
        serve(&mut rustls::Stream::new(&mut session, stream))
    });
    let upstream = over_tls(peer.address, Some(NAME), vec![]);
    let mut bench = Bench::new(authority.options(vec![upstream]));
    assert!(!ask(&mut bench, "a"));
    assert!(problem(&bench).is_some());
    assert!(ask(&mut bench, "b"));
    assert_eq!(problem(&bench), None);
    bench.finish();
}

#[test]
fn a_server_that_does_not_know_tls_is_a_problem_that_is_named() {
    let authority = Authority::new();
    for (reply, expected) in [
        (&b"\x00\x05hello"[..], "what it sends is not TLS"),
        (&b""[..], "closed the connection during the handshake"),
        (
            &b"\x15\x03\x03\x00\x02\x02\x28"[..],
            "it ended the handshake with the alert handshake failure",
        ),
    ] {
        let peer = Peer::start(move |_, stream| {
            // The whole hello, so that what follows is no reset.
            let mut head = [0; 5];
            stream.read_exact(&mut head).ok()?;
            let mut rest = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
            stream.read_exact(&mut rest).ok()?;
            stream.write_all(reply).ok()
        });
        let upstream = over_tls(peer.address, Some(NAME), vec![]);
        let mut bench = Bench::new(authority.options(vec![upstream]));
        assert!(!ask(&mut bench, "a"));
        let said = problem(&bench).unwrap_or_default();
        assert!(said.contains(expected), "{said}");
        bench.finish();
    }
}

#[test]
fn roots_that_cannot_be_read_are_an_error_at_the_start() {
    let start = |roots: &str| {
        let upstream = over_tls(([127, 0, 0, 1], 853).into(), Some(NAME), vec![]);
        let mut options = options(Vec::new());
        options.upstreams = vec![upstream];
        options.tls.roots = Some(roots.into());
        let builder = ForwarderBuilder::new(&options, Vec::new(), NameHasher::default());
        builder.map(drop).unwrap_err().to_string()
    };
    let missing = start("/nonexistent/roots.pem");
    assert!(missing.starts_with("/nonexistent/roots.pem: "), "{missing}");
    let empty = NamedTempFile::new().unwrap();
    let empty = start(empty.path().to_str().unwrap());
    assert!(empty.contains("has no certificate in PEM"), "{empty}");
}
