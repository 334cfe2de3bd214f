//! TLS towards clients: DNS over TLS, [RFC 7858](https://www.rfc-editor.org/rfc/rfc7858), by the recommendations of
//! [RFC 9325](https://www.rfc-editor.org/rfc/rfc9325).
//!
//! [`TlsServer`] is what the threads share: the certificate, which a reload replaces, and the keys of session tickets, which
//! outlive it. A connection keeps what it began with. [`stream`](super::stream) moves the records.

mod pair;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use rustls::{
    Error, ServerConfig, ServerConnection,
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets},
};

use super::SocketCounters;
use crate::stats::Counter;
pub(crate) use pair::{Certificate, PairError, TlsPair, Validity};

/// The protocol's name in the handshake (RFC 7858 section 3.1; IANA's ALPN registry). Clients need not name one; those
/// that name only others are rejected.
const ALPN: &[u8] = b"dot";

/// What all TLS listeners use.
pub(crate) struct TlsServer {
    active: ArcSwapOption<Active>,
    /// Encrypts the state of sessions into tickets, with keys that change every six hours and are accepted for twelve. As
    /// nothing is kept here, any thread can resume a session.
    ticketer: Arc<dyn ProducesTickets>,
}

struct Active {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
}

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

impl TlsServer {
    /// One without a certificate, which accepts no connection.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            active: ArcSwapOption::empty(),
            ticketer: ticketer()?,
        })
    }

    /// Uses this certificate for clients that connect from now on.
    pub(crate) fn set_certificate(&self, pair: TlsPair) {
        let mut config = pair.config;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        self.active.store(Some(Arc::new(Active {
            config: Arc::new(config),
            certificate: Arc::new(pair.certificate),
        })));
    }

    /// The certificate that clients get. `None`: there is none, and connections are closed.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        let active = self.active.load();
        active
            .as_ref()
            .map(|active| Arc::clone(&active.certificate))
    }

    /// A session for a connection.
    pub(super) fn accept(&self) -> Option<ServerConnection> {
        let active = self.active.load();
        ServerConnection::new(Arc::clone(&active.as_ref()?.config)).ok()
    }
}

/// The process's keys of tickets: sessions are resumed also after a reload by which another server takes over.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    static TICKETER: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    let ticketer = match TICKETER.get() {
        Some(ticketer) => ticketer,
        None => {
            let new = Ticketer::new()?;
            TICKETER.get_or_init(|| new)
        }
    };
    Ok(Arc::clone(ticketer))
}

/// Why a handshake has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// What the client sent is not TLS, or breaks its rules.
    Malformed,
    /// Client and server have no version, cipher suite or group in common.
    Incompatible,
    /// The client wants another protocol than DNS.
    Alpn,
    /// The client sent an alert: most often it does not trust the certificate.
    Rejected,
    /// The client closed the connection.
    Closed,
    /// The client was silent for too long.
    Timeout,
    /// The connection was closed to make room for others.
    NoRoom,
    /// There is no certificate.
    NoCertificate,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::PeerIncompatible(_) => Self::Incompatible,
            Error::NoApplicationProtocol => Self::Alpn,
            Error::AlertReceived(_) => Self::Rejected,
            _ => Self::Malformed,
        }
    }

    pub(super) fn counter(self, counters: &SocketCounters) -> &Counter {
        match self {
            Self::Malformed => &counters.tls_failed_malformed,
            Self::Incompatible => &counters.tls_failed_incompatible,
            Self::Alpn => &counters.tls_failed_alpn,
            Self::Rejected => &counters.tls_failed_rejected,
            Self::Closed => &counters.tls_failed_closed,
            Self::Timeout => &counters.tls_failed_timeout,
            Self::NoRoom => &counters.tls_failed_no_room,
            Self::NoCertificate => &counters.tls_failed_no_certificate,
        }
    }
}
