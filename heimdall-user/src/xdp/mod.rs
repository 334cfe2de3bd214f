//! XDP and AF_XDP: the NIC, the program on it, the sockets behind it.
//!
//! This room loads and attaches the program ([`program`]), tells it what is served ([`served`]),
//! looks interfaces up ([`nic`]), and owns the sockets and their memory ([`socket`]). It knows
//! nothing of DNS. The server composes it; the worker drives a socket.

pub mod nic;
pub mod program;
pub mod served;
pub mod socket;

pub use nic::Interface;
pub use program::Program;
