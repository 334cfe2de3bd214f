//! Reading a snapshot.

use std::{
    fs::File,
    io::{self, Read, Seek},
    iter,
    os::fd::OwnedFd,
    path::Path,
};

use super::{HEADER, MAGIC, Problem, SnapshotError, VERSION};
use crate::{cache::Record, file};

/// Seconds by which clocks may differ: a snapshot written so far in the future counts as new.
const SKEW: u64 = 60;

/// Largest age, in seconds: some 136 years.
const MAX_AWAY: u64 = u32::MAX as u64;

/// The contents of a snapshot, checked.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    body: &'a [u8],
    origin: u64,
    records: u64,
    away: u32,
}

impl<'a> Contents<'a> {
    /// Parses and checks the octets of a whole snapshot.
    ///
    /// # Errors
    /// It is incomplete, damaged, or no snapshot of this version.
    pub fn read(octets: &'a [u8], unix_now: u64) -> Result<Self, Problem> {
        let header = Header::read(octets)?;
        let body = octets.get(HEADER..).unwrap_or_default();
        if body.len() as u64 != header.body {
            return Err(Problem::Length {
                expected: header.body.saturating_add(HEADER as u64),
                octets: octets.len() as u64,
            });
        }
        if crc32fast::hash(body) != header.checksum {
            return Err(Problem::Damaged);
        }
        if header.written > unix_now.saturating_add(SKEW) {
            return Err(Problem::Future(header.written - unix_now));
        }
        Ok(Self {
            body,
            origin: header.origin,
            records: header.records,
            away: unix_now.saturating_sub(header.written).min(MAX_AWAY) as u32,
        })
    }

    /// Seconds since it was written.
    pub(crate) fn away(&self) -> u32 {
        self.away
    }

    /// What to add to the records' ages, in seconds. An age is the difference of two whole seconds of the writer's clock, and
    /// [`away`](Self::away) one of the system's: each may be almost a second too small. Rounded up, no copy of an answer has
    /// more time left than the answer.
    pub(crate) fn elapsed(&self) -> u32 {
        self.away.saturating_add(2)
    }

    /// Where the answers are from, by the writer's number. `None`: it did not say.
    pub(crate) fn origin(&self) -> Option<u64> {
        (self.origin != 0).then_some(self.origin)
    }

    /// How many records the header counts.
    pub(crate) fn count(&self) -> u64 {
        self.records
    }

    /// The records, with their ages when the snapshot was written. Those that a cache may not hold
    /// ([`Record::is_sound`]) are left out.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = self.body;
        iter::from_fn(move || Record::take(&mut rest)).filter(Record::is_sound)
    }
}

/// The fields of the header that can differ.
struct Header {
    written: u64,
    origin: u64,
    records: u64,
    body: u64,
    checksum: u32,
}

impl Header {
    fn read(octets: &[u8]) -> Result<Self, Problem> {
        if !octets.starts_with(&MAGIC) {
            return Err(Problem::Foreign);
        }
        let header: &[u8; HEADER] = octets.first_chunk().ok_or(Problem::Length {
            expected: HEADER as u64,
            octets: octets.len() as u64,
        })?;
        let (words, _) = header.as_chunks::<8>();
        let [_, version, written, records, body, checksum, origin, last] =
            <[[u8; 8]; 8]>::try_from(words).unwrap_or_default();
        let halves = |word: [u8; 8]| {
            let word = u64::from_le_bytes(word);
            (word as u32, (word >> 32) as u32)
        };
        let (version, _) = halves(version);
        if version != VERSION {
            return Err(Problem::Version(version));
        }
        let (_, own_checksum) = halves(last);
        let before = header
            .split_last_chunk::<4>()
            .map_or(&[][..], |(rest, _)| rest);
        if crc32fast::hash(before) != own_checksum {
            return Err(Problem::Damaged);
        }
        Ok(Self {
            written: u64::from_le_bytes(written),
            origin: u64::from_le_bytes(origin),
            records: u64::from_le_bytes(records),
            body: u64::from_le_bytes(body),
            checksum: halves(checksum).0,
        })
    }
}

/// A snapshot's file, read and checked.
///
/// All of it is read into memory of this process before the check: whatever happens to the file
/// afterwards, what was checked stays. A mapping would change with the file, and if that was
/// truncated, the next access would end the process with SIGBUS.
#[derive(Debug)]
pub struct Snapshot {
    octets: Vec<u8>,
    origin: u64,
    records: u64,
    away: u32,
}

impl Snapshot {
    /// Opens and reads the file; `None` if it does not exist.
    ///
    /// # Errors
    /// It cannot be read, or [`Contents::read`] fails.
    pub fn open(path: &Path, unix_now: u64) -> Result<Option<Self>, SnapshotError> {
        match file::open(path).and_then(read) {
            Ok((octets, len)) => Self::check(path, octets, len, unix_now).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                let path = path.to_owned();
                Err(SnapshotError::Unreadable { path, source })
            }
        }
    }

    /// Reads a memory file that [`MemoryWriter`](super::MemoryWriter) has written, from its first octet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn from_memory(file: OwnedFd, unix_now: u64) -> Result<Self, SnapshotError> {
        let path = Path::new("the memory file");
        let mut file = File::from(file);
        match file.rewind().and_then(|()| read(file)) {
            Ok((octets, len)) => Self::check(path, octets, len, unix_now),
            Err(source) => {
                let path = path.to_owned();
                Err(SnapshotError::Unreadable { path, source })
            }
        }
    }

    /// `len`: of the file, of which `octets` were read.
    fn check(path: &Path, octets: Vec<u8>, len: u64, unix_now: u64) -> Result<Self, SnapshotError> {
        match Contents::read(&octets, unix_now) {
            Ok(Contents {
                origin,
                records,
                away,
                ..
            }) => Ok(Self {
                octets,
                origin,
                records,
                away,
            }),
            Err(problem) => {
                let path = path.to_owned();
                Err(match problem {
                    Problem::Foreign => SnapshotError::Foreign { path },
                    Problem::Length { expected, .. } => {
                        let octets = len;
                        let problem = Problem::Length { expected, octets };
                        SnapshotError::Bad { path, problem }
                    }
                    problem => SnapshotError::Bad { path, problem },
                })
            }
        }
    }

    /// What it holds.
    pub fn contents(&self) -> Contents<'_> {
        Contents {
            body: self.octets.get(HEADER..).unwrap_or_default(),
            origin: self.origin,
            records: self.records,
            away: self.away,
        }
    }
}

/// Reads the file, or its header alone if that is no snapshot's or gives another length: such a file may
/// be of any length. Returns the file's length as well.
fn read(mut file: File) -> io::Result<(Vec<u8>, u64)> {
    let len = file.metadata()?.len();
    let rest = len.saturating_sub(HEADER as u64);
    let mut octets = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut octets)?;
    if Header::read(&octets).is_ok_and(|header| header.body == rest) {
        octets.try_reserve_exact(usize::try_from(rest).unwrap_or(usize::MAX))?;
        file.take(rest).read_to_end(&mut octets)?;
    }
    Ok((octets, len))
}
