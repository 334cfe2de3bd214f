//! The handle of the tier, for the server.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::channel},
};

use heimdall_ebpf::tier::{Config, Key};

use super::{
    nominate::{Nominations, Nominator},
    promoter,
    report::TierReport,
    state::{CountHits, State},
};
use crate::{
    clock::Clock,
    exit::{OnExit, OwnedThread},
    xdp::{TierMaps, TierSize},
};

/// The size of the tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierSettings {
    /// Most answers that it holds, at least 1.
    pub(crate) entries: u32,
}

impl TierSettings {
    /// The size of the maps of each program.
    pub(crate) fn size(self) -> TierSize {
        TierSize::new(self.entries)
    }
}

/// A prefix of addresses of clients, and whether the programs may answer them.
pub(crate) type Client = ((IpAddr, u8), bool);

/// What the programs have to know of the policy, beside the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierRules {
    /// Which clients the programs may answer: the longest prefix decides, and those in none are not answered. Each
    /// prefix occurs once.
    pub(crate) clients: Vec<Client>,
    /// Queries without RD are left to the worker.
    pub(crate) refuse_non_recursive: bool,
    /// The answers' AD bit is passed on to clients that ask for it.
    pub(crate) trust_ad: bool,
    /// The server's UDP payload size in octets.
    pub(crate) udp_size: u16,
    /// Packets with a wrong checksum are left to the worker.
    pub(crate) verify_checksums: bool,
}

/// What the handles, the guards and the promoter share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) nominations: Arc<Nominations>,
    state: Mutex<State>,
    pub(super) clock: Clock,
}

impl Shared {
    pub(super) fn new(
        settings: TierSettings,
        fixed: Config,
        clock: Clock,
        count_hits: CountHits,
    ) -> Self {
        let nominations = Arc::<Nominations>::default();
        let buckets = settings.size().buckets();
        let of_state = Arc::clone(&nominations);
        let state = State::new(fixed, settings.entries, buckets, of_state, count_hits);
        Self {
            nominations,
            state: Mutex::new(state),
            clock,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hot tier. The promoter ends with the last handle.
///
/// Its methods may block for some milliseconds, until the programs that run have ended.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    pub(super) shared: Arc<Shared>,
    _promoter: Arc<OwnedThread>,
}

/// Creation, and what it consists of.
impl Tier {
    /// Starts the promoter. The tier answers nothing before [`set_rules`](Self::set_rules). `count_hits` is called now
    /// and then with a question, in wire form and lower case, and its hits since the last call.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        settings: TierSettings,
        clock: Clock,
        count_hits: impl FnMut(&[u8], u64) + Send + 'static,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let (monotonic, seconds) = clock.base()?;
        let fixed = Config {
            seed: rand::random(),
            clock_zero: Config::clock_zero(monotonic, seconds),
            ..Config::default()
        };
        let shared = Arc::new(Shared::new(settings, fixed, clock, Box::new(count_hits)));
        let (stop, stopped) = channel();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = stop.send(());
        };
        let promoter = {
            let shared = Arc::clone(&shared);
            OwnedThread::start("promoter", on_exit, stop, move || {
                promoter::run(&shared, &stopped)
            })?
        };
        Ok(Self {
            shared,
            _promoter: Arc::new(promoter),
        })
    }

    /// Adds an interface, with the maps of its program and its MTU in octets. They are of the size of
    /// [`TierSettings::size`]. One of the same name is detached.
    pub(crate) fn attach(&self, interface: &str, mtu: u32, maps: TierMaps) {
        self.shared.state().attach(interface, mtu, maps);
    }

    /// Removes an interface. Its program answers nothing from the return on.
    pub(crate) fn detach(&self, interface: &str) {
        self.shared.state().detach(interface);
    }

    /// Why the program of an interface answers nothing, although others may.
    pub(crate) fn why_off_on(&self, interface: &str) -> Option<String> {
        let state = self.shared.state();
        state.interfaces.failure(interface).map(str::to_owned)
    }

    /// The MTU of an interface has changed.
    pub(crate) fn set_mtu(&self, interface: &str, mtu: u32) {
        self.shared.state().set_mtu(interface, mtu);
    }

    /// A nominator for another worker.
    pub(crate) fn nominator(&self) -> Nominator {
        self.shared.nominations.nominator()
    }
}

/// Coherence.
impl Tier {
    /// Sets the rules. If they are other ones, the tier is empty afterwards.
    pub(crate) fn set_rules(&self, rules: TierRules) {
        self.shared.state().set_rules(rules);
    }

    /// Turns the tier on, or off for a reason.
    pub(crate) fn set_enabled(&self, enabled: Result<(), String>) {
        self.shared.state().set_off(enabled.err());
    }

    /// Suspends the tier: from the return on it answers nothing, until the guard is dropped. Then it is empty, and no
    /// answer is promoted that a worker has nominated until then. To be called before a new policy is stored.
    pub(crate) fn suspend(&self) -> Suspension {
        self.shared.state().suspend();
        Suspension(Arc::clone(&self.shared))
    }

    /// Removes the answers to the questions, in wire form and lower case, that `which` is true of: from the return on
    /// the tier does not give them, and until the guard is dropped nothing is promoted, and later nothing that a worker
    /// has nominated until then. To be called before caches are flushed, and the guard to be dropped when all are.
    pub(crate) fn forget(&self, which: impl Fn(&[u8]) -> bool) -> Forgetting {
        self.shared.state().begin_forgetting(which);
        Forgetting(Arc::clone(&self.shared))
    }
}

/// What is shown.
impl Tier {
    /// A copy of its state.
    pub(crate) fn report(&self) -> TierReport {
        let state = self.shared.state();
        TierReport {
            off: state.why_off().map(str::to_owned),
            counters: Arc::clone(&state.counters),
            counts: state.interfaces.counters(),
        }
    }

    /// Whether the tier holds the answer to a question in wire form, its name in any case, with these key flags (DO
    /// and CD), and may give it now.
    pub(crate) fn contains(&self, question: &[u8], flags: u8) -> bool {
        let now = self.shared.clock.seconds();
        Key::new(question, flags).is_some_and(|key| self.shared.state().contains(&key, now))
    }
}

/// While this exists, the tier answers nothing.
#[derive(Debug)]
#[must_use]
pub(crate) struct Suspension(Arc<Shared>);

impl Drop for Suspension {
    fn drop(&mut self) {
        self.0.state().resume();
    }
}

/// While this exists, nothing is promoted.
#[derive(Debug)]
#[must_use]
pub(crate) struct Forgetting(Arc<Shared>);

impl Drop for Forgetting {
    fn drop(&mut self) {
        self.0.state().end_forgetting();
    }
}
