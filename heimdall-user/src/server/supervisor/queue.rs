//! One queue with its worker: started, stopped, and started again after it failed.

use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::info;

use super::{
    Context,
    backoff::{Backoff, FIRST_PAUSE, log_failure},
};
use crate::{
    exit::OnExit,
    forward::Mailbox,
    front,
    maintenance::{CommandQueue, Maintenance},
    server::{
        ServerError,
        attached::Attached,
        cores::CoreCounters,
        report::WorkerReport,
        start,
        xdp::{AfXdpError, Queue, open_queue},
    },
    worker::{Worker, WorkerCounters, WorkerOptions, WorkerResources},
    xdp::XdpError,
};

/// The state of a queue's worker.
pub(super) enum State {
    Running {
        worker: Worker,
        /// Set when its thread has ended.
        ended: Arc<AtomicBool>,
        since: Instant,
        /// `zero-copy` or `copy`.
        mode: &'static str,
        /// Its socket, until it is in the XSKMAP.
        unregistered: Option<OwnedFd>,
    },
    /// It does not run, for this reason.
    Stopped(String),
}

/// A configured queue. Its mailbox, its number with the forwarder, its command queue and its counters
/// outlive its worker.
pub(super) struct ServedQueue {
    /// `eth0:3`.
    pub(super) name: String,
    queue: u32,
    front: u16,
    cpu: Option<usize>,
    mailbox: Arc<Mailbox>,
    pub(super) commands: Arc<CommandQueue>,
    pub(super) counters: Arc<WorkerCounters>,
    core: CoreCounters,
    pub(super) state: State,
    pub(super) backoff: Backoff,
    restarts: u64,
    /// Outcomes for requests of earlier workers that have not arrived yet.
    outstanding: usize,
}

impl ServedQueue {
    pub(super) fn new(
        name: String,
        queue: u32,
        front: u16,
        cpu: Option<usize>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let maintenance = Maintenance::new({
            let mailbox = Arc::clone(&mailbox);
            move || mailbox.wake()
        });
        Self {
            name,
            queue,
            front,
            cpu,
            mailbox,
            commands: maintenance.queue(),
            counters: Arc::default(),
            core: CoreCounters::default(),
            state: State::Stopped("it is being started".to_owned()),
            backoff: Backoff::new(Instant::now()),
            restarts: 0,
            outstanding: 0,
        }
    }

    /// Starts a worker on an open socket.
    pub(super) fn start(
        &mut self,
        attached: &Attached,
        queue: Queue,
        context: &Context,
    ) -> Result<(), ServerError> {
        let Queue {
            xsk, frames, idle, ..
        } = queue;
        let core = context.cores.core(&self.core)?;
        let mode = xsk.mode().name();
        let socket = xsk.as_fd().try_clone_to_owned();
        let socket = socket.map_err(start("a worker"))?;
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
            verify_checksums: context.settings.verify_checksums,
            idle,
        };
        let resources = WorkerResources {
            xsk,
            frames,
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
            mtu: Arc::clone(&attached.mtu),
            sources: Arc::clone(&attached.sources),
            drops: Arc::clone(&self.core.drops),
            counters: Arc::clone(&self.counters),
            nominator: attached.tier.nominator(context.tier.as_ref()),
            on_exit,
        };
        let worker = Worker::start(options, resources).map_err(start("a worker"))?;
        self.state = State::Running {
            worker,
            ended,
            since: Instant::now(),
            mode,
            unregistered: Some(socket),
        };
        Ok(())
    }

    /// Puts the socket of a worker that was started into the XSKMAP, once it is ready.
    pub(super) fn register(&mut self, attached: &Attached) -> Result<(), XdpError> {
        if let State::Running {
            worker,
            unregistered,
            ..
        } = &mut self.state
            && let Some(socket) = unregistered.take()
        {
            worker.wait_ready();
            attached.program().register(self.queue, socket.as_fd())?;
        }
        Ok(())
    }

    /// Starts a worker again, and registers it. Whether one runs.
    pub(super) fn restart(&mut self, attached: &Attached, now: Instant, context: &Context) -> bool {
        let mut started = || {
            let queue =
                open_queue(attached, self.queue, &context.settings).map_err(AfXdpError::from)?;
            self.start(attached, queue, context)?;
            self.register(attached).map_err(AfXdpError::from)?;
            Ok::<(), ServerError>(())
        };
        match started() {
            Ok(()) => {
                self.restarts += 1;
                info!("worker {} runs again", self.name);
                true
            }
            Err(error) => {
                let _ = self.stop();
                self.failed(now, Duration::ZERO, error.to_string());
                false
            }
        }
    }

    /// Stops the worker, if there is one; its result.
    pub(super) fn stop(&mut self) -> Option<io::Result<()>> {
        let stopped = State::Stopped("it was stopped".to_owned());
        match mem::replace(&mut self.state, stopped) {
            State::Running { worker, .. } => {
                let ended = worker.stop();
                self.outstanding += ended.outstanding;
                Some(ended.result)
            }
            stopped => {
                self.state = stopped;
                None
            }
        }
    }

    /// Joins the worker if it has ended, and schedules a restart.
    pub(super) fn collect_ended(&mut self, now: Instant) {
        let State::Running { ended, since, .. } = &self.state else {
            return;
        };
        if !ended.load(Ordering::SeqCst) {
            return;
        }
        let ran = now.saturating_duration_since(*since);
        let why = match self.stop() {
            Some(Err(error)) => error.to_string(),
            _ => "it ended unexpectedly".to_owned(),
        };
        self.failed(now, ran, why);
    }

    fn failed(&mut self, now: Instant, ran: Duration, why: String) {
        let pause = self.backoff.failed(now, ran);
        let before = match &self.state {
            State::Stopped(before) => before,
            State::Running { .. } => "",
        };
        log_failure(before, &why, &format!("worker {}", self.name), pause);
        self.state = State::Stopped(why);
    }

    /// When to attempt to start a worker, if none runs.
    pub(super) fn due(&self) -> Option<Instant> {
        matches!(self.state, State::Stopped(_)).then_some(self.backoff.due)
    }

    /// Whether to start a worker now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        // The forwarder answers every request. The outcomes of an earlier worker's requests are
        // discarded before the next worker starts, whose tokens may be the same.
        while self.outstanding > 0 && self.mailbox.take().is_some() {
            self.outstanding -= 1;
        }
        if self.outstanding > 0 {
            const WAITING: &str = "waiting for the last look-ups of the worker before it";
            if !matches!(&self.state, State::Stopped(why) if why == WAITING) {
                info!("worker {}: {WAITING}: {}", self.name, self.outstanding);
                self.state = State::Stopped(WAITING.to_owned());
            }
            self.backoff.due = now + FIRST_PAUSE;
        }
        self.outstanding == 0
    }

    /// `detached`: why the interface's program is not attached, if it is not.
    pub(super) fn report(&self, interface: &str, detached: Option<String>) -> WorkerReport {
        let (state, reason, mode) = match &self.state {
            State::Running { mode, .. } => ("running", None, Some(*mode)),
            State::Stopped(_) if detached.is_some() => ("gone", detached, None),
            State::Stopped(why) => ("restarting", Some(why.clone()), None),
        };
        WorkerReport {
            interface: interface.to_owned(),
            queue: self.queue,
            state,
            reason,
            restarts: self.restarts,
            mode,
            cpu: self.cpu,
            counters: Arc::clone(&self.counters),
            core: self.core.clone(),
        }
    }
}
