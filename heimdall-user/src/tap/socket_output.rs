//! Frames sent to a reader that listens on a Unix socket.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mio::net::UnixStream;

use super::{
    frame_stream::{BadFrame, Control},
    output::{LAST_WAIT, Output, OutputStatus, RETRY},
    queue::Queue,
};

/// How long a reader may take to answer the first frame.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection to a reader, which is made again when it was lost. Without one, frames are dropped; while the reader
/// does not read, as many wait as the queue holds.
pub(super) struct SocketOutput {
    /// For the log.
    name: String,
    path: PathBuf,
    state: State,
    queue: Queue,
    status: Arc<OutputStatus>,
}

enum State {
    /// To be connected at this time.
    Closed(Instant),
    /// READY was sent; what has come of ACCEPT so far, and until when it has to.
    Greeting(UnixStream, Vec<u8>, Instant),
    /// START was sent.
    Open(UnixStream),
}

impl SocketOutput {
    /// `what` is to be sent to who listens on `path`.
    pub(super) fn new(what: &str, path: PathBuf, status: Arc<OutputStatus>) -> Self {
        Self {
            name: format!("{what} to {}", path.display()),
            path,
            state: State::Closed(Instant::now()),
            queue: Queue::default(),
            status,
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Instant) -> Result<(), String> {
        match &mut self.state {
            State::Closed(due) if now < *due => {}
            State::Closed(_) => {
                let connect = || {
                    // Not blocking: a listener that accepts nothing is an error.
                    let mut stream = UnixStream::connect(&self.path)?;
                    send_all(&mut stream, &Control::Ready.encode())?;
                    Ok::<_, io::Error>(stream)
                };
                let stream = connect().map_err(|error| format!("nobody listens ({error})"))?;
                self.state = State::Greeting(stream, Vec::new(), now + HANDSHAKE);
            }
            State::Greeting(stream, received, until) => match accepted(stream, received)? {
                true => {
                    send_all(stream, &Control::Start.encode()).map_err(lost)?;
                    let closed = State::Closed(now);
                    if let State::Greeting(stream, ..) = mem::replace(&mut self.state, closed) {
                        self.state = State::Open(stream);
                    }
                    self.status.opened(&self.name);
                }
                false if now >= *until => return Err("the reader does not answer".to_owned()),
                false => {}
            },
            State::Open(stream) => {
                // Nothing is expected but the end.
                match stream.read(&mut [0; 64]) {
                    Ok(0) => return Err("the reader has closed the connection".to_owned()),
                    Err(error) if !is_transient(&error) => return Err(lost(error)),
                    _ => {}
                }
                let (written, result) = self.queue.write(|octets| stream.write(octets));
                self.status.add_written(written);
                result.map_err(lost)?;
            }
        }
        Ok(())
    }
}

impl Output for SocketOutput {
    fn push(&mut self, record: &[u8]) {
        let is_closed = |output: &Self| matches!(output.state, State::Closed(_));
        if is_closed(self) || self.queue.push(record) {
            self.status.add_dropped(is_closed(self).into());
            return;
        }
        if matches!(self.state, State::Open(_)) && !self.queue.is_blocked() {
            self.tick(Instant::now());
        }
        if is_closed(self) || !self.queue.push(record) {
            self.status.add_dropped(1);
        }
    }

    fn is_blocked(&self) -> bool {
        self.queue.is_blocked()
    }

    fn tick(&mut self, now: Instant) {
        if let Err(why) = self.advance(now) {
            self.state = State::Closed(now + RETRY);
            self.status.add_dropped(self.queue.clear());
            self.status.failed(&self.name, &why);
        }
    }

    fn close(&mut self) {
        let end = Instant::now() + LAST_WAIT;
        while !self.queue.is_empty() && Instant::now() < end {
            self.tick(Instant::now());
            thread::sleep(Duration::from_millis(1));
        }
        let torn = self.queue.abandon_begun();
        self.status.add_dropped(torn + self.queue.clear());
        if let State::Open(stream) = &mut self.state
            // Within a frame, it would be taken for a part of that.
            && torn == 0
            && send_all(stream, &Control::Stop.encode()).is_ok()
        {
            // The reader confirms that it has read all.
            let mut received = [0; 64];
            while Instant::now() < end
                && stream
                    .read(&mut received)
                    .is_err_and(|error| is_transient(&error))
            {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Whether the reader's ACCEPT has arrived.
fn accepted(stream: &mut UnixStream, received: &mut Vec<u8>) -> Result<bool, String> {
    let mut chunk = [0; 1024];
    match stream.read(&mut chunk) {
        Ok(0) => return Err("the reader has closed the connection".to_owned()),
        Ok(len) => received.extend_from_slice(chunk.get(..len).unwrap_or_default()),
        Err(error) if is_transient(&error) => {}
        Err(error) => return Err(lost(error)),
    }
    let refused = |bad: BadFrame| format!("the reader speaks another protocol: {bad}");
    match Control::decode(received).map_err(refused)? {
        Some((Control::Accept, _)) => Ok(true),
        Some(_) => {
            Err("the reader speaks another protocol: its first frame is not ACCEPT".to_owned())
        }
        None => Ok(false),
    }
}

/// Sends a control frame, for which the socket's buffer has space unless the reader does not read.
fn send_all(stream: &mut UnixStream, frame: &[u8]) -> io::Result<()> {
    match stream.write(frame)? {
        len if len == frame.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn lost(error: io::Error) -> String {
    format!("the connection is lost ({error})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::net::{self, UnixListener};

    use super::*;
    use crate::tap::frame_stream::data_frame;

    struct Reader {
        output: SocketOutput,
        status: Arc<OutputStatus>,
        now: Instant,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    impl Reader {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            let status = Arc::<OutputStatus>::default();
            Self {
                output: SocketOutput::new("test", path.clone(), Arc::clone(&status)),
                status,
                now: Instant::now(),
                path,
                _directory: directory,
            }
        }

        fn tick(&mut self) {
            self.output.tick(self.now);
        }

        /// A second later.
        fn retry(&mut self) {
            self.now += RETRY;
            self.tick();
        }

        fn state(&self) -> String {
            self.status.json(0)["state"].as_str().unwrap().to_owned()
        }

        fn count(&self, what: &str) -> u64 {
            self.status.json(0)[what].as_u64().unwrap()
        }

        /// Accepts the connection, and reads a control frame.
        fn greet(&mut self, listener: &UnixListener) -> net::UnixStream {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(
                read(&mut stream, Control::Ready.encode().len()),
                Control::Ready.encode()
            );
            stream.write_all(&Control::Accept.encode()).unwrap();
            self.tick();
            assert_eq!(
                read(&mut stream, Control::Start.encode().len()),
                Control::Start.encode()
            );
            stream
        }
    }

    fn read(stream: &mut net::UnixStream, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        stream.read_exact(&mut octets).unwrap();
        octets
    }

    #[test]
    fn a_reader_that_was_gone_gets_what_comes_after_its_return() {
        let mut reader = Reader::new();
        reader.output.push(b"early");
        reader.tick();
        reader.output.push(b"early");
        assert_eq!(
            (reader.state().as_str(), reader.count("dropped")),
            ("waiting", 2)
        );
        for round in 1..=2 {
            let listener = UnixListener::bind(&reader.path).unwrap();
            reader.tick();
            assert_eq!(reader.state(), "waiting", "not before it is due");
            reader.retry();
            let mut stream = reader.greet(&listener);
            assert_eq!(reader.state(), "open");
            reader.output.push(&data_frame(b"frame"));
            reader.tick();
            assert_eq!(read(&mut stream, 9), data_frame(b"frame"));
            assert_eq!(reader.count("written"), round);
            drop((stream, listener));
            std::fs::remove_file(&reader.path).unwrap();
            reader.output.push(b"lost");
            reader.tick();
            assert_eq!(
                (reader.state().as_str(), reader.count("dropped")),
                ("waiting", 2 + round)
            );
        }
    }

    #[test]
    fn a_full_queue_is_written_before_a_frame_is_dropped() {
        let mut reader = Reader::new();
        let listener = UnixListener::bind(&reader.path).unwrap();
        reader.tick();
        let _stream = reader.greet(&listener);
        // More than the queue holds, less than it and the socket's buffer do.
        let frame = data_frame(&[7; 1000]);
        for _ in 0..330 {
            reader.output.push(&frame);
        }
        assert_eq!(reader.count("dropped"), 0);
        assert!(reader.count("written") > 0);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_its_own_frames() {
        let mut reader = Reader::new();
        let listener = UnixListener::bind(&reader.path).unwrap();
        reader.tick();
        let mut stream = reader.greet(&listener);
        let frame = data_frame(&[7; 1000]);
        for _ in 0..2000 {
            reader.output.push(&frame);
            reader.tick();
        }
        assert_eq!(reader.state(), "open");
        let dropped = reader.count("dropped");
        assert!(dropped > 0);
        // It reads at last: whole frames, in order, to the end.
        let reading = thread::spawn(move || {
            let mut octets = Vec::new();
            let mut chunk = [0; 4096];
            let stop = Control::Stop.encode();
            while !octets.ends_with(&stop) {
                let len = stream.read(&mut chunk).unwrap();
                assert!(len > 0, "no STOP");
                octets.extend_from_slice(chunk.get(..len).unwrap());
            }
            stream.write_all(&Control::Finish.encode()).unwrap();
            octets.len() - stop.len()
        });
        reader.output.close();
        let read = reading.join().unwrap();
        assert_eq!(read % frame.len(), 0);
        assert_eq!((read / frame.len()) as u64 + dropped, 2000);
        assert_eq!(reader.count("written") + reader.count("dropped"), 2000);
    }

    #[test]
    fn a_reader_that_does_not_answer_or_answers_something_else_is_disconnected() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            &Control::Finish.encode(),
        ] {
            let mut reader = Reader::new();
            let listener = UnixListener::bind(&reader.path).unwrap();
            reader.tick();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            reader.output.push(b"frame");
            reader.tick();
            if answer.is_empty() {
                reader.now += HANDSHAKE;
                reader.tick();
            }
            assert_eq!(
                (reader.state().as_str(), reader.count("dropped")),
                ("waiting", 1),
                "{answer:?}"
            );
        }
    }
}
