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

/// Makes sessions with one upstream that is asked over TLS. All threads share it, and so the sessions to resume.
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Makes the clients of upstreams, which share the root certificates.
pub(super) struct TlsClients<'a> {
    options: &'a TlsOptions,
    provider: Arc<CryptoProvider>,
    /// Read when they are needed.
    roots: Option<Arc<RootCertStore>>,
}

impl<'a> TlsClients<'a> {
    pub(super) fn new(options: &'a TlsOptions) -> Self {
        Self {
            options,
            provider: Arc::new(crypto::ring::default_provider()),
            roots: None,
        }
    }

    /// The client of an upstream, if that is asked over TLS.
    ///
    /// # Errors
    /// There are no root certificates, or they cannot be read.
    pub(super) fn client(
        &mut self,
        upstream: &UpstreamAddress,
    ) -> io::Result<Option<Arc<TlsClient>>> {
        let UpstreamTransport::Tls(peer) = &upstream.transport else {
            return Ok(None);
        };
        let needs_roots =
            !self.options.opportunistic && (peer.name.is_some() || peer.pins.is_empty());
        if needs_roots && self.roots.is_none() {
            self.roots = Some(read_roots(self.options)?);
        }
        let chain = self.roots.clone().filter(|_| needs_roots);
        let config = config(&self.provider, chain, peer)?;
        let address = ServerName::from(upstream.address.ip());
        let name = peer.name.clone().map_or(address, ServerName::DnsName);
        Ok(Some(Arc::new(TlsClient { config, name })))
    }
}

impl TlsClient {
    /// A session for a new connection.
    ///
    /// # Errors
    /// The library cannot make one.
    pub(super) fn connect(&self) -> io::Result<Box<ClientConnection>> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut session = session.map_err(io::Error::other)?;
        // What a connection carries is bounded.
        session.set_buffer_limit(None);
        Ok(Box::new(session))
    }
}

/// Why a handshake has failed, in words for operators. The same problem has the same text at any time.
pub(super) fn problem(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => bad_certificate(error),
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        Error::AlertReceived(alert) => {
            // The name of the alert in RFC 8446 section 6.2, as an enum has it: HandshakeFailure.
            let name = format!("{alert:?}");
            format!("it ended the handshake with the alert {}", spaced(&name))
        }
        Error::PeerIncompatible(_) => {
            "it supports no version or cipher of TLS that Heimdall does: TLS 1.3, and 1.2 with \
             forward secrecy and AEAD ciphers"
                .to_owned()
        }
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerSentOversizedRecord => {
            "what it sends is not TLS, or not its handshake; check the port".to_owned()
        }
        Error::NoApplicationProtocol => "it does not know the protocol `dot`".to_owned(),
        _ => "its handshake does not follow the protocol".to_owned(),
    }
}

fn bad_certificate(error: &CertificateError) -> String {
    let date = |time: UnixTime| {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
    };
    let text = match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("its certificate has expired on {}", date(*not_after));
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!("its certificate is not valid before {}", date(*not_before));
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = presented.iter().filter_map(|name| bare_name(name));
            let names = names.take(3).collect::<Vec<_>>().join(", ");
            let whose = if names.is_empty() {
                String::new()
            } else {
                format!(", but for {names}")
            };
            return format!("its certificate is not for {}{whose}", expected.to_str());
        }
        CertificateError::UnknownIssuer => {
            "no root certificate vouches for its certificate; forward.tls-roots names a file of others"
        }
        // What the check of pins gives.
        CertificateError::ApplicationVerificationFailure => {
            "the key of its certificate has none of the pins"
        }
        CertificateError::Revoked => "its certificate is revoked",
        CertificateError::BadSignature => "its certificate has a wrong signature",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for servers"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is signed by an algorithm that is not supported"
        }
        // As webpki writes it; rustls has no variant of its own.
        CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is an authority's (CA:TRUE), which cannot be a server's; make one with CA:FALSE, or pin its \
             key (tls://ADDRESS#sha256=DIGEST)"
        }
        _ => "its certificate cannot be read",
    };
    text.to_owned()
}

/// The name in webpki's text of a certificate's name: `DnsName("dns.example")`, `IpAddress(…)`.
fn bare_name(text: &str) -> Option<&str> {
    text.strip_prefix("DnsName(\"")?.strip_suffix("\")")
}

/// `HandshakeFailure` as `handshake failure`.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    let mut last = ' ';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && last.is_ascii_lowercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
        last = letter;
    }
    words
}

fn read_roots(options: &TlsOptions) -> io::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &options.roots {
        let unreadable = |error: rustls::pki_types::pem::Error| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let added = store.add(certificate.map_err(unreadable)?);
            added.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        }
        if store.is_empty() {
            let text = format!("{} has no certificate in PEM", path.display());
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
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
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
