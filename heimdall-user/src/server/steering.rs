//! The steering check: whether packets that the XDP program steers arrive at the AF_XDP sockets.
//!
//! The kernel drops a packet that is redirected to a socket which is not bound to the packet's own
//! device and queue, and counts it nowhere (`xsk_rcv_check`). So a device that AF_XDP does not work
//! on, such as one stacked on others, shows only in that packets leave the program and none arrives.

/// Checks in a row with packets steered and none arrived, after which AF_XDP counts as broken on the
/// interface. More than one, as the latest packets may still be on their way.
const MAX_FAILED: u32 = 3;

/// The counts of one interface at the last check.
#[derive(Debug, Default)]
pub(super) struct SteeringCheck {
    steered: u64,
    arrived: u64,
    looked: u64,
    /// Checks in a row in which packets were steered and none arrived.
    failed: u32,
    /// Packets lost since the last one that arrived.
    lost: u64,
}

impl SteeringCheck {
    /// Takes the counts since the start: packets that the program steered, packets that reached the
    /// sockets (also those that the kernel dropped because a ring was full), and how often workers looked at
    /// their rings, which they do in each turn. As long as none does, packets may be waiting for a
    /// worker that has no CPU time. Call it about once a second. Returns how many packets were lost,
    /// once it is certain that none arrives.
    pub(super) fn observe(&mut self, steered: u64, arrived: u64, looked: u64) -> Option<u64> {
        if arrived != self.arrived {
            (self.failed, self.lost) = (0, 0);
        } else if looked == self.looked {
            return None;
        } else if steered > self.steered {
            self.failed += 1;
            self.lost += steered - self.steered;
        }
        (self.steered, self.arrived, self.looked) = (steered, arrived, looked);
        (self.failed >= MAX_FAILED).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_fails_when_nothing_arrives() {
        let mut check = SteeringCheck::default();
        let found: Vec<_> = [10, 10, 11, 11, 20]
            .iter()
            .zip(1..)
            .map(|(steered, slept)| check.observe(*steered, 0, slept))
            .collect();
        assert_eq!(found, [None, None, None, None, Some(20)]);
    }

    #[test]
    fn a_worker_without_cpu_time_is_no_failure() {
        let mut check = SteeringCheck::default();
        for steered in 0..100 {
            assert_eq!(check.observe(steered, 0, 7), None);
        }
        assert_eq!(check.observe(100, 99, 8), None);
        for (steered, slept) in [(101, 9), (102, 10)] {
            assert_eq!(check.observe(steered, 99, slept), None);
        }
        assert_eq!(check.observe(103, 99, 11), Some(3));
    }

    #[test]
    fn a_packet_that_arrives_starts_the_count_over() {
        let mut check = SteeringCheck::default();
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
                check.observe(steered, arrived, steered),
                None,
                "{steered} {arrived}"
            );
        }
    }

    #[test]
    fn an_idle_interface_is_no_failure() {
        let mut check = SteeringCheck::default();
        for slept in 0..100 {
            assert_eq!(check.observe(7, 7, slept), None);
        }
    }
}
