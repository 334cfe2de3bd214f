//! Queries that wait for the forwarder.

use std::net::IpAddr;

use slab::Slab;

use super::path::Path;
use crate::{
    answer::{Client, Transport},
    dns::{Query, header},
};

/// Where a query came from, and its reply goes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Udp {
        /// The listener's number.
        listener: usize,
        path: Path,
    },
    Tcp {
        connection: usize,
        /// Tells the connection from a later one in the same place.
        serial: u64,
        /// The client's address.
        address: IpAddr,
    },
}

impl Origin {
    /// The client as the answer core knows it.
    pub(super) fn client(&self) -> Client {
        match self {
            Self::Udp { path, .. } => Client::new(
                path.peer.ip(),
                Transport::Udp {
                    source_port: path.peer.port(),
                },
            ),
            Self::Tcp { address, .. } => Client::new(*address, Transport::Tcp),
        }
    }
}

/// A query that waits: what is needed to write its reply.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) query: Query,
    pub(super) origin: Origin,
    /// The message's start, [`Query::needed`] octets.
    head: Box<[u8]>,
}

impl Waiting {
    /// Keeps of `msg` what the reply needs.
    pub(super) fn new(query: &Query, msg: &[u8], origin: Origin) -> Self {
        debug_assert!(msg.len() >= header::LEN);
        Self {
            query: *query,
            origin,
            head: msg.get(..query.needed()).unwrap_or_default().into(),
        }
    }

    /// Puts the query back where a reply can be written over it.
    pub(super) fn restore(&self, buf: &mut [u8]) {
        if let Some(start) = buf.get_mut(..self.head.len()) {
            start.copy_from_slice(&self.head);
        }
    }
}

/// The queries that wait, by the token that the forwarder knows them by. A token is free for use
/// again only after its outcome, and each request has exactly one.
#[derive(Debug)]
pub(super) struct Pending {
    waiting: Slab<Waiting>,
    capacity: usize,
}

impl Pending {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: Slab::new(),
            capacity,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The token that the next query to be added will have, if there is room for one.
    pub(super) fn next_token(&self) -> Option<u64> {
        (self.waiting.len() < self.capacity).then(|| self.waiting.vacant_key() as u64)
    }

    pub(super) fn add(&mut self, waiting: Waiting) {
        self.waiting.insert(waiting);
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Waiting> {
        self.waiting.try_remove(usize::try_from(token).ok()?)
    }
}
