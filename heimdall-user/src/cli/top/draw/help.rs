//! What the keys do, and what the figures mean.

use super::{Cell, Tone, blocks::Block};

const KEYS: [(&str, &str); 9] = [
    ("q, Ctrl-C", "quit"),
    ("p, space", "pause, and go on"),
    ("1 2 3 4, Tab", "overview, queues, upstreams, names"),
    ("s → ←", "sort by the next or the last column"),
    ("r", "reverse the order"),
    ("/", "show only lines with a text; Esc: all"),
    ("↑ ↓ j k", "scroll a line"),
    ("PgUp PgDn", "scroll ten lines"),
    ("Home End", "to the first, to the last line"),
];

const WORDS: [(&str, &str); 6] = [
    ("QUERIES/s", "a second, in the last interval"),
    ("HITS", "answered from the front's own cache"),
    ("DROP/s", "queries without a reply, by intent"),
    ("LOST/s", "lost by the kernel: worker too slow"),
    ("WAIT", "queries that wait for an upstream now"),
    ("p50 p99", "latency: half, 99 % within this time"),
];

pub(super) fn help() -> Block {
    let line = |(key, meaning): &(&str, &str)| {
        vec![
            Cell::new(format!("  {key:<14}"), Tone::Plain),
            Cell::new(*meaning, Tone::Plain),
        ]
    };
    let title = |title: &str| vec![Cell::new(title, Tone::Title)];
    let mut block = vec![title("KEYS (any key closes this)")];
    block.extend(KEYS.iter().map(line));
    block.push(Vec::new());
    block.push(title("WORDS"));
    block.extend(WORDS.iter().map(line));
    block
}
