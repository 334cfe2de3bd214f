//! Heimdall's own tools, as a library for its tests; `cargo xtask` is the command.
// A tool that stops with a panic stops where a developer can read it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

pub mod ebpf;
