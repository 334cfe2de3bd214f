//! Heimdall.
