//! AF_XDP, opened: a program for each interface, and a socket for each queue. The
//! [supervisor](super::supervisor) runs workers on them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tracing::{info, warn};

use super::{
    attached::Attached,
    preflight::{left_out, look_up},
    retry::retry,
    start_warnings,
    tier::{InterfaceTier, TierPlan},
};
use crate::{
    config::{Backend, Config, InterfaceConfig, XdpConfig},
    worker::IdleMode,
    xdp::{
        AttachMode, AttachPolicy, Interface, LinkWatch, Program, XdpError,
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
    /// An interface that the checks of the start could not serve, and that can be served now.
    #[error("{interface} appeared while the server started; restart to serve it")]
    Late {
        /// Its name.
        interface: String,
    },
}

/// How long to wait for the carrier to return after the program was attached.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// Attaches the program to an interface, to serve `addresses` from the first
/// [`follow`](Attached::follow) on.
pub(super) fn attach(
    interface: Interface,
    addresses: &[SocketAddr],
    plan: &TierPlan,
) -> Result<Arc<Attached>, XdpError> {
    let size = plan.size(&interface);
    let policy = AttachPolicy::NativeThenGeneric;
    let mut program = Program::attach(&interface, policy, size.as_ref().ok().copied())?;
    let tier = InterfaceTier::new(&interface, plan, size, &mut program);
    let on_this_link = |address: &&SocketAddr| match address {
        SocketAddr::V6(v6) => v6.scope_id() == 0 || v6.scope_id() == interface.index,
        SocketAddr::V4(_) => true,
    };
    let listen = addresses.iter().filter(on_this_link).copied().collect();
    Ok(Arc::new(Attached::new(interface, program, listen, tier)))
}

/// Opens the socket of a queue.
pub(super) fn open_queue(
    attached: &Attached,
    queue: u32,
    settings: &XdpConfig,
) -> Result<Queue, XskError> {
    let native = attached.program().attach_mode() == &AttachMode::Native;
    let name = &attached.interface.name;
    let (xsk, frames) = Xsk::open(name, queue, settings.frames, native)?;
    log_mode(attached, queue, &xsk);
    let mut idle = settings.idle;
    if idle == IdleMode::BusyPoll
        && let Err(error) = xsk.prefer_busy_poll()
    {
        warn!(
            "{name} queue {queue}: no busy polling ({error}; it needs CAP_NET_ADMIN and Linux 5.11); the worker sleeps instead"
        );
        idle = IdleMode::Sleep;
    }
    Ok(Queue {
        queue,
        xsk,
        frames,
        idle,
    })
}

/// A queue with its socket, before its worker starts.
pub(super) struct Queue {
    pub(super) queue: u32,
    pub(super) xsk: Xsk,
    pub(super) frames: Vec<Frame>,
    /// As in the settings; [`IdleMode::Sleep`] if the kernel refuses to busy-poll.
    pub(super) idle: IdleMode,
}

/// An interface with its program and the sockets of its queues.
pub(super) struct OpenInterface {
    pub(super) wanted: InterfaceConfig,
    pub(super) attached: Arc<Attached>,
    pub(super) queues: Vec<Queue>,
}

impl OpenInterface {
    /// Opens at most `most` queues.
    fn open(
        wanted: &InterfaceConfig,
        most: usize,
        settings: &XdpConfig,
        addresses: &[SocketAddr],
        plan: &TierPlan,
    ) -> Result<Self, AfXdpError> {
        // Looked up at each try: the interface may be replaced by another one meanwhile.
        let (attached, carrier, found, numbers) = retry(
            || {
                let (interface, numbers) = look_up(wanted)?;
                let found = numbers.len();
                let numbers = limit(&wanted.name, numbers, most)?;
                let carrier = interface.has_carrier()?;
                Ok((attach(interface, addresses, plan)?, carrier, found, numbers))
            },
            |error| matches!(error, AfXdpError::Program(XdpError::Occupied { .. })),
        )?;
        warn_of_unserved(&wanted.name, found, numbers.len());
        if carrier && !attached.interface.wait_carrier(CARRIER_WAIT)? {
            warn!(
                "{}: no carrier since the XDP program was attached",
                wanted.name
            );
        }
        let mut queues = Vec::new();
        for queue in numbers {
            let queue = retry(|| open_queue(&attached, queue, settings), XskError::is_busy)?;
            queues.push(queue);
        }
        if queues.iter().any(|queue| queue.idle == IdleMode::BusyPoll)
            && let Some(advice) = attached.interface.busy_poll_advice()
        {
            warn!("{advice}");
        }
        Ok(Self {
            wanted: wanted.clone(),
            attached,
            queues,
        })
    }
}

/// Programs attached and sockets bound, before any worker starts.
pub(super) struct OpenXdp {
    pub(super) interfaces: Vec<OpenInterface>,
    pub(super) watch: LinkWatch,
}

impl OpenXdp {
    /// Attaches the program to every interface, to serve `addresses`, and binds a socket to every
    /// queue, but to no more of each interface than `queues` says: there are workers' mailboxes for so
    /// many. Nothing is steered yet. With the backend `auto`, an interface for which that fails is left
    /// out.
    ///
    /// # Errors
    /// An interface fails, or with `auto` all do.
    pub(super) fn open(
        config: &Config,
        addresses: &[SocketAddr],
        queues: &[usize],
    ) -> Result<Self, AfXdpError> {
        let watch = LinkWatch::new()?;
        let plan = TierPlan::new(config);
        let mut interfaces = Vec::new();
        let mut failed = Vec::new();
        for (wanted, &most) in config.interfaces.iter().zip(queues) {
            match OpenInterface::open(wanted, most, &config.xdp, addresses, &plan) {
                Ok(open) => interfaces.push(open),
                Err(error) if config.backend == Backend::Auto => failed.push((&wanted.name, error)),
                Err(error) => return Err(error),
            }
        }
        for (name, error) in failed {
            if interfaces.is_empty() {
                return Err(error);
            }
            left_out(name, &error);
        }
        start_warnings::unserved(addresses);
        Ok(Self { interfaces, watch })
    }

    /// Whether a program has the hot tier.
    pub(super) fn has_tier(&self) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.attached.tier.is_ready())
    }

    /// The interfaces, and in which mode each queue runs.
    pub(super) fn summary(&self) -> String {
        let queues = self
            .interfaces
            .iter()
            .flat_map(|interface| interface.queues.iter().map(move |queue| (interface, queue)));
        let one = |(interface, queue): (&OpenInterface, &Queue)| {
            let mode = interface.attached.program().attach_mode().name();
            format!(
                "{} queue {} ({mode} XDP, {})",
                interface.wanted.name,
                queue.queue,
                queue.xsk.mode()
            )
        };
        queues.map(one).collect::<Vec<_>>().join(", ")
    }
}

/// The first `most` queues. An interface may have got more since they were counted, or may have appeared.
fn limit(interface: &str, mut queues: Vec<u32>, most: usize) -> Result<Vec<u32>, AfXdpError> {
    if most == 0 {
        return Err(AfXdpError::Late {
            interface: interface.to_owned(),
        });
    }
    queues.truncate(most);
    Ok(queues)
}

/// Warns of an interface that has got more queues than it had when the server started.
pub(super) fn warn_of_unserved(interface: &str, queues: usize, served: usize) {
    if queues > served {
        warn!(
            "{interface} now has {queues} queues, of which AF_XDP serves {served}; restart to serve all"
        );
    }
}

/// Logs which mode a queue got, and why not a better one.
fn log_mode(attached: &Attached, queue: u32, xsk: &Xsk) {
    let name = &attached.interface.name;
    // For generic mode this contains why it is not native.
    let attach = attached.program().attach_mode().to_string();
    let mode = xsk.mode();
    match xsk.why_not_zero_copy() {
        Some(why) if mode == BindMode::Copy => {
            info!("{name} queue {queue}: {attach} XDP, {mode} (not zero-copy: {why})");
        }
        _ => info!("{name} queue {queue}: {attach} XDP, {mode}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interface_gets_more_queues_than_were_counted() {
        let limited = |queues: &[u32], most| limit("eth0", queues.to_vec(), most).ok();
        assert_eq!(limited(&[0, 1], 2), Some(vec![0, 1]));
        assert_eq!(limited(&[0, 1, 2, 3], 2), Some(vec![0, 1]));
        assert_eq!(limited(&[0], 2), Some(vec![0]));
        // It did not exist when they were counted.
        assert_eq!(limited(&[0, 1], 0), None);
    }
}
