//! Criterion benches of the hot path; each file is a bench target named after what it measures.
