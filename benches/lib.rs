//! Benches of the hot path: criterion's, each file a bench target named after its subject, and
//! a program whose instructions are counted.

pub mod batch;
pub mod fixture;
pub mod frames;
pub mod network;
pub mod responses;
pub mod worker;
