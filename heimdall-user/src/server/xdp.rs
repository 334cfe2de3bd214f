//! AF_XDP, opened: a program for each interface, and a socket for each queue. The
//! [supervisor](super::supervisor) runs workers on them.
//!
//! In two steps, so that one server can take over from another: first its programs replace the other one's, and
//! steer nothing; then, when the other one has closed its sockets, the queues get new ones.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::{info, warn};

use super::{
    attached::{Attached, Wanted},
    preflight::{PortQueues, lacks_queues, layers, left_out, port, queues_of},
    retry::{TIMEOUT, retry, retry_for},
    supervisor::numbered,
    tier::{InterfaceTier, tier_size},
    warnings,
};
use crate::{
    config::{Config, XdpConfig},
    worker::IdleMode,
    xdp::{
        AttachMode, AttachPolicy, Interface, Link, LinkWatch, Program, ProgramOptions, XdpError,
        xsk::{BindMode, Frame, Xsk, XskError},
    },
};

/// Why AF_XDP is not available.
#[derive(Debug, Error)]
pub enum AfXdpError {
    /// The interface or its program.
    #[error(transparent)]
    Program(#[from] XdpError),
    /// A queue's socket.
    #[error(transparent)]
    Socket(#[from] XskError),
}

impl AfXdpError {
    /// Whether no later attempt of this process succeeds, whatever happens to the interface.
    fn is_final(&self) -> bool {
        match self {
            Self::Program(error) => matches!(
                error,
                XdpError::NoPrivilege { .. }
                    | XdpError::KernelTooOld { .. }
                    | XdpError::Load { passing: false, .. }
            ),
            Self::Socket(error) => error.is_final(),
        }
    }
}

/// Of which interfaces a failure ends the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Required {
    /// Of each.
    All,
    /// Of all together: one has to work.
    One,
    /// Of none, as the supervisor attempts them again, unless no attempt can succeed.
    Nothing,
}

/// An interface that is left to the sockets for now, and why.
pub(super) type LeftOut = (String, AfXdpError);

/// How long to wait for the carriers of all interfaces to return after programs were attached.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// How long queues may be busy, all in all, after another server has handed them over. A driver with zero-copy resets one
/// queue after the other. With [`CARRIER_WAIT`] it is less than the other server waits for this one.
const QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Attaches the program to a port, or replaces the one that `link` has there, to serve what is `wanted` from the first
/// [`follow`](Attached::follow) on.
pub(super) fn attach(
    interface: Interface,
    link: Option<Link>,
    wanted: &Arc<Wanted>,
    config: &Config,
) -> Result<Arc<Attached>, XdpError> {
    let size = tier_size(config, &interface);
    let options = ProgramOptions {
        tier: size.as_ref().ok().copied(),
        route_check: config.xdp.route_check,
    };
    let mut program = match link {
        Some(link) => Program::replace(&interface, link, options)?,
        None => Program::attach(&interface, AttachPolicy::NativeThenGeneric, options)?,
    };
    let tier = InterfaceTier::new(&interface, &config.tier, size, &mut program);
    let wanted = Arc::clone(wanted);
    Ok(Arc::new(Attached::new(interface, program, wanted, tier)))
}

/// Opens the socket of a queue.
pub(super) fn open_queue(
    attached: &Attached,
    queue: u32,
    settings: &XdpConfig,
) -> Result<Queue, XskError> {
    let name = &attached.interface.name;
    let mtu = attached.port_mtu();
    let no_zero_copy = attached.no_zero_copy();
    let (xsk, frames) = Xsk::open(name, queue, settings.frames, mtu, no_zero_copy)?;
    attached.learn_zero_copy(&xsk);
    let mut busy_poll = settings.idle == IdleMode::BusyPoll;
    if busy_poll && let Err(error) = xsk.prefer_busy_poll() {
        warn!(
            "{name} queue {queue}: no busy polling ({error}; it needs CAP_NET_ADMIN and Linux 5.11); the worker sleeps instead"
        );
        busy_poll = false;
    }
    Ok(Queue {
        queue,
        xsk,
        frames,
        busy_poll,
    })
}

/// A queue with its socket, before a worker serves it.
pub(super) struct Queue {
    pub(super) queue: u32,
    pub(super) xsk: Xsk,
    pub(super) frames: Vec<Frame>,
    /// The socket was set to busy-poll.
    pub(super) busy_poll: bool,
}

impl Queue {
    pub(super) fn mode(&self) -> QueueMode {
        QueueMode {
            queue: self.queue,
            mode: self.xsk.mode(),
            why: self.xsk.why_not_zero_copy().map(|no| no.why.clone()),
        }
    }
}

/// In which mode a queue's socket is bound.
pub(super) struct QueueMode {
    pub(super) queue: u32,
    mode: BindMode,
    /// Why not in a better one.
    why: Option<String>,
}

/// A port with its program, which steers nothing yet.
struct InterfaceProgram {
    name: String,
    /// The configured interfaces whose packets arrive on it.
    serves: Vec<String>,
    attached: Arc<Attached>,
    /// The queues to serve.
    queues: Vec<u32>,
    /// Whether there was a carrier before. Some drivers reset the link when a program is attached.
    carrier: bool,
    /// Another server had these queues until a moment ago.
    inherited: bool,
}

impl InterfaceProgram {
    /// Takes the link of the interface's program out of `links`, if it is there.
    fn attach(
        name: &str,
        serves: &[String],
        wanted: &Arc<Wanted>,
        config: &Config,
        links: &mut Vec<Link>,
        required: Required,
    ) -> Result<Self, AfXdpError> {
        // Looked up at each try: the interface may be replaced by another one meanwhile.
        retry(
            || {
                let port = port(&wanted.interfaces, name)?;
                let PortQueues {
                    interface,
                    queues,
                    absent,
                } = queues_of(&wanted.interfaces, &port, required == Required::All)?;
                let carrier = interface.has_carrier()?;
                let link = Link::take(links, &interface)?;
                let inherited = link.is_some();
                let attached = attach(interface, link, wanted, config)?;
                if let Some(absent) = absent {
                    lacks_queues(&absent);
                }
                Ok(Self {
                    inherited,
                    name: name.to_owned(),
                    serves: serves.to_vec(),
                    attached,
                    queues,
                    carrier,
                })
            },
            |error| matches!(error, AfXdpError::Program(XdpError::Occupied { .. })),
        )
    }

    /// `since`: when the waits of all interfaces began.
    fn open_queues(
        self,
        settings: &XdpConfig,
        since: Instant,
    ) -> Result<OpenInterface, AfXdpError> {
        let Self {
            name,
            serves,
            attached,
            queues: numbers,
            carrier,
            inherited,
        } = self;
        // A program that was replaced in its place has reset nothing.
        if carrier
            && !inherited
            && !attached
                .interface
                .wait_carrier(CARRIER_WAIT.saturating_sub(since.elapsed()))?
        {
            warn!("{name}: no carrier since the XDP program was attached");
        }
        let mut queues = Vec::new();
        for queue in numbers {
            // The kernel may still be closing the socket of a server before this one.
            let open = || open_queue(&attached, queue, settings);
            let limit = if inherited {
                (CARRIER_WAIT + QUEUE_WAIT).saturating_sub(since.elapsed())
            } else {
                TIMEOUT
            };
            let queue = retry_for(limit, open, XskError::is_busy)?;
            queues.push(queue);
        }
        log_modes(
            &attached,
            &queues.iter().map(Queue::mode).collect::<Vec<_>>(),
        );
        if queues.iter().any(|queue| queue.busy_poll)
            && let Some(advice) = attached.interface.busy_poll_advice()
        {
            warn!("{advice}");
        }
        Ok(OpenInterface {
            name,
            serves,
            attached,
            queues,
        })
    }
}

/// Programs attached, before any socket is bound. Nothing is steered.
pub(super) struct XdpPrograms {
    interfaces: Vec<InterfaceProgram>,
    left_out: Vec<LeftOut>,
    required: Required,
    watch: LinkWatch,
}

impl XdpPrograms {
    /// Attaches the program to every port of the configured interfaces, to serve `addresses`. Of `links`, which another server
    /// has, those of these ports get this program in the place of the other one's, and the rest are closed. An interface for which
    /// that fails is left out.
    ///
    /// # Errors
    /// One that is `required` fails, or all do and always will. Or `links` holds something else.
    pub(super) fn attach(
        config: &Config,
        addresses: &[SocketAddr],
        links: Vec<OwnedFd>,
        required: Required,
    ) -> Result<Self, AfXdpError> {
        let watch = LinkWatch::new()?;
        let links = links.into_iter().map(Link::inherit);
        let mut links: Vec<Link> = links.collect::<Result<_, _>>().map_err(|source| {
            let action = "use the bpf_links of the other server";
            XdpError::System { action, source }
        })?;
        let wanted = Wanted::new(config, addresses.to_vec());
        let layers = layers(&wanted.interfaces)?;
        let refused = layers.refused.into_iter();
        let refused = refused.map(|(name, error)| Err((name, AfXdpError::from(error))));
        let mut ports = layers.ports;
        // Backups first.
        ports.sort_by_key(|port| !port.links.is_empty());
        let ports = ports.into_iter();
        let ports = ports.map(|port| Ok((port.interface.name, port.serves)));
        let since = Instant::now();
        let (interfaces, left_out) = each(required, refused.chain(ports), |port| {
            let (name, serves) = port?;
            let program =
                InterfaceProgram::attach(&name, &serves, &wanted, config, &mut links, required);
            let program = program.map_err(|error| (name, error))?;
            // Not all members of a bond lose their link at once.
            if program.carrier && !program.inherited && !serves.contains(&program.name) {
                let left = CARRIER_WAIT.saturating_sub(since.elapsed());
                let _ = program.attached.interface.wait_carrier(left);
            }
            Ok(program)
        })?;
        warnings::unserved(addresses);
        Ok(Self {
            interfaces,
            left_out,
            required,
            watch,
        })
    }

    /// Binds a socket to every queue. An interface for which that fails is left out.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub(super) fn open_queues(self, config: &Config) -> Result<OpenXdp, AfXdpError> {
        let since = Instant::now();
        let (interfaces, failed) = each(self.required, self.interfaces.into_iter(), |program| {
            let name = program.name.clone();
            let open = program.open_queues(&config.xdp, since);
            open.map_err(|error| (name, error))
        })?;
        Ok(OpenXdp {
            interfaces,
            left_out: self.left_out.into_iter().chain(failed).collect(),
            watch: self.watch,
        })
    }
}

/// Opens each interface, and logs those that fail and may.
fn each<T, U>(
    required: Required,
    interfaces: impl Iterator<Item = T>,
    mut open: impl FnMut(T) -> Result<U, LeftOut>,
) -> Result<(Vec<U>, Vec<LeftOut>), AfXdpError> {
    let mut opened = Vec::new();
    let mut failed = Vec::new();
    for interface in interfaces {
        match open(interface) {
            Ok(interface) => opened.push(interface),
            Err((_, error)) if required == Required::All => return Err(error),
            Err(failure) => failed.push(failure),
        }
    }
    let is_hopeless = required == Required::One || failed.iter().all(|(_, error)| error.is_final());
    if opened.is_empty() && is_hopeless && !failed.is_empty() {
        return Err(failed.swap_remove(0).1);
    }
    for (name, error) in &failed {
        left_out(name, error);
    }
    Ok((opened, failed))
}

/// A port with its program and the sockets of its queues.
pub(super) struct OpenInterface {
    pub(super) name: String,
    pub(super) serves: Vec<String>,
    pub(super) attached: Arc<Attached>,
    pub(super) queues: Vec<Queue>,
}

/// Programs attached and sockets bound, before any worker starts.
pub(super) struct OpenXdp {
    pub(super) interfaces: Vec<OpenInterface>,
    /// To be attempted again.
    pub(super) left_out: Vec<LeftOut>,
    pub(super) watch: LinkWatch,
}

impl OpenXdp {
    /// Whether a program has the hot tier.
    pub(super) fn has_tier(&self) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.attached.tier.is_ready())
    }

    /// The interfaces, and in which mode their queues run.
    pub(super) fn summary(&self) -> String {
        let mut texts = Vec::new();
        for interface in &self.interfaces {
            let attach = interface.attached.program().attach_mode().name();
            let modes: Vec<_> = interface.queues.iter().map(Queue::mode).collect();
            for (queues, mode, _) in by_mode(&modes) {
                let name = &interface.name;
                texts.push(format!("{name} {queues} ({attach} XDP, {mode})"));
            }
        }
        texts.join(", ")
    }
}

/// Logs which mode queues got, and why not a better one.
pub(super) fn log_modes(attached: &Attached, queues: &[QueueMode]) {
    let name = &attached.interface.name;
    // For generic mode this contains why it is not native.
    let attach = attached.program().attach_mode().to_string();
    for (queues, mode, why) in by_mode(queues) {
        let why = match why {
            Some(why) if mode == BindMode::Copy => format!(" (not zero-copy: {why})"),
            _ => String::new(),
        };
        match attached.program().attach_mode() {
            AttachMode::Native => info!("{name} {queues}: {attach} XDP, {mode}{why}"),
            AttachMode::Generic { .. } => warn!("{name} {queues}: {attach} XDP, {mode}{why}"),
        }
    }
}

/// The queues that have the same mode, as text, with the mode and why it is not a better one.
fn by_mode(queues: &[QueueMode]) -> Vec<(String, BindMode, Option<&str>)> {
    let mut modes: Vec<(BindMode, Option<&str>, Vec<u32>)> = Vec::new();
    for QueueMode { queue, mode, why } in queues {
        let (mode, why) = (*mode, why.as_deref());
        match modes.iter_mut().find(|one| (one.0, one.1) == (mode, why)) {
            Some((_, _, numbers)) => numbers.push(*queue),
            None => modes.push((mode, why, vec![*queue])),
        }
    }
    let text = |numbers: Vec<u32>| numbered("queue", numbers.into_iter());
    let texts = modes.into_iter();
    texts
        .map(|(mode, why, numbers)| (text(numbers), mode, why))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(name: &str) -> LeftOut {
        let error = XdpError::UnknownInterface {
            name: name.to_owned(),
            present: String::new(),
        };
        (name.to_owned(), error.into())
    }

    fn refused(name: &str) -> LeftOut {
        let action = "load an XDP program";
        (name.to_owned(), XdpError::NoPrivilege { action }.into())
    }

    /// How many of these are opened, and which are left out.
    fn opened(required: Required, all: Vec<Result<(), LeftOut>>) -> Option<(usize, Vec<String>)> {
        let (opened, failed) = each(required, all.into_iter(), |one| one).ok()?;
        let names = failed.into_iter().map(|(name, _)| name);
        Some((opened.len(), names.collect()))
    }

    #[test]
    fn an_interface_that_may_come_later_ends_a_start_only_if_it_is_required() {
        use Required::{All, Nothing, One};
        let late = || vec!["late0".to_owned()];
        assert_eq!(opened(Nothing, vec![Err(gone("late0"))]), Some((0, late())));
        assert_eq!(opened(One, vec![Err(gone("late0"))]), None);
        assert_eq!(opened(All, vec![Err(gone("late0"))]), None);
        let one = || vec![Ok(()), Err(gone("late0"))];
        assert_eq!(opened(Nothing, one()), Some((1, late())));
        assert_eq!(opened(One, one()), Some((1, late())));
        assert_eq!(opened(All, one()), None);
        for required in [Nothing, One, All] {
            assert_eq!(opened(required, Vec::new()), Some((0, Vec::new())));
        }
    }

    #[test]
    fn without_privileges_nothing_is_attempted_again() {
        assert_eq!(opened(Required::Nothing, vec![Err(refused("eth0"))]), None);
        let both = vec![Err(refused("eth0")), Err(gone("late0"))];
        let both = opened(Required::Nothing, both).map(|(opened, failed)| (opened, failed.len()));
        assert_eq!(both, Some((0, 2)));
    }
}
