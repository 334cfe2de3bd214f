//! Records written to a file, or to stdout.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    frame_stream::Control,
    output::{LAST_WAIT, Output, OutputStatus, RETRY},
    queue::Queue,
};
use crate::file;

/// Octets that a pipe, a terminal or a socket that is ready takes without waiting: a page.
const READY: usize = 4096;

/// Files of earlier captures that are kept.
const MAX_OLD: usize = 100;

/// A file that is opened again when its path names another one, as after a rotation; or stdout.
///
/// While it cannot be written, because a disk is full or a pipe is not read, records wait, as many as the queue
/// holds.
pub(super) struct FileOutput {
    /// For the log.
    name: String,
    /// `None`: stdout.
    path: Option<PathBuf>,
    /// It is a stream of frames, which has a beginning and an end: not one to append to.
    is_stream: bool,
    open: Option<Open>,
    queue: Queue,
    /// When a failure is tried again, and whether the path still names the file is looked at.
    due: Instant,
    /// It failed, and is not due yet.
    failed: bool,
    status: Arc<OutputStatus>,
}

struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Writing to it does not wait for a reader.
    is_regular: bool,
}

impl FileOutput {
    /// `what` is to be written to `path`, or to stdout.
    pub(super) fn new(
        what: &str,
        path: Option<PathBuf>,
        is_stream: bool,
        status: Arc<OutputStatus>,
    ) -> Self {
        let target = path
            .as_ref()
            .map_or("stdout".into(), |path| path.to_string_lossy());
        Self {
            name: format!("{what} to {target}"),
            path,
            is_stream,
            open: None,
            queue: Queue::default(),
            due: Instant::now(),
            failed: false,
            status,
        }
    }

    fn note_failure(&mut self, error: &io::Error) {
        self.failed = true;
        self.status.failed(&self.name, &error.to_string());
    }

    /// Whether it is not to be opened yet: a stream in a file takes the place of the one before, so it is not begun
    /// until there is something to write.
    fn is_early(&self) -> bool {
        let path = self.path.as_deref().filter(|_| self.is_stream);
        let is_special = |path| fs::metadata(path).is_ok_and(|old| !old.is_file());
        self.queue.is_empty() && path.is_some_and(|path| !is_special(path))
    }

    /// Opens the file, if it is not.
    fn open(&mut self) {
        if self.open.is_none() {
            if self.is_early() {
                match self.path.as_deref().map_or(Ok(()), can_be_made) {
                    Ok(()) => self.status.opened(&self.name),
                    Err(error) => self.note_failure(&error),
                }
                return;
            }
            match Open::new(self.path.as_deref(), self.is_stream) {
                Ok(open) => self.open = Some(open),
                Err(error) => self.note_failure(&error),
            }
        }
    }

    /// Writes what the file takes now.
    fn write(&mut self) {
        let Some(open) = &mut self.open else { return };
        let (written, result) = self.queue.write(|octets| open.write(octets));
        self.status.add_written(written);
        match result {
            Err(error) => {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    self.abandon();
                }
                self.note_failure(&error);
            }
            Ok(()) => {
                self.failed = false;
                self.status.opened(&self.name);
            }
        }
    }

    /// Closes a pipe without a reader. The next one gets whole records, and a stream from its beginning.
    fn abandon(&mut self) {
        self.status.add_dropped(self.queue.abandon_begun());
        self.open = None;
    }

    /// Ends the file. The rest of a record that is written in part is dropped.
    fn finish(&mut self) {
        self.write();
        let torn = self.queue.abandon_begun();
        self.status.add_dropped(torn);
        if let Some(mut open) = self.open.take()
            && self.is_stream
            && torn == 0
        {
            // On a full disk the stream has no end.
            let _ = open.write(&Control::Stop.encode());
        }
    }
}

impl Output for FileOutput {
    fn push(&mut self, record: &[u8]) {
        if self.queue.push(record) {
            return;
        }
        if !self.failed && !self.queue.is_blocked() {
            self.open();
            self.write();
        }
        if !self.queue.push(record) {
            self.status.add_dropped(1);
        }
    }

    fn is_blocked(&self) -> bool {
        self.queue.is_blocked()
    }

    fn tick(&mut self, now: Instant) {
        if now >= self.due {
            self.due = now + RETRY;
            self.failed = false;
            let path = self.path.as_deref();
            if self.open.as_ref().is_some_and(|open| open.has_moved(path)) {
                self.finish();
            }
        }
        // Stdout cannot be opened again.
        if self.path.is_some() && self.open.as_ref().is_some_and(Open::has_lost_its_reader) {
            self.note_failure(&io::Error::from_raw_os_error(libc::EPIPE));
            self.abandon();
        }
        if !self.failed {
            self.open();
            self.write();
        }
    }

    fn close(&mut self) {
        let end = Instant::now() + LAST_WAIT;
        if !self.queue.is_empty() {
            self.open();
        }
        self.write();
        while !self.queue.is_empty() && !self.failed && Instant::now() < end {
            if let Some(open) = &self.open {
                let _ = is_ready(&open.file, 10);
            }
            self.write();
        }
        self.finish();
        self.status.add_dropped(self.queue.clear());
    }
}

impl Open {
    fn new(path: Option<&Path>, is_stream: bool) -> io::Result<Self> {
        let file = match path {
            Some(path) => {
                if is_stream {
                    keep_old(path)?;
                }
                // Without O_NONBLOCK, open(2) of a FIFO waits for a reader. Other users may not read what clients ask.
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                    .open(path)?
            }
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        let metadata = file.metadata()?;
        let mut open = Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            is_regular: metadata.is_file(),
        };
        if is_stream {
            open.file.write_all(&Control::Start.encode())?;
        }
        Ok(open)
    }

    /// Whether the path names another file now, or none.
    fn has_moved(&self, path: Option<&Path>) -> bool {
        let same = |now: fs::Metadata| (now.dev(), now.ino()) == (self.device, self.inode);
        path.is_some_and(|path| !fs::metadata(path).is_ok_and(same))
    }

    /// Whether it is a pipe that nobody reads any more. To be asked before there is another reader, of which the pipe says
    /// nothing.
    fn has_lost_its_reader(&self) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        let polled = !self.is_regular && poll(&mut fds, PollTimeout::ZERO).is_ok();
        let [file] = fds;
        polled && (file.revents()).is_some_and(|events| events.contains(PollFlags::POLLERR))
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.is_regular {
            return self.file.write(octets);
        }
        // Stdout is shared with others, so it cannot be made non-blocking.
        if !is_ready(&self.file, 0)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let page = octets.get(..READY).unwrap_or(octets);
        self.file.write(page)
    }
}

/// Renames what an earlier capture left, as a stream cannot be continued. No file is replaced.
fn keep_old(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(old) if old.is_file() && old.len() > 0 => {
            // Of a symbolic link, the file: the link is the administrator's.
            let path = fs::canonicalize(path)?;
            fs::rename(&path, free_name(&path)?)
        }
        _ => Ok(()),
    }
}

/// A name for an old file that none has yet: `.old`, `.old.1` and so on.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    for number in 0..MAX_OLD {
        let mut name = OsString::from(path);
        name.push(".old");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let name = PathBuf::from(name);
        match fs::symlink_metadata(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(io::Error::other(format!(
        "{MAX_OLD} old files are kept beside it already, up to {}.old.{}: move some away",
        path.display(),
        MAX_OLD - 1
    )))
}

/// Whether there could be a file, as far as that can be known without making it.
fn can_be_made(path: &Path) -> io::Result<()> {
    match path.exists() {
        true => Ok(()),
        false => file::check_writable(file::directory_of(path)),
    }
}

/// Whether a file takes a page at once, after so many milliseconds at most.
fn is_ready(file: &File, wait: u8) -> io::Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, PollTimeout::from(wait))? > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{io::Read as _, time::Duration};

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use serde_json::Value;

    use super::*;

    fn output(path: &Path, is_stream: bool) -> (FileOutput, Arc<OutputStatus>) {
        let status = Arc::<OutputStatus>::default();
        let path = Some(path.to_owned());
        (
            FileOutput::new("test", path, is_stream, Arc::clone(&status)),
            status,
        )
    }

    fn counts(status: &OutputStatus) -> (Value, Value, Value) {
        let json = status.json(0);
        (
            json["state"].clone(),
            json["written"].clone(),
            json["dropped"].clone(),
        )
    }

    #[test]
    fn a_rotated_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        fs::write(&path, "before\n").unwrap();
        let (mut output, status) = output(&path, false);
        let mut now = Instant::now();
        output.push(b"one\n");
        output.tick(now);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\n");
        fs::rename(&path, &moved).unwrap();
        output.push(b"two\n");
        now += RETRY;
        output.tick(now);
        output.push(b"three\n");
        output.tick(now);
        output.push(b"four\n");
        output.close();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "before\none\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
        assert_eq!(counts(&status), ("open".into(), 4.into(), 0.into()));
    }

    #[test]
    fn a_stream_is_begun_and_ended_and_an_old_one_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stream");
        for _ in 0..2 {
            let (mut output, _) = output(&path, true);
            output.tick(Instant::now());
            output.push(b"\0\0\0\x01x");
            output.close();
        }
        let expected = [
            &Control::Start.encode()[..],
            b"\0\0\0\x01x",
            &Control::Stop.encode(),
        ]
        .concat();
        assert_eq!(fs::read(&path).unwrap(), expected);
        assert_eq!(
            fs::read(directory.path().join("stream.old")).unwrap(),
            expected
        );
    }

    #[test]
    fn no_capture_is_replaced_by_a_later_one_or_by_none() {
        let directory = tempfile::tempdir().unwrap();
        let (link, path) = (
            directory.path().join("link"),
            directory.path().join("stream"),
        );
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for capture in 0..=MAX_OLD as u8 {
            let (mut with, _) = output(&link, true);
            with.tick(Instant::now());
            with.push(&[capture]);
            with.close();
            // Nothing is asked until the next start.
            let (mut without, status) = output(&link, true);
            without.tick(Instant::now());
            without.close();
            assert_eq!(counts(&status), ("open".into(), 0.into(), 0.into()));
        }
        let record = |name: &str| {
            let octets = fs::read(directory.path().join(name)).unwrap();
            octets[Control::Start.encode().len()]
        };
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            ["stream.old", "stream.old.1", "stream.old.99", "stream"].map(record),
            [0, 1, 99, 100]
        );
        let (mut output, status) = output(&link, true);
        output.push(b"x");
        output.tick(Instant::now());
        let json = status.json(0);
        assert_eq!(json["state"], "waiting");
        assert!(json["reason"].as_str().unwrap().contains("move some away"));
        assert_eq!(record("stream"), 100);
    }

    #[test]
    fn a_stream_that_cannot_be_made_is_not_called_open() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("none");
        let (mut output, status) = output(&parent.join("stream"), true);
        let mut now = Instant::now();
        output.tick(now);
        assert_eq!(counts(&status), ("waiting".into(), 0.into(), 0.into()));
        fs::create_dir(&parent).unwrap();
        now += RETRY;
        output.tick(now);
        assert_eq!(counts(&status), ("open".into(), 0.into(), 0.into()));
    }

    #[test]
    fn the_next_reader_of_a_pipe_gets_a_stream_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reader = || {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            options.open(&path).unwrap()
        };
        let first = reader();
        let (mut output, status) = output(&path, true);
        let mut now = Instant::now();
        // More than a pipe holds: it is written in part.
        output.push(&[1; 200_000]);
        output.tick(now);
        output.push(&[2; 10]);
        assert!(output.is_blocked());
        drop(first);
        output.tick(now);
        assert_eq!(counts(&status), ("waiting".into(), 0.into(), 1.into()));
        let mut second = reader();
        now += RETRY;
        output.tick(now);
        assert_eq!(counts(&status), ("open".into(), 1.into(), 1.into()));
        let expected = [&Control::Start.encode()[..], &[2; 10]].concat();
        let mut octets = vec![0; expected.len()];
        second.read_exact(&mut octets).unwrap();
        assert_eq!(octets, expected);
    }

    #[test]
    fn a_reader_that_is_replaced_between_two_records_gets_a_stream_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let (mut output, status) = output(&path, true);
        let mut now = Instant::now();
        for record in 1..=2 {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            let mut reader = options.open(&path).unwrap();
            output.push(&[record; 10]);
            output.tick(now);
            let expected = [&Control::Start.encode()[..], &[record; 10]].concat();
            let mut octets = vec![0; expected.len()];
            reader.read_exact(&mut octets).unwrap();
            assert_eq!(octets, expected);
            drop(reader);
            output.tick(now);
            assert_eq!(status.json(0)["state"], "waiting");
            now += RETRY;
        }
    }

    #[test]
    fn more_than_the_queue_holds_is_written_between_two_ticks() {
        let directory = tempfile::tempdir().unwrap();
        let (mut output, status) = output(&directory.path().join("log"), false);
        output.tick(Instant::now());
        for _ in 0..2000 {
            output.push(&[b'x'; 1000]);
        }
        output.tick(Instant::now());
        assert_eq!(counts(&status), ("open".into(), 2000.into(), 0.into()));
    }

    #[test]
    fn what_a_full_disk_refuses_waits_and_the_rest_is_counted() {
        let (mut output, status) = output(Path::new("/dev/full"), false);
        output.tick(Instant::now());
        for _ in 0..1000 {
            output.push(&[b'x'; 1000]);
            output.tick(Instant::now());
        }
        let json = status.json(0);
        assert_eq!(
            (&json["state"], &json["written"]),
            (&"waiting".into(), &0.into())
        );
        assert!(json["reason"].as_str().unwrap().contains("No space left"));
        assert!(json["dropped"].as_u64() > Some(500));
        output.close();
        assert_eq!(status.json(0)["dropped"], 1000);
    }

    #[test]
    fn a_pipe_that_is_not_read_delays_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let (mut output, status) = output(&path, false);
        let mut now = Instant::now();
        output.tick(now);
        assert_eq!(status.json(0)["state"], "waiting", "nobody has it open");
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        now += RETRY;
        output.tick(now);
        assert_eq!(status.json(0)["state"], "open");
        for number in 0..2000 {
            output.push(format!("{number:0>999}\n").as_bytes());
            output.tick(now);
        }
        let dropped = status.json(0)["dropped"].as_u64().unwrap();
        assert!(dropped > 0);
        // Whole lines, once it is read.
        let reading = std::thread::spawn(move || {
            let mut reader = reader;
            let mut text = String::new();
            let mut chunk = [0; 4096];
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end {
                match reader.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(len) => {
                        text.push_str(std::str::from_utf8(chunk.get(..len).unwrap()).unwrap())
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            text
        });
        output.close();
        drop(output);
        let text = reading.join().unwrap();
        assert_eq!(text.lines().count() as u64 + dropped, 2000);
        assert!(text.lines().all(|line| line.len() == 999));
    }
}
