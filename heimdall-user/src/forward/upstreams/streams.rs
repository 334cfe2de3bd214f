//! Whether TCP works with an upstream that is asked over UDP, for answers that do not fit into a datagram.
//!
//! It does not when connections are refused, or not established in time. Then look-ups do not wait for it, except for one in
//! [`PAUSE`], which finds out whether it works again. It may not, either, when they are accepted, and
//! [`IN_A_ROW`](super::IN_A_ROW) different names in a row get no response over them. But these names may be
//! somebody's whose servers are silent on purpose: so nothing like that counts for [`PAUSE`] after a response, and look-ups
//! wait again as soon as a probe has one, which is sent at once and whenever TCP is called for after another [`PAUSE`].

use std::time::{Duration, Instant};

use super::{Row, Upstream, Upstreams};

/// Time between two queries that find out whether TCP works again.
const PAUSE: Duration = Duration::from_secs(10);

/// What is known of an upstream's TCP.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Names in a row that got nothing over connections that were accepted.
    silence: Row,
    /// When a response last came.
    worked: Option<Instant>,
    broken: Option<Broken>,
}

/// TCP does not work.
#[derive(Debug)]
struct Broken {
    /// When it is tried again.
    until: Instant,
    /// Connections are accepted.
    accepts: bool,
}

/// Whether a query may go over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum TryTcp {
    Yes,
    No,
    /// No, but a probe is to find out whether the next one may.
    Probe,
}

/// TCP in place of UDP.
impl Upstreams {
    /// Whether a query may go over TCP. If connections were refused, it is the one that finds out whether they still are.
    pub(in crate::forward) fn try_tcp(&mut self, index: usize, now: Instant) -> TryTcp {
        let Some(upstream) = self.list.get_mut(index) else {
            return TryTcp::No;
        };
        match &mut upstream.streams.broken {
            None => TryTcp::Yes,
            Some(broken) if now < broken.until => TryTcp::No,
            Some(broken) => {
                broken.until = now + PAUSE;
                match broken.accepts {
                    true => TryTcp::Probe,
                    false => TryTcp::Yes,
                }
            }
        }
    }

    /// A response came over TCP.
    pub(in crate::forward) fn tcp_works(&mut self, index: usize, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.streams = Streams {
                worked: Some(now),
                ..Streams::default()
            };
        }
    }

    /// A query for `name` got nothing over TCP, on a connection that was accepted or was not. Whether a probe has to find out
    /// why.
    pub(in crate::forward) fn tcp_failed(
        &mut self,
        index: usize,
        name: u64,
        accepted: bool,
        now: Instant,
    ) -> bool {
        let Some(Upstream { streams, .. }) = self.list.get_mut(index) else {
            return false;
        };
        let until = now + PAUSE;
        if !accepted {
            let accepts = false;
            streams.broken = Some(Broken { until, accepts });
            return false;
        }
        if streams
            .broken
            .as_ref()
            .is_some_and(|broken| !broken.accepts)
        {
            // Not any more.
            streams.broken = None;
        }
        let has_worked = streams.worked.is_some_and(|worked| now < worked + PAUSE);
        if streams.broken.is_some() || has_worked || !streams.silence.add(name) {
            return false;
        }
        let accepts = true;
        streams.broken = Some(Broken { until, accepts });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::upstreams::tests::two;

    #[test]
    fn tcp_that_is_refused_is_tried_once_in_a_while() {
        let start = Instant::now();
        let mut upstreams = two();
        let tries = |upstreams: &mut Upstreams, at| [(); 3].map(|()| upstreams.try_tcp(0, at));
        assert_eq!(tries(&mut upstreams, start), [TryTcp::Yes; 3]);
        upstreams.tcp_failed(0, 1, false, start);
        assert_eq!(tries(&mut upstreams, start), [TryTcp::No; 3]);
        assert_eq!(upstreams.try_tcp(1, start), TryTcp::Yes, "the other one");
        let later = start + PAUSE;
        assert_eq!(
            tries(&mut upstreams, later),
            [TryTcp::Yes, TryTcp::No, TryTcp::No]
        );
        // One name that gets nothing does not keep others from connections that are accepted again.
        upstreams.tcp_failed(0, 1, true, later);
        assert_eq!(tries(&mut upstreams, later), [TryTcp::Yes; 3]);
        upstreams.tcp_failed(0, 1, false, later);
        upstreams.tcp_works(0, later);
        assert_eq!(tries(&mut upstreams, later), [TryTcp::Yes; 3]);
    }

    #[test]
    fn names_that_get_nothing_on_connections_have_a_probe_decide() {
        let start = Instant::now();
        let mut upstreams = two();
        let failed = |upstreams: &mut Upstreams, names: [u64; 4], at| {
            names.map(|name| upstreams.tcp_failed(0, name, true, at))
        };
        assert_eq!(failed(&mut upstreams, [1, 1, 1, 2], start), [false; 4]);
        assert_eq!(upstreams.try_tcp(0, start), TryTcp::Yes);
        let last = [false, false, true, false];
        assert_eq!(failed(&mut upstreams, [1, 2, 3, 4], start), last);
        assert_eq!(upstreams.try_tcp(0, start), TryTcp::No);
        let later = start + PAUSE;
        assert_eq!(upstreams.try_tcp(0, later), TryTcp::Probe);
        assert_eq!(upstreams.try_tcp(0, later), TryTcp::No);
        upstreams.tcp_works(0, later);
        assert_eq!(upstreams.try_tcp(0, later), TryTcp::Yes);
        // They are no evidence for a while.
        assert_eq!(failed(&mut upstreams, [5, 6, 7, 8], later), [false; 4]);
        assert_eq!(failed(&mut upstreams, [5, 6, 7, 8], later + PAUSE), last);
    }
}
