//! AF_XDP.
pub mod socket;
