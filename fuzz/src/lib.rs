//! Properties of all inputs, a function a target. A function panics if its property does not hold; what calls
//! it, the fuzzer or a test that replays the corpus, is not its business.

mod answers;
mod handovers;
mod packets;
mod queries;
mod snapshots;
mod texts;

pub use answers::upstream_answer;
pub use handovers::handover;
pub use packets::packet_view;
pub use queries::dns_view;
pub use snapshots::snapshot;
pub use texts::{config, convert, lists};

/// A property that holds for any octets.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("packet_view", packet_view),
    ("dns_view", dns_view),
    ("upstream_answer", upstream_answer),
    ("config", config),
    ("convert", convert),
    ("lists", lists),
    ("snapshot", snapshot),
    ("handover", handover),
];
