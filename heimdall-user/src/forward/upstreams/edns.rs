//! Whether to leave out the OPT record, which follows from the outcomes of queries with one (RFC 6891 section 6.2.2).

use std::time::{Duration, Instant};

use super::{Row, Upstream, Upstreams};

/// For how long queries go without EDNS to an upstream that cannot read it.
pub(super) const PLAIN_FOR: Duration = Duration::from_secs(300);

/// What is known of an upstream's EDNS.
#[derive(Debug, Default)]
pub(super) struct Edns {
    /// It has answered a query with EDNS since it was last set aside.
    answers: bool,
    /// Names since then that it answered only without EDNS.
    plain_answers: Row,
    /// There were enough of them, but it had answered with EDNS before. A probe is to tell.
    is_doubted: bool,
    plain_until: Option<Instant>,
}

/// EDNS.
impl Upstreams {
    /// The upstream answered a query with EDNS.
    pub(in crate::forward) fn answered_edns(&mut self, index: usize) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.edns = Edns {
                answers: true,
                ..Edns::default()
            };
        }
    }

    /// The upstream answered a query for `name` without EDNS that was sent at `sent`, and not one with it. Whether a probe has
    /// to find out why: an upstream may pass on the errors of other servers.
    pub(in crate::forward) fn answered_plain(
        &mut self,
        index: usize,
        name: u64,
        sent: Instant,
    ) -> bool {
        // A query that was sent without EDNS at once is no new evidence.
        if !self.is_plain(index, sent)
            && let Some(Upstream { edns, .. }) = self.list.get_mut(index)
            && edns.plain_answers.add(name)
        {
            if edns.answers {
                edns.plain_answers.clear();
                edns.is_doubted = true;
                return true;
            }
            edns.plain_until = Some(sent + PLAIN_FOR);
        }
        false
    }

    /// A probe had the error of a server that does not know EDNS.
    pub(in crate::forward) fn reads_no_edns(&mut self, index: usize, now: Instant) {
        if let Some(Upstream { edns, .. }) = self.list.get_mut(index)
            && edns.is_doubted
        {
            *edns = Edns {
                plain_until: Some(now + PLAIN_FOR),
                ..Edns::default()
            };
        }
    }

    /// The upstream is set aside: there may be another server at its address from now on.
    pub(super) fn forget_edns(&mut self, index: usize) {
        if let Some(Upstream { edns, .. }) = self.list.get_mut(index) {
            edns.answers = false;
        }
    }

    /// Whether queries go to the upstream without EDNS at once.
    pub(in crate::forward) fn is_plain(&self, index: usize, now: Instant) -> bool {
        let upstream = self.list.get(index);
        upstream.is_some_and(|upstream| upstream.edns.plain_until.is_some_and(|until| now < until))
    }

    /// Whether the upstream has answered a query with EDNS, since it was last set aside.
    pub(in crate::forward) fn answers_edns(&self, index: usize) -> bool {
        (self.list.get(index)).is_some_and(|upstream| upstream.edns.answers)
    }
}
