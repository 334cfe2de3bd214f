//! What signals and the threads of a server ask of its owner, the main loop of `heimdall run`: it alone replaces a
//! server, drains it, or ends it.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SendError, Sender, SyncSender, channel, sync_channel},
    },
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Uid, geteuid},
};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    control::{self, ControlCommand},
    handover::{HandOverError, Successor},
};

/// One of the owner's tasks. They are done one after another.
#[derive(Debug)]
pub(crate) enum Request {
    /// The process got this signal.
    Signal(i32),
    /// An essential thread has ended.
    Failed,
    /// Reload the settings. The answer is what the client of the control socket gets.
    Reload(SyncSender<Value>),
    /// Drain and end. The client of the control socket is answered when that is done.
    Drain(UnixStream),
    /// Hand over to a process that asked for it.
    TakeOver(Successor),
    /// That process serves the sockets, or has failed.
    Started(Result<Successor, HandOverError>),
}

impl Request {
    /// Whether the server ends once this is done.
    fn ends(&self) -> bool {
        matches!(
            self,
            Self::Signal(libc::SIGTERM | libc::SIGINT) | Self::Drain(_)
        )
    }

    /// Answers whoever waits for it that it is not done.
    fn refuse(self, why: &str) {
        match self {
            Self::Reload(reply) => {
                let _ = reply.try_send(json!({ "error": format!("not reloaded: {why}") }));
            }
            Self::Drain(client) => {
                answer_client(client, &json!({ "error": format!("not drained: {why}") }))
            }
            // The first looks again which server there is when its connection ends.
            Self::TakeOver(_) | Self::Started(_) | Self::Signal(_) | Self::Failed => {}
        }
    }
}

/// Answers a client of the control socket, who may have gone away.
pub(crate) fn answer_client(mut client: UnixStream, document: &Value) {
    let _ = writeln!(client, "{document}");
}

/// Sends requests to the owner.
#[derive(Clone, Debug)]
pub struct Requests {
    to: Sender<Request>,
    /// One of those that were sent ends the server.
    ends: Arc<AtomicBool>,
}

/// The owner's end. Requests wait in it without a bound: of each kind there are as many as threads that send
/// one, clients of the control socket that wait, or that root and the server's user have sent.
#[derive(Debug)]
pub struct Inbox {
    requests: Receiver<Request>,
    ends: Arc<AtomicBool>,
}

impl Requests {
    /// Both ends.
    pub fn channel() -> (Self, Inbox) {
        let (to, requests) = channel();
        let ends = Arc::<AtomicBool>::default();
        let inbox = Inbox {
            requests,
            ends: Arc::clone(&ends),
        };
        (Self { to, ends }, inbox)
    }

    pub(crate) fn send(&self, request: Request) {
        if request.ends() {
            self.ends.store(true, Ordering::SeqCst);
        }
        if let Err(SendError(request)) = self.to.send(request) {
            request.refuse("the server stops");
        }
    }

    /// Has the owner execute a command of the control socket that ends the server. A client that may not send it is told so.
    pub(super) fn execute(&self, command: ControlCommand, client: UnixStream) {
        match command {
            ControlCommand::TakeOver(version) => {
                if let Some(successor) = Successor::accept(client, version) {
                    self.send(Request::TakeOver(successor));
                }
            }
            _ => match may_drain(&client) {
                Ok(()) => self.send(Request::Drain(client)),
                Err(why) => {
                    warn!("not drained: {why}");
                    answer_client(client, &json!({ "error": format!("not drained: {why}") }));
                }
            },
        }
    }

    /// Has the owner reload the settings, and waits for the answer.
    pub(super) fn reload(&self) -> Value {
        let (reply, answer) = sync_channel(1);
        self.send(Request::Reload(reply));
        let ended = |_| json!({ "error": "not reloaded: the server stops" });
        answer.recv().unwrap_or_else(ended)
    }
}

/// Whether a client may drain the server: the group of the control socket may not end it.
fn may_drain(client: &UnixStream) -> Result<(), String> {
    let peer = getsockopt(client, PeerCredentials);
    let peer = peer.map_err(|error| format!("cannot tell whose process asks: {error}"))?;
    match control::is_owner(Uid::from_raw(peer.uid())) {
        true => Ok(()),
        false => Err(format!(
            "only root and the server's user (number {}) may, and user {} asks",
            geteuid(),
            peer.uid()
        )),
    }
}

impl Inbox {
    /// Waits for the next request.
    pub(crate) fn next(&self) -> Option<Request> {
        self.requests.recv().ok()
    }

    /// Whether one of the requests so far ends the server.
    pub(crate) fn is_to_end(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }

    /// Refuses all that was requested, and whatever will be.
    pub(crate) fn refuse(self, why: &str) {
        self.requests
            .try_iter()
            .for_each(|request| request.refuse(why));
    }

    /// The same for a server that drains: the clients that have asked for that are returned.
    pub(crate) fn close(self, why: &str) -> Vec<UnixStream> {
        let mut draining = Vec::new();
        for request in self.requests.try_iter() {
            match request {
                Request::Drain(client) => draining.push(client),
                other => other.refuse(why),
            }
        }
        draining
    }

    /// Whether nothing was requested. What was is lost.
    pub fn is_unused(self) -> bool {
        self.requests.try_recv().is_err()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{io::Read, thread};

    use super::*;

    #[test]
    fn a_reload_is_answered_by_the_owner_or_refused_when_it_has_ended() {
        let (requests, inbox) = Requests::channel();
        let asking = requests.clone();
        let client = thread::spawn(move || asking.reload());
        let Some(Request::Reload(reply)) = inbox.next() else {
            panic!("no reload was requested");
        };
        reply.send(json!({ "reloaded": "x" })).unwrap();
        assert_eq!(client.join().unwrap(), json!({ "reloaded": "x" }));
        drop(inbox);
        assert_eq!(
            requests.reload(),
            json!({ "error": "not reloaded: the server stops" })
        );
    }

    #[test]
    fn what_ends_the_server_is_known_before_its_turn() {
        for (request, ends) in [
            (Request::Failed, false),
            (Request::Signal(libc::SIGHUP), false),
            (Request::Signal(libc::SIGTERM), true),
            (Request::Signal(libc::SIGINT), true),
            (Request::Drain(UnixStream::pair().unwrap().0), true),
        ] {
            let (requests, inbox) = Requests::channel();
            let text = format!("{request:?}");
            requests.send(request);
            assert_eq!(inbox.is_to_end(), ends, "{text}");
        }
    }

    #[test]
    fn what_waits_when_the_server_ends_is_refused_or_waits_for_the_end() {
        let (requests, inbox) = Requests::channel();
        let (reply, answer) = sync_channel(1);
        let (client, mut other_end) = UnixStream::pair().unwrap();
        requests.send(Request::Reload(reply));
        requests.send(Request::Drain(client));
        let draining = inbox.close("the server stops");
        let refused = json!({ "error": "not reloaded: the server stops" });
        assert_eq!(answer.try_recv(), Ok(refused));
        assert_eq!(draining.len(), 1);
        for client in draining {
            answer_client(client, &json!({ "drained": true }));
        }
        let mut text = String::new();
        other_end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"drained\":true}\n");
    }

    #[test]
    fn clients_are_told_that_another_process_has_taken_over() {
        let (requests, inbox) = Requests::channel();
        let [(first, first_client), (second, second_client)] =
            [(); 2].map(|()| UnixStream::pair().unwrap());
        let asking = requests.clone();
        let reload = thread::spawn(move || asking.reload());
        requests.execute(ControlCommand::Drain, first);
        while !inbox.is_to_end() {
            thread::yield_now();
        }
        let why = "process 7 has taken over";
        // Whether it comes before or after that.
        inbox.refuse(why);
        let text = reload.join().unwrap().to_string();
        assert!(text.starts_with("{\"error\":\"not reloaded: "), "{text}");
        requests.execute(ControlCommand::Drain, second);
        for (client, said) in [(first_client, why), (second_client, "the server stops")] {
            let mut text = String::new();
            (&client).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{{\"error\":\"not drained: {said}\"}}\n"));
        }
    }
}
