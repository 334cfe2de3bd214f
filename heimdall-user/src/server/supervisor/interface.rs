//! One port with its queues: attached, followed, let go when it vanishes and attached again
//! when it returns.

use std::{
    fmt, mem,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use heimdall_ebpf::Disposition;
use tracing::{info, warn};

use super::{
    Context,
    backoff::{Backoff, log_failure},
    pool::{Pool, numbered},
    queue::{ServedQueue, State, stop_all},
};
use crate::{
    config::InterfaceConfig,
    doctor::{Level, more_memory},
    heartbeat, netlink,
    server::{
        ServerError,
        attached::Attached,
        preflight::{lacks_queues, port, queues_of},
        report::{InterfaceReport, QueueReport},
        retry::TIMEOUT,
        xdp::{AfXdpError, OpenInterface, attach, log_modes},
    },
    xdp::{Interface, Port, XdpError, xsk::frame_size},
};

/// Why the program is not attached to an interface.
enum Detached {
    /// There is no such interface. Netlink reports when there is.
    Gone,
    /// It is a configured interface without a port, for this reason. Netlink reports when that changes.
    NoPort(String),
    /// It could not be attached, and is to be attempted again.
    Failed(String),
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("there is no such interface"),
            Self::NoPort(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A port, whether it exists now or not, or a configured interface without one. Its program goes before its
/// queues: so the fields are ordered.
pub(super) struct ServedInterface {
    /// Its name, and which of its queues are to be served.
    pub(super) wanted: InterfaceConfig,
    /// The configured interfaces whose packets arrive on it.
    serves: Vec<String>,
    /// Why nothing is to be steered now, if that is so.
    idle: Option<String>,
    pub(super) attached: Option<Arc<Attached>>,
    /// Why `attached` is none.
    detached: Detached,
    backoff: Backoff,
    /// Whether it is set up (IFF_UP).
    up: bool,
    /// Its MTU when it was last looked at.
    mtu: u32,
    pub(super) queues: Vec<ServedQueue>,
    /// There was no memory for some queues when they were due.
    lacks_memory: bool,
    /// There was no memory for frames of the size for the MTU.
    keeps_frames: bool,
    /// Counts of earlier programs on this interface.
    counts: [u64; Disposition::COUNT],
}

impl ServedInterface {
    /// Gives the queues of an interface that is open to workers.
    pub(super) fn start(
        open: OpenInterface,
        pool: &mut Pool,
        context: &Context,
    ) -> Result<Self, ServerError> {
        let OpenInterface {
            name,
            serves,
            attached,
            queues: open,
        } = open;
        let numbers: Vec<u32> = open.iter().map(|queue| queue.queue).collect();
        let places = pool.place(&attached.interface, &numbers);
        let mut queues = Vec::new();
        for (queue, place) in open.into_iter().zip(places) {
            let mut served = ServedQueue::new(&name, queue.queue, place);
            served.start(&attached, queue, pool, context)?;
            queues.push(served);
        }
        attached
            .tier
            .start(context.tier.as_ref(), attached.interface.mtu);
        Ok(Self {
            up: attached.interface.up,
            mtu: attached.interface.mtu,
            attached: Some(attached),
            detached: Detached::Gone,
            backoff: Backoff::new(Instant::now()),
            wanted: InterfaceConfig::of_port(&context.wanted.interfaces, &name, &serves),
            serves,
            idle: None,
            queues,
            lacks_memory: false,
            keeps_frames: false,
            counts: [0; Disposition::COUNT],
        })
    }

    /// What is not attached yet.
    pub(super) fn new(name: String, now: Instant) -> Self {
        Self {
            wanted: InterfaceConfig { name, queues: None },
            serves: Vec::new(),
            idle: None,
            attached: None,
            detached: Detached::Gone,
            backoff: Backoff::new(now),
            up: false,
            mtu: 0,
            queues: Vec::new(),
            lacks_memory: false,
            keeps_frames: false,
            counts: [0; Disposition::COUNT],
        }
    }

    /// What the start has left out, for this reason, which it has logged.
    pub(super) fn left_out(name: String, why: String, now: Instant) -> Self {
        let mut this = Self::new(name, now);
        this.detached = Detached::Failed(why);
        // That it is up is no reason for another attempt at once.
        this.up = Interface::find(&this.wanted.name).is_ok_and(|found| found.up);
        this.backoff.failed(now, Duration::ZERO);
        this
    }

    /// Waits until the workers are ready, and steers packets to them.
    pub(super) fn serve(&mut self, pool: &Pool) -> Result<(), AfXdpError> {
        if let Some(attached) = &self.attached {
            for queue in &mut self.queues {
                queue.register(attached, pool)?;
            }
            attached.follow()?;
        }
        Ok(())
    }

    /// Acts on what has changed. `found` is the port with its name, or why the configured interface of that name has none;
    /// `None`: it is neither. Returns `false` if the kernel did not answer, and this is to be repeated.
    pub(super) fn refresh(
        &mut self,
        found: Option<Result<Port, XdpError>>,
        context: &Context,
        now: Instant,
    ) -> bool {
        let name = &self.wanted.name;
        let port = match found {
            Some(Ok(port)) => port,
            Some(Err(XdpError::UnknownInterface { .. })) => {
                if let Some(attached) = &self.attached {
                    // The list may have lacked it.
                    if Interface::find(name).is_ok_and(|it| it.index == attached.interface.index) {
                        return false;
                    }
                    let what = match netlink::name_of(attached.interface.index) {
                        Some(other) => format!("is {other} now, and not served under that name"),
                        None => "is gone, and its queues with it".to_owned(),
                    };
                    warn!(
                        "{name} {what}; AF_XDP resumes when there is an interface of the name {name}"
                    );
                    self.remove("the interface is gone", now);
                }
                self.detached = Detached::Gone;
                return true;
            }
            Some(Err(error)) => {
                let why = error.to_string();
                if self.attached.is_some() {
                    warn!("{name} is another interface now, and the sockets serve it: {why}");
                    self.remove("the interface is gone", now);
                }
                self.detached = Detached::NoPort(why);
                return true;
            }
            None => {
                if self.attached.is_some() {
                    let serves = self.serves.join(", ");
                    info!("{name} is no port of {serves} any more: the XDP program is detached");
                    self.remove("it is no port", now);
                }
                self.detached = Detached::Gone;
                return true;
            }
        };
        let found = port.interface;
        let configured = &context.wanted.interfaces;
        self.wanted.queues = InterfaceConfig::of_port(configured, name, &port.serves).queues;
        self.serves = port.serves;
        let idle = port.idle.filter(|_| port.links.is_empty());
        match &idle {
            Some(why) if self.idle != idle => match &port.down {
                Some(down) => {
                    warn!("{name}: nothing is steered, as {why}; run `ip link set dev {down} up`");
                }
                None => info!("{name}: nothing is steered, as {why}"),
            },
            None if self.idle.is_some() => info!("{name}: queries are steered"),
            _ => {}
        }
        self.idle = idle;
        let came_up = found.up && !self.up;
        let is_resized = mem::replace(&mut self.mtu, found.mtu) != found.mtu;
        match self.attached.clone() {
            Some(attached) if found.index == attached.interface.index => {
                if came_up {
                    info!("{name} is up");
                } else if self.up && !found.up {
                    warn!("{name} is down: no queries arrive on it");
                }
                self.up = found.up;
                let followed = follow(&attached);
                self.fit(attached.port_mtu(), now, context);
                if came_up || is_resized {
                    // Attempts that failed because of what was before are repeated at once.
                    self.queues
                        .iter_mut()
                        .for_each(|queue| queue.backoff.due = Some(now));
                }
                return followed;
            }
            Some(_) => {
                warn!("{name} is another interface now, and the queues of the former are gone");
                self.remove("the interface is gone", now);
                self.schedule_attach(now);
            }
            None => {
                self.up = found.up;
                if came_up || !matches!(self.detached, Detached::Failed(_)) {
                    self.schedule_attach(now);
                }
            }
        }
        true
    }

    /// There is an interface to attach to. Why that failed before is kept: it is not logged again.
    fn schedule_attach(&mut self, now: Instant) {
        self.backoff.due = Some(now);
        if !matches!(self.detached, Detached::Failed(_)) {
            self.detached = Detached::Failed("it is being attached".to_owned());
        }
    }

    /// Closes the sockets whose frames are not of the size for this MTU; the next ones are due at once. Those for which there is
    /// no memory keep the smaller frames that they have.
    pub(super) fn fit(&mut self, mtu: u32, now: Instant, context: &Context) {
        let size = frame_size(mtu);
        let mut unfit: Vec<&mut ServedQueue> = (self.queues.iter_mut())
            .filter(|queue| queue.frame_size().is_some_and(|own| own != size))
            .collect();
        let before = unfit.iter().filter_map(|queue| queue.frame_size()).min();
        let Some(before) = before else {
            self.keeps_frames = false;
            return;
        };
        let name = &self.wanted.name;
        let queues = numbered("queue", unfit.iter().map(|queue| queue.number));
        if size > before {
            let more = context.config.xdp.frames as usize * (size - before) as usize;
            let finding = more_memory(0, context.cores.cache_bytes(), unfit.len(), more);
            if let Some(finding) = finding.filter(|finding| finding.level == Level::Bad) {
                if !mem::replace(&mut self.keeps_frames, true) {
                    warn!(
                        "{name} {queues}: the MTU is {mtu} now, but frames stay at {before} octets, for lack of more {finding}"
                    );
                }
                return;
            }
        }
        self.keeps_frames = false;
        info!("{name} {queues}: frames of {size} octets from now on, as the MTU is {mtu}");
        stop_all(&mut unfit);
        for queue in unfit {
            queue.claim(size);
            queue.state = State::Stopped("the MTU has changed".to_owned());
            queue.start_at(now);
        }
    }

    /// Stops the program and the queues of what is no port any more.
    fn remove(&mut self, why: &str, now: Instant) {
        stop_all(&mut self.queues.iter_mut().collect::<Vec<_>>());
        for queue in &mut self.queues {
            queue.state = State::Stopped(why.to_owned());
            queue.backoff = Backoff::new(now);
        }
        if let Some(attached) = self.attached.take() {
            attached.tier.stop(why);
            self.counts = counts(&attached, &self.counts);
        }
        self.up = false;
        self.idle = None;
        self.backoff = Backoff::new(now);
    }

    /// Forgets the queues of what is removed for good. Their workers keep their counts.
    pub(super) fn forget(&mut self, pool: &mut Pool) {
        for queue in self.queues.drain(..) {
            pool.forget(queue.place, &queue.counters);
        }
    }

    /// Notices the queues that have ended, and starts those that are due.
    pub(super) fn restart_due(&mut self, now: Instant, pool: &mut Pool, context: &Context) {
        for queue in &mut self.queues {
            queue.collect_ended(now, pool);
        }
        if self.attached.is_none() && self.due(pool).is_some_and(|due| due <= now) {
            self.attach(now, pool, context);
        }
        let Some(attached) = self.attached.clone() else {
            return;
        };
        for queue in &mut self.queues {
            queue.leave_stuck(&attached, pool);
        }
        self.claim_memory(&attached, now, pool, context);
        // The kernel may have the sockets before for a moment more. Of all queues, so that no more time is spent if another program
        // has them.
        let end = Instant::now() + TIMEOUT;
        let mut started = Vec::new();
        for queue in &mut self.queues {
            if queue.is_due(now, pool) {
                started.extend(queue.restart(&attached, end, pool, context));
            }
        }
        if !started.is_empty() {
            log_modes(&attached, &started);
            let verb = if started.len() == 1 { "is" } else { "are" };
            let queues = numbered("queue", started.iter().map(|mode| mode.queue));
            info!("{} {queues} {verb} served", self.wanted.name);
            follow(&attached);
        }
    }

    /// Says what the queues that are due take of memory for the first time, as a start does; if there is not as much, they are left
    /// to the sockets.
    fn claim_memory(
        &mut self,
        attached: &Attached,
        now: Instant,
        pool: &mut Pool,
        context: &Context,
    ) {
        let size = frame_size(attached.port_mtu());
        let mut new: Vec<&mut ServedQueue> = (self.queues.iter_mut())
            .filter(|queue| queue.is_to_grow(size, now, pool))
            .collect();
        let workers = pool.new_among(new.iter().map(|queue| queue.place.worker));
        let cache = context.cores.cache_bytes();
        let frames = context.config.xdp.frames as usize * size as usize;
        if new.is_empty() {
            return;
        }
        let Some(finding) = more_memory(workers, cache, new.len(), frames) else {
            return;
        };
        let name = &self.wanted.name;
        match finding.level {
            Level::Good => info!("{name}: {finding}"),
            Level::Warn => warn!("{name}: {finding}"),
            Level::Bad => {
                let why = finding.to_string();
                if !self.lacks_memory {
                    let queues = numbered("queue", new.iter().map(|queue| queue.number));
                    warn!("{name} {queues}: the sockets serve for now, for lack of {why}");
                }
                new.iter_mut().for_each(|queue| queue.refuse(now, &why));
            }
        }
        self.lacks_memory = finding.level == Level::Bad;
    }

    /// Stops steering to workers that are stuck, steering as a whole if no steered packet arrives, and the hot tier if its
    /// replies do not.
    pub(super) fn check(&mut self, pool: &mut Pool) {
        self.follow_queues(pool);
        let Some(attached) = &self.attached else {
            return;
        };
        let mut all_move = true;
        for queue in &mut self.queues {
            all_move &= queue.check(attached, pool);
        }
        let workers = || {
            self.queues.iter().fold((0, 0), |(arrived, looked), queue| {
                let counters = &queue.counters;
                let dropped = counters.rx_dropped.get() + counters.rx_ring_full.get();
                let received = counters.received.get();
                let turns = pool.turns(queue.place.worker);
                (arrived + received + dropped, looked + turns)
            })
        };
        // What waits for a worker that does not move has not arrived, and is no fault of the interface.
        if all_move {
            attached.check_steering(workers);
        }
        attached.check_routes();
        attached.tier.check();
    }

    /// Serves the queues that the interface has now. The kernel changes their number while AF_XDP uses some, if it does not
    /// take those away.
    fn follow_queues(&mut self, pool: &mut Pool) {
        if let Some(attached) = &self.attached
            && let Ok(interface) = Interface::find(&self.wanted.name)
            && interface.index == attached.interface.index
            && let Ok((numbers, _)) = interface.present_queues(self.wanted.queues.as_ref())
        {
            self.set_queues(&interface, &numbers, pool);
        }
    }

    /// Has these queues served: others are stopped and forgotten, and new ones get their workers.
    pub(super) fn set_queues(&mut self, interface: &Interface, numbers: &[u32], pool: &mut Pool) {
        let (kept, mut gone): (Vec<_>, Vec<_>) = (mem::take(&mut self.queues).into_iter())
            .partition(|queue| numbers.contains(&queue.number));
        self.queues = kept;
        stop_all(&mut gone.iter_mut().collect::<Vec<_>>());
        for queue in gone {
            pool.forget(queue.place, &queue.counters);
            info!("queue {} is gone", queue.name);
        }
        let is_new = |number: &u32| self.queues.iter().all(|queue| queue.number != *number);
        let new: Vec<u32> = numbers.iter().copied().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let places = pool.place(interface, &new).into_iter();
        let new = new.into_iter().zip(places);
        self.queues
            .extend(new.map(|(number, place)| ServedQueue::new(&self.wanted.name, number, place)));
        self.queues.sort_by_key(|queue| queue.number);
    }

    fn attach(&mut self, now: Instant, pool: &mut Pool, context: &Context) {
        // A driver may reset its link for it, which takes seconds.
        heartbeat::beat();
        let name = &self.wanted.name;
        let configured = &context.wanted.interfaces;
        let found = port(configured, name).and_then(|port| queues_of(configured, &port, false));
        match found.and_then(|found| {
            let attached = attach(found.interface, None, &context.wanted, &context.config)?;
            Ok((attached, found.queues, found.absent))
        }) {
            Ok((attached, numbers, absent)) => {
                if let Some(absent) = absent {
                    lacks_queues(&absent);
                }
                let mode = attached.program().attach_mode().name();
                if !self.queues.is_empty() {
                    info!("{name} is back: XDP program attached ({mode})");
                } else if self.serves.contains(name) {
                    info!("{name}: XDP program attached ({mode})");
                } else {
                    let serves = self.serves.join(", ");
                    info!("{name}, a port of {serves}: XDP program attached ({mode})");
                }
                self.up = attached.interface.up;
                attached
                    .tier
                    .start(context.tier.as_ref(), attached.interface.mtu);
                self.set_queues(&attached.interface, &numbers, pool);
                self.attached = Some(attached);
                self.detached = Detached::Gone;
                self.queues
                    .iter_mut()
                    .for_each(|queue| queue.backoff.due = Some(now));
            }
            Err(XdpError::UnknownInterface { .. }) => self.detached = Detached::Gone,
            Err(error) => {
                let pause = self.backoff.failed(now, Duration::ZERO);
                let why = error.to_string();
                log_failure(&self.detached.to_string(), &why, name, Some(pause));
                self.detached = Detached::Failed(why);
            }
        }
    }

    /// When something is to be attempted, if anything is.
    pub(super) fn due(&self, pool: &Pool) -> Option<Instant> {
        match (&self.attached, &self.detached) {
            (Some(_), _) => self.queues.iter().filter_map(|queue| queue.due(pool)).min(),
            (None, Detached::Failed(_)) => self.backoff.due,
            (None, Detached::Gone | Detached::NoPort(_)) => None,
        }
    }

    /// The queues, each with the number of its worker.
    pub(super) fn queue_reports(&self, pool: &Pool) -> impl Iterator<Item = (usize, QueueReport)> {
        let queues = self.queues.iter();
        queues.map(|queue| {
            let detached = self.attached.is_none().then(|| self.detached.to_string());
            let report = queue.report(&self.wanted.name, detached, pool);
            (queue.place.worker, report)
        })
    }

    pub(super) fn report(&self) -> InterfaceReport {
        let (state, reason) = match (&self.attached, &self.detached) {
            (Some(_), _) if !self.up => ("down", None),
            (Some(_), _) if self.idle.is_some() => ("standby", self.idle.clone()),
            (Some(_), _) => ("up", None),
            (None, Detached::Gone) => ("gone", Some(self.detached.to_string())),
            (None, Detached::NoPort(why) | Detached::Failed(why)) => ("failed", Some(why.clone())),
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
            serves: self.serves.clone(),
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

/// Updates the program's maps to the interface's present state. Returns whether the kernel answered.
fn follow(attached: &Attached) -> bool {
    let followed = attached.follow();
    if let Err(error) = &followed {
        attached.log_new(vec![error.to_string()]);
    }
    followed.is_ok()
}

/// The program's counts, added to `earlier` ones; those alone if the kernel does not give them.
fn counts(attached: &Attached, earlier: &[u64; Disposition::COUNT]) -> [u64; Disposition::COUNT] {
    let mut counts = attached.program().counters().unwrap_or_default();
    for (count, earlier) in counts.iter_mut().zip(earlier) {
        *count += earlier;
    }
    counts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_failure_that_is_known_is_attempted_again_at_once_and_not_logged_again() {
        let now = Instant::now();
        let mut interface = ServedInterface::left_out("eth0".to_owned(), "why".to_owned(), now);
        assert!(interface.backoff.due > Some(now));
        interface.schedule_attach(now);
        assert_eq!(interface.backoff.due, Some(now));
        assert_eq!(interface.detached.to_string(), "why");
        interface.detached = Detached::Gone;
        interface.schedule_attach(now);
        assert!(matches!(&interface.detached, Detached::Failed(why) if why != "why"));
    }
}
