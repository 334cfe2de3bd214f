//! Whether an upstream repeats the letters of a question as they were asked ("0x20").

use std::time::Instant;

use super::{Upstreams, lapses::Lapses};

/// What is known of an upstream's letters.
#[derive(Debug, Default)]
pub(super) struct Case {
    /// Names whose letters it changed.
    changed: Lapses,
    /// Queries keep the client's letters until then.
    changes_until: Option<Instant>,
}

/// Letters.
impl Upstreams {
    /// Whether letters may be asked in random case.
    pub(in crate::forward) fn keeps_case(&self, index: usize, now: Instant) -> bool {
        let upstream = self.list.get(index);
        let until = upstream.and_then(|upstream| upstream.case.changes_until);
        upstream.is_some() && until.is_none_or(|until| now >= until)
    }

    /// A response for `name` had other letters than its query.
    pub(in crate::forward) fn changed_case(&mut self, index: usize, name: u64, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index)
            && let Some(until) = upstream.case.changed.add(name, now)
        {
            upstream.case.changes_until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::upstreams::{lapses::FIRST_PAUSE, tests::two};

    #[test]
    fn letters_are_left_alone_after_changes_and_tried_again_later() {
        let start = Instant::now();
        let mut upstreams = two();
        for name in [1, 1, 1, 2] {
            upstreams.changed_case(0, name, start);
        }
        assert!(upstreams.keeps_case(0, start), "two names");
        upstreams.changed_case(0, 3, start);
        assert!(!upstreams.keeps_case(0, start) && upstreams.keeps_case(1, start));
        assert!(upstreams.keeps_case(0, start + FIRST_PAUSE));
    }
}
