//! Sequences of requests, the same in every run.

use crate::policies::Name;

/// Names of the crowd, the ordinary clients. Higher numbers are strangers: names of a scan or flood.
pub(crate) const NAMES: usize = 1_000_000;
/// Requests of the crowd before the count begins.
pub(crate) const WARM_UP: usize = 2_000_000;
/// Requests of the crowd in each third of a flood's run.
pub(crate) const PHASE: usize = 500_000;

const MEASURED: usize = 4_000_000;

/// A sequence of requests.
pub(crate) struct Trace {
    pub(crate) label: &'static str,
    pub(crate) requests: Vec<Name>,
}

impl Trace {
    /// Names that occur, strangers included.
    pub(crate) fn names(&self) -> usize {
        let last = self.requests.iter().max().map_or(0, |name| *name as usize);
        NAMES.max(last + 1)
    }
}

/// SplitMix64 (Steele et al., OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Clients whose requests follow Zipf's law: the name of rank r gets a share like 1 / r^s.
struct Crowd {
    /// By rank, the chance of this rank or a lower one, not normalized.
    shares: Vec<f64>,
    /// By rank, the name.
    ranking: Vec<Name>,
    random: Random,
}

impl Crowd {
    fn new(s: f64) -> Self {
        let mut sum = 0.0;
        let shares = (1..=NAMES).map(|rank| {
            sum += (rank as f64).powf(-s);
            sum
        });
        Self {
            shares: shares.collect(),
            ranking: (0..NAMES as Name).collect(),
            random: Random(1),
        }
    }

    fn ask(&mut self) -> Name {
        let point = self.random.fraction() * self.shares[NAMES - 1];
        let rank = self.shares.partition_point(|share| *share <= point);
        self.ranking[rank.min(NAMES - 1)]
    }

    /// Gives 5 % of the ranks, any of them, to other names.
    fn change_ranking(&mut self) {
        for _ in 0..NAMES / 40 {
            let (a, b) = (self.random.below(NAMES), self.random.below(NAMES));
            self.ranking.swap(a, b);
        }
    }
}

/// Constant popularity.
pub(crate) fn steady(label: &'static str, s: f64) -> Trace {
    let mut crowd = Crowd::new(s);
    Trace {
        label,
        requests: (0..WARM_UP + MEASURED).map(|_| crowd.ask()).collect(),
    }
}

/// Every 40,000 requests a client scans 10,000 names that are not requested again: a fifth of all
/// requests.
pub(crate) fn scan() -> Trace {
    let mut crowd = Crowd::new(1.0);
    let mut strangers = NAMES as Name..;
    let mut requests = Vec::new();
    for _ in 0..(WARM_UP + MEASURED) / 40_000 {
        requests.extend((0..40_000).map(|_| crowd.ask()));
        requests.extend(strangers.by_ref().take(10_000));
    }
    Trace {
        label: "scan",
        requests,
    }
}

/// A fifth of the requests goes to names that are popular for a while: 2,000 at a time out of the less
/// popular half, each requested five times on average before another replaces it. It favours a cache
/// that keeps new names for long.
pub(crate) fn bursts() -> Trace {
    let mut crowd = Crowd::new(1.0);
    let mut fresh = NAMES as Name / 2..;
    let mut pool: Vec<Name> = fresh.by_ref().take(2000).collect();
    let requests = (0..WARM_UP + MEASURED).map(|i| {
        if i % 5 > 0 {
            return crowd.ask();
        }
        let chosen = crowd.random.below(pool.len());
        let name = pool[chosen];
        if crowd.random.below(5) == 0
            && let Some(next) = fresh.next()
        {
            pool[chosen] = next;
        }
        name
    });
    Trace {
        label: "bursts",
        requests: requests.collect(),
    }
}

/// Every 100,000 requests 5 % of the ranks change; at the end hardly a name has the rank that it had at
/// the start.
pub(crate) fn change() -> Trace {
    let mut crowd = Crowd::new(1.0);
    let mut requests = Vec::new();
    for _ in 0..(WARM_UP + MEASURED) / 100_000 {
        requests.extend((0..100_000).map(|_| crowd.ask()));
        crowd.change_ranking();
    }
    Trace {
        label: "change",
        requests,
    }
}

/// Three thirds; in the second, ten requests for random names come with each of the crowd's. Each
/// random name is queried `times` times in a row.
pub(crate) fn flood(label: &'static str, times: u32) -> Trace {
    let mut crowd = Crowd::new(1.0);
    let mut strangers = (NAMES as Name..).flat_map(|name| (0..times).map(move |_| name));
    let mut requests = Vec::new();
    for i in 0..WARM_UP + 3 * PHASE {
        requests.push(crowd.ask());
        if (WARM_UP + PHASE..WARM_UP + 2 * PHASE).contains(&i) {
            requests.extend(strangers.by_ref().take(10));
        }
    }
    Trace { label, requests }
}
