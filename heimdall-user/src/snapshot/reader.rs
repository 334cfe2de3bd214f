//! Reading a snapshot.

use std::{io, iter, path::Path};

use memmap2::{Advice, Mmap};

use super::{HEADER, MAGIC, Problem, SnapshotError, VERSION};
use crate::{cache::Record, file};

/// Seconds that clocks may differ by: what was written so far in the future is taken for new.
const SKEW: u64 = 60;

/// Longest time away, in seconds: some 136 years.
const MAX_AWAY: u64 = u32::MAX as u64;

/// What a snapshot's octets hold, checked.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    body: &'a [u8],
    records: u64,
    away: u32,
}

impl<'a> Contents<'a> {
    /// Reads and checks a snapshot, all of it.
    ///
    /// # Errors
    /// It is not whole, or not a snapshot that can be read.
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
            records: header.records,
            away: unix_now.saturating_sub(header.written).min(MAX_AWAY) as u32,
        })
    }

    /// Seconds since it was written.
    pub fn away(&self) -> u32 {
        self.away
    }

    /// How many records were written.
    pub fn count(&self) -> u64 {
        self.records
    }

    /// The records, as they were when the snapshot was written. Those that are not sound are left
    /// out.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = self.body;
        iter::from_fn(move || Record::take(&mut rest)).filter(Record::is_sound)
    }
}

/// The fields of the header that can differ.
struct Header {
    written: u64,
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
        let [_, version, written, records, body, checksum, _, last] =
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
            records: u64::from_le_bytes(records),
            body: u64::from_le_bytes(body),
            checksum: halves(checksum).0,
        })
    }
}

/// A snapshot's file, mapped and checked.
#[derive(Debug)]
pub struct Snapshot {
    map: Mmap,
    records: u64,
    away: u32,
}

impl Snapshot {
    /// Opens the file; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no good snapshot.
    pub fn open(path: &Path, unix_now: u64) -> Result<Option<Self>, SnapshotError> {
        let map = match map(path) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = path.to_owned();
                return Err(SnapshotError::Unreadable { path, source });
            }
        };
        match Contents::read(&map, unix_now) {
            Ok(Contents { records, away, .. }) => Ok(Some(Self { map, records, away })),
            Err(problem) => {
                let path = path.to_owned();
                Err(match problem {
                    Problem::Foreign => SnapshotError::Foreign { path },
                    problem => SnapshotError::Bad { path, problem },
                })
            }
        }
    }

    /// What it holds.
    pub fn contents(&self) -> Contents<'_> {
        Contents {
            body: self.map.get(HEADER..).unwrap_or_default(),
            records: self.records,
            away: self.away,
        }
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = file::open(path)?;
    // SAFETY: the file is not written to while it is mapped: snapshots are only ever replaced
    // whole, by renaming (see Writer). Should someone else cut it short in these moments, the
    // process ends with SIGBUS, and no memory is read that is not the file's.
    let map = unsafe { Mmap::map(&file)? };
    // A hint, for reading it once from the start to the end.
    let _ = map.advise(Advice::Sequential);
    Ok(map)
}
