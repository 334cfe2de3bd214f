//! `heimdall run`: the server, in the foreground, until a signal stops it.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ},
    flag,
    iterator::Signals,
};
use tracing::{info, warn};

use crate::{
    config::{Config, Flags, Host},
    exit::{OnExit, OwnedThread},
    handover::{self, HandOverError, Inheritance, Predecessor, Remote, Starting, Successor},
    log, privileges,
    server::{self, Inbox, Request, Requests, Server, Source, Watchdog, answer_client},
    service,
};

const EXAMPLES: &str = "\
Examples:
  Kernel sockets only, no privileges:
    heimdall run --backend socket --listen 127.0.0.1:5300 --upstream 9.9.9.9
  AF_XDP on every receive queue of eth0; sockets answer what XDP does not steer:
    heimdall run --interface eth0 --upstream 9.9.9.9
  Queues 0 to 3 of one interface and queue 0 of another; no start without AF_XDP:
    heimdall run --backend xdp --interface eth0:0-3 --interface eth1:0 --upstream 192.0.2.53:5353
  A file, with one setting overridden:
    heimdall run --config /etc/heimdall/heimdall.toml --cache-size 1G
  In the place of the server that runs now, such as one of an older version, without losing a query:
    heimdall run --config /etc/heimdall/heimdall.toml --take-over

It logs to stderr, and logs `ready` when it answers. TERM and INT stop it once the queries that have arrived
are answered, which takes `stop-timeout` at most; a second one stops it at once, also while it starts. No XDP
program stays attached, however it ends. HUP reloads as `heimdall reload` does; USR1 logs a line of
statistics. Every answer that is not local comes from an upstream: give it at least one. Clients with
public addresses are refused unless --allow, or the file, names them. Exit code 0: a signal or `heimdall
drain` stopped it, or another process took over from it. 1: it could not start, or an essential thread
ended.";

/// Answer queries until TERM or INT; HUP reloads the settings
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    #[command(flatten)]
    flags: Flags,

    /// Take over from the server that runs with this control socket, without losing a query. If none runs, this is an
    /// ordinary start
    #[arg(long)]
    take_over: bool,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let flags = self.flags;
        let file = flags.config.clone();
        // The default path is that of the user who starts the server, also after a change to another one.
        let control = Host::read().control;
        let settings = move || {
            let host = Host {
                control: control.clone(),
                ..Host::read()
            };
            Config::load(&flags, &host)
        };
        serve(file.as_deref(), Arc::new(settings), self.take_over)
    }
}

/// Why a server ends.
enum End {
    /// TERM or INT.
    Signal,
    /// A client of the control socket, who waits for the end.
    Drain(UnixStream),
    /// The process with this ID serves.
    TakenOver(i32),
    /// This thread has ended.
    Failed(&'static str),
}

/// Runs a server with the settings that `settings` reads, from `file` if there is one, until something ends it.
fn serve(file: Option<&Path>, settings: Source, take_over: bool) -> anyhow::Result<()> {
    // First, so that a signal during the start is not lost.
    let caught = |error| anyhow!("cannot catch signals: {error}");
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The second one ends the process at once.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping)).map_err(caught)?;
        flag::register(signal, Arc::clone(&stopping)).map_err(caught)?;
    }
    // Caught, it makes a file size limit (setrlimit(2)) an error of the write.
    flag::register(SIGXFSZ, Arc::default()).map_err(caught)?;
    let signals = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
    let signals = Signals::new(signals).map_err(caught)?;
    let config = settings()?;
    server::find_group(&config)?;
    // Before the first thread: all others inherit it.
    privileges::restrict(&config, file)?;
    let _flush = log::start(log::filter(config.log.level.as_deref()), config.log.format)
        .map_err(|error| anyhow!("cannot start the log's thread: {error}"))?;
    if config.log.level.is_none()
        && let Err(why) = log::of_environment()
    {
        warn!(
            "the environment variable RUST_LOG: {why}; write error, warn, info, debug or trace; info is used"
        );
    }
    privileges::log();
    let _watchdog = Watchdog::start(service::alive)
        .map_err(|error| anyhow!("cannot start the watchdog: {error}"))?;
    let (requests, inbox) = Requests::channel();
    let _signals = forward_signals(signals, requests.clone())
        .map_err(|error| anyhow!("cannot start the signals' thread: {error}"))?;
    server::warn_of_settings(&config);
    let (inheritance, predecessor) = predecessor(&config, take_over)?;
    let owner = requests.clone();
    let mut server = Server::take_over(&config, settings, owner, inheritance, predecessor)?;
    info!("ready: {}", server.summary());
    publish(&server);
    // Until the end: whether this process has ended is asked when the connection is closed.
    let mut successor = TakeOver::None;
    let end = run(&mut server, &inbox, &requests, &mut successor);
    // From here on the next TERM or INT ends the process at once.
    stopping.store(true, Ordering::Relaxed);
    let alone = successor.pid();
    match (&end, alone) {
        (End::TakenOver(_), _) => {}
        // Else the service manager would end it, too, as what is left of the service. A signal may be the manager's own.
        (End::Drain(_) | End::Failed(_), Some(pid)) => service::main_pid(pid),
        _ => service::stopping(),
    }
    if let Some(pid) = alone {
        info!("take-over: process {pid} goes on alone");
        server.leave_to_successor();
    }
    match end {
        End::Signal => {
            let clients = inbox.close("the server stops");
            let answer = match stop(server) {
                true => drained(alone),
                false => {
                    json!({ "error": "not drained: the service manager keeps the sockets for the next process" })
                }
            };
            answer_all(clients, &answer);
        }
        End::Drain(client) => {
            let mut clients = inbox.close("the server stops");
            clients.push(client);
            handover::leave();
            server.drain();
            answer_all(clients, &drained(alone));
        }
        End::TakenOver(pid) => {
            inbox.refuse(&format!("process {pid} has taken over; ask that"));
            server.release();
        }
        End::Failed(thread) => {
            server.leave_anycast();
            drop(server);
            info!("stopped");
            return Err(anyhow!(
                "the {thread} thread ended, without which queries are not answered; see the log, and \
                 start it again"
            ));
        }
    }
    info!("stopped");
    Ok(())
}

/// The answer of a server that has drained. `successor`: the process that serves in its place.
fn drained(successor: Option<i32>) -> Value {
    match successor {
        Some(pid) => json!({ "drained": true, "successor": pid }),
        None => json!({ "drained": true }),
    }
}

fn answer_all(clients: Vec<UnixStream>, answer: &Value) {
    for client in clients {
        answer_client(client, answer);
    }
}

/// How far a process is that takes over.
enum TakeOver {
    None,
    /// It starts.
    Starting(Starting),
    /// It goes on alone, as this process ends before it has finished.
    Alone(Successor),
}

impl TakeOver {
    /// The process's ID.
    fn pid(&self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Starting(first) => Some(first.pid()),
            Self::Alone(first) => Some(first.pid()),
        }
    }
}

/// What the server starts with: what a running one offers, if it is to take over from that, or what the service manager has.
fn predecessor(
    config: &Config,
    take_over: bool,
) -> anyhow::Result<(Inheritance, Option<Box<dyn Predecessor>>)> {
    if !take_over {
        return Ok((handover::inherited(), None));
    }
    let path = config.control.display();
    match Remote::connect(&config.control) {
        Ok(Some((inheritance, remote))) => {
            // What the service manager passes is closed: it is the predecessor's, too.
            handover::inherited();
            Ok((inheritance, Some(Box::new(remote))))
        }
        Ok(None) => {
            info!("no server to take over from: none listens on the control socket {path}");
            Ok((handover::inherited(), None))
        }
        Err(error) => Err(anyhow!(
            "cannot take over from the server with the control socket {path}: {error}"
        )),
    }
}

/// Tells the service manager that the server serves, and what it is to keep of it.
fn publish(server: &Server) {
    match server.listeners() {
        Ok(listeners) => handover::keep_listeners(&listeners, server.state()),
        Err(error) => warn!("the service manager does not get the sockets: {error}"),
    }
    service::ready(server.summary());
}

/// Ends a server: for the service's next process if the service manager keeps descriptors, otherwise without a successor.
/// Returns whether it has drained.
fn stop(mut server: Server) -> bool {
    server.leave_anycast();
    let listeners = server.listeners().unwrap_or_default();
    let state = server.state();
    if handover::keep(&mut server, &listeners, state) {
        return false;
    }
    server.drain();
    true
}

/// Does what is requested until the server is to end. `successor`: the process that takes over, if one does.
fn run(server: &mut Server, inbox: &Inbox, requests: &Requests, successor: &mut TakeOver) -> End {
    // The server has a sender, too, so there is always a next one.
    while let Some(request) = inbox.next() {
        match request {
            Request::Signal(SIGHUP) => reload(server, |_| ()),
            Request::Signal(SIGUSR1) => server.log_statistics(),
            // Some operators' scripts send it; without a handler it would end the process.
            Request::Signal(SIGUSR2) => info!("USR2: ignored; USR1 logs statistics"),
            Request::Signal(signal) => {
                let name = if signal == SIGINT { "INT" } else { "TERM" };
                info!("{name}: stopping");
                break;
            }
            Request::Reload(reply) => reload(server, |answer| {
                // The client may have gone away.
                let _ = reply.send(answer);
            }),
            Request::Drain(client) => {
                info!("drain: stopping");
                return End::Drain(client);
            }
            Request::TakeOver(next) => match successor.pid() {
                Some(pid) => {
                    next.refuse(&format!(
                        "process {pid} is taking over from it; try again when it has"
                    ));
                }
                None => *successor = begin_take_over(server, next, requests.clone()),
            },
            Request::Started(next) => {
                // Its thread has ended.
                *successor = TakeOver::None;
                // If one fails, the log says why, and the server goes on.
                if let Ok(mut next) = next {
                    match next.hand_over(server, &mut || inbox.is_to_end()) {
                        Ok(()) => return End::TakenOver(next.pid()),
                        // What is to end the server is among the next requests.
                        Err(HandOverError::Cancelled) => {
                            *successor = TakeOver::Alone(next);
                            continue;
                        }
                        Err(_) => {}
                    }
                }
                server.accept_changes();
            }
            // It may have been one of a server that is replaced.
            Request::Failed => {
                if let Some(thread) = server.failed() {
                    return End::Failed(thread);
                }
            }
        }
    }
    End::Signal
}

/// Offers what the server has to a process that takes over. What that changes later is refused from now on.
fn begin_take_over(server: &Server, next: Successor, requests: Requests) -> TakeOver {
    server.refuse_changes();
    let then = move |outcome| requests.send(Request::Started(outcome));
    match next.start(server, then) {
        Ok(starting) => TakeOver::Starting(starting),
        // The log says why.
        Err(_) => {
            server.accept_changes();
            TakeOver::None
        }
    }
}

fn reload(server: &mut Server, reply: impl FnOnce(Value)) {
    service::reloading();
    server.reload(reply);
    publish(server);
}

/// Requests what signals ask for.
fn forward_signals(mut signals: Signals, requests: Requests) -> std::io::Result<OwnedThread> {
    let handle = signals.handle();
    OwnedThread::start(
        "signals",
        OnExit::default(),
        move || handle.close(),
        move || {
            for signal in signals.forever() {
                requests.send(Request::Signal(signal));
            }
        },
    )
}
