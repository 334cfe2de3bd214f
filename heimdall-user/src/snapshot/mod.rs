//! The file in which the forwarder's caches survive a restart.
//!
//! ```text
//!  0  magic      8 octets "HEIMDALL"
//!  8  version    u32
//! 12  unused     u32   0
//! 16  written    u64   seconds since 1970
//! 24  records    u64   how many
//! 32  body       u64   octets after the header
//! 40  checksum   u32   CRC-32 of the body
//! 44  unused     16 octets of 0
//! 60  checksum   u32   CRC-32 of the header before this
//! 64  records, one behind the other (cache::Record)
//! ```
//!
//! Little-endian. A file is written beside the one that it replaces, and renamed when it is whole
//! and on the disk; its header is written last. So whenever the process dies, the file that has the
//! name is whole: the old one or the new one.

mod reader;
mod writer;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use reader::{Contents, Snapshot};
pub use writer::Writer;

const MAGIC: [u8; 8] = *b"HEIMDALL";

/// The format that this version writes, and the only one that it reads.
const VERSION: u32 = 2;

/// Octets of the header.
const HEADER: usize = 64;

/// Why there is no snapshot. One line each.
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
    #[error("cannot write {}: {source}; check the directory, its permissions and the room on its disk", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else is in the file.
    #[error("{} is no snapshot of Heimdall", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is a snapshot, and not a good one.
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
    /// It begins otherwise.
    #[error("it is no snapshot of Heimdall")]
    Foreign,
    /// Of another format.
    #[error("it is of format {0}, and this version reads format {VERSION}")]
    Version(u32),
    /// Of another length than its header says.
    #[error("it should have {expected} octets and has {octets}; it was cut short, or copied badly")]
    Length {
        /// What the header says.
        expected: u64,
        /// What is there.
        octets: u64,
    },
    /// The header or the records are not what was written.
    #[error("it is damaged: a checksum is wrong")]
    Damaged,
    /// The clock was ahead when it was written, or is behind now, by so many seconds.
    #[error(
        "it was written {0} s in the future, so nobody knows how old it is; check the system's clock"
    )]
    Future(u64),
}

#[cfg(test)]
mod tests;
