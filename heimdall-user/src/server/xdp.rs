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
    preflight::{layers, left_out, port},
    retry::{TIMEOUT, retry, retry_for},
    start_warnings,
    supervisor::numbered,
    tier::{InterfaceTier, TierPlan},
};
use crate::{
    config::{Backend, Config, XdpConfig},
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
    settings: &XdpConfig,
    plan: &TierPlan,
) -> Result<Arc<Attached>, XdpError> {
    let size = plan.size(&interface);
    let options = ProgramOptions {
        tier: size.as_ref().ok().copied(),
        route_check: settings.route_check,
    };
    let mut program = match link {
        Some(link) => Program::replace(&interface, link, options)?,
        None => Program::attach(&interface, AttachPolicy::NativeThenGeneric, options)?,
    };
    let tier = InterfaceTier::new(&interface, plan, size, &mut program);
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
        settings: &XdpConfig,
        plan: &TierPlan,
        links: &mut Vec<Link>,
    ) -> Result<Self, AfXdpError> {
        // Looked up at each try: the interface may be replaced by another one meanwhile.
        retry(
            || {
                let (interface, queues) = port(&wanted.interfaces, name)?;
                let carrier = interface.has_carrier()?;
                let link = Link::take(links, &interface)?;
                Ok(Self {
                    inherited: link.is_some(),
                    name: name.to_owned(),
                    serves: serves.to_vec(),
                    attached: attach(interface, link, wanted, settings, plan)?,
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
        log_modes(&attached, &queues);
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
    watch: LinkWatch,
}

impl XdpPrograms {
    /// Attaches the program to every port of the configured interfaces, to serve `addresses`. Of `links`, which another server
    /// has, those of these ports get this program in the place of the other one's, and the rest are closed. With the backend
    /// `auto`, an interface for which that fails is left out.
    ///
    /// # Errors
    /// An interface fails, or with `auto` all do. Or `links` holds something else.
    pub(super) fn attach(
        config: &Config,
        addresses: &[SocketAddr],
        links: Vec<OwnedFd>,
    ) -> Result<Self, AfXdpError> {
        let watch = LinkWatch::new()?;
        let plan = TierPlan::new(config);
        let links = links.into_iter().map(Link::inherit);
        let mut links: Vec<Link> = links.collect::<Result<_, _>>().map_err(|source| {
            let action = "use the bpf_links of the other server";
            XdpError::System { action, source }
        })?;
        let wanted = Arc::new(Wanted {
            interfaces: config.interfaces.clone(),
            addresses: addresses.to_vec(),
            route_check: config.xdp.route_check,
        });
        let layers = layers(&wanted.interfaces)?;
        let refused = layers.refused.into_iter();
        let refused = refused.map(|(name, error)| Err((name, AfXdpError::from(error))));
        let mut ports = layers.ports;
        // Backups first.
        ports.sort_by_key(|port| !port.links.is_empty());
        let ports = ports.into_iter();
        let ports = ports.map(|port| Ok((port.interface.name, port.serves)));
        let since = Instant::now();
        let interfaces = each(config.backend, refused.chain(ports), |port| {
            let (name, serves) = port?;
            let program =
                InterfaceProgram::attach(&name, &serves, &wanted, &config.xdp, &plan, &mut links);
            let program = program.map_err(|error| (name, error))?;
            // Not all members of a bond lose their link at once.
            if program.carrier && !program.inherited && !serves.contains(&program.name) {
                let left = CARRIER_WAIT.saturating_sub(since.elapsed());
                let _ = program.attached.interface.wait_carrier(left);
            }
            Ok(program)
        })?;
        start_warnings::unserved(addresses);
        Ok(Self { interfaces, watch })
    }

    /// Binds a socket to every queue. With the backend `auto`, an interface for which that fails is left out.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub(super) fn open_queues(self, config: &Config) -> Result<OpenXdp, AfXdpError> {
        let since = Instant::now();
        let interfaces = each(config.backend, self.interfaces.into_iter(), |program| {
            let name = program.name.clone();
            let open = program.open_queues(&config.xdp, since);
            open.map_err(|error| (name, error))
        })?;
        Ok(OpenXdp {
            interfaces,
            watch: self.watch,
        })
    }
}

/// Opens each interface. With the backend `auto`, those that fail are left out, unless all do.
fn each<T, U>(
    backend: Backend,
    interfaces: impl Iterator<Item = T>,
    mut open: impl FnMut(T) -> Result<U, (String, AfXdpError)>,
) -> Result<Vec<U>, AfXdpError> {
    let mut opened = Vec::new();
    let mut failed = Vec::new();
    for interface in interfaces {
        match open(interface) {
            Ok(interface) => opened.push(interface),
            Err(failure) if backend == Backend::Auto => failed.push(failure),
            Err((_, error)) => return Err(error),
        }
    }
    for (name, error) in failed {
        if opened.is_empty() {
            return Err(error);
        }
        left_out(&name, &error);
    }
    Ok(opened)
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
            for (queues, mode, _) in by_mode(&interface.queues) {
                let name = &interface.name;
                texts.push(format!("{name} {queues} ({attach} XDP, {mode})"));
            }
        }
        texts.join(", ")
    }
}

/// Logs which mode queues got, and why not a better one.
pub(super) fn log_modes(attached: &Attached, queues: &[Queue]) {
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
fn by_mode(queues: &[Queue]) -> Vec<(String, BindMode, Option<&str>)> {
    let mut modes: Vec<(BindMode, Option<&str>, Vec<u32>)> = Vec::new();
    for Queue { queue, xsk, .. } in queues {
        let why = xsk.why_not_zero_copy().map(|no| no.why.as_str());
        let mode = xsk.mode();
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
