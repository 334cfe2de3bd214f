//! The workers: their threads, started with their first queue and again when they fail, and which of them serves a queue.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tracing::{info, warn};

use super::{
    Context,
    backoff::{Backoff, FIRST_PAUSE, log_failure},
    stuck::ProgressCheck,
};
use crate::{
    config::XdpConfig,
    doctor::queue_cores,
    exit::{OnExit, Unfinished},
    forward::Mailbox,
    front,
    maintenance::{CommandQueue, Maintenance},
    server::{
        ServerError,
        cores::CoreCounters,
        report::{QueueReport, WorkerReport, add_counts},
        start,
    },
    worker::{
        Load, Outstanding, Placement, QueueCounters, QueueResources, Worker, WorkerCounters,
        WorkerOptions, WorkerQueue, WorkerResources, place,
    },
    xdp::Interface,
};

/// The worker of a queue, for as long as the queue exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) worker: usize,
    pub(super) why: Placement,
}

/// A worker's thread.
enum State {
    Running {
        worker: Worker,
        /// Set when it has ended.
        ended: Arc<AtomicBool>,
        since: Instant,
    },
    /// It does not run, for this reason.
    Stopped(String),
}

/// A worker. Its mailbox, its number with the forwarder, its command queue and its counters outlive its thread.
struct Slot {
    /// `worker-0`.
    name: String,
    front: u16,
    cpu: Option<usize>,
    mailbox: Arc<Mailbox>,
    commands: Arc<CommandQueue>,
    counters: Arc<WorkerCounters>,
    core: CoreCounters,
    state: State,
    /// How many threads it has had.
    threads: u64,
    /// The thread was waited for.
    waited: Cell<bool>,
    backoff: Backoff,
    progress: ProgressCheck,
    /// Outcomes for requests of earlier threads that have not arrived yet.
    outstanding: usize,
    /// Of a thread that was left behind, as it is stuck. No other one is started beside it: should it go on, it uses the mailbox
    /// and the counters.
    left_behind: Option<Outstanding>,
    /// Queues that have their place here.
    queues: usize,
    /// What was counted for queues that do not exist any more.
    earlier: Vec<(&'static str, u64)>,
}

/// The workers, by their number. There are as many for as long as the server runs.
pub(super) struct Pool(Vec<Slot>);

impl Pool {
    /// Workers with these numbers with the forwarder and mailboxes. None of them runs.
    pub(super) fn new(fronts: Vec<(u16, Arc<Mailbox>)>, settings: &XdpConfig) -> Self {
        let slot = |(number, (front, mailbox)): (usize, (u16, Arc<Mailbox>))| {
            let maintenance = Maintenance::new({
                let mailbox = Arc::clone(&mailbox);
                move || mailbox.wake()
            });
            Slot {
                name: format!("worker-{number}"),
                front,
                cpu: settings.cpu(number),
                mailbox,
                commands: maintenance.queue(),
                counters: Arc::default(),
                core: CoreCounters::default(),
                state: State::Stopped("it is being started".to_owned()),
                threads: 0,
                waited: Cell::new(false),
                backoff: Backoff::new(Instant::now()),
                progress: ProgressCheck::default(),
                outstanding: 0,
                left_behind: None,
                queues: 0,
                earlier: Vec::new(),
            }
        };
        Self(fronts.into_iter().enumerate().map(slot).collect())
    }

    /// The workers' names, and the command queue of each one's cache.
    pub(super) fn command_queues(&self) -> impl Iterator<Item = (String, Arc<CommandQueue>)> {
        let slots = self.0.iter();
        slots.map(|slot| (slot.name.clone(), Arc::clone(&slot.commands)))
    }

    /// Chooses the workers of queues of an interface, and logs them. Those that are stuck get none, unless all are.
    pub(super) fn place(&mut self, interface: &Interface, queues: &[u32]) -> Vec<Place> {
        let all_stuck = self.0.iter().all(Slot::is_stuck);
        let numbers: Vec<usize> = (self.0.iter().enumerate())
            .filter(|(_, slot)| all_stuck || !slot.is_stuck())
            .map(|(number, _)| number)
            .collect();
        let slots = numbers.iter().filter_map(|number| self.0.get(*number));
        let loads: Vec<Load> = slots
            .map(|slot| Load {
                cpu: slot.cpu,
                queues: slot.queues,
            })
            .collect();
        let near = queue_cores(&interface.name, interface.index, queues);
        let placed = place(&loads, &near).into_iter();
        let places: Vec<Place> = placed
            .filter_map(|(at, why)| {
                let worker = *numbers.get(at)?;
                Some(Place { worker, why })
            })
            .collect();
        for place in &places {
            if let Some(slot) = self.0.get_mut(place.worker) {
                slot.queues += 1;
            }
        }
        info!("{}: {}", interface.name, self.describe(queues, &places));
        places
    }

    /// Whether a queue that is not served has to leave its worker: that is stuck, and another one is not.
    pub(super) fn is_to_be_left(&self, worker: usize) -> bool {
        self.is_stuck(worker) && !self.0.iter().all(Slot::is_stuck)
    }

    /// Which worker serves which of these queues, and why.
    fn describe(&self, queues: &[u32], places: &[Place]) -> String {
        let mut texts = Vec::new();
        for (number, slot) in self.0.iter().enumerate() {
            let mut reasons: BTreeMap<Placement, Vec<u32>> = BTreeMap::new();
            let placed = queues.iter().zip(places);
            for (queue, place) in placed.filter(|(_, place)| place.worker == number) {
                reasons.entry(place.why).or_default().push(*queue);
            }
            if reasons.is_empty() {
                continue;
            }
            let core = slot.cpu.map(|cpu| format!(" on core {cpu}"));
            let served = reasons.into_iter().map(|(why, queues)| {
                let queues = numbered("queue", queues.into_iter());
                format!("{queues} ({why})")
            });
            texts.push(format!(
                "{}{} serves {}",
                slot.name,
                core.unwrap_or_default(),
                served.collect::<Vec<_>>().join(" and ")
            ));
        }
        texts.join(", ")
    }

    /// A queue that had its place here is gone for good. Its counts stay.
    pub(super) fn forget(&mut self, place: Place, counters: &QueueCounters) {
        if let Some(slot) = self.0.get_mut(place.worker) {
            slot.queues -= 1;
            let mut counts = counters.list();
            // It has no frames any more, whatever a worker that is stuck holds.
            for (name, count) in &mut counts {
                if name.starts_with("frames_") {
                    *count = 0;
                }
            }
            add_counts(&mut slot.earlier, counts);
        }
    }

    /// Has a worker serve a queue. Its thread is started if it does not run.
    pub(super) fn serve(
        &mut self,
        worker: usize,
        queue: QueueResources,
        context: &Context,
    ) -> Result<WorkerQueue, ServerError> {
        let served = self
            .0
            .get_mut(worker)
            .map(|slot| slot.serve(queue, context));
        // There is a worker of each number that was given out.
        served.unwrap_or_else(|| Err(start("a worker")(std::io::ErrorKind::NotFound.into())))
    }

    /// Waits until a worker is ready for packets, or not soon: once for each thread.
    pub(super) fn wait_ready(&self, worker: usize) {
        if let Some(slot) = self.0.get(worker)
            && let State::Running { worker, .. } = &slot.state
            && !slot.waited.replace(true)
        {
            worker.wait_ready();
        }
    }

    fn state(&self, worker: usize) -> Option<&State> {
        self.0.get(worker).map(|slot| &slot.state)
    }

    /// How many of these workers have had no thread yet, and so no cache.
    pub(super) fn new_among(&self, workers: impl Iterator<Item = usize>) -> usize {
        let workers: BTreeSet<usize> = workers.collect();
        workers
            .into_iter()
            .filter(|worker| self.thread(*worker) == 0)
            .count()
    }

    /// Whether a worker makes no progress.
    pub(super) fn is_stuck(&self, worker: usize) -> bool {
        self.0.get(worker).is_some_and(Slot::is_stuck)
    }

    /// Whether the last [`check`](Self::check) saw that a worker makes progress, or does not run.
    pub(super) fn has_moved(&self, worker: usize) -> bool {
        let slot = self.0.get(worker);
        slot.is_none_or(|slot| slot.progress.has_moved())
    }

    /// How often a worker's loop has gone round. Each time it has looked at the rings of all its queues.
    pub(super) fn turns(&self, worker: usize) -> u64 {
        match self.state(worker) {
            Some(State::Running { worker, .. }) => worker.beats(),
            _ => 0,
        }
    }

    /// How many threads a worker has had.
    pub(super) fn thread(&self, worker: usize) -> u64 {
        self.0.get(worker).map_or(0, |slot| slot.threads)
    }

    /// Looks whether the workers make progress, and logs changes. To be called about once a second.
    pub(super) fn check(&mut self) {
        for slot in &mut self.0 {
            let State::Running { worker, .. } = &slot.state else {
                continue;
            };
            match slot.progress.observe(worker.beats()) {
                Some(true) => warn!(
                    "{} makes no progress; its queues' packets go to the sockets until it does",
                    slot.name
                ),
                Some(false) => info!("{} makes progress again", slot.name),
                None => {}
            }
        }
    }

    /// Joins the workers whose threads have ended, and schedules their restarts.
    pub(super) fn collect_ended(&mut self, now: Instant) {
        for slot in &mut self.0 {
            if let State::Running { ended, .. } = &slot.state
                && ended.load(Ordering::SeqCst)
            {
                slot.join(now);
            }
        }
    }

    /// Joins a worker's thread with this number, which has ended or is about to, unless it was joined.
    pub(super) fn join(&mut self, worker: usize, thread: u64, now: Instant) {
        if let Some(slot) = self.0.get_mut(worker).filter(|slot| slot.threads == thread) {
            slot.join(now);
        }
    }

    /// When a worker that does not run, or is stuck, may serve a queue.
    pub(super) fn due(&self, worker: usize) -> Option<Instant> {
        let slot = self.0.get(worker)?;
        let runs = matches!(slot.state, State::Running { .. }) && !slot.is_stuck();
        slot.backoff.due.filter(|_| !runs)
    }

    /// Whether a worker makes progress, or may be started now.
    pub(super) fn is_available(&mut self, worker: usize, now: Instant) -> bool {
        let slot = self.0.get_mut(worker);
        slot.is_some_and(|slot| slot.is_available(now))
    }

    /// Has workers start at this time, whatever has failed before.
    pub(super) fn start_at(&mut self, now: Instant) {
        for slot in &mut self.0 {
            slot.backoff = Backoff::new(now);
        }
    }

    /// Stops the workers, whose queues have ended. Returns the names of those that are stuck and keep their queues: `has_queue`
    /// says which have some.
    pub(super) fn stop(&mut self, has_queue: impl Fn(usize) -> bool) -> Vec<String> {
        let mut stuck = Vec::new();
        for (number, slot) in self.0.iter_mut().enumerate() {
            if has_queue(number) {
                stuck.push(slot.name.clone());
            } else if let Err(error) = slot.stop("it was drained") {
                warn!("{}: {error}", slot.name);
            }
        }
        stuck
    }

    /// Stops all workers, and waits for those that are stuck.
    pub(super) fn stop_all(&mut self) {
        self.stop(|_| false);
    }

    /// The workers that have or had queues, with those that they have.
    pub(super) fn reports(
        &self,
        queues: impl Iterator<Item = (usize, QueueReport)>,
    ) -> Vec<WorkerReport> {
        let mut by_worker: Vec<Vec<QueueReport>> = self.0.iter().map(|_| Vec::new()).collect();
        for (worker, queue) in queues {
            if let Some(queues) = by_worker.get_mut(worker) {
                queues.push(queue);
            }
        }
        let slots = self.0.iter().zip(by_worker).enumerate();
        slots
            .filter(|(_, (slot, queues))| !queues.is_empty() || !slot.earlier.is_empty())
            .map(|(number, (slot, queues))| WorkerReport {
                number,
                cpu: slot.cpu,
                counters: Arc::clone(&slot.counters),
                core: slot.core.clone(),
                earlier: slot.earlier.clone(),
                queues,
            })
            .collect()
    }

    /// Why a worker does not run, or makes no progress.
    pub(super) fn reason(&self, worker: usize) -> String {
        match self.state(worker) {
            Some(State::Stopped(why)) => why.clone(),
            _ => "it makes no progress; the sockets serve its queues".to_owned(),
        }
    }
}

impl Slot {
    fn serve(
        &mut self,
        queue: QueueResources,
        context: &Context,
    ) -> Result<WorkerQueue, ServerError> {
        if matches!(self.state, State::Stopped(_)) {
            self.start(context)?;
        }
        match &self.state {
            State::Running { worker, .. } => worker.add(queue).map_err(start("a queue")),
            State::Stopped(why) => Err(start("a worker")(std::io::Error::other(why.clone()))),
        }
    }

    fn start(&mut self, context: &Context) -> Result<(), ServerError> {
        let core = context.cores.core(&self.core)?;
        let ended = Arc::new(AtomicBool::new(false));
        let on_exit = OnExit::new({
            let (ended, signal) = (Arc::clone(&ended), Arc::clone(&context.signal));
            move || {
                ended.store(true, Ordering::SeqCst);
                signal.wake();
            }
        });
        let options = WorkerOptions {
            name: self.name.clone(),
            cpu: self.cpu,
            verify_checksums: context.config.xdp.verify_checksums,
            idle: context.config.xdp.idle,
        };
        let resources = WorkerResources {
            engine: front::Resources {
                core,
                maintenance: Maintenance::take_over(Arc::clone(&self.commands)),
                forwarder: context.forwarder.clone(),
                mailbox: Arc::clone(&self.mailbox),
                front: self.front,
                clock: context.cores.clock(),
                latency: Arc::clone(&self.core.latency),
                tap: context.cores.tap(),
            },
            drops: Arc::clone(&self.core.drops),
            counters: Arc::clone(&self.counters),
            nominator: context.tier.as_ref().map(|tier| tier.nominator()),
            on_exit,
        };
        let worker = Worker::start(options, resources).map_err(start("a worker"))?;
        self.threads += 1;
        self.waited.set(false);
        if self.threads > 1 {
            info!("{} runs again", self.name);
        }
        self.progress = ProgressCheck::default();
        self.state = State::Running {
            worker,
            ended,
            since: Instant::now(),
        };
        Ok(())
    }

    /// Stops the thread, if it runs; its result.
    fn stop(&mut self, why: &str) -> std::io::Result<()> {
        let stopped = State::Stopped(why.to_owned());
        match mem::replace(&mut self.state, stopped) {
            State::Running { worker, .. } => {
                crate::heartbeat::beat();
                let ended = worker.stop();
                match ended.outstanding.count() {
                    Some(count) => self.outstanding += count,
                    None => self.left_behind = Some(ended.outstanding),
                }
                self.progress = ProgressCheck::default();
                ended.result
            }
            stopped => {
                self.state = stopped;
                Ok(())
            }
        }
    }

    fn join(&mut self, now: Instant) {
        let State::Running { since, .. } = &self.state else {
            // Another of its queues has seen it.
            return;
        };
        let ran = now.saturating_duration_since(*since);
        let why = match self.stop("") {
            Err(error) => error.to_string(),
            Ok(()) => "it ended unexpectedly".to_owned(),
        };
        let pause = self.backoff.failed(now, ran);
        log_failure("", &why, &self.name, Some(pause));
        self.state = State::Stopped(why);
    }

    fn is_stuck(&self) -> bool {
        self.progress.is_stuck() || self.left_behind.is_some()
    }

    fn is_available(&mut self, now: Instant) -> bool {
        let runs = matches!(self.state, State::Running { .. });
        if runs && !self.is_stuck() {
            return true;
        }
        if self.backoff.due > Some(now) {
            return false;
        }
        let is_free = !runs && self.has_no_thread_left();
        if !is_free {
            self.backoff.due = Some(now + FIRST_PAUSE);
        }
        is_free
    }

    /// Whether nothing of earlier threads is left: neither one that was left behind, nor outcomes that come to the mailbox.
    fn has_no_thread_left(&mut self) -> bool {
        if let Some(left) = &self.left_behind {
            let Some(count) = left.count() else {
                self.state = State::Stopped(Unfinished::Stuck.to_string());
                return false;
            };
            info!("{}: the thread that was left behind has ended", self.name);
            self.outstanding += count;
            self.left_behind = None;
        }
        // The forwarder answers every request. The outcomes of an earlier thread's requests are
        // discarded before the next thread starts, whose tokens may be the same.
        while self.outstanding > 0 && self.mailbox.take().is_some() {
            self.outstanding -= 1;
        }
        if self.outstanding > 0 {
            const WAITING: &str = "waiting for the last look-ups of the thread before it";
            if !matches!(&self.state, State::Stopped(why) if why == WAITING) {
                info!("{}: {WAITING}: {}", self.name, self.outstanding);
                self.state = State::Stopped(WAITING.to_owned());
            }
        }
        self.outstanding == 0
    }
}

/// `queue 3`, `queues 0-3,8`.
pub(in crate::server) fn numbered(what: &str, numbers: impl Iterator<Item = u32>) -> String {
    let numbers: BTreeSet<usize> = numbers.map(|number| number as usize).collect();
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", crate::doctor::show(&numbers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Config, Flags, Host};

    fn pool(workers: u16) -> Pool {
        let host = Host {
            control: Some("/run/heimdall/control.sock".into()),
            ..Host::default()
        };
        let text = "upstream = [\"192.0.2.1\"]";
        let config = Config::from_text(&Flags::default(), text, &host).unwrap();
        let mailbox = || Arc::new(Mailbox::new(8).unwrap());
        Pool::new(
            (0..workers).map(|front| (front, mailbox())).collect(),
            &config.xdp,
        )
    }

    #[test]
    fn no_thread_is_started_beside_one_that_was_left_behind() {
        let mut pool = pool(2);
        let now = Instant::now();
        assert!(pool.is_available(0, now) && !pool.is_stuck(0));
        let left = Outstanding::new();
        pool.0.first_mut().unwrap().left_behind = Some(left.clone());
        assert!(!pool.is_available(0, now));
        assert!(pool.is_stuck(0) && pool.is_to_be_left(0));
        assert_eq!(pool.due(0), Some(now + FIRST_PAUSE), "no earlier");
        assert!(pool.reason(0).contains("was left behind"));
        // It goes on, and ends: two outcomes still come to its mailbox.
        left.set(2);
        let now = now + FIRST_PAUSE;
        assert!(!pool.is_available(0, now));
        assert!(pool.reason(0).contains("the last look-ups"));
        assert!(!pool.is_stuck(0));
        pool.0.first_mut().unwrap().outstanding = 0;
        assert!(pool.is_available(0, now + FIRST_PAUSE));
    }

    #[test]
    fn each_queue_is_said_with_its_own_reason() {
        let place = |worker, why| Place { worker, why };
        let places = [
            place(0, Placement::Load),
            place(1, Placement::Interrupt),
            place(0, Placement::Interrupt),
            place(0, Placement::Load),
        ];
        let text = pool(3).describe(&[0, 1, 2, 4], &places);
        assert_eq!(
            text,
            "worker-0 serves queue 2 (its core gets the interrupts) and queues 0,4 (it had the fewest queues), \
             worker-1 serves queue 1 (its core gets the interrupts)"
        );
    }

    #[test]
    fn workers_that_are_stuck_get_no_queues_unless_all_are() {
        let mut pool = pool(3);
        let interface = Interface::of_tests("none");
        let stuck = |pool: &mut Pool, number: usize| {
            pool.0.get_mut(number).unwrap().left_behind = Some(Outstanding::new());
        };
        let workers = |places: Vec<Place>| {
            let workers = places.into_iter().map(|place| place.worker);
            workers.collect::<Vec<_>>()
        };
        stuck(&mut pool, 1);
        let places = pool.place(&interface, &[0, 1, 2, 3]);
        assert_eq!(workers(places), [0, 2, 0, 2]);
        stuck(&mut pool, 0);
        let places = pool.place(&interface, &[4, 5]);
        assert_eq!(workers(places), [2, 2]);
        stuck(&mut pool, 2);
        assert!(!pool.is_to_be_left(0));
        let places = pool.place(&interface, &[6]);
        assert_eq!(workers(places), [1]);
    }
}
