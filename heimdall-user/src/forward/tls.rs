//! TLS towards upstreams: [RFC 7858](https://www.rfc-editor.org/rfc/rfc7858), with the usage profiles of
//! [RFC 8310](https://www.rfc-editor.org/rfc/rfc8310) section 5.
//!
//! An upstream has to show a certificate for its name, or else its address, that a root certificate vouches for, or one
//! with a pinned key, or both. Sessions are resumed: one store for each upstream, which all threads share.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ring::digest;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{TlsPeer, UpstreamAddress, UpstreamTransport};

/// The protocol's name in the handshake (RFC 7858 section 3.1; IANA's ALPN registry).
const ALPN: &[u8] = b"dot";

/// How upstreams are asked over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// File of root certificates in PEM. `None`: the system's.
    pub roots: Option<PathBuf>,
    /// Take any certificate, unless a key is pinned: that hides queries only from those who listen, not from those who
    /// can redirect packets.
    pub opportunistic: bool,
}

/// What makes TLS connections to each upstream. `None`: it is not asked over TLS.
#[derive(Clone, Default)]
pub(super) struct TlsClients(Arc<[Option<TlsClient>]>);

struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClients {
    /// # Errors
    /// There are no root certificates, or they cannot be read.
    pub(super) fn new(upstreams: &[UpstreamAddress], options: &TlsOptions) -> io::Result<Self> {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut roots = None;
        let mut client = |upstream: &UpstreamAddress| {
            let UpstreamTransport::Tls(peer) = &upstream.transport else {
                return Ok(None);
            };
            let needs_roots =
                !options.opportunistic && (peer.name.is_some() || peer.pins.is_empty());
            if needs_roots && roots.is_none() {
                roots = Some(read_roots(options)?);
            }
            let chain = roots.clone().filter(|_| needs_roots);
            let config = config(&provider, chain, peer)?;
            let address = ServerName::from(upstream.address.ip());
            let name = peer.name.clone().map_or(address, ServerName::DnsName);
            Ok(Some(TlsClient { config, name }))
        };
        let clients: io::Result<Vec<_>> = upstreams.iter().map(&mut client).collect();
        Ok(Self(clients?.into()))
    }

    /// A session for a new connection to an upstream, by its position, if that is asked over TLS.
    ///
    /// # Errors
    /// The library cannot make one.
    pub(super) fn connect(&self, upstream: usize) -> io::Result<Option<Box<ClientConnection>>> {
        let Some(client) = self.0.get(upstream).and_then(Option::as_ref) else {
            return Ok(None);
        };
        let session = ClientConnection::new(Arc::clone(&client.config), client.name.clone());
        let mut session = session.map_err(io::Error::other)?;
        // What a connection carries is bounded.
        session.set_buffer_limit(None);
        Ok(Some(Box::new(session)))
    }
}

/// Why a session has failed. The same problem has the same text at any time.
pub(super) fn problem(error: &Error) -> String {
    let date = |time: UnixTime| {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
    };
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            format!("its certificate has expired on {}", date(*not_after))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            format!("its certificate is not valid before {}", date(*not_before))
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no root certificate vouches for its certificate; forward.tls-roots names a file of others".to_owned()
        }
        error => error.to_string(),
    }
}

fn read_roots(options: &TlsOptions) -> io::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &options.roots {
        let unreadable = |error: rustls::pki_types::pem::Error| {
            io::Error::other(format!("forward.tls-roots: {}: {error}", path.display()))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let added = store.add(certificate.map_err(unreadable)?);
            added.map_err(|error| {
                io::Error::other(format!("forward.tls-roots: {}: {error}", path.display()))
            })?;
        }
        if store.is_empty() {
            let text = format!(
                "forward.tls-roots: {} has no certificate in PEM",
                path.display()
            );
            return Err(io::Error::other(text));
        }
        return Ok(Arc::new(store));
    }
    // Some systems have certificates that no library reads; the others do.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match store.is_empty() {
        true => Err(io::Error::other(
            "this system has no root certificates to check those of TLS upstreams by; install ca-certificates, or name a \
             file with forward.tls-roots",
        )),
        false => Ok(Arc::new(store)),
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    peer: &TlsPeer,
) -> io::Result<Arc<ClientConfig>> {
    let chain = roots.map(|roots| {
        let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        builder.build().map_err(io::Error::other)
    });
    let verifier = Verifier {
        chain: chain.transpose()?,
        pins: peer.pins.clone().into_boxed_slice(),
        provider: Arc::clone(provider),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    let builder = builder.with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Checks a certificate: by the roots and the name, by pins, by both, or not at all.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Box<[[u8; 32]]>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check_pins(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let pin = digest::digest(&digest::SHA256, &key);
        match self.pins.iter().any(|known| known == pin.as_ref()) {
            true => Ok(()),
            false => Err(Error::General(
                "the key of its certificate has none of the pins".to_owned(),
            )),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            self.check_pins(end_entity)?;
        }
        match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
