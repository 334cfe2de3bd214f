//! A temporary file as memory.

use std::{fs::File, io};

use memmap2::Mmap;

/// Maps a file that has no name and whose only descriptor is the caller's.
pub(super) fn private(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file does not change while it is mapped: no other process can open one without a name,
    // and the caller has written it and drops its descriptor without writing again.
    unsafe { Mmap::map(file) }
}
