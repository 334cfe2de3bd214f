//! Heimdall.
pub mod answer;
pub mod cache;
pub mod config;
pub mod control;
pub mod dns;
pub mod forward;
pub mod stats;
