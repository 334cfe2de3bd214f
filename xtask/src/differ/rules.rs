//! The differences that are understood: who does what, and why Heimdall's way is right.

use super::compare::{Aspect, Difference, Peer};

/// A class of differences.
pub(super) struct Rule {
    /// Its name, as in docs/differences.md.
    pub(super) name: &'static str,
    /// Whether a difference belongs to it. It says what Heimdall must do, not only what the peer
    /// does.
    pub(super) fits: fn(&Difference<'_>) -> bool,
    /// Who does what, and why.
    pub(super) why: &'static str,
}

/// The rules; the first that fits explains a difference.
pub(super) const RULES: &[Rule] = &[];

/// The rule that explains a difference, by its place in [`RULES`].
pub(super) fn explain(difference: &Difference<'_>) -> Option<usize> {
    RULES.iter().position(|rule| (rule.fits)(difference))
}
