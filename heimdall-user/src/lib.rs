//! Heimdall.
pub mod answer;
pub mod cache;
pub mod clock;
pub mod dns;
pub mod forward;
pub mod packet;
pub mod socket;
pub mod stats;
pub mod worker;
pub mod xdp;
