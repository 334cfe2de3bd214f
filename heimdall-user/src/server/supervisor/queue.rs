//! One queue: its socket opened, given to its worker, taken from it, and opened again after it failed.

use std::{
    collections::BTreeSet,
    io, mem,
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    Context,
    backoff::{Backoff, log_failure},
    pool::{Place, Pool},
};
use crate::{
    exit::OnExit,
    heartbeat,
    server::{
        ServerError,
        attached::Attached,
        report::QueueReport,
        retry::retry_for,
        xdp::{AfXdpError, Queue, QueueMode, open_queue},
    },
    worker::{QueueCounters, QueueEnd, QueueResources, WorkerQueue},
    xdp::{
        XdpError,
        xsk::{BindMode, XskError},
    },
};

/// How long to wait for queues that were told to end at once. One that takes longer has a worker that is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(1);

/// The state of a queue.
pub(super) enum State {
    Running {
        queue: WorkerQueue,
        since: Instant,
        /// `zero-copy` or `copy`.
        mode: &'static str,
        /// Octets of its frames.
        frame_size: u32,
        /// Its socket is in the XSKMAP.
        registered: bool,
        /// Which of its worker's threads serves it.
        thread: u64,
    },
    /// It is not served, for this reason.
    Stopped(String),
    /// It is not served because its worker does not run.
    WithoutWorker,
}

/// A configured queue. Its counters outlive its sockets.
pub(super) struct ServedQueue {
    /// `eth0:3`.
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) place: Place,
    pub(super) counters: Arc<QueueCounters>,
    pub(super) state: State,
    pub(super) backoff: Backoff,
    /// How often it was given to its worker.
    starts: u64,
    /// Octets of the largest frames that it has had, or that there is memory for: 0 before the first ones.
    largest_frame: u32,
}

impl ServedQueue {
    pub(super) fn new(interface: &str, number: u32, place: Place) -> Self {
        Self {
            name: format!("{interface}:{number}"),
            number,
            place,
            counters: Arc::default(),
            state: State::Stopped("it is being started".to_owned()),
            backoff: Backoff::new(Instant::now()),
            starts: 0,
            largest_frame: 0,
        }
    }

    /// Gives an open socket to the worker.
    pub(super) fn start(
        &mut self,
        attached: &Attached,
        queue: Queue,
        pool: &mut Pool,
        context: &Context,
    ) -> Result<(), ServerError> {
        let (mode, frame_size) = (queue.xsk.mode(), queue.xsk.frame_size());
        if mode == BindMode::ZeroCopy {
            attached.tier.in_zero_copy();
        }
        let signal = Arc::clone(&context.signal);
        let resources = QueueResources {
            xsk: queue.xsk,
            frames: queue.frames,
            busy_poll: queue.busy_poll,
            mtu: Arc::clone(&attached.mtu),
            paths: Arc::clone(&context.paths),
            sources: Arc::clone(&attached.sources),
            counters: Arc::clone(&self.counters),
            on_end: OnExit::new(move || signal.wake()),
        };
        self.state = State::Running {
            queue: pool.serve(self.place.worker, resources, context)?,
            since: Instant::now(),
            mode: mode.name(),
            frame_size,
            registered: false,
            thread: pool.thread(self.place.worker),
        };
        self.starts += 1;
        self.claim(frame_size);
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Puts the queue's socket into the XSKMAP, once its worker is ready, or is not soon: then the first [`check`](Self::check)s
    /// take it out again.
    pub(super) fn register(&mut self, attached: &Attached, pool: &Pool) -> Result<(), XdpError> {
        let number = self.number;
        if let State::Running {
            queue, registered, ..
        } = &mut self.state
        {
            heartbeat::beat();
            pool.wait_ready(self.place.worker);
            let register = |socket: BorrowedFd<'_>| attached.program().register(number, socket);
            queue.with_socket(register).unwrap_or(Ok(()))?;
            *registered = true;
        }
        Ok(())
    }

    /// Opens a socket again, gives it to the worker, and registers it. If the kernel still has the one before, it is attempted
    /// until `end`. Returns its mode, if the queue is served.
    pub(super) fn restart(
        &mut self,
        attached: &Attached,
        end: Instant,
        pool: &mut Pool,
        context: &Context,
    ) -> Option<QueueMode> {
        // Each may take a while: a NIC with many queues, whose driver resets one when a socket is bound, takes long for all.
        heartbeat::beat();
        let open = || open_queue(attached, self.number, &context.config.xdp);
        let left = end.saturating_duration_since(Instant::now());
        let opened = retry_for(left, open, XskError::is_busy);
        let may_pass = opened.as_ref().err().is_none_or(XskError::may_pass);
        let start = || {
            let queue = opened.map_err(AfXdpError::from)?;
            let mode = queue.mode();
            self.start(attached, queue, pool, context)?;
            self.register(attached, pool).map_err(AfXdpError::from)?;
            Ok::<_, ServerError>(mode)
        };
        match start() {
            Ok(mode) => Some(mode),
            Err(error) => {
                self.stop(Instant::now() + STUCK);
                let now = Instant::now();
                let pause = may_pass.then(|| self.backoff.failed(now, Duration::ZERO));
                self.failed(pause, error.to_string());
                None
            }
        }
    }

    /// Closes the queue's socket, and waits until it is closed, until `end` at the latest: the worker may be stuck. Returns
    /// whether it is closed.
    pub(super) fn stop(&mut self, end: Instant) -> bool {
        let stopped = State::Stopped("it was stopped".to_owned());
        match mem::replace(&mut self.state, stopped) {
            State::Running { queue, .. } => {
                heartbeat::beat();
                queue.close();
                // Whatever the result: it was to end.
                let ended = queue.wait(end.saturating_duration_since(Instant::now()));
                !matches!(ended, QueueEnd::NotYet)
            }
            stopped => {
                self.state = stopped;
                true
            }
        }
    }

    /// Whether it is due, and would take more memory with frames of so many octets than it ever has.
    pub(super) fn is_to_grow(&self, frame_size: u32, now: Instant, pool: &mut Pool) -> bool {
        frame_size > self.largest_frame && self.is_due(now, pool)
    }

    /// Leaves the queue to the sockets for now, as there is no memory for it. The log says so for all of the interface.
    pub(super) fn refuse(&mut self, now: Instant, why: &str) {
        self.backoff.failed(now, Duration::ZERO);
        self.state = State::Stopped(why.to_owned());
    }

    /// Gets another worker if the one that it has is stuck, and serves nothing of it now. What was counted stays with that one,
    /// whose thread may still write to the counters.
    pub(super) fn leave_stuck(&mut self, attached: &Attached, pool: &mut Pool) {
        if self.is_running() || !pool.is_to_be_left(self.place.worker) {
            return;
        }
        let places = pool.place(&attached.interface, &[self.number]);
        if let Some(place) = places.into_iter().next() {
            pool.forget(self.place, &self.counters);
            self.counters = Arc::default();
            self.place = place;
        }
    }

    /// Octets of the frames of its socket, if it has one.
    pub(super) fn frame_size(&self) -> Option<u32> {
        match &self.state {
            State::Running { frame_size, .. } => Some(*frame_size),
            State::Stopped(_) | State::WithoutWorker => None,
        }
    }

    /// There is memory for frames of so many octets.
    pub(super) fn claim(&mut self, frame_size: u32) {
        self.largest_frame = self.largest_frame.max(frame_size);
    }

    /// Takes the queue of a worker that is stuck out of the XSKMAP, and puts it back when the worker makes progress
    /// again. To be called after [`Pool::check`]. Returns whether the worker, if the queue is served, makes progress.
    pub(super) fn check(&mut self, attached: &Attached, pool: &Pool) -> bool {
        let worker = self.place.worker;
        let State::Running { registered, .. } = &mut self.state else {
            return true;
        };
        let result = match (pool.is_stuck(worker), *registered) {
            (true, true) => {
                *registered = false;
                attached.program().unregister(self.number)
            }
            (false, false) => self.register(attached, pool),
            _ => Ok(()),
        };
        if let Err(error) = result {
            warn!("{error}");
        }
        pool.has_moved(worker)
    }

    /// Has the queue end when everything is answered.
    pub(super) fn drain(&self) {
        if let State::Running { queue, .. } = &self.state {
            queue.drain();
        }
    }

    /// Has the queue end at once, and does not wait for it.
    pub(super) fn close(&self) {
        if let State::Running { queue, .. } = &self.state {
            queue.close();
        }
    }

    /// Whether the queue is not served, which one that was drained is soon.
    pub(super) fn collect_drained(&mut self) -> bool {
        let State::Running { queue, .. } = &self.state else {
            return true;
        };
        match queue.wait(Duration::ZERO) {
            QueueEnd::NotYet => return false,
            QueueEnd::Ended(Err(error)) => warn!("queue {}: {error}", self.name),
            QueueEnd::Ended(Ok(())) | QueueEnd::WithWorker => {}
        }
        self.state = State::Stopped("it was drained".to_owned());
        true
    }

    /// Has the queue start at this time, whatever has failed before.
    pub(super) fn start_at(&mut self, now: Instant) {
        self.backoff = Backoff::new(now);
    }

    /// Notices that the queue has ended, and schedules a restart.
    pub(super) fn collect_ended(&mut self, now: Instant, pool: &mut Pool) {
        let State::Running {
            queue,
            since,
            thread,
            ..
        } = &self.state
        else {
            return;
        };
        let ran = now.saturating_duration_since(*since);
        match queue.wait(Duration::ZERO) {
            QueueEnd::NotYet => {}
            QueueEnd::Ended(result) => {
                let ended = || io::Error::other("it ended unexpectedly");
                let error = result.err().unwrap_or_else(ended);
                let pause = self.backoff.failed(now, ran);
                self.failed(Some(pause), error.to_string());
            }
            QueueEnd::WithWorker => {
                pool.join(self.place.worker, *thread, now);
                self.state = State::WithoutWorker;
                self.backoff.due = Some(now);
            }
        }
    }

    /// Without a `pause` there is no other attempt until something has changed.
    fn failed(&mut self, pause: Option<Duration>, why: String) {
        if pause.is_none() {
            self.backoff.due = None;
        }
        let before = match &self.state {
            State::Stopped(before) => before,
            State::Running { .. } | State::WithoutWorker => "",
        };
        log_failure(before, &why, &format!("queue {}", self.name), pause);
        self.state = State::Stopped(why);
    }

    /// When to attempt to serve the queue, if it is not served, and may be although nothing changes.
    pub(super) fn due(&self, pool: &Pool) -> Option<Instant> {
        let own = match self.state {
            State::Running { .. } => return None,
            State::Stopped(_) | State::WithoutWorker => self.backoff.due?,
        };
        Some(pool.due(self.place.worker).map_or(own, |due| due.max(own)))
    }

    /// Whether to serve the queue now.
    pub(super) fn is_due(&self, now: Instant, pool: &mut Pool) -> bool {
        self.due(pool).is_some_and(|due| due <= now) && pool.is_available(self.place.worker, now)
    }

    /// `detached`: why the interface's program is not attached, if it is not.
    pub(super) fn report(
        &self,
        interface: &str,
        detached: Option<String>,
        pool: &Pool,
    ) -> QueueReport {
        let worker = self.place.worker;
        let (state, reason, mode) = match &self.state {
            State::Running { mode, .. } if pool.is_stuck(worker) => {
                ("stuck", Some(pool.reason(worker)), Some(*mode))
            }
            State::Running { mode, .. } => ("running", None, Some(*mode)),
            State::Stopped(_) | State::WithoutWorker if detached.is_some() => {
                ("gone", detached, None)
            }
            State::Stopped(why) if !pool.is_stuck(worker) => {
                ("restarting", Some(why.clone()), None)
            }
            State::Stopped(_) | State::WithoutWorker => {
                ("restarting", Some(pool.reason(worker)), None)
            }
        };
        QueueReport {
            interface: interface.to_owned(),
            queue: self.number,
            state,
            reason,
            restarts: self.starts.saturating_sub(1),
            mode,
            placement: self.place.why.name(),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// Closes the sockets of queues, and waits until they are closed. A worker with one that takes longer than [`STUCK`] is stuck,
/// and its other queues are not waited for.
pub(super) fn stop_all(queues: &mut [&mut ServedQueue]) {
    // All are told before the first is waited for: the kernel takes its time for each.
    queues.iter().for_each(|queue| queue.close());
    let mut stuck = BTreeSet::new();
    for queue in queues {
        let worker = queue.place.worker;
        let mut end = Instant::now();
        if !stuck.contains(&worker) {
            end += STUCK;
        }
        if !queue.stop(end) {
            stuck.insert(worker);
        }
    }
}
