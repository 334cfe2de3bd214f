//! The check of what a veth's peer takes: replies of the program that it does not take are lost.

use crate::xdp::Returned;

/// Checks in a row in which replies were lost and none was sent, after which the peer counts as one that takes none.
const MAX_FAILED: u32 = 2;

/// The counts at the last check.
#[derive(Debug, Default)]
pub(super) struct ReturnCheck {
    /// `None` before the first.
    before: Option<Returned>,
    /// Checks in a row in which replies were lost and none was sent.
    failed: u32,
    /// Replies lost in them.
    lost: u64,
}

impl ReturnCheck {
    /// Takes the counts, about once a second. Returns how many replies were lost, once it is certain that the peer
    /// takes none. Under overload some are lost and others sent, as on any interface.
    pub(super) fn observe(&mut self, now: Returned) -> Option<u64> {
        let before = self.before.replace(now)?;
        let lost = now.lost.saturating_sub(before.lost);
        if now.sent != before.sent {
            (self.failed, self.lost) = (0, 0);
        } else if lost > 0 {
            self.failed += 1;
            self.lost += lost;
        }
        (self.failed >= MAX_FAILED).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(counts: &[(u64, u64)]) -> Vec<Option<u64>> {
        let mut check = ReturnCheck::default();
        let counts = counts.iter().map(|&(sent, lost)| Returned { sent, lost });
        counts.map(|now| check.observe(now)).collect()
    }

    #[test]
    fn a_peer_that_takes_nothing_is_found() {
        // What was lost before the first check is another program's.
        let counts = [(7, 50), (7, 60), (7, 60), (7, 65)];
        assert_eq!(found(&counts), [None, None, None, Some(15)]);
    }

    #[test]
    fn overload_is_no_failure() {
        let counts = [
            (0, 0),
            (100, 50),
            (200, 90),
            (200, 91),
            (300, 120),
            (300, 121),
        ];
        assert!(found(&counts).iter().all(Option::is_none));
    }
}
