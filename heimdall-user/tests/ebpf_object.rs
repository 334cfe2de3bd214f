//! The committed XDP object belongs to the sources beside it.
#![allow(clippy::unwrap_used)]

use std::fs;

use xtask::ebpf::{MANIFEST, OBJECT, manifest, program_dir};

#[test]
fn object_and_sources_have_not_drifted_apart() {
    let committed = fs::read_to_string(program_dir().join(MANIFEST)).unwrap();
    let actual = manifest(&program_dir().join(OBJECT)).unwrap();
    assert_eq!(
        committed, actual,
        "the XDP object was not built from these sources; run `cargo xtask ebpf` and commit {OBJECT} \
         and {MANIFEST}"
    );
}
