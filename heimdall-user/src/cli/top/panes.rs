//! The lists of the panes: their columns, and what is in them.

use super::{
    app::Pane,
    draw::Tone,
    table::{Column, Key},
};
use crate::cli::view::{
    Count, Front, Upstream, View,
    format::{compact, micros, percent},
};

/// How many columns a pane's list can be sorted by.
pub(super) fn columns(pane: Pane) -> usize {
    match pane {
        Pane::Overview => 0,
        Pane::Queues => QUEUES.len(),
        Pane::Upstreams => UPSTREAMS.len(),
        Pane::Names => names("").len(),
    }
}

/// How good a state is.
pub(super) fn tone_of(state: &str) -> Tone {
    match state {
        "running" | "up" | "announced" => Tone::Good,
        "gone" | "failed" | "stuck" => Tone::Bad,
        "unused" => Tone::Plain,
        _ => Tone::Warn,
    }
}

/// Something that should not happen.
fn bad(count: u64) -> Tone {
    if count > 0 { Tone::Warn } else { Tone::Plain }
}

fn number(count: u64) -> Key {
    Key::Number(count as f64)
}

fn unknown() -> String {
    "-".to_owned()
}

fn rate(view: &View, count: u64) -> String {
    compact(view.rate(count))
}

fn ratio(hits: u64, misses: u64) -> f64 {
    hits as f64 / (hits + misses).max(1) as f64
}

pub(super) const QUEUES: &[Column<Front>] = &[
    Column {
        title: "QUEUE",
        rank: 0,
        cell: |front, _| front.name.clone(),
        key: |front| Key::Text(format!("{}:{:06}", front.place.0, front.place.1)),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "CORE",
        rank: 7,
        cell: |front, _| front.core.map_or_else(unknown, |core| core.to_string()),
        // Ascending.
        key: |front| Key::Text(front.core.map_or_else(unknown, |core| format!("{core:06}"))),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "MODE",
        rank: 8,
        cell: |front, _| front.mode.clone(),
        key: |front| Key::Text(front.mode.clone()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "STATE",
        rank: 2,
        cell: |front, _| front.state.clone(),
        key: |front| Key::Text(front.state.clone()),
        tone: |front| tone_of(&front.state),
    },
    Column {
        title: "QUERIES/s",
        rank: 1,
        cell: |front, view| rate(view, front.queries.all()),
        key: |front| number(front.queries.all()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "REPLIES/s",
        rank: 6,
        cell: |front, view| rate(view, front.replies.all()),
        key: |front| number(front.replies.all()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "HITS",
        rank: 3,
        cell: |front, _| percent(front.hits, front.hits + front.misses).unwrap_or_else(unknown),
        key: |front| Key::Number(ratio(front.hits, front.misses)),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "DROP/s",
        rank: 4,
        cell: |front, view| rate(view, front.dropped),
        key: |front| number(front.dropped),
        tone: |front| bad(front.dropped),
    },
    Column {
        title: "LOST/s",
        rank: 5,
        cell: |front, view| rate(view, front.lost),
        key: |front| number(front.lost),
        tone: |front| bad(front.lost),
    },
    Column {
        title: "WAIT",
        rank: 9,
        cell: |front, _| compact_count(front.waiting),
        key: |front| number(front.waiting),
        tone: |_| Tone::Plain,
    },
];

pub(super) const UPSTREAMS: &[Column<Upstream>] = &[
    Column {
        title: "UPSTREAM",
        rank: 0,
        cell: |upstream, _| upstream.address.clone(),
        key: |upstream| Key::Text(upstream.address.clone()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "STATE",
        rank: 1,
        cell: |upstream, _| upstream.state.clone(),
        key: |upstream| Key::Text(upstream.state.clone()),
        tone: |upstream| tone_of(&upstream.state),
    },
    Column {
        title: "RTT",
        rank: 2,
        cell: |upstream, _| upstream.rtt_us.map_or_else(unknown, micros),
        key: |upstream| Key::Number(upstream.rtt_us.unwrap_or_default()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "FLIGHT",
        rank: 6,
        cell: |upstream, _| compact_count(upstream.in_flight),
        key: |upstream| number(upstream.in_flight),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "SENT/s",
        rank: 3,
        cell: |upstream, view| rate(view, upstream.queries),
        key: |upstream| number(upstream.queries),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "TIMEOUTS/s",
        rank: 4,
        cell: |upstream, view| rate(view, upstream.timeouts),
        key: |upstream| number(upstream.timeouts),
        tone: |upstream| bad(upstream.timeouts),
    },
    Column {
        title: "ERRORS/s",
        rank: 5,
        cell: |upstream, view| rate(view, upstream.errors),
        key: |upstream| number(upstream.errors),
        tone: |upstream| bad(upstream.errors),
    },
    Column {
        title: "p50",
        rank: 8,
        cell: |upstream, _| median(upstream).map_or_else(unknown, micros),
        key: |upstream| Key::Number(median(upstream).unwrap_or_default()),
        tone: |_| Tone::Plain,
    },
    Column {
        title: "p99",
        rank: 7,
        cell: |upstream, _| p99(upstream).map_or_else(unknown, micros),
        key: |upstream| Key::Number(p99(upstream).unwrap_or_default()),
        tone: |_| Tone::Plain,
    },
];

/// Of names, types and clients alike.
pub(super) const fn names(title: &'static str) -> [Column<Count>; 2] {
    [
        Column {
            title,
            rank: 0,
            cell: |count, _| count.name.clone(),
            key: |count| Key::Text(count.name.clone()),
            tone: |_| Tone::Plain,
        },
        Column {
            title: "SHARE",
            rank: 1,
            cell: |count, view| {
                let popular = view.popular.as_ref();
                let share = popular.and_then(|popular| percent(count.count, popular.queries));
                share.unwrap_or_else(unknown)
            },
            key: |count| number(count.count),
            tone: |_| Tone::Plain,
        },
    ]
}

fn median(upstream: &Upstream) -> Option<f64> {
    upstream.latency?.p50
}

fn p99(upstream: &Upstream) -> Option<f64> {
    upstream.latency?.p99
}

/// A count that is no rate: in full up to four digits.
fn compact_count(count: u64) -> String {
    if count < 10_000 {
        count.to_string()
    } else {
        compact(count as f64)
    }
}
