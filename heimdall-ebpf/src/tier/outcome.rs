//! Why the tier passed a query on.

/// Why the tier left a claimed query to the worker: the index of a counter in the tier's counters map.
///
/// Checks run in the order given here, and the first that fails is counted. What is passed on is
/// unchanged, and is counted as [`Disposition::Steered`](crate::Disposition::Steered) as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// The tier answers nothing at the moment.
    Off,
    /// Not a question alone, or with an OPT record without options: another opcode, other records, options,
    /// another EDNS version, octets at the end.
    NotPlain,
    /// A name longer than [`MAX_NAME`](super::MAX_NAME).
    LongName,
    /// No entry for the question.
    NotHeld,
    /// The entry is of another generation.
    Outdated,
    /// The entry's time is over: its answer is due for refresh.
    Due,
    /// RD is not set, and such queries are passed on.
    NonRecursive,
    /// The sender is not among the clients that are answered here, or has port 0.
    Client,
    /// A wrong IPv4 or UDP checksum.
    Checksum,
    /// The reply exceeds the client's payload size, the server's, or the MTU.
    TooLarge,
    /// One of [`SAMPLE_INTERVAL`](super::SAMPLE_INTERVAL) hits, at random, for the cache behind.
    Sampled,
    /// The driver has no room to make the packet as long as the reply.
    NoTailroom,
}

impl Outcome {
    /// Their number.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their counters.
    pub const ALL: [Self; 12] = [
        Self::Off,
        Self::NotPlain,
        Self::LongName,
        Self::NotHeld,
        Self::Outdated,
        Self::Due,
        Self::NonRecursive,
        Self::Client,
        Self::Checksum,
        Self::TooLarge,
        Self::Sampled,
        Self::NoTailroom,
    ];

    /// The name in statistics and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotPlain => "not_plain",
            Self::LongName => "long_name",
            Self::NotHeld => "not_held",
            Self::Outdated => "outdated",
            Self::Due => "due",
            Self::NonRecursive => "non_recursive",
            Self::Client => "client",
            Self::Checksum => "checksum",
            Self::TooLarge => "too_large",
            Self::Sampled => "sampled",
            Self::NoTailroom => "no_tailroom",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_the_order_of_the_counters() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.name());
        }
    }
}
