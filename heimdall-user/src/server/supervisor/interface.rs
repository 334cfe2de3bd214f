//! One interface with its queues: attached, followed, let go when it vanishes and attached again
//! when it returns.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use heimdall_ebpf::Disposition;
use tracing::{info, warn};

use super::{
    Context,
    backoff::{Backoff, log_failure},
    queue::{ServedQueue, State},
};
use crate::{
    config::InterfaceConfig,
    forward::Mailbox,
    server::{
        ServerError,
        attached::Attached,
        preflight::look_up,
        report::{InterfaceReport, WorkerReport},
        xdp::{AfXdpError, OpenInterface, attach, warn_of_unserved},
    },
    xdp::{Interface, XdpError},
};

/// Why the program is not attached to an interface.
enum Detached {
    /// There is no such interface. Netlink reports when there is.
    Gone,
    /// It could not be attached, and is to be attempted again.
    Failed(String),
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("there is no such interface"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A configured interface, whether it exists now or not. Its program goes before its
/// workers: so the fields are ordered.
pub(super) struct ServedInterface {
    wanted: InterfaceConfig,
    pub(super) attached: Option<Arc<Attached>>,
    /// Why `attached` is none.
    detached: Detached,
    backoff: Backoff,
    /// Whether it is set up (IFF_UP).
    up: bool,
    pub(super) queues: Vec<ServedQueue>,
    /// Counts of earlier programs on this interface.
    counts: [u64; Disposition::COUNT],
}

impl ServedInterface {
    /// Starts the workers of an interface that is open. `workers` has numbers and mailboxes for all.
    pub(super) fn start(
        open: OpenInterface,
        workers: &mut impl Iterator<Item = (usize, (u16, Arc<Mailbox>))>,
        context: &Context,
    ) -> Result<Self, ServerError> {
        let OpenInterface {
            wanted,
            attached,
            queues: open,
        } = open;
        let mut queues = Vec::new();
        for (queue, (number, (front, mailbox))) in open.into_iter().zip(workers) {
            let name = format!("{}:{}", wanted.name, queue.queue);
            let cpu = context.settings.cpu(number);
            let mut slot = ServedQueue::new(name, queue.queue, front, cpu, mailbox);
            slot.start(&attached, queue, context)?;
            queues.push(slot);
        }
        attached
            .tier
            .start(context.tier.as_ref(), attached.interface.mtu);
        Ok(Self {
            up: attached.interface.up,
            attached: Some(attached),
            detached: Detached::Gone,
            backoff: Backoff::new(Instant::now()),
            wanted,
            queues,
            counts: [0; Disposition::COUNT],
        })
    }

    /// Waits until the workers are ready, and steers packets to them.
    pub(super) fn serve(&mut self) -> Result<(), AfXdpError> {
        if let Some(attached) = &self.attached {
            for queue in &mut self.queues {
                queue.register(attached)?;
            }
            attached.follow()?;
        }
        Ok(())
    }

    /// Reads the state of the interface and its addresses, and acts on what has changed.
    pub(super) fn refresh(&mut self, now: Instant) {
        let name = &self.wanted.name;
        let found = match Interface::find(name) {
            Ok(found) => Some(found),
            Err(XdpError::UnknownInterface { .. }) => None,
            // Another interface has the name now, of a kind that AF_XDP cannot serve: attaching to
            // it fails with the reason.
            Err(XdpError::Virtual { .. } | XdpError::NotEthernet { .. }) => {
                if self.attached.is_some() {
                    self.remove(true, now);
                } else if matches!(self.detached, Detached::Gone) {
                    self.schedule_attach(now);
                }
                return;
            }
            // The kernel did not answer.
            Err(error) => {
                warn!("{error}");
                return;
            }
        };
        match (&self.attached, found) {
            (Some(attached), Some(found)) if found.index == attached.interface.index => {
                let came_up = found.up && !self.up;
                if came_up {
                    info!("{name} is up");
                } else if self.up && !found.up {
                    warn!("{name} is down: no queries arrive on it");
                }
                self.up = found.up;
                follow(attached);
                if came_up {
                    // Attempts that failed because it was down are repeated at once.
                    self.queues
                        .iter_mut()
                        .for_each(|queue| queue.backoff.due = now);
                }
            }
            (Some(_), found) => self.remove(found.is_some(), now),
            (None, Some(found)) => {
                let came_up = found.up && !self.up;
                self.up = found.up;
                if came_up || matches!(self.detached, Detached::Gone) {
                    self.schedule_attach(now);
                }
            }
            (None, None) => self.detached = Detached::Gone,
        }
    }

    /// There is a new interface to attach to.
    fn schedule_attach(&mut self, now: Instant) {
        self.backoff.due = now;
        self.detached = Detached::Failed("it is being attached".to_owned());
    }

    /// Stops the program and the workers of an interface that was deleted; `replaced`: another one has its name.
    fn remove(&mut self, replaced: bool, now: Instant) {
        warn!(
            "{} is gone, and its queues with it; AF_XDP resumes when there is an interface of that \
             name",
            self.wanted.name
        );
        for queue in &mut self.queues {
            // Whatever they report follows from this.
            let _ = queue.stop();
            queue.state = State::Stopped("the interface is gone".to_owned());
            queue.backoff = Backoff::new(now);
        }
        if let Some(attached) = self.attached.take() {
            attached.tier.stop("the interface is gone");
            self.counts = counts(&attached, &self.counts);
        }
        self.up = false;
        self.backoff = Backoff::new(now);
        self.detached = Detached::Gone;
        if replaced {
            self.schedule_attach(now);
        }
    }

    /// Collects the workers that have ended, and starts those that are due.
    pub(super) fn restart_due(&mut self, now: Instant, context: &Context) {
        for queue in &mut self.queues {
            queue.collect_ended(now);
        }
        if self.attached.is_none() && self.due().is_some_and(|due| due <= now) {
            self.attach(now, context);
        }
        let Some(attached) = self.attached.clone() else {
            return;
        };
        let mut started = false;
        for queue in &mut self.queues {
            if queue.is_due(now) {
                started |= queue.restart(&attached, now, context);
            }
        }
        if started {
            follow(&attached);
        }
    }

    /// Stops steering if no steered packet arrives, and the hot tier if its replies do not.
    pub(super) fn check(&self) {
        let workers = || {
            self.queues.iter().fold((0, 0), |(arrived, slept), queue| {
                let counters = &queue.counters;
                let dropped = counters.rx_dropped.get() + counters.rx_ring_full.get();
                let received = counters.received.get();
                (arrived + received + dropped, slept + counters.sleeps.get())
            })
        };
        if let Some(attached) = &self.attached {
            attached.check_steering(workers);
            attached.tier.check();
        }
    }

    fn attach(&mut self, now: Instant, context: &Context) {
        let name = &self.wanted.name;
        let found = look_up(&self.wanted);
        match found.and_then(|(interface, numbers)| {
            Ok((
                attach(interface, &context.addresses, &context.plan)?,
                numbers,
            ))
        }) {
            Ok((attached, numbers)) => {
                let mode = attached.program().attach_mode().name();
                info!("{name} is back: XDP program attached ({mode})");
                warn_of_unserved(name, numbers.len(), self.queues.len());
                self.up = attached.interface.up;
                attached
                    .tier
                    .start(context.tier.as_ref(), attached.interface.mtu);
                self.attached = Some(attached);
                self.queues
                    .iter_mut()
                    .for_each(|queue| queue.backoff.due = now);
            }
            Err(XdpError::UnknownInterface { .. }) => self.detached = Detached::Gone,
            Err(error) => {
                let pause = self.backoff.failed(now, Duration::ZERO);
                let why = error.to_string();
                log_failure(&self.detached.to_string(), &why, name, pause);
                self.detached = Detached::Failed(why);
            }
        }
    }

    /// When something is to be attempted, if anything is.
    pub(super) fn due(&self) -> Option<Instant> {
        match (&self.attached, &self.detached) {
            (Some(_), _) => self.queues.iter().filter_map(ServedQueue::due).min(),
            (None, Detached::Failed(_)) => Some(self.backoff.due),
            (None, Detached::Gone) => None,
        }
    }

    pub(super) fn worker_reports(&self) -> impl Iterator<Item = WorkerReport> {
        let queues = self.queues.iter();
        queues.map(|queue| {
            let detached = self.attached.is_none().then(|| self.detached.to_string());
            queue.report(&self.wanted.name, detached)
        })
    }

    pub(super) fn report(&self) -> InterfaceReport {
        let (state, reason) = match (&self.attached, &self.detached) {
            (Some(_), _) if self.up => ("up", None),
            (Some(_), _) => ("down", None),
            (None, Detached::Gone) => ("gone", Some(self.detached.to_string())),
            (None, Detached::Failed(why)) => ("failed", Some(why.clone())),
        };
        let program = self.attached.as_ref().map(|attached| attached.program());
        let attach = program.as_ref().map(|program| program.attach_mode().name());
        let program_id = program.as_ref().map(|program| program.id());
        let tier = self
            .attached
            .as_ref()
            .map(|attached| attached.tier.report());
        // Weak: a report that is still held must not keep the program attached.
        let attached = self.attached.as_ref().map(Arc::downgrade);
        let earlier = self.counts;
        InterfaceReport {
            name: self.wanted.name.clone(),
            state,
            reason,
            attach,
            program_id,
            tier,
            verdicts: Box::new(move || {
                let attached = attached.as_ref().and_then(Weak::upgrade);
                let counts = attached.map_or(earlier, |attached| counts(&attached, &earlier));
                let names = Disposition::ALL
                    .iter()
                    .map(|disposition| disposition.name());
                names.zip(counts).collect()
            }),
        }
    }
}

/// Updates the program's maps to the interface's present state.
fn follow(attached: &Attached) {
    if let Err(error) = attached.follow() {
        attached.log_new(vec![error.to_string()]);
    }
}

/// The program's counts, added to `earlier` ones; those alone if the kernel does not give them.
fn counts(attached: &Attached, earlier: &[u64; Disposition::COUNT]) -> [u64; Disposition::COUNT] {
    let mut counts = attached.program().counters().unwrap_or_default();
    for (count, earlier) in counts.iter_mut().zip(earlier) {
        *count += earlier;
    }
    counts
}
