//! The datagrams of the socket front's loop: received, answered and sent in batches.

use std::os::fd::{AsFd, BorrowedFd};

use mio::{Interest, Token};
use nix::errno::Errno;

use super::{
    SocketCounters,
    batch::{BATCH, Batch},
    front::{LISTENERS, Loop},
    path::Path,
    pending::Origin,
    service::Service,
};
use crate::{
    answer::{PREFETCH_DISTANCE, Verdict},
    dns::{Malformed, Query, reply::Reply},
};

/// Batches taken from one socket before others get their turn.
const ROUNDS: usize = 4;

/// A batch, and what was asked in it.
pub(super) struct Datagrams {
    batch: Batch,
    /// By slot of the batch.
    asked: Vec<Asked>,
    /// The listener that the replies belong to which are posted but not sent.
    posted_on: usize,
}

struct Asked {
    origin: Option<Origin>,
    query: Result<Query, Malformed>,
}

impl Datagrams {
    pub(super) fn new() -> Self {
        Self {
            batch: Batch::new(),
            asked: Vec::with_capacity(BATCH),
            posted_on: 0,
        }
    }

    /// Answers what was received.
    fn answer(&mut self, listener: usize, service: &mut Service) {
        for (path, msg) in self.batch.received() {
            self.asked.push(Asked {
                origin: path.map(|path| Origin::Udp { listener, path }),
                query: service.read(msg),
            });
        }
        for step in 0..self.asked.len() + PREFETCH_DISTANCE {
            if let Some(Ok(query)) = self.asked.get(step).map(|asked| &asked.query) {
                service.prefetch_entry(query);
            }
            let Some((slot, Asked { origin, query })) = step
                .checked_sub(PREFETCH_DISTANCE)
                .and_then(|slot| Some((slot, self.asked.get(slot)?)))
            else {
                continue;
            };
            if let Some(origin @ Origin::Udp { path, .. }) = origin
                && let Verdict::Reply {
                    reply: Reply { len, .. },
                    ..
                } = service.answer(query, self.batch.room(slot), *origin)
            {
                self.batch.reply(slot, len, path);
            }
        }
    }

    /// Sends the replies. One that is larger than its path's MTU gives way to one that tells the
    /// client to come over TCP.
    fn send(&mut self, socket: BorrowedFd<'_>, service: &mut Service, counters: &SocketCounters) {
        let asked = &self.asked;
        let result = self.batch.send(socket, |slot, room| {
            let asked = asked.get(slot)?;
            service.truncate(asked.query.as_ref().ok()?, room)
        });
        counters.udp_answered.add(result.sent as u64);
        counters.udp_send_failed.add(result.failed as u64);
        self.asked.clear();
    }
}

impl Loop {
    /// Answers the datagrams that a listener has.
    pub(super) fn datagrams(&mut self, listener: usize) {
        for _ in 0..ROUNDS {
            let Some(socket) = self.udp.get(listener) else {
                return;
            };
            match self.datagrams.batch.receive(socket.as_fd()) {
                Ok(received) => {
                    self.counters.udp_received.add(received as u64);
                    self.datagrams.answer(listener, &mut self.service);
                    self.datagrams
                        .send(socket.as_fd(), &mut self.service, &self.counters);
                    // What comes from now on is reported again.
                    if received < BATCH {
                        return;
                    }
                }
                Err(Errno::EAGAIN) => return,
                // Whatever the kernel has to say about one datagram, the next may be fine.
                Err(_) => {}
            }
        }
        let token = Token(LISTENERS + 2 * listener);
        if let Some(socket) = self.udp.get_mut(listener)
            && let Err(error) = self
                .poll
                .registry()
                .reregister(socket, token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a UDP socket anew");
        }
    }

    /// Has the reply in the buffer sent, to a query that has waited.
    pub(super) fn post(&mut self, listener: usize, path: Path, query: Query, len: usize) {
        if len == 0 {
            return;
        }
        if self.datagrams.posted_on != listener || self.datagrams.batch.is_full() {
            self.send_posted();
        }
        self.datagrams.posted_on = listener;
        let msg = self.buf.get(..len).unwrap_or_default();
        if self.datagrams.batch.post(msg, &path) {
            self.datagrams.asked.push(Asked {
                origin: Some(Origin::Udp { listener, path }),
                query: Ok(query),
            });
        } else {
            self.counters.udp_send_failed.add(1);
        }
    }

    /// Sends what was posted.
    pub(super) fn send_posted(&mut self) {
        if let Some(socket) = self.udp.get(self.datagrams.posted_on) {
            self.datagrams
                .send(socket.as_fd(), &mut self.service, &self.counters);
        }
    }
}
