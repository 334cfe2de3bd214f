//! A steady load over UDP whose losses are counted: each query that gets no reply, or a wrong one, and when it was sent.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, SERVER_V4};

use crate::{client::query, recover::Off};

/// Between two queries: a thousand a second.
const INTERVAL: Duration = Duration::from_millis(1);
/// Ports that it asks from.
const SOCKETS: usize = 16;
/// Time before and after what happens under load, and for the last replies.
const MARGIN: Duration = Duration::from_millis(500);

/// What became of the queries.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// When each was sent, and whether it was answered.
    queries: Vec<(Instant, bool)>,
    /// Replies with another response code than NOERROR, or with another question than that of their ID.
    pub(crate) wrong: usize,
}

impl Counted {
    pub(crate) fn sent(&self) -> usize {
        self.queries.len()
    }

    pub(crate) fn lost(&self) -> usize {
        self.lost_outside(&[]).len()
    }

    /// The queries that got no reply although they were not sent in one of these periods, nor waited for their turn when one
    /// began: for [`MARGIN`] at most, and no later query of their port had been answered. Each by the time from the first query
    /// to it.
    pub(crate) fn lost_outside(&self, periods: &[(Instant, Instant)]) -> Vec<Duration> {
        let is_outside = |number: usize, sent: &Instant| {
            !periods.iter().any(|(from, until)| {
                let later = self.queries.iter().skip(number).step_by(SOCKETS);
                let mut before = later.take_while(|(sent, _)| sent < from);
                let has_waited = *sent + MARGIN >= *from && !before.any(|(_, answered)| *answered);
                sent <= until && (sent >= from || has_waited)
            })
        };
        let queries = self.queries.iter().enumerate();
        let lost = queries
            .filter(|(number, (sent, is_answered))| !is_answered && is_outside(*number, sent));
        let first = self.queries.first().map(|(sent, _)| *sent);
        lost.filter_map(|(_, (sent, _))| Some(sent.duration_since(first?)))
            .collect()
    }

    /// Whether all queries of the last [`MARGIN`] were answered.
    fn is_answered(&self) -> bool {
        let last = self.queries.last().map(|(sent, _)| *sent);
        let mut queries = self.queries.iter().rev();
        queries.all(|(sent, is_answered)| *is_answered || Some(*sent + MARGIN) < last)
    }
}

/// Names that are asked for.
const NAMES: usize = 100;
/// How long an answer is waited for where an upstream may have to be asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of a hundred names of the lab's upstream, in turn.
pub(crate) fn popular(number: usize) -> String {
    format!("n{}.example.com", number % NAMES)
}

/// Does some work while the lab's client asks for names, each of which has been answered once before, and says what was lost:
/// `cargo test … -- --nocapture` shows it.
pub(crate) fn under_load<T>(
    lab: &Lab,
    what: &str,
    name: impl Fn(usize) -> String + Sync,
    work: impl FnOnce() -> T,
) -> (T, Counted) {
    lab.in_client(|| warm_up(&name)).unwrap();
    let on = AtomicBool::new(true);
    let (result, counted) = thread::scope(|scope| {
        let load = scope.spawn(|| ask(lab, &on, &name));
        let _off = Off(&on);
        thread::sleep(MARGIN);
        let result = work();
        thread::sleep(MARGIN);
        on.store(false, Ordering::Relaxed);
        (result, load.join().unwrap())
    });
    let (lost, sent) = (counted.lost(), counted.sent());
    println!(
        "{what}: {lost} of {sent} queries lost, {} wrong",
        counted.wrong
    );
    assert!(sent > 200, "{what}: only {sent} queries");
    (result, counted)
}

fn ask(lab: &Lab, on: &AtomicBool, name: &(impl Fn(usize) -> String + Sync)) -> Counted {
    let work = || {
        let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| connected()).collect();
        let mut counted = Counted::default();
        let mut asked = Vec::new();
        while on.load(Ordering::Relaxed) {
            // The ID is the query's number: of those that a test sends, no two have the same.
            let number = asked.len();
            let msg = query(u16::try_from(number).unwrap(), &name(number));
            counted.queries.push((Instant::now(), false));
            // Without a link or a listener this is an error: a lost query like others.
            let _ = sockets[number % SOCKETS].send(&msg);
            asked.push(msg);
            receive(&sockets, &asked, &mut counted);
            thread::sleep(INTERVAL);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !counted.is_answered() {
            receive(&sockets, &asked, &mut counted);
            thread::sleep(INTERVAL);
        }
        counted
    };
    lab.in_client(work).unwrap()
}

/// Asks until each name is answered: a query that waits for an upstream is lost with the server or the link.
fn warm_up(name: &impl Fn(usize) -> String) {
    let socket = connected();
    let mut left: Vec<usize> = (0..NAMES).collect();
    let mut reply = [0; 2048];
    let end = Instant::now() + PATIENCE;
    while !left.is_empty() {
        assert!(Instant::now() < end, "no answer for {left:?}");
        for number in &left {
            let id = u16::try_from(*number).unwrap();
            socket.send(&query(id, &name(*number))).unwrap();
        }
        thread::sleep(MARGIN / 10);
        while socket.recv(&mut reply).is_ok() {
            let id = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            left.retain(|number| *number != id);
        }
    }
}

fn connected() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((SERVER_V4, 53)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Takes the replies that have come.
fn receive(sockets: &[UdpSocket], asked: &[Vec<u8>], counted: &mut Counted) {
    let mut reply = [0; 2048];
    for socket in sockets {
        loop {
            let len = match socket.recv(&mut reply) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An ICMP error about an earlier query.
                Err(_) => continue,
            };
            let number = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            let question = &asked[number][12..];
            let is_right = len >= 12 + question.len()
                && reply[3] & 0xf == 0
                && &reply[12..12 + question.len()] == question;
            match is_right {
                true => counted.queries[number].1 = true,
                false => counted.wrong += 1,
            }
        }
    }
}
