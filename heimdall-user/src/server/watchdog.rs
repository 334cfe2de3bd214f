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
    slept: u64,
    strikes: u32,
    /// Packets lost since the last one that arrived.
    lost: u64,
}

impl Watchdog {
    /// Takes the counts since the start: packets that the program steered, those that reached the
    /// sockets, the ones that the kernel had no room for included, and how often workers slept. Only
    /// a worker that found its ring empty sleeps: as long as none does, packets may be waiting for a
    /// worker that has no CPU time. Call it about once a second. Returns how many were lost, once it
    /// is certain that none arrives.
    pub(super) fn observe(&mut self, steered: u64, arrived: u64, slept: u64) -> Option<u64> {
        if arrived != self.arrived {
            (self.strikes, self.lost) = (0, 0);
        } else if slept == self.slept {
            return None;
        } else if steered > self.steered {
            self.strikes += 1;
            self.lost += steered - self.steered;
        }
        (self.steered, self.arrived, self.slept) = (steered, arrived, slept);
        (self.strikes >= STRIKES).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_barks_when_nothing_arrives() {
        let mut dog = Watchdog::default();
        let found: Vec<_> = [10, 10, 11, 11, 20]
            .iter()
            .zip(1..)
            .map(|(steered, slept)| dog.observe(*steered, 0, slept))
            .collect();
        assert_eq!(found, [None, None, None, None, Some(20)]);
    }

    #[test]
    fn a_worker_without_cpu_time_is_no_fault_of_the_device() {
        let mut dog = Watchdog::default();
        for steered in 0..100 {
            assert_eq!(dog.observe(steered, 0, 7), None);
        }
        assert_eq!(dog.observe(100, 99, 8), None);
        for (steered, slept) in [(101, 9), (102, 10)] {
            assert_eq!(dog.observe(steered, 99, slept), None);
        }
        assert_eq!(dog.observe(103, 99, 11), Some(3));
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
            assert_eq!(
                dog.observe(steered, arrived, steered),
                None,
                "{steered} {arrived}"
            );
        }
    }

    #[test]
    fn idleness_is_no_fault() {
        let mut dog = Watchdog::default();
        for slept in 0..100 {
            assert_eq!(dog.observe(7, 7, slept), None);
        }
    }
}
