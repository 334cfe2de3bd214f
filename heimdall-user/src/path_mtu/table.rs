//! The path MTUs in force: written by one thread, read by all workers.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use heimdall_ebpf::tier::{MAX_BODY, MAX_NAME};
use rand::random_range;

use super::report::Report;
use crate::stats::counters;

/// The least MTU that is believed, in octets: for IPv4 Linux's (`net.ipv4.route.min_pmtu`), so that the kernel's sockets and
/// AF_XDP agree.
const MIN_V4: u32 = 552;
/// The least MTU of a link with IPv6 (RFC 8200 section 5).
const MIN_V6: u32 = 1280;

// Headers, question, body and OPT record of the hot tier's largest reply: the tier looks no path up.
const _: () = assert!(20 + 8 + 12 + MAX_NAME + 4 + MAX_BODY + 11 <= MIN_V4 as usize);

/// Time for which a report is believed: that of Linux (`net.ipv4.route.mtu_expires`).
const LIFE: Duration = Duration::from_secs(600);

/// Most clients with a path MTU. If there are more, any one of them is evicted.
const MAX_PATHS: usize = 4096;

/// Least time between two evictions. A flood of forged reports takes minutes to displace what was learnt before, and not the second
/// in which it fills the table.
const EVICTION_INTERVAL: Duration = Duration::from_millis(100);

counters! {
    /// Path MTUs for replies of AF_XDP.
    pub(crate) struct PathMtuCounters {
        /// Clients now whose path carries smaller packets than the interface, as routers have reported.
        entries: gauge,
        /// Reports that were believed.
        learnt,
        /// Reports about other packets, with an MTU that shortens no reply, or for which there was no room.
        ignored,
        /// Clients that were evicted because there were too many.
        evicted,
    }
}

/// Bits of the filter, a power of two: a full table sets an eighth of them.
const BITS: u64 = 8 * MAX_PATHS as u64;

/// The path MTUs, for any number of readers. While there are none, a look-up is one load.
#[derive(Debug)]
pub(crate) struct PathMtus {
    any: AtomicBool,
    /// A bit for each client's hash, so that the reports about some clients cost the others next to nothing.
    filter: [AtomicU64; (BITS / 64) as usize],
    paths: ArcSwap<HashMap<IpAddr, u32>>,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            filter: [const { AtomicU64::new(0) }; (BITS / 64) as usize],
            paths: ArcSwap::default(),
        }
    }
}

impl PathMtus {
    /// The largest IP packet for the client that `client` returns, on an interface with this MTU.
    #[inline(always)]
    pub(crate) fn limit(&self, client: impl FnOnce() -> IpAddr, mtu: usize) -> usize {
        match self.any.load(Relaxed) {
            false => mtu,
            true => self.look_up(client(), mtu),
        }
    }

    #[inline(never)]
    fn look_up(&self, client: IpAddr, mtu: usize) -> usize {
        let (word, bit) = place(client);
        let is_in_filter = |word: &AtomicU64| word.load(Relaxed) & bit != 0;
        if !self.filter.get(word).is_some_and(is_in_filter) {
            return mtu;
        }
        let paths = self.paths.load();
        paths
            .get(&client)
            .map_or(mtu, |path| mtu.min(*path as usize))
    }
}

/// The word of the filter and the bit in it for a client.
#[inline(always)]
fn place(client: IpAddr) -> (usize, u64) {
    let number = match client {
        IpAddr::V4(client) => u64::from(client.to_bits()),
        IpAddr::V6(client) => {
            let bits = client.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(17)
        }
    };
    // Any odd number with its bits well spread: here that of the golden ratio.
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS.ilog2());
    ((hash / 64) as usize, 1 << (hash % 64))
}

/// The path MTUs as their only writer has them.
pub(super) struct Writer {
    /// Each with the end of its time.
    paths: HashMap<IpAddr, (u32, Instant)>,
    /// They differ from what readers have.
    changed: bool,
    /// When the last client was evicted.
    evicted: Option<Instant>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            paths: HashMap::new(),
            changed: false,
            evicted: None,
        }
    }

    /// Takes a report, if it concerns replies that are sent.
    pub(super) fn learn(&mut self, report: Report, now: Instant, counters: &PathMtuCounters) {
        let Report { client, mtu, len } = report;
        let mtu = match client {
            IpAddr::V4(_) => mtu.max(MIN_V4),
            IpAddr::V6(_) => mtu.max(MIN_V6),
        };
        let known = self.paths.get(&client).map(|(mtu, _)| *mtu);
        // A packet that fits was not dropped for its size; and larger MTUs are found when the time is over.
        if mtu >= len || known.is_some_and(|known| known < mtu) {
            counters.ignored.add(1);
            return;
        }
        if known.is_none() && self.paths.len() >= MAX_PATHS {
            if self
                .evicted
                .is_some_and(|last| now < last + EVICTION_INTERVAL)
            {
                counters.ignored.add(1);
                return;
            }
            self.evicted = Some(now);
            let any = self.paths.keys().nth(random_range(0..self.paths.len()));
            if let Some(any) = any.copied() {
                self.paths.remove(&any);
                counters.evicted.add(1);
            }
        }
        self.paths.insert(client, (mtu, now + LIFE));
        self.changed |= known != Some(mtu);
        counters.learnt.add(1);
    }

    /// Removes those whose time is over, and publishes what has changed.
    pub(super) fn publish(&mut self, to: &PathMtus, now: Instant, counters: &PathMtuCounters) {
        let before = self.paths.len();
        self.paths.retain(|_, (_, until)| now < *until);
        if !self.changed && self.paths.len() == before {
            return;
        }
        self.changed = false;
        let mut filter = [0; (BITS / 64) as usize];
        for client in self.paths.keys() {
            let (word, bit) = place(*client);
            if let Some(word) = filter.get_mut(word) {
                *word |= bit;
            }
        }
        let paths = self.paths.iter().map(|(client, (mtu, _))| (*client, *mtu));
        // In any order: a reader that sees part of it finds an earlier state of some clients.
        to.paths.store(paths.collect::<HashMap<_, _>>().into());
        for (to, word) in to.filter.iter().zip(filter) {
            to.store(word, Relaxed);
        }
        to.any.store(!self.paths.is_empty(), Relaxed);
        counters.entries.set(self.paths.len() as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    struct Fixture {
        writer: Writer,
        paths: PathMtus,
        counters: PathMtuCounters,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                writer: Writer::new(),
                paths: PathMtus::default(),
                counters: PathMtuCounters::default(),
                now: Instant::now(),
            }
        }

        fn learn(&mut self, client: &str, mtu: u32, len: u32) {
            let report = Report {
                client: client.parse().unwrap(),
                mtu,
                len,
            };
            self.writer.learn(report, self.now, &self.counters);
            self.publish();
        }

        fn publish(&mut self) {
            self.writer.publish(&self.paths, self.now, &self.counters);
        }

        fn limit(&self, client: &str) -> usize {
            self.paths.limit(|| client.parse().unwrap(), 1500)
        }

        fn counts(&self) -> [u64; 3] {
            let counters = &self.counters;
            [
                counters.entries.get(),
                counters.learnt.get(),
                counters.ignored.get(),
            ]
        }
    }

    #[test]
    fn replies_to_a_client_are_bounded_by_its_path() {
        let mut fixture = Fixture::new();
        fixture.paths.limit(|| panic!("nothing was learnt"), 1500);
        fixture.learn("192.0.2.7", 1100, 1260);
        fixture.learn("2001:db8::7", 1400, 1480);
        assert_eq!(fixture.limit("192.0.2.7"), 1100);
        assert_eq!(fixture.limit("2001:db8::7"), 1400);
        assert_eq!(fixture.limit("192.0.2.8"), 1500);
        assert_eq!(fixture.limit("2001:db8::8"), 1500);
        let lowered = fixture.paths.limit(|| [192, 0, 2, 7].into(), 1000);
        assert_eq!(lowered, 1000, "the interface's is smaller");
        assert_eq!(fixture.counts(), [2, 2, 0]);
    }

    #[test]
    fn a_forged_report_shortens_replies_to_what_every_path_carries_and_no_further() {
        let mut fixture = Fixture::new();
        for mtu in [0, 68, 551] {
            fixture.learn("192.0.2.7", mtu, 1260);
            fixture.learn("2001:db8::7", mtu, 1480);
            assert_eq!(fixture.limit("192.0.2.7"), 552);
            assert_eq!(fixture.limit("2001:db8::7"), 1280);
        }
        // A packet of that size would have got through.
        fixture.learn("192.0.2.9", 1260, 1260);
        fixture.learn("192.0.2.9", 100, 500);
        fixture.learn("2001:db8::9", 1200, 1280);
        assert_eq!(fixture.limit("192.0.2.9"), 1500);
        assert_eq!(fixture.limit("2001:db8::9"), 1500);
        assert_eq!(fixture.counts(), [2, 6, 3]);
    }

    #[test]
    fn a_path_mtu_only_falls_until_its_time_is_over() {
        let mut fixture = Fixture::new();
        fixture.learn("192.0.2.7", 1000, 1260);
        fixture.learn("192.0.2.7", 1100, 1260);
        assert_eq!(fixture.limit("192.0.2.7"), 1000);
        fixture.now += LIFE / 2;
        fixture.learn("192.0.2.7", 1000, 1260);
        fixture.learn("192.0.2.8", 900, 1260);
        fixture.now += LIFE / 2;
        fixture.publish();
        assert_eq!(fixture.limit("192.0.2.7"), 1000, "reported again");
        fixture.now += LIFE / 2;
        fixture.publish();
        assert_eq!(fixture.limit("192.0.2.7"), 1500);
        assert_eq!(fixture.limit("192.0.2.8"), 1500);
        fixture.paths.limit(|| panic!("all are gone"), 1500);
        assert_eq!(fixture.counts(), [0, 3, 1]);
    }

    #[test]
    fn a_flood_of_reports_displaces_few_of_those_that_are_known() {
        let mut fixture = Fixture::new();
        let known = |client: u32| format!("2001:db8::{client:x}");
        (1..=100).for_each(|client| fixture.learn(&known(client), 1300, 1480));
        // Twenty seconds of it, of a thousand a second.
        for client in 0..20_000_u32 {
            fixture.now += Duration::from_millis(1);
            let report = Report {
                client: Ipv4Addr::from(0x0a00_0000 | client).into(),
                mtu: 600,
                len: 1260,
            };
            fixture.writer.learn(report, fixture.now, &fixture.counters);
        }
        fixture.publish();
        let evicted = fixture.counters.evicted.get();
        assert!((100..=200).contains(&evicted), "{evicted}");
        let [entries, learnt, ignored] = fixture.counts();
        assert_eq!(entries, MAX_PATHS as u64);
        assert_eq!(learnt, entries + evicted);
        assert_eq!(learnt + ignored, 20_100);
        // Five of them are to be expected.
        let left = (1..=100).filter(|client| fixture.limit(&known(*client)) == 1300);
        let left = left.count();
        assert!(left > 70, "{left}");
    }

    #[test]
    fn the_filter_spreads_clients() {
        let v4 = (0..=255).map(|last| Ipv4Addr::new(198, 51, 100, last).into());
        let v6 = (0..256).map(|last| Ipv6Addr::from(0x2001_0db8 << 96 | last).into());
        let networks = (0..256).map(|net| Ipv6Addr::from(0x2001_0db8 << 96 | net << 72).into());
        for clients in [
            v4.collect::<Vec<IpAddr>>(),
            v6.collect(),
            networks.collect(),
        ] {
            let mut places: Vec<_> = clients.iter().map(|client| place(*client)).collect();
            places.sort_unstable();
            places.dedup();
            assert!(places.len() > 200, "{} places", places.len());
            assert!(places.iter().all(|(word, _)| *word < BITS as usize / 64));
        }
    }
}
