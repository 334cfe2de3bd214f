//! Writing a snapshot.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crc32fast::Hasher;

use super::{HEADER, MAGIC, SnapshotError, VERSION};

/// A snapshot that is being written. Dropped before it is finished, it is removed.
///
/// It is written with write(2), not through a mapping: a full disk then is an error, and not a signal
/// that ends the process.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    /// The new file's own path, until it is renamed.
    new: Option<PathBuf>,
    file: File,
    written: u64,
    records: u64,
    body: u64,
    checksum: Hasher,
}

impl Writer {
    /// Begins a snapshot that is to replace the file at `path`. What a killed writer has left is
    /// removed.
    ///
    /// # Errors
    /// The new file cannot be created in the same directory.
    pub fn create(path: &Path, unix_now: u64) -> Result<Self, SnapshotError> {
        let mut name = path.file_name().map(OsString::from).unwrap_or_default();
        name.push(".new");
        let new = path.with_file_name(name);
        let open = || -> io::Result<File> {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A new file: not the target of a link, and no FIFO, which would block.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            // No header yet, so an unfinished file is no snapshot.
            file.write_all(&[0; HEADER])?;
            Ok(file)
        };
        let file = open().map_err(|source| SnapshotError::Unwritable {
            path: new.clone(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            new: Some(new),
            file,
            written: unix_now,
            records: 0,
            body: 0,
            checksum: Hasher::new(),
        })
    }

    /// Appends `count` records, which follow each other in `records`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, records: &[u8], count: u64) -> Result<(), SnapshotError> {
        self.checksum.update(records);
        self.records += count;
        self.body += records.len() as u64;
        let written = self.file.write_all(records);
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
        self.file.sync_data()?;
        self.file.write_all_at(&self.header(), 0)?;
        self.file.sync_all()?;
        if let Some(new) = self.new.take() {
            fs::rename(&new, &self.path).inspect_err(|_| self.new = Some(new))?;
        }
        let directory = self.path.parent().filter(|path| *path != Path::new(""));
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(HEADER as u64 + self.body)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = [
            &MAGIC[..],
            &VERSION.to_le_bytes(),
            &[0; 4],
            &self.written.to_le_bytes(),
            &self.records.to_le_bytes(),
            &self.body.to_le_bytes(),
            &self.checksum.clone().finalize().to_le_bytes(),
            &[0; 16],
        ]
        .concat();
        let checksum = crc32fast::hash(&header);
        header.extend_from_slice(&checksum.to_le_bytes());
        header
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
