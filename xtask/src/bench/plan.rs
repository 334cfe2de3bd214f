//! The loads that a contestant gets in its turn, and the names of their figures.

use std::path::Path;

use super::loads::Names;

/// A load, and what is measured under it.
pub(super) struct Load {
    /// Title of its table; a figure's name is this and the title of its column.
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    /// Whether `--quick` has it, too.
    pub(super) quick: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// kxdpgun: the highest rates of which 99.9 % and 99 % are answered.
    Search(NameSet),
    /// kxdpgun at a rate: CPU time, in microseconds an answer.
    Cost(Rate),
    /// So many clients of dnsperf in a closed loop: latency.
    Dnsperf(u32, Rate),
    /// The same with clients on AF_XDP.
    OnXdp(u32, Rate),
    /// No load: CPU time and memory.
    Idle,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum NameSet {
    Uniform,
    Zipf,
    Million,
}

/// Queries a second.
#[derive(Clone, Copy)]
pub(super) enum Rate {
    Unlimited,
    Fixed(u64),
    /// A part of the contestant's highest rate with 99.9 % of [`UNIFORM`] answered.
    OfHighest(f64),
}

impl Rate {
    pub(super) fn resolve(self, highest: f64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Fixed(rate) => Some(rate),
            Self::OfHighest(part) => Some((part * highest) as u64),
        }
    }
}

impl NameSet {
    pub(super) fn file(self, names: &Names) -> &Path {
        match self {
            Self::Uniform => &names.uniform,
            Self::Zipf => &names.zipf,
            Self::Million => &names.million,
        }
    }
}

impl Load {
    /// The titles of its columns.
    pub(super) fn columns(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Search(_) => &["99.9 %", "99 %"],
            Kind::Cost(_) => &["answers/s", "process", "receive", "whole core"],
            Kind::Dnsperf(..) | Kind::OnXdp(..) => {
                &["answers/s", "mean ms", "p50", "p99", "p99.9", "lost %"]
            }
            Kind::Idle => &["% of a core", "memory, MB"],
        }
    }

    /// The name of a figure.
    pub(super) fn figure(&self, column: &str) -> String {
        format!("{}, {column}", self.title)
    }
}

const fn load(quick: bool, title: &'static str, kind: Kind) -> Load {
    Load { title, kind, quick }
}

use Kind::{Cost, Dnsperf, Idle, OnXdp, Search};
use Rate::{Fixed, OfHighest, Unlimited};

pub(super) const UNIFORM: Load = load(true, "Highest rate, 10 k names", Search(NameSet::Uniform));
pub(super) const ZIPF: Load = load(false, "Highest rate, Zipf over 10 k", Search(NameSet::Zipf));
pub(super) const MILLION: Load = load(false, "Highest rate, 1 M names", Search(NameSet::Million));
pub(super) const SEARCHES: [Load; 3] = [UNIFORM, ZIPF, MILLION];

pub(super) const EQUAL: Load = load(true, "CPU µs an answer at 300,000/s", Cost(Fixed(300_000)));
pub(super) const LOW: Load = load(false, "CPU µs an answer at 25,000/s", Cost(Fixed(25_000)));
pub(super) const HALF: Load = load(
    false,
    "300 clients on AF_XDP at half of the highest rate",
    OnXdp(300, OfHighest(0.5)),
);

/// In the order in which they are run.
pub(super) const LOADS: [Load; 14] = [
    UNIFORM,
    load(
        true,
        "CPU µs an answer at 0.9 of the highest rate",
        Cost(OfHighest(0.9)),
    ),
    EQUAL,
    LOW,
    ZIPF,
    load(false, "100 clients of dnsperf", Dnsperf(100, Unlimited)),
    load(true, "300 clients of dnsperf", Dnsperf(300, Unlimited)),
    load(
        false,
        "300 clients of dnsperf at 25,000/s",
        Dnsperf(300, Fixed(25_000)),
    ),
    load(false, "100 clients on AF_XDP", OnXdp(100, Unlimited)),
    load(true, "300 clients on AF_XDP", OnXdp(300, Unlimited)),
    load(
        true,
        "300 clients on AF_XDP at 25,000/s",
        OnXdp(300, Fixed(25_000)),
    ),
    HALF,
    MILLION,
    load(true, "Without load", Idle),
];

/// Loads of queues that share their cores with their clients on AF_XDP, 250 each, and the number of
/// queues.
pub(super) const SHARED: [(u32, Load); 3] = [
    (1, shared("1 queue, sharing its core with clients", 1)),
    (2, shared("2 queues, sharing their cores with clients", 2)),
    (4, shared("4 queues, sharing their cores with clients", 4)),
];

const fn shared(title: &'static str, queues: u32) -> Load {
    load(false, title, OnXdp(250 * queues, Unlimited))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_figures_have_one_name() {
        let loads = LOADS.iter().chain(SHARED.iter().map(|(_, load)| load));
        let figures: Vec<String> = loads
            .flat_map(|load| load.columns().iter().map(|column| load.figure(column)))
            .collect();
        assert_eq!(BTreeSet::from_iter(&figures).len(), figures.len());
    }
}
