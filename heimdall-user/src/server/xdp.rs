//! AF_XDP, put together: a program for each interface, a socket and a worker for each queue.

use std::{net::SocketAddr, sync::Arc};

use thiserror::Error;

use super::{CoreParts, ServerError, report::XdpReport};
use crate::{
    config::Config,
    forward::{Forwarder, Mailbox},
};

/// Why AF_XDP is not to be had.
#[derive(Debug, Error)]
pub enum XdpError {
    /// Not in this build.
    #[error("this build has no AF_XDP; use --backend socket")]
    Missing,
}

/// Programs attached and sockets bound, and no thread yet.
pub(super) struct OpenXdp {
    mailboxes: Vec<Arc<Mailbox>>,
}

impl OpenXdp {
    /// Attaches the program to every interface, to steer what is sent to `addresses`, and binds a
    /// socket to every queue.
    pub(super) fn open(_config: &Config, _addresses: &[SocketAddr]) -> Result<Self, XdpError> {
        Err(XdpError::Missing)
    }

    /// The mailbox of each queue's worker, in their order.
    pub(super) fn mailboxes(&self) -> impl Iterator<Item = Arc<Mailbox>> {
        self.mailboxes.iter().map(Arc::clone)
    }

    /// The interfaces, and in which mode each queue runs.
    pub(super) fn summary(&self) -> String {
        String::new()
    }

    /// Starts the workers. Theirs are the numbers from `front` on with the forwarder.
    pub(super) fn start(
        self,
        _config: &Config,
        _parts: &CoreParts,
        _forwarder: &Forwarder,
        _front: u16,
    ) -> Result<Xdp, ServerError> {
        Err(XdpError::Missing.into())
    }
}

/// Running workers.
#[derive(Debug)]
pub(super) struct Xdp {}

impl Xdp {
    /// Where to read their counters.
    pub(super) fn report(&self) -> XdpReport {
        XdpReport {
            interfaces: Vec::new(),
            workers: Vec::new(),
        }
    }

    /// Detaches the programs and ends the workers.
    pub(super) fn stop(self) {}
}
