//! What became of the packets that the XDP program sends back on a veth (XDP_TX).
//!
//! A veth hands them to its peer, and wakes that only if it has an XDP program, too. With GRO alone they wait in its
//! ring until another packet wakes it; without both they are lost (`veth_xdp_flush` and `veth_xdp_xmit`,
//! drivers/net/veth.c).

use super::ethtool;

/// Packets that the XDP program of a veth sent back, by the driver's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Returned {
    /// Taken by the peer.
    pub(crate) sent: u64,
    /// Lost.
    pub(crate) lost: u64,
}

impl Returned {
    /// Reads them. `None`: the driver does not tell.
    pub(crate) fn read(interface: &str) -> Option<Self> {
        sums(ethtool::statistics(interface).ok()?)
    }
}

/// The sums over the queues.
fn sums(counters: Vec<(String, u64)>) -> Option<Returned> {
    let mut found = None;
    for (name, count) in counters {
        let of_queue = name.strip_prefix("rx_queue_");
        let (sent, lost) = match of_queue.and_then(|rest| rest.split_once('_')) {
            Some((_, "xdp_tx")) => (count, 0),
            Some((_, "xdp_tx_errors")) => (0, count),
            _ => continue,
        };
        let sums = found.get_or_insert(Returned::default());
        sums.sent += sent;
        sums.lost += lost;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_summed() {
        let counters = [
            ("peer_ifindex", 7),
            ("rx_queue_0_xdp_packets", 100),
            ("rx_queue_0_xdp_tx", 10),
            ("rx_queue_0_xdp_tx_errors", 1),
            ("rx_queue_11_xdp_tx", 20),
            ("rx_queue_11_xdp_tx_errors", 2),
            ("tx_queue_0_xdp_xmit_errors", 50),
        ];
        let counters = counters.map(|(name, count)| (name.to_owned(), count));
        let expected = Returned { sent: 30, lost: 3 };
        assert_eq!(sums(counters.to_vec()), Some(expected));
        assert_eq!(sums(vec![("rx_drops".to_owned(), 1)]), None);
    }
}
