//! Heimdall.
pub mod answer;
pub mod cache;
pub mod dns;
pub mod forward;
pub mod packet;
pub mod stats;
