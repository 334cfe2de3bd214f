//! The committed XDP object was built from the committed source.
#![allow(clippy::unwrap_used)]

use std::fs;

use xtask::digest::{DIGESTS, OBJECT, expected, workspace};

#[test]
fn the_object_and_its_source_have_not_drifted_apart() {
    let root = workspace();
    let committed = fs::read_to_string(root.join(DIGESTS)).unwrap();
    let now = expected(&root.join(OBJECT)).unwrap();
    assert_eq!(
        committed, now,
        "the XDP program's source or object has changed: run cargo xtask ebpf"
    );
}
