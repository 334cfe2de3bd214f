//! Heimdall.
pub mod answer;
pub mod cache;
pub mod clock;
pub mod dns;
pub mod forward;
pub mod socket;
pub mod stats;
