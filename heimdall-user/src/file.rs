//! Reading the files that the operator names: settings, hosts files, lists, snapshots.
//!
//! Only regular files: reading a FIFO blocks until somebody writes to it, and a device may have no
//! end. Symbolic links are followed.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

/// Opens a regular file for reading.
///
/// # Errors
/// It cannot be opened, or is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, open(2) of a FIFO waits for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = describe(kind);
    Err(io::Error::other(format!(
        "it is {what}, and not a regular file"
    )))
}

/// Reads a regular file of at most `max` octets. The length is checked while reading, as the file may
/// grow.
///
/// # Errors
/// As [`open`]; it cannot be read, or is longer.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_long = || io::Error::other(format!("it is longer than {max} octets"));
    let len = file.metadata()?.len();
    if len > max {
        return Err(too_long());
    }
    let mut octets = Vec::new();
    // One octet more than expected, so that the read that finds the end needs no new allocation.
    octets.try_reserve(usize::try_from(len).unwrap_or(usize::MAX).saturating_add(1))?;
    file.take(max + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > max {
        return Err(too_long());
    }
    Ok(octets)
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether this process may create files in a directory.
///
/// # Errors
/// It may not, or the directory does not exist.
pub(crate) fn check_writable(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mode = AccessFlags::W_OK | AccessFlags::X_OK;
    Ok(faccessat(AT_FDCWD, directory, mode, AtFlags::AT_EACCESS)?)
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a socket"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::{fs::symlink, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn regular_files_are_read_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        for (text, max, good) in [("", 0, true), ("abc", 3, true), ("abc", 2, false)] {
            fs::write(&path, text).unwrap();
            for path in [&path, &link] {
                match read(path, max) {
                    Ok(octets) => assert!(good && octets == text.as_bytes(), "{text:?}"),
                    Err(error) => assert!(!good && error.to_string().contains("2 octets")),
                }
            }
        }
        // Its metadata say 0 octets.
        let error = read(Path::new("/proc/self/environ"), 3).unwrap_err();
        assert!(error.to_string().contains("3 octets"), "{error}");
    }

    #[test]
    fn other_kinds_of_files_are_rejected_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a FIFO"),
            (directory.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
            // open(2) fails for a socket.
            (&socket, "No such device"),
        ] {
            let error = read(path, 100).unwrap_err().to_string();
            assert!(error.contains(what), "{path:?}: {error}");
        }
    }
}
