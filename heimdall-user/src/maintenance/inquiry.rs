//! Inquiries: what a thread would do with a query, as far as that depends on more than its cache.
//!
//! An answer is a copy of the thread's state, which stays as it is.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

/// What an inquiry is about.
#[derive(Debug)]
pub(crate) struct Subject {
    /// A query in wire form.
    pub(crate) query: Box<[u8]>,
    /// The client that would send it.
    pub(crate) client: Option<IpAddr>,
}

/// A thread's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ThreadState {
    Front(FrontState),
    Forwarder(ForwarderState),
}

/// The state of a front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrontState {
    /// The replies that the client's prefix may get now. `None`: there is no limit for it.
    pub(crate) allowance: Option<u16>,
}

/// The state of a forwarder thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwarderState {
    /// The question failed lately: time until it may be forwarded again.
    pub(crate) failure: Option<Duration>,
    /// It is below a dead zone: that one's name in wire form, and the time until the next probe.
    pub(crate) dead_zone: Option<(Box<[u8]>, Duration)>,
    /// It is in flight now.
    pub(crate) in_flight: bool,
    /// Its route. `None`: it is no query.
    pub(crate) route: Option<RouteState>,
}

/// A route, as one thread sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteState {
    /// Its zone's name in wire form.
    pub(crate) zone: Box<[u8]>,
    /// Its names are not forwarded.
    pub(crate) local_only: bool,
    /// Which of its upstreams is asked first, as the settings name it.
    pub(crate) policy: &'static str,
    /// Tries that a question gets.
    pub(crate) attempts: u32,
    /// In the order of the settings.
    pub(crate) upstreams: Vec<UpstreamState>,
    /// The position of the one that would be asked first.
    pub(crate) first: Option<usize>,
}

/// The state of an upstream, as one thread sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamState {
    pub(crate) address: SocketAddr,
    /// How it is asked: "udp", "tcp" or "tls".
    pub(crate) transport: &'static str,
    /// What the settings write before its address, such as `tls://NAME@`.
    pub(crate) prefix: String,
    /// What is written after it: pins, cut.
    pub(crate) suffix: String,
    /// Why it is set aside, and the time until the next probe.
    pub(crate) set_aside: Option<(String, Duration)>,
    /// The smoothed round-trip time, if there was a response.
    pub(crate) rtt: Option<Duration>,
    /// Time that it has to respond.
    pub(crate) timeout: Duration,
    /// Queries go to it without EDNS.
    pub(crate) plain: bool,
}

/// An inquiry that waits for the thread.
#[derive(Debug)]
pub(crate) struct Inquiry {
    pub(crate) subject: Arc<Subject>,
    pub(super) result: SyncSender<ThreadState>,
}

impl Inquiry {
    /// Answers it.
    pub(crate) fn answer(self, state: ThreadState) {
        // The channel has space for one answer; its receiver may be gone.
        let _ = self.result.try_send(state);
    }
}
