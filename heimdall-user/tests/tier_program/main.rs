//! The hot tier of the real XDP program, in the real kernel (BPF_PROG_TEST_RUN).
//!
//! `HEIMDALL_EBPF_OBJECT` names another object to test than the committed one. Frames are built and replies dissected by
//! etherparse; what a reply has to be, octet for octet, says the answer core.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod frames;
mod kernel;
mod lengths;
mod same_answers;
mod vectors;
mod verifier;
mod worker;
