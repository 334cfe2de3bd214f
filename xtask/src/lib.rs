//! What Heimdall's tools and its tests share: the lab, and the digest of the XDP object.
// A tool and its lab may stop at once when something is wrong with them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

pub mod digest;
pub mod lab;
