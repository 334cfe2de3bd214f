//! The status page without Heimdall: an HTTP server for it, whose documents a test writes.

mod sample;

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
pub use sample::Sample;
use serde_json::Value;

/// What Heimdall sends with the page: nothing but the page's own script and style may run, and nothing may
/// be fetched from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long a client may take for its request, or not read what it gets.
const LIMIT: Duration = Duration::from_secs(30);

/// An HTTP server with the paths of the status page.
#[derive(Debug)]
pub struct StatusServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    page: String,
    /// Bodies by path.
    bodies: HashMap<&'static str, String>,
    availability: Availability,
    /// Who listens to `/events`.
    streams: Vec<TcpStream>,
    ended: bool,
}

/// Whether the server responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It does.
    Up,
    /// It closes every connection.
    Gone,
    /// It responds with an error.
    Refusing,
}

impl StatusServer {
    /// Serves this page on a port of 127.0.0.1.
    pub fn start(page: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            page: page.to_owned(),
            bodies: HashMap::new(),
            availability: Availability::Up,
            streams: Vec::new(),
            ended: false,
        }));
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if lock(&shared).ended {
                    return;
                }
                let state = Arc::clone(&shared);
                // A browser opens connections that it may never use.
                thread::spawn(move || serve(stream, &state));
            }
        });
        Ok(Self {
            address,
            state,
            thread: Some(thread),
        })
    }

    /// The page's address.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What `/config.json` or `/doctor.json` gets.
    pub fn set(&self, path: &'static str, body: &Value) {
        lock(&self.state).bodies.insert(path, body.to_string());
    }

    /// Sends a document to all who listen.
    pub fn send(&self, document: &Value) {
        self.send_text(&document.to_string());
    }

    /// Sends a line in the place of a document.
    pub fn send_text(&self, text: &str) {
        let event = format!("data: {text}\n\n");
        let listening = &mut lock(&self.state).streams;
        listening.retain_mut(|stream| stream.write_all(event.as_bytes()).is_ok());
    }

    /// Changes whether the server responds; unless it is up, who listens is disconnected.
    pub fn set_availability(&self, availability: Availability) {
        let mut state = lock(&self.state);
        state.availability = availability;
        if availability != Availability::Up {
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.set_availability(Availability::Gone);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one request.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let Some(path) = request(&stream) else { return };
    let mut state = lock(state);
    let (status, media_type, body) = match (state.availability, path.as_str()) {
        (Availability::Gone, _) => return,
        (Availability::Refusing, _) => ("503 Service Unavailable", "text/plain", ""),
        (_, "/") => ("200 OK", "text/html; charset=utf-8", state.page.as_str()),
        (_, "/events") => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
            if stream.write_all(head.as_bytes()).is_ok() {
                state.streams.push(stream);
            }
            return;
        }
        (_, path) => match state.bodies.get(path) {
            Some(body) => ("200 OK", "application/json", body.as_str()),
            None => ("404 Not Found", "text/plain", ""),
        },
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: {POLICY}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(response.as_bytes());
}

/// The path of a request, without its query.
fn request(stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.set_write_timeout(Some(LIMIT)).ok()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    // The rest of the head has to be read: a connection that is closed before is reset.
    let is_last = |line: &io::Result<String>| line.as_ref().is_ok_and(String::is_empty);
    lines.find(is_last)?.ok()?;
    let target = first.strip_prefix("GET ")?.split(' ').next()?;
    Some(target.split('?').next()?.to_owned())
}
