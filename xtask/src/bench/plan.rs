//! The loads that a contestant gets in its turn, and the names of their figures.

use std::path::Path;

use indicatif::HumanCount;

use super::loads::Names;

/// A load, and what is measured under it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Load {
    /// kxdpgun: the highest rates of which 99.9 % and 99 % are answered.
    Search(NameSet),
    /// kxdpgun at a rate: CPU time, in microseconds an answer.
    Cost(Rate),
    /// So many clients of dnsperf in a closed loop: latency.
    Dnsperf(u32, Rate),
    /// The same with clients on AF_XDP.
    OnXdp(u32, Rate),
    /// So many queues on cores that they share with their clients on AF_XDP, 250 each.
    Shared(u32),
    /// 200 clients on AF_XDP that ask for each of 100,000 names once.
    Misses(Part),
    /// 300 clients on AF_XDP that ask for names in the cache, and as many queries for others while the upstream is dead.
    DeadUpstream(Rate),
    /// No load: CPU time and memory.
    Idle,
}

/// How much of the names is not in a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    All,
    Half,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NameSet {
    Uniform,
    Zipf,
    Million,
}

/// Queries a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    Unlimited,
    Fixed(u64),
    /// A part of the contestant's highest rate with 99.9 % of [`NameSet::Uniform`] answered.
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

    pub(super) fn title(self) -> String {
        match self {
            Self::Unlimited => "any rate".to_owned(),
            Self::Fixed(rate) => format!("{}/s", HumanCount(rate)),
            Self::OfHighest(part) => format!("{part} of the highest rate"),
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

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Uniform => "10 k names",
            Self::Zipf => "Zipf over 10 k",
            Self::Million => "1 M names",
        }
    }
}

impl Load {
    /// Its title; a figure's name is this and the title of its column.
    pub(super) fn title(self) -> String {
        match self.rate() {
            Some(Rate::Unlimited) | None => self.family(),
            Some(rate) => format!("{} at {}", self.family(), rate.title()),
        }
    }

    /// What it is, whatever its rate.
    pub(super) fn family(self) -> String {
        match self {
            Self::Search(names) => format!("Highest rate, {}", names.title()),
            Self::Cost(_) => "CPU µs an answer".to_owned(),
            Self::Dnsperf(clients, _) => format!("{clients} clients of dnsperf"),
            Self::OnXdp(clients, _) => format!("{clients} clients on AF_XDP"),
            Self::Shared(queues) => format!("{queues} queues, sharing their cores with clients"),
            Self::Misses(Part::All) => "Misses, 200 outstanding".to_owned(),
            Self::DeadUpstream(_) => {
                "300 clients on AF_XDP, and as many misses to a dead upstream".to_owned()
            }
            Self::Misses(Part::Half) => {
                "50 % misses, 200 outstanding, latency of the hits".to_owned()
            }
            Self::Idle => "Without load".to_owned(),
        }
    }

    pub(super) fn rate(self) -> Option<Rate> {
        match self {
            Self::Cost(rate)
            | Self::Dnsperf(_, rate)
            | Self::OnXdp(_, rate)
            | Self::DeadUpstream(rate) => Some(rate),
            _ => None,
        }
    }

    /// The titles of its columns.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Search(_) => &["99.9 %", "99 %"],
            Self::Cost(_) => &[
                "answers/s",
                "answered %",
                "process",
                "whole core",
                "process + receive",
            ],
            Self::Dnsperf(..) | Self::OnXdp(..) | Self::Shared(_) | Self::DeadUpstream(_) => {
                &["answers/s", "mean ms", "p50", "p99", "p99.9", "lost %"]
            }
            Self::Misses(_) => &[
                "answers/s",
                "lost %",
                "p50 ms",
                "p99",
                "process",
                "whole core",
                "process + receive",
            ],
            Self::Idle => &["% of a core", "memory, MB"],
        }
    }

    /// The name of a figure.
    pub(super) fn figure(self, column: &str) -> String {
        format!("{}, {column}", self.title())
    }
}

use Load::{Cost, DeadUpstream, Dnsperf, Idle, Misses, OnXdp, Search, Shared};
use NameSet::{Million, Uniform, Zipf};
use Rate::{Fixed, OfHighest, Unlimited};

/// All of them, in the order in which they are run, and whether `--quick` has them, too.
const ALL: [(bool, Load); 17] = [
    (true, Search(Uniform)),
    (true, Cost(OfHighest(0.9))),
    (true, Cost(Fixed(300_000))),
    (false, Cost(Fixed(25_000))),
    (false, Search(Zipf)),
    (false, Dnsperf(100, Unlimited)),
    (true, Dnsperf(300, Unlimited)),
    (false, Dnsperf(300, Fixed(25_000))),
    (false, OnXdp(100, Unlimited)),
    (true, OnXdp(300, Unlimited)),
    (true, OnXdp(300, Fixed(25_000))),
    (false, OnXdp(300, OfHighest(0.5))),
    (false, Search(Million)),
    (true, Idle),
    (false, Shared(1)),
    (false, Shared(2)),
    (false, Shared(4)),
];

pub(super) fn all(quick: bool) -> Vec<Load> {
    let wanted = ALL.iter().filter(|(in_quick, _)| *in_quick || !quick);
    wanted.map(|(_, load)| *load).collect()
}

/// More and more queues, each on a core of its own that it shares with its clients.
pub(super) fn scaling() -> Vec<Load> {
    vec![Shared(1), Shared(2), Shared(4)]
}

/// CPU time at these rates, latency at them if it is wanted, and the highest rate.
pub(super) fn at_rates(rates: &[u64], latency: bool) -> Vec<Load> {
    let costs = rates.iter().map(|rate| Cost(Fixed(*rate)));
    let latencies = rates.iter().filter(|_| latency);
    let latencies = latencies.map(|rate| OnXdp(300, Fixed(*rate)));
    costs.chain(latencies).chain([Search(Uniform)]).collect()
}

/// Names that no cache has, and these beside others; hits alone, and beside misses to an upstream that is dead.
pub(super) fn misses() -> Vec<Load> {
    let rate = Fixed(10_000);
    let beside = [OnXdp(300, rate), DeadUpstream(rate)];
    [&[Misses(Part::All), Misses(Part::Half)][..], &beside].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_figures_have_one_name() {
        for loads in [
            all(false),
            scaling(),
            misses(),
            at_rates(&[1000, 25_000], true),
        ] {
            let figures: Vec<String> = (loads.iter())
                .flat_map(|load| load.columns().iter().map(|column| load.figure(column)))
                .collect();
            assert_eq!(BTreeSet::from_iter(&figures).len(), figures.len());
        }
    }
}
