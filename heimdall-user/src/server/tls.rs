//! TLS towards clients: the certificate from the settings, at the start and at every reload, and what is told of it.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::SystemTime};

use serde_json::{Value, json};
use thiserror::Error;
use tracing::{error, info, warn};

use super::{opened::warn_of_absent, retry::retry};
use crate::{
    config::{Config, Location, Zoned},
    socket::{Certificate, Listeners, PairError, SocketError, TlsPair, TlsServer, Validity},
};

/// Why a certificate and its key are not used. One line, with the setting's place.
#[derive(Debug, Error)]
pub enum TlsError {
    /// They cannot be used.
    #[error("{location}{problem}")]
    Unusable {
        /// Where the file is named.
        location: Location,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It is not valid now.
    #[error("{location}the certificate {problem}; renew it, or check this host's clock")]
    NotValid {
        /// Where the file is named.
        location: Location,
        /// Why not.
        problem: String,
    },
}

/// Reads the certificate and the key of the settings. `None`: these have none.
///
/// # Errors
/// They cannot be used. That a certificate has expired is none of these.
pub(super) fn read(config: &Config) -> Result<Option<TlsPair>, TlsError> {
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) else {
        return Ok(None);
    };
    let unusable = |error: PairError| TlsError::Unusable {
        location: config.settings.location(match error {
            PairError::Certificate(_) => "tls.certificate",
            PairError::Key(_) => "tls.key",
        }),
        problem: error.to_string(),
    };
    TlsPair::read(certificate, key).map(Some).map_err(unusable)
}

/// Checks that a certificate is valid now. Warns of what may become a problem.
fn check_validity(config: &Config, pair: &TlsPair) -> Result<(), TlsError> {
    let settings = &config.settings;
    let location = settings.location("tls.certificate");
    if pair.exposed {
        let location = settings.location("tls.key");
        warn!("{location}all users of this host can read the key; take that away: chmod o-rwx");
    }
    if pair.certificate.names.is_empty() {
        warn!(
            "{location}the certificate has no names (subjectAltName): clients that check it do not connect"
        );
    }
    let now = SystemTime::now();
    match (
        pair.certificate.validity(now),
        pair.certificate.problem(now),
    ) {
        (Validity::Expired | Validity::NotYetValid, Some(problem)) => {
            Err(TlsError::NotValid { location, problem })
        }
        (_, Some(problem)) => {
            warn!("{location}the certificate {problem}; renew it");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// For `heimdall check`: describes the certificate, if there is one.
///
/// # Errors
/// TLS would not be served, or only to clients that do not check the certificate.
pub(super) fn check(config: &Config) -> Result<Option<String>, TlsError> {
    let Some(pair) = read(config)? else {
        return Ok(None);
    };
    check_validity(config, &pair)?;
    Ok(Some(describe(&pair)))
}

fn describe(pair: &TlsPair) -> String {
    format!("TLS: the certificate is {}", pair.certificate)
}

/// The listeners for TLS, and their certificate.
#[derive(Debug)]
pub(super) struct Tls {
    server: Arc<TlsServer>,
    /// Those that are listened on.
    pub(super) addresses: Vec<SocketAddr>,
    /// Those that are not, and why.
    pub(super) unserved: Vec<(SocketAddr, String)>,
}

impl Tls {
    /// Takes the addresses for TLS from the inherited sockets or binds them, and reads the certificate. What fails is
    /// logged, and leaves the rest. `None`: TLS is not asked for.
    pub(super) fn start(
        config: &Config,
        listeners: &mut Listeners,
        inherited: &mut Vec<OwnedFd>,
    ) -> Option<Arc<Self>> {
        if config.listen_tls.is_empty() {
            return None;
        }
        let server = match TlsServer::new() {
            Ok(server) => Arc::new(server),
            Err(problem) => {
                error!("no TLS is served: {problem}");
                return None;
            }
        };
        let mut unserved = Vec::new();
        for &address in &config.listen_tls {
            let bound = retry(
                || listeners.bind_tls(address, &server, inherited),
                |error| matches!(error, SocketError::Taken { .. }),
            );
            if let Err(problem) = bound {
                let why = format!("no TLS is served on {}: {problem}", Zoned(address));
                error!("{why}; then reload");
                unserved.push((address, why));
            }
        }
        let tls = Self {
            server,
            addresses: listeners.tls_addresses(),
            unserved,
        };
        if !tls.addresses.is_empty() {
            warn_of_absent(&tls.addresses);
            tls.begin(config);
        }
        Some(Arc::new(tls))
    }

    fn begin(&self, config: &Config) {
        let pair = match read(config) {
            Ok(Some(pair)) => pair,
            // The settings were checked for that.
            Ok(None) => return,
            Err(problem) => {
                error!("TLS connections are closed until a reload finds a certificate: {problem}");
                return;
            }
        };
        // Clients that do not check it are served.
        if let Err(problem) = check_validity(config, &pair) {
            error!("{problem}");
        }
        info!("{}", describe(&pair));
        self.server.set_certificate(pair);
    }

    /// Shows the certificate of these settings from now on. Returns what is to be said of it, if it is another one.
    ///
    /// # Errors
    /// As [`acceptable`](Self::acceptable). The one in use stays.
    pub(super) fn reload(&self, config: &Config) -> Result<Option<String>, TlsError> {
        let Some(pair) = self.acceptable(config)? else {
            return Ok(None);
        };
        let current = self.server.certificate();
        let is_new = current.is_none_or(|current| *current != pair.certificate);
        let said = is_new.then(|| describe(&pair));
        self.server.set_certificate(pair);
        Ok(said)
    }

    /// Reads the certificate and the key of these settings, which are to replace those in use. `None`: there are none.
    ///
    /// # Errors
    /// They cannot be used, or the certificate is not valid while the one in use is.
    pub(super) fn acceptable(&self, config: &Config) -> Result<Option<TlsPair>, TlsError> {
        let Some(pair) = read(config)? else {
            return Ok(None);
        };
        let now = SystemTime::now();
        let current = self.server.certificate();
        let works = |certificate: &Arc<Certificate>| {
            matches!(
                certificate.validity(now),
                Validity::Valid | Validity::ExpiresSoon
            )
        };
        match check_validity(config, &pair) {
            Err(problem) if current.as_ref().is_some_and(works) => return Err(problem),
            Err(problem) => error!("{problem}"),
            Ok(()) => {}
        }
        Ok(Some(pair))
    }

    /// Seconds since 1970 until which the certificate is valid.
    pub(super) fn not_after(&self) -> Option<u64> {
        let certificate = self.server.certificate()?;
        Some(unix(certificate.not_after))
    }

    /// For the document.
    pub(super) fn json(&self) -> Value {
        let listen: Vec<String> = self
            .addresses
            .iter()
            .map(|address| Zoned(*address).to_string())
            .collect();
        let certificate = self.server.certificate().map(|certificate| {
            json!({
                "names": certificate.names,
                "not_before": unix(certificate.not_before),
                "not_after": unix(certificate.not_after),
                "problem": certificate.problem(SystemTime::now()),
            })
        });
        json!({ "listen": listen, "certificate": certificate })
    }
}

fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
