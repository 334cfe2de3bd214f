//! What an interface has dropped before any program saw it.

use std::collections::BTreeMap;

use netlink_packet_route::link::LinkAttribute;

use super::ethtool;
use crate::netlink;

/// Names of a driver's counters that are taken, at most. Those of queues count as one.
const MAX_DRIVER_COUNTERS: usize = 32;

/// Packets that an interface has dropped or could not receive or send, by counter.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// By the kernel's counters, which all interfaces have (`ip -s -s link`). Some count the same packets.
    pub(crate) kernel: Vec<(&'static str, u64)>,
    /// By the driver's own (`ethtool -S`), summed over queues, whose numbers are an `N` in the name.
    pub(crate) driver: Vec<(String, u64)>,
}

impl Drops {
    /// Reads them. Empty where the kernel or the driver does not tell.
    pub(crate) fn read(interface: &str) -> Self {
        let link = netlink::link(interface).ok();
        let stats = link
            .into_iter()
            .flat_map(|link| link.attributes)
            .find_map(|attribute| {
                let LinkAttribute::Stats64(stats) = attribute else {
                    return None;
                };
                Some(stats)
            });
        let kernel = stats.map(|stats| {
            vec![
                ("rx_dropped", stats.rx_dropped),
                ("rx_missed", stats.rx_missed_errors),
                ("rx_errors", stats.rx_errors),
                ("rx_nohandler", stats.rx_nohandler),
                ("tx_dropped", stats.tx_dropped),
                ("tx_errors", stats.tx_errors),
            ]
        });
        Self {
            kernel: kernel.unwrap_or_default(),
            driver: driver(ethtool::statistics(interface).unwrap_or_default()),
        }
    }
}

/// Those of a driver's counters whose names say that packets were lost.
fn driver(counters: Vec<(String, u64)>) -> Vec<(String, u64)> {
    const WORDS: [&str; 9] = [
        "drop",
        "discard",
        "miss",
        "error",
        "_err",
        "no_buf",
        "nobuf",
        "alloc_fail",
        "overrun",
    ];
    let mut sums = BTreeMap::<String, u64>::new();
    for (name, count) in counters {
        let name = name.to_ascii_lowercase();
        if !WORDS.iter().any(|word| name.contains(word)) {
            continue;
        }
        let name = without_numbers(&name);
        if sums.len() < MAX_DRIVER_COUNTERS || sums.contains_key(&name) {
            *sums.entry(name).or_default() += count;
        }
    }
    sums.into_iter().collect()
}

/// The name with an `N` in the place of each number.
fn without_numbers(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c.is_ascii_digit() {
            true if text.ends_with('N') => {}
            true => text.push('N'),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_queues_are_summed_and_their_number_is_bounded() {
        let counters = [
            ("rx_queue_0_drops", 1),
            ("rx_queue_1_drops", 2),
            ("rx_queue_10_drops", 4),
            ("rx_queue_0_packets", 100),
            ("rx_drops", 7),
            ("rx0_Alloc_Fail", 3),
        ];
        let counters = counters.map(|(name, count)| (name.to_owned(), count));
        let expected = [
            ("rxN_alloc_fail", 3),
            ("rx_drops", 7),
            ("rx_queue_N_drops", 7),
        ];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(driver(counters.to_vec()), expected);
        let letters = ('a'..='z').flat_map(|first| ('a'..='z').map(move |second| [first, second]));
        let many = letters.map(|letters| (format!("{}_drops", String::from_iter(letters)), 1));
        assert_eq!(driver(many.collect()).len(), MAX_DRIVER_COUNTERS);
    }

    #[test]
    fn an_interface_that_does_not_exist_has_none() {
        let drops = Drops::read("no-such-if");
        assert!(drops.kernel.is_empty() && drops.driver.is_empty());
    }
}
