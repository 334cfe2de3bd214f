//! What Heimdall's tools and its tests share: the lab.
// A tool and its lab may stop at once when something is wrong with them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

pub mod lab;
