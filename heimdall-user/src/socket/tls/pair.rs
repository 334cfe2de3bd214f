//! A certificate and its key: read from PEM files (RFC 7468), and checked.

use std::{
    fmt, fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate};

use crate::file;

/// Longest file, in octets. A chain has a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// Time before its end from which on a certificate is about to expire: a third of its whole time, but two weeks at most.
/// Tools renew earlier.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Permission bit of a file that all users may read.
const OTHERS_READ: u32 = 0o004;

/// A certificate with its chain and key, of which sessions can be made.
pub(crate) struct TlsPair {
    pub(super) config: ServerConfig,
    pub(crate) certificate: Certificate,
    /// All users of the host may read the key.
    pub(crate) exposed: bool,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The names and addresses that it is valid for.
    pub(crate) names: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Whether a certificate is valid at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Valid,
    /// It is valid, but not for long.
    ExpiresSoon,
    Expired,
    NotYetValid,
}

/// Why a certificate and its key cannot be used. One line, which says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    /// The certificate's file.
    #[error("{0}")]
    Certificate(String),
    /// The key's file.
    #[error("{0}")]
    Key(String),
}

impl TlsPair {
    /// Reads a chain of certificates, the server's own first, and its key (PKCS#8, SEC1 or PKCS#1). Both may be in one
    /// file.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or key that can be used, or they do not belong together.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self, PairError> {
        let chain = read_chain(certificate).map_err(PairError::Certificate)?;
        let own = chain.first().ok_or_else(|| {
            PairError::Certificate(format!(
                "{} has no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----",
                certificate.display()
            ))
        })?;
        let parsed = Certificate::parse(own).ok_or_else(|| {
            PairError::Certificate(format!(
                "the first certificate of {} cannot be read",
                certificate.display()
            ))
        })?;
        let private = read_key(key).map_err(PairError::Key)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(chain, private))
            .map_err(|error| refused(&error, certificate, key))?;
        // It was read a moment ago.
        let mode = fs::metadata(key).map_or(0, |found| found.mode());
        Ok(Self {
            config,
            certificate: parsed,
            exposed: mode & OTHERS_READ != 0,
        })
    }
}

fn refused(error: &Error, certificate: &Path, key: &Path) -> PairError {
    let (certificate, key) = (certificate.display(), key.display());
    match error {
        Error::InconsistentKeys(_) => PairError::Key(format!(
            "the key in {key} does not fit the first certificate in {certificate}, which has to be the server's own; give \
             the two that were made together"
        )),
        Error::InvalidCertificate(_) => PairError::Certificate(format!("{certificate}: {error}")),
        error => PairError::Key(format!(
            "{key}: {error}; give an ECDSA key (P-256 or P-384), an Ed25519 key or an RSA key of 2048 bits or more"
        )),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    file::read(path, MAX_FILE).map_err(|error| {
        format!(
            "cannot read {}: {error}; check the path and its permissions",
            path.display()
        )
    })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let octets = read(path)?;
    CertificateDer::pem_slice_iter(&octets)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is no PEM: {error}", path.display()))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let octets = read(path)?;
    PrivateKeyDer::from_pem_slice(&octets).map_err(|_| {
        let path = path.display();
        // `ENCRYPTED PRIVATE KEY`, or the older `Proc-Type: 4,ENCRYPTED`.
        match octets.windows(9).any(|part| part == b"ENCRYPTED") {
            true => format!(
                "the key in {path} is encrypted with a passphrase; write it without one: `openssl pkey -in {path} -out …`"
            ),
            false => format!(
                "{path} has no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----, or EC or RSA before PRIVATE"
            ),
        }
    })
}

impl Certificate {
    fn parse(octets: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(octets).ok()?;
        let validity = parsed.validity();
        Some(Self {
            names: names(&parsed),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Whether it is valid.
    pub(crate) fn validity(&self, now: SystemTime) -> Validity {
        let whole = self.not_after.duration_since(self.not_before);
        let soon = whole.map_or(SOON, |whole| (whole / 3).min(SOON));
        if now < self.not_before {
            Validity::NotYetValid
        } else if now > self.not_after {
            Validity::Expired
        } else if now + soon > self.not_after {
            Validity::ExpiresSoon
        } else {
            Validity::Valid
        }
    }

    /// What is to be said of it, in words that fit after "the certificate".
    pub(crate) fn problem(&self, now: SystemTime) -> Option<String> {
        let [before, after] = [self.not_before, self.not_after].map(httpdate::fmt_http_date);
        match self.validity(now) {
            Validity::Valid => None,
            Validity::ExpiresSoon => Some(format!("expires on {after}")),
            Validity::Expired => Some(format!("has expired on {after}")),
            Validity::NotYetValid => Some(format!("is not valid before {before}")),
        }
    }
}

/// For the log: its names, and until when it is valid.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = httpdate::fmt_http_date(self.not_after);
        match self.names.is_empty() {
            true => write!(f, "for no name, until {until}"),
            false => write!(f, "for {}, until {until}", self.names.join(", ")),
        }
    }
}

/// Those that clients check (RFC 9525 section 6.3): of the extension subjectAltName.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.iter());
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
        _ => None,
    };
    names.into_iter().flatten().filter_map(text).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// Times before 1970 count as then.
fn time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or_default())
}

#[cfg(test)]
mod tests;
