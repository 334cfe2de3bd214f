//! Writing a snapshot.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use crc32fast::Hasher;
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

use super::{HEADER, MAGIC, SnapshotError, VERSION};
use crate::file;

/// The octets of a snapshot, as they are written. It is written with write(2), not through a mapping: a full disk then is
/// an error, and not a signal that ends the process.
#[derive(Debug)]
struct Body {
    file: File,
    written: u64,
    origin: u64,
    records: u64,
    octets: u64,
    checksum: Hasher,
}

impl Body {
    /// `file` is empty. It gets no header yet: unfinished, it is no snapshot.
    fn begin(mut file: File, unix_now: u64, origin: u64) -> io::Result<Self> {
        file.write_all(&[0; HEADER])?;
        Ok(Self {
            file,
            written: unix_now,
            origin,
            records: 0,
            octets: 0,
            checksum: Hasher::new(),
        })
    }

    fn append(&mut self, records: &[u8], count: u64) -> io::Result<()> {
        self.checksum.update(records);
        self.records += count;
        self.octets += records.len() as u64;
        self.file.write_all(records)
    }

    fn write_header(&self) -> io::Result<()> {
        self.file.write_all_at(&self.header(), 0)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = [
            &MAGIC[..],
            &VERSION.to_le_bytes(),
            &[0; 4],
            &self.written.to_le_bytes(),
            &self.records.to_le_bytes(),
            &self.octets.to_le_bytes(),
            &self.checksum.clone().finalize().to_le_bytes(),
            &[0; 4],
            &self.origin.to_le_bytes(),
            &[0; 4],
        ]
        .concat();
        let checksum = crc32fast::hash(&header);
        header.extend_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// A snapshot in a memory file, for a successor of this server.
#[derive(Debug)]
pub(crate) struct MemoryWriter(Body);

impl MemoryWriter {
    /// Begins a snapshot of answers of this origin.
    ///
    /// # Errors
    /// No memory file (memfd_create(2)) is available.
    pub(crate) fn create(unix_now: u64, origin: u64) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("heimdall-cache", flags)?);
        Body::begin(file, unix_now, origin).map(Self)
    }

    /// As [`Writer::append`].
    ///
    /// # Errors
    /// There is no memory for them.
    pub(crate) fn append(&mut self, records: &[u8], count: u64) -> io::Result<()> {
        self.0.append(records, count)
    }

    /// Completes it. Nobody can change the file from now on.
    ///
    /// # Errors
    /// There is no memory for its header.
    pub(crate) fn finish(self) -> io::Result<OwnedFd> {
        self.0.write_header()?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&self.0.file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(self.0.file.into())
    }
}

/// A snapshot that is being written to a file. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    /// The new file's own path, until it is renamed.
    new: Option<PathBuf>,
    body: Body,
}

impl Writer {
    /// Begins a snapshot of answers of this origin that is to replace the file at `path`. What a killed writer has left is
    /// removed.
    ///
    /// # Errors
    /// The new file cannot be created in the same directory.
    pub fn create(path: &Path, unix_now: u64, origin: u64) -> Result<Self, SnapshotError> {
        let mut name = path.file_name().map(OsString::from).unwrap_or_default();
        name.push(".new");
        let new = path.with_file_name(name);
        let open = || -> io::Result<Body> {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A new file: not the target of a link, and no FIFO, which would block.
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            Body::begin(file, unix_now, origin)
        };
        let body = open().map_err(|source| SnapshotError::Unwritable {
            path: new.clone(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            new: Some(new),
            body,
        })
    }

    /// Appends `count` records, which follow each other in `records`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, records: &[u8], count: u64) -> Result<(), SnapshotError> {
        let written = self.body.append(records, count);
        written.map_err(|source| self.failed(source))
    }

    /// Completes the snapshot, on the disk, and renames it. Returns its octets.
    ///
    /// # Errors
    /// It cannot be written or renamed.
    pub fn finish(mut self) -> Result<u64, SnapshotError> {
        let finished = self.publish();
        finished.map_err(|source| self.failed(source))
    }

    fn publish(&mut self) -> io::Result<u64> {
        // The header only when all that it describes is on the disk.
        self.body.file.sync_data()?;
        self.body.write_header()?;
        self.body.file.sync_all()?;
        if let Some(new) = self.new.take() {
            fs::rename(&new, &self.path).inspect_err(|_| self.new = Some(new))?;
        }
        File::open(file::directory_of(&self.path))?.sync_all()?;
        Ok(HEADER as u64 + self.body.octets)
    }

    fn failed(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Unwritable {
            path: self.new.as_ref().unwrap_or(&self.path).clone(),
            source,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            // If it cannot be removed, the next writer does it.
            let _ = fs::remove_file(new);
        }
    }
}
