//! Which upstreams are set aside.
//!
//! An upstream is set aside on evidence about the upstream itself: it cannot be reached (a refused datagram or connection,
//! an ICMP error, no route, a connection that it does not accept in time, TLS that fails), or [`IN_A_ROW`](super::IN_A_ROW)
//! different names in a row got no response of any kind. Names alone are weak evidence: their servers may
//! be silent. So those three have the upstream chosen last, but probed at once, and only if the probe fails it is certain. One
//! that responds to probes alone, and again and again to no name, is chosen last for some seconds before each probe.
//!
//! An upstream that is set aside is asked only by probes, and by look-ups that no other one can serve. The first probe is
//! sent after [`FIRST_PROBE`], the next ones after twice the time before, up to [`MAX_BACK_OFF`]. Any response, whatever its
//! code, ends it. An upstream that is not set aside gets no probes. With `probe_first` one of which nothing is known yet
//! is probed at once, as after three names.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use nix::libc;

use super::{Group, MAX_TIMEOUT, Row, Tried, Upstream, UpstreamAddress, Upstreams};

/// Time until the first probe of an upstream that cannot be reached.
pub(super) const FIRST_PROBE: Duration = Duration::from_secs(1);

/// The longest time between two probes, if they need not wait longer for a response. It bounds for how long the end of
/// an outage goes unnoticed without queries of clients.
pub(super) const MAX_BACK_OFF: Duration = Duration::from_secs(4);

/// How often in a row a probe may contradict names that got no response before that changes nothing any more. Each time
/// doubles the time for which the upstream is chosen last before it is probed, from one second to [`MAX_BACK_OFF`].
const MAX_DOUBTS: u32 = 3;

/// Why an upstream is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Reason {
    /// Its port is closed.
    Refused,
    /// The network says so.
    Unreachable,
    /// This host has no route to it, or its network is down.
    NoRoute,
    /// A connection to it is not established in time.
    NoConnection,
    /// TLS with it fails, for this reason.
    Tls(String),
    /// Nothing came in response to different names in a row.
    Silent,
}

impl From<&io::Error> for Reason {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ECONNRESET) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::NoConnection,
            _ => Self::Unreachable,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "its port is closed",
            Self::Unreachable => "the network reports that it is unreachable",
            Self::NoRoute => "this host has no route to it",
            Self::NoConnection => "no connection to it is established in time",
            Self::Tls(problem) => return write!(f, "TLS with it fails: {problem}"),
            Self::Silent => "it does not respond",
        })
    }
}

/// The health of an upstream.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// When it last sent a response.
    heard: Option<Instant>,
    /// Names that got no response since then.
    silence: Row,
    /// Names that got an error since its last answer.
    errors: Row,
    /// How often names got no response since it last responded to a look-up.
    doubts: u32,
    aside: Option<Aside>,
}

/// An upstream is set aside.
#[derive(Debug)]
struct Aside {
    since: Instant,
    reason: Reason,
    /// Else a probe is to confirm it.
    is_confirmed: bool,
    /// When the next probe is due.
    probe: Instant,
    /// When it is due if the one before fails sooner than it has to.
    earliest: Instant,
    /// Time between that one and the one after it.
    back_off: Duration,
}

impl Health {
    pub(super) fn is_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// Whether it is set aside for certain.
    pub(super) fn is_confirmed(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| aside.is_confirmed)
    }

    /// When it last sent a response.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Why it is set aside, and the time until the next probe.
    pub(super) fn set_aside(&self, now: Instant) -> Option<(String, Duration)> {
        let aside = self.aside.as_ref()?;
        let left = aside.probe.saturating_duration_since(now);
        Some((aside.reason.to_string(), left))
    }
}

/// The upstreams of a group that a look-up asked, or could have, by what they gave since it began. Each has a bit, by its index
/// modulo 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::forward) struct Missing {
    /// Those that sent nothing.
    pub(in crate::forward) silent: u64,
    /// Those that sent errors only, for different names in a row.
    pub(in crate::forward) failing: u64,
    /// None of them sent anything.
    pub(in crate::forward) is_outage: bool,
}

impl Missing {
    /// Whether some upstream is missing, so that the failure ends with that.
    pub(in crate::forward) fn is_any(self) -> bool {
        self.silent | self.failing != 0
    }

    /// Adds those of another failure.
    pub(in crate::forward) fn add(&mut self, other: Self) {
        self.silent |= other.silent;
        self.failing |= other.failing;
    }
}

/// The bit of an upstream in [`Missing`].
pub(in crate::forward) fn bit(index: usize) -> u64 {
    1 << (index % 64)
}

/// Evidence.
impl Upstreams {
    /// The upstream sent a response, to a probe or a look-up, whatever its code. Gives it, and the time for which it was set
    /// aside, if that is over and was confirmed.
    pub(in crate::forward) fn heard(
        &mut self,
        index: usize,
        to_probe: bool,
        now: Instant,
    ) -> Option<(&UpstreamAddress, Duration)> {
        let upstream = self.list.get_mut(index)?;
        let health = &mut upstream.health;
        health.heard = Some(now);
        health.silence.clear();
        if !to_probe {
            health.doubts = 0;
        }
        let aside = health.aside.take()?;
        self.aside -= 1;
        if self.aside == 0 {
            self.next_probe = None;
        }
        upstream.metrics.set_problem(None);
        let time = now.saturating_duration_since(aside.since);
        if to_probe {
            // Which has no cookie. That may be why it is answered.
            self.forget_cookie(index);
        }
        let upstream = self.list.get(index)?;
        aside.is_confirmed.then_some((&upstream.address, time))
    }

    /// The upstream answered a question.
    pub(in crate::forward) fn answered(&mut self, index: usize) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.health.errors.clear();
        }
    }

    /// The upstream sent an error for a name with this hash.
    pub(in crate::forward) fn gave_error(&mut self, index: usize, name: u64) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.health.errors.add(name);
        }
    }

    /// A query for a name with this hash, sent at `sent`, timed out, or made the upstream close its connection.
    pub(in crate::forward) fn gave_nothing(
        &mut self,
        index: usize,
        name: u64,
        sent: Instant,
        now: Instant,
    ) {
        let Some(upstream) = self.list.get_mut(index) else {
            return;
        };
        let health = &mut upstream.health;
        let is_news = health.heard.is_none_or(|heard| heard <= sent);
        if !is_news || !health.silence.add(name) || health.is_aside() {
            return;
        }
        let doubts = health.doubts;
        health.doubts = (doubts + 1).min(MAX_DOUBTS);
        let probe = now + FIRST_PROBE * ((1 << doubts) >> 1);
        self.doubt(index, now, probe);
    }

    /// The upstream may be silent, which a probe at this time is to tell, unless it is set aside already.
    pub(in crate::forward) fn doubt(&mut self, index: usize, now: Instant, probe: Instant) {
        if let Some(upstream) = self.list.get_mut(index)
            && !upstream.health.is_aside()
        {
            upstream.health.aside = Some(Aside {
                since: now,
                reason: Reason::Silent,
                is_confirmed: false,
                probe,
                earliest: probe,
                back_off: FIRST_PROBE,
            });
            self.aside += 1;
            self.next_probe = earlier(self.next_probe, probe);
        }
    }

    /// The upstream cannot be reached, or a probe failed. Gives it, and why, if it was not set aside for certain before.
    pub(in crate::forward) fn set_aside(
        &mut self,
        index: usize,
        reason: Reason,
        now: Instant,
    ) -> Option<(&UpstreamAddress, &Reason)> {
        // There may be another server at its address from now on.
        self.forget_edns(index);
        self.forget_cookie(index);
        let upstream = self.list.get_mut(index)?;
        let mut was_confirmed = false;
        match &mut upstream.health.aside {
            Some(aside) => {
                was_confirmed = std::mem::replace(&mut aside.is_confirmed, true);
                if was_confirmed && aside.reason == reason {
                    return None;
                }
                aside.reason = reason;
            }
            none => {
                let probe = now + FIRST_PROBE;
                self.aside += 1;
                self.next_probe = earlier(self.next_probe, probe);
                *none = Some(Aside {
                    since: now,
                    reason,
                    is_confirmed: true,
                    probe,
                    earliest: probe,
                    back_off: 2 * FIRST_PROBE,
                });
            }
        }
        let aside = upstream.health.aside.as_ref()?;
        upstream.metrics.set_problem(Some(aside.reason.to_string()));
        (!was_confirmed).then_some((&upstream.address, &aside.reason))
    }

    /// Whether the upstream sent a response after `then`.
    pub(in crate::forward) fn heard_since(&self, index: usize, then: Instant) -> bool {
        let upstream = self.list.get(index);
        let heard = upstream.and_then(|upstream| upstream.health.heard);
        heard.is_some_and(|heard| heard > then)
    }

    /// The upstream, if it is set aside for certain.
    pub(in crate::forward) fn certainly_aside(&self, index: usize) -> Option<&UpstreamAddress> {
        let upstream = self.list.get(index)?;
        upstream.health.is_confirmed().then_some(&upstream.address)
    }

    /// Whether any upstream of a group is set aside.
    pub(in crate::forward) fn any_aside(&self, group: &Group) -> bool {
        self.aside > 0 && group.indices().iter().any(|index| self.is_aside(*index))
    }

    /// Whether the upstream is set aside.
    pub(in crate::forward) fn is_aside(&self, index: usize) -> bool {
        let upstream = self.list.get(index);
        upstream.is_some_and(|upstream| upstream.health.is_aside())
    }

    /// What the upstreams of a group have not given since a look-up began that has asked some of them. Those that are set
    /// aside count as asked.
    pub(in crate::forward) fn missing(
        &self,
        group: &Group,
        tried: Tried,
        began: Instant,
    ) -> Missing {
        let mut missing = Missing::default();
        let mut heard_any = false;
        for (position, index) in group.members() {
            let Some(Upstream { health, .. }) = self.list.get(index) else {
                continue;
            };
            if !health.is_aside() && !tried.contains(position) {
                continue;
            }
            if health.heard.is_none_or(|heard| heard < began) {
                missing.silent |= bit(index);
            } else {
                heard_any = true;
                if health.errors.is_full() {
                    missing.failing |= bit(index);
                }
            }
        }
        missing.is_outage = !heard_any;
        missing
    }
}

/// Probes.
impl Upstreams {
    /// An upstream that a probe is to be sent to now.
    pub(in crate::forward) fn due_probe(&mut self, now: Instant) -> Option<usize> {
        if self.next_probe.is_none_or(|next| now < next) {
            return None;
        }
        let due = |upstream: &Upstream| {
            let aside = upstream.health.aside.as_ref();
            aside.is_some_and(|aside| aside.probe <= now)
        };
        let mut all = self.list.iter();
        let Some((index, _)) = all.find(|(_, upstream)| due(upstream)) else {
            // All that are due are sent, or not needed any more.
            let all = self.list.iter();
            let aside = all.filter_map(|(_, upstream)| upstream.health.aside.as_ref());
            self.next_probe = aside.map(|aside| aside.probe).min();
            return None;
        };
        let wait = self.probe_time(index);
        let aside = self.list.get_mut(index)?.health.aside.as_mut()?;
        // Not before the probe has had its time, unless it ends sooner.
        aside.earliest = now + aside.back_off;
        aside.probe = now + aside.back_off.max(wait);
        aside.back_off = (aside.back_off * 2).min(MAX_BACK_OFF);
        Some(index)
    }

    /// A probe has ended: the next one need not wait for it.
    pub(in crate::forward) fn probe_ended(&mut self, index: usize) {
        let upstream = self.list.get_mut(index);
        if let Some(aside) = upstream.and_then(|upstream| upstream.health.aside.as_mut()) {
            aside.probe = aside.earliest;
            self.next_probe = earlier(self.next_probe, aside.probe);
        }
    }

    /// When the next probe is due, or earlier if the upstream that one was for has responded.
    pub(in crate::forward) fn next_probe(&self) -> Option<Instant> {
        self.next_probe.filter(|_| self.aside > 0)
    }

    /// Time that a new connection has until its first response.
    pub(in crate::forward) fn connection_time(&self, index: usize) -> Duration {
        self.timeout(index, self.least(index)) * self.round_trips(index)
    }

    /// Time that a probe has for a response: as long as the round trip may take for which Heimdall is made.
    pub(in crate::forward) fn probe_time(&self, index: usize) -> Duration {
        self.timeout(index, self.least(index).max(MAX_TIMEOUT)) * self.round_trips(index)
    }
}

fn earlier(known: Option<Instant>, time: Instant) -> Option<Instant> {
    Some(known.map_or(time, |known| known.min(time)))
}
