//! Whether what the XDP program steers arrives at the AF_XDP sockets.
//!
//! The kernel drops a packet that is redirected to a socket which is not bound to the packet's own
//! device and queue, and counts it nowhere (`xsk_rcv_check`). So a device that AF_XDP does not work
//! on, such as one stacked on others, shows only in that packets leave the program and none arrives.

/// Checks in a row, among those in which packets were steered, after which the interface counts as
/// broken. More than one, as packets of the last moment are still on their way.
const STRIKES: u32 = 3;

/// Watches one interface.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    steered: u64,
    arrived: u64,
    strikes: u32,
    /// Packets lost since the last one that arrived.
    lost: u64,
}

impl Watchdog {
    /// Takes the counts since the start: packets that the program steered, and those that reached
    /// the sockets, the ones that the kernel had no room for included. Call it about once a second.
    /// Returns how many were lost, once it is certain that none arrives.
    pub(super) fn observe(&mut self, steered: u64, arrived: u64) -> Option<u64> {
        let new = steered.saturating_sub(self.steered);
        if arrived != self.arrived {
            (self.strikes, self.lost) = (0, 0);
        } else if new > 0 {
            self.strikes += 1;
            self.lost += new;
        }
        (self.steered, self.arrived) = (steered, arrived);
        (self.strikes >= STRIKES).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_barks_when_nothing_arrives() {
        let mut dog = Watchdog::default();
        let found: Vec<_> = [(10, 0), (10, 0), (11, 0), (11, 0), (20, 0)]
            .map(|(steered, arrived)| dog.observe(steered, arrived))
            .into();
        assert_eq!(found, [None, None, None, None, Some(20)]);
    }

    #[test]
    fn a_packet_that_arrives_quiets_it() {
        let mut dog = Watchdog::default();
        for (steered, arrived) in [
            (5, 0),
            (9, 0),
            (12, 1),
            (15, 1),
            (20, 1),
            (21, 21),
            (21, 21),
        ] {
            assert_eq!(dog.observe(steered, arrived), None, "{steered} {arrived}");
        }
    }

    #[test]
    fn idleness_is_no_fault() {
        let mut dog = Watchdog::default();
        for _ in 0..100 {
            assert_eq!(dog.observe(7, 7), None);
        }
    }
}
