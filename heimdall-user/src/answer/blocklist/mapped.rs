//! A file in memory.

use std::{fs::File, io};

use memmap2::Mmap;

/// Maps a file that has no name and whose only descriptor is the caller's.
pub(super) fn private(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map stays as it is while it lives: nobody else can open a file without a name,
    // and the caller has written it and drops its descriptor without writing again.
    unsafe { Mmap::map(file) }
}
