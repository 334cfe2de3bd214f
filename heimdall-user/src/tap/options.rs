//! What is observed, and where it goes.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

use super::{rate::Rate, taps::Rates};

/// Sampling for the popular names and clients, which is always on.
const POPULAR: Rate = Rate::one_in(256);

/// What is observed, and where it goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TapOptions {
    pub(crate) dnstap: Option<DnstapOptions>,
    pub(crate) query_log: Option<QueryLogOptions>,
}

/// dnstap.
#[derive(Clone, Debug)]
pub(crate) struct DnstapOptions {
    pub(crate) target: DnstapTarget,
    pub(crate) rate: Rate,
    pub(crate) messages: Vec<MessageKind>,
    /// The server's name in each message.
    pub(crate) identity: Option<String>,
    /// The server's version in each message.
    pub(crate) version: String,
}

/// Where dnstap's frames go: `unix:PATH` or `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnstapTarget {
    /// To the reader that listens on this Unix socket.
    Socket(PathBuf),
    /// To this file.
    File(PathBuf),
}

/// A text that is no [`DnstapTarget`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is neither; write unix:PATH, the socket that a reader listens on, or file:PATH")]
pub struct BadTarget(String);

impl FromStr for DnstapTarget {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        match text.split_once(':') {
            Some(("unix", path)) => Ok(Self::Socket(path.into())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            _ => Err(BadTarget(text.to_owned())),
        }
    }
}

impl fmt::Display for DnstapTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// dnstap's types of messages that we have, by their numbers in `dnstap.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A client's query.
    ClientQuery = 5,
    /// The reply that it got.
    ClientResponse = 6,
    /// A query to an upstream.
    ForwarderQuery = 7,
    /// Its response.
    ForwarderResponse = 8,
}

/// The query log.
#[derive(Clone, Debug)]
pub(crate) struct QueryLogOptions {
    pub(crate) rate: Rate,
    /// `None`: stdout.
    pub(crate) file: Option<PathBuf>,
}

impl TapOptions {
    /// What the threads sample.
    pub(super) fn rates(&self) -> Rates {
        let dnstap = |kinds: [MessageKind; 2]| {
            let options = self.dnstap.as_ref();
            let options =
                options.filter(|options| kinds.iter().any(|kind| options.messages.contains(kind)));
            options.map(|options| options.rate)
        };
        Rates {
            popular: Some(POPULAR),
            dnstap: dnstap([MessageKind::ClientQuery, MessageKind::ClientResponse]),
            log: self.query_log.as_ref().map(|options| options.rate),
            forwarder: dnstap([MessageKind::ForwarderQuery, MessageKind::ForwarderResponse]),
        }
    }
}
