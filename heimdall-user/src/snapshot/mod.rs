//! The file that preserves the forwarder's caches over a restart, and the memory file that a successor gets. The module
//! reads and writes them; it knows no cache and no thread. `server` calls it.
//!
//! ```text
//!  0  magic      8 octets "HEIMDALL"
//!  8  version    u32
//! 12  unused     u32   0
//! 16  written    u64   seconds since 1970
//! 24  records    u64   how many
//! 32  body       u64   octets after the header
//! 40  checksum   u32   CRC-32 of the body
//! 44  unused     u32   0
//! 48  origin     u64   of the answers, as the writer says it; 0: it does not
//! 56  unused     u32   0
//! 60  checksum   u32   CRC-32 of the header before this
//! 64  records (cache::Record)
//! ```
//!
//! Little-endian. A file is written beside the one that it replaces, and renamed when it is complete
//! and on the disk; its header is written last. So whenever the process dies, the file of that name
//! is complete: the old one or the new one.

mod reader;
mod writer;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use reader::{Contents, Snapshot};
pub(crate) use writer::MemoryWriter;
pub use writer::Writer;

const MAGIC: [u8; 8] = *b"HEIMDALL";

/// The format that this version writes, and the only one that it reads.
const VERSION: u32 = 2;

/// Octets of the header.
const HEADER: usize = 64;

/// Why a snapshot was not read or written. One line each.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}; check the directory, its permissions and the space on its disk", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is no snapshot of Heimdall", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is a snapshot that cannot be used.
    #[error("{}: {problem}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// It does not begin as a snapshot does.
    #[error("it is no snapshot of Heimdall")]
    Foreign,
    /// Of another format.
    #[error("it is of format {0}, and this version reads format {VERSION}")]
    Version(u32),
    /// Its length is not the one in its header.
    #[error("it should have {expected} octets and has {octets}; it was truncated, or copied badly")]
    Length {
        /// The length in the header.
        expected: u64,
        /// The actual length.
        octets: u64,
    },
    /// A checksum of the header or of the records is wrong.
    #[error("it is damaged: a checksum is wrong")]
    Damaged,
    /// The clock was ahead when it was written, or is behind now, by this many seconds.
    #[error("it was written {0} s in the future, so its age is unknown; check the system's clock")]
    Future(u64),
}

#[cfg(test)]
mod tests;
