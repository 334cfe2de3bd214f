//! Service addresses that several hosts have (anycast, RFC 4786): each is on an interface of this host only while the host
//! answers for it. A routing daemon that announces the addresses of interfaces (BIRD's `direct`, FRR's
//! `redistribute connected`) announces and withdraws it by that.
//!
//! - `announcement` decides, a function of time and of what was observed: after how long something is said.
//! - `host` changes addresses and routes of the host.
//! - `probe` asks the server a question at its own address.
//! - [`Anycast`] is the thread that has them work together.
//!
//! While the server runs, packets for the addresses are delivered whether they are announced or not (a route in the table
//! `local`): routers go on sending for a moment after a withdrawal, and these queries are answered.
//!
//! `server` starts and ends it, and says whether the server is ready. It must not know why.

mod announcement;
mod host;
mod probe;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat,
};
use announcement::Announcement;
pub(crate) use announcement::Obstacle;
use host::{AnycastError, Host};
pub(crate) use host::{held, withdraw};

/// How often the state is observed.
const INTERVAL: Duration = Duration::from_millis(250);

/// Observations between two self-tests, and two looks at the host's addresses.
const TEST_EVERY: u32 = 4;

/// What to announce, and when.
#[derive(Clone, Debug)]
pub(crate) struct AnycastOptions {
    /// On which the addresses are while they are announced.
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Where the server answers at these addresses.
    pub(crate) served: Vec<SocketAddr>,
    /// Time in a row without an obstacle before they are announced again.
    pub(crate) announce_after: Duration,
    /// Time in a row with an obstacle that may pass before they are withdrawn.
    pub(crate) withdraw_after: Duration,
    /// Time for which the server answers after it has withdrawn them because it ends.
    pub(crate) drain_wait: Duration,
}

/// What the predecessor of a server leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct AnycastState {
    pub(crate) announced: bool,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl AnycastState {
    /// Whether the predecessor had no addresses.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// The running thread. Dropping it withdraws the addresses, unless [`release`](Self::release) left them to a successor.
pub(crate) struct Anycast {
    shared: Arc<Shared>,
    drain_wait: Duration,
    /// Ended first.
    thread: Option<OwnedThread>,
}

impl fmt::Debug for Anycast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anycast").finish_non_exhaustive()
    }
}

/// What the thread shares with the server.
struct Shared {
    /// Locked while it is changed.
    host: Mutex<Host>,
    status: Mutex<Status>,
    changes: AtomicU64,
    /// The thread changes nothing, as a successor starts.
    paused: AtomicBool,
}

/// What is said of the addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) announced: bool,
    /// They are to be. Some may be announced although not all are.
    wanted: bool,
    /// Why they are not announced, or not all of them; what may have them withdrawn soon.
    pub(crate) reason: Option<String>,
    /// The last reason that is in the log.
    logged: Option<String>,
}

/// For the report of the server.
#[derive(Clone)]
pub(crate) struct AnycastReport(Arc<Shared>);

impl AnycastReport {
    pub(crate) fn status(&self) -> Status {
        self.0.status().clone()
    }

    /// Announcements and withdrawals so far.
    pub(crate) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn interface(&self) -> String {
        self.0.host().interface().to_owned()
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.0.host().addresses().to_vec()
    }
}

impl Shared {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces or withdraws the addresses; both as often as one likes. `late`: that they are not announced is worth a line in
    /// the log, as the server was not started just now.
    fn apply(&self, host: &mut Host, announce: bool, obstacle: Option<&Obstacle>, late: bool) {
        let outcome = match announce {
            true => host.announce(),
            false => host.withdraw(),
        };
        let reason = match (&outcome, obstacle) {
            (Err(problem), _) => Some(problem.to_string()),
            (Ok(()), Some(obstacle)) => Some(obstacle.to_string()),
            (Ok(()), None) => None,
        };
        let mut status = self.status();
        let announced = match &outcome {
            // Routers see what they are to see.
            Ok(()) | Err(AnycastError::Route { .. }) => announce,
            // Not all of them; or as before.
            Err(_) => !announce && status.announced,
        };
        let is_new = status.logged != reason;
        let said = if status.announced != announced {
            self.changes.fetch_add(1, Ordering::Relaxed);
            let list = host.list();
            match (announced, &reason) {
                (true, _) => info!("anycast: {list} announced"),
                (false, Some(reason)) => warn!("anycast: {list} withdrawn: {reason}"),
                (false, None) => info!("anycast: {list} withdrawn: the server ends"),
            }
            !announced
        } else {
            match (&outcome, obstacle) {
                (Err(problem), _) if is_new => {
                    warn!("anycast: {problem}");
                    true
                }
                (Ok(()), Some(obstacle)) if is_new && late && !announced => {
                    warn!("anycast: {} not announced: {obstacle}", host.list());
                    true
                }
                _ => false,
            }
        };
        let logged = match said {
            true => reason.clone(),
            false => status.logged.take().filter(|_| reason.is_some()),
        };
        *status = Status {
            announced,
            wanted: announce,
            reason,
            logged,
        };
    }
}

impl Anycast {
    /// Starts the thread. The addresses are announced once `ready`, which is told whether they are, finds no obstacle. What
    /// `left` by a predecessor was announced stays so until then; without one they are not announced before, even if the
    /// interface has them.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        options: AnycastOptions,
        left: &AnycastState,
        on_exit: OnExit,
        ready: impl Fn(bool) -> Result<(), Obstacle> + Send + 'static,
    ) -> io::Result<Self> {
        let AnycastOptions {
            interface,
            addresses,
            served,
            announce_after,
            withdraw_after,
            drain_wait,
        } = options;
        let inherited = left.announced && left.interface == interface;
        let host = Host::new(interface, addresses);
        host.drop_others(left);
        let shared = Arc::new(Shared {
            host: Mutex::new(host),
            status: Mutex::new(Status {
                announced: inherited,
                wanted: inherited,
                ..Status::default()
            }),
            changes: AtomicU64::new(0),
            paused: AtomicBool::new(false),
        });
        let mut announcement = Announcement::new(announce_after, withdraw_after, inherited);
        let starts = Obstacle::Passing("the server has just started".to_owned());
        // Before the first self-test, for which packets to all addresses have to be delivered.
        let obstacle = (!inherited).then_some(&starts);
        shared.apply(&mut shared.host(), inherited, obstacle, false);
        let own = Arc::clone(&shared);
        let (stop, stopped) = channel();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = stop.send(());
        };
        let thread = OwnedThread::start("anycast", on_exit, stop, move || {
            let mut answers = Ok(());
            let mut turns = 0u32;
            let started = Instant::now();
            loop {
                heartbeat::beat();
                if !own.paused.load(Ordering::Acquire) {
                    let tests = turns.is_multiple_of(TEST_EVERY);
                    if tests {
                        answers = probe::test(&served);
                    }
                    let was = announcement.is_announced();
                    let observed = ready(was).and_then(|()| answers.clone());
                    let now = Instant::now();
                    let announce = announcement.observe(now, observed.as_ref().err());
                    let late = now.saturating_duration_since(started) >= withdraw_after;
                    let mut host = own.host();
                    // A successor may have begun meanwhile, or the end. `pause` waits for the lock.
                    if (tests || announce != was) && !own.paused.load(Ordering::Acquire) {
                        own.apply(&mut host, announce, observed.as_ref().err(), late);
                    }
                }
                turns = turns.wrapping_add(1);
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self {
            shared,
            drain_wait,
            thread: Some(thread),
        })
    }

    pub(crate) fn report(&self) -> AnycastReport {
        AnycastReport(Arc::clone(&self.shared))
    }

    /// For a successor.
    pub(crate) fn state(&self) -> AnycastState {
        let host = self.shared.host();
        AnycastState {
            announced: self.shared.status().wanted,
            interface: host.interface().to_owned(),
            addresses: host.addresses().to_vec(),
        }
    }

    /// Changes nothing from now on, as a successor takes over.
    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, Ordering::Release);
        // What had begun is done.
        drop(self.shared.host());
    }

    /// Goes on, as the successor has failed.
    pub(crate) fn resume(&self) {
        self.shared.paused.store(false, Ordering::Release);
    }

    /// Withdraws the addresses, as the server ends, and waits until routers have noticed. The server answers meanwhile.
    pub(crate) fn leave(&self) {
        self.pause();
        if self.shared.status().wanted {
            self.shared
                .apply(&mut self.shared.host(), false, None, true);
            thread::sleep(self.drain_wait);
        }
    }

    /// Leaves all as it is, to a successor.
    pub(crate) fn release(mut self) {
        self.pause();
        self.thread = None;
        self.shared.host().forget();
    }
}

impl Drop for Anycast {
    fn drop(&mut self) {
        self.pause();
        // No change of the thread comes after that of the end.
        self.thread = None;
        let end = self.shared.host().end();
        if let Err(problem) = end {
            warn!("anycast: {problem}; `heimdall withdraw` tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nothing_is_announced_is_logged_once_it_lasts() {
        // Without addresses, nothing of the host changes.
        let shared = Shared {
            host: Mutex::new(Host::new("lo".to_owned(), Vec::new())),
            status: Mutex::default(),
            changes: AtomicU64::new(0),
            paused: AtomicBool::new(false),
        };
        let logged = |announce: bool, obstacle: Option<&str>, late: bool| {
            let obstacle = obstacle.map(|text| Obstacle::Passing(text.to_owned()));
            shared.apply(&mut shared.host(), announce, obstacle.as_ref(), late);
            shared.status().logged.clone()
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(logged(false, Some("just started"), false), None);
        assert_eq!(logged(false, Some("no upstream"), false), None);
        assert_eq!(logged(false, Some("no upstream"), true), is("no upstream"));
        assert_eq!(logged(false, Some("no response"), true), is("no response"));
        assert_eq!(logged(false, None, true), None);
        assert_eq!(logged(true, None, true), None);
        // While they are announced, it may pass; the withdrawal says it.
        assert_eq!(logged(true, Some("no upstream"), true), None);
        assert_eq!(logged(false, Some("no upstream"), true), is("no upstream"));
    }
}
