//! Heimdall.

pub mod xdp;
