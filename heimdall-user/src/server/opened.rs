//! What is opened: before any thread starts the control socket, the listeners and TLS; later AF_XDP.

use std::{mem, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use tracing::{info, warn};

use super::{
    Predecessors, ServerError, http,
    retry::retry,
    tls::Tls,
    xdp::{OpenXdp, Required, XdpPrograms},
};
use crate::{
    config::{Backend, Config, Host, TierMode, Zoned},
    control::{Control, ControlError, Permissions},
    handover::Inheritance,
    http::HttpListener,
    socket::{Listeners, SocketError},
};

/// Descriptors of a server whose threads do not run yet.
pub(super) struct Opened {
    pub(super) control: Control,
    pub(super) metrics: Option<HttpListener>,
    pub(super) listeners: Listeners,
    /// Those of the listeners.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tls: Option<Arc<Tls>>,
    /// Inherited sockets of addresses that are not served any more.
    _left: Vec<OwnedFd>,
}

impl Opened {
    /// Takes what fits from `inheritance`, and opens what is missing.
    pub(super) fn open(
        config: &Config,
        inheritance: &mut Inheritance,
    ) -> Result<Self, ServerError> {
        let permissions = permissions(config);
        let control = match inheritance.control.take() {
            Some(listener) => Control::adopt(listener, &config.control, &permissions)?,
            None => retry(
                || Control::bind(&config.control, &permissions),
                |error| matches!(error, ControlError::Taken(_)),
            )?,
        };
        let mut inherited = mem::take(&mut inheritance.sockets);
        let mut listeners = retry(
            || Listeners::bind(&config.listen, &mut inherited),
            |error| matches!(error, SocketError::Taken { .. }),
        )?;
        let metrics = http::open(config, inheritance.metrics.take())?;
        let addresses = listeners.local_addresses();
        warn_of_absent(&addresses);
        let tls = Tls::start(config, &mut listeners, &mut inherited);
        Ok(Self {
            control,
            metrics,
            listeners,
            addresses,
            tls,
            _left: inherited,
        })
    }

    /// A description of the addresses served, for the log.
    pub(super) fn summary(&self) -> String {
        let list = |addresses: &[SocketAddr]| {
            let texts = addresses.iter().map(|address| Zoned(*address).to_string());
            texts.collect::<Vec<_>>().join(", ")
        };
        let mut summary = format!("sockets on {}", list(&self.addresses));
        let tls = self.tls.as_ref().map(|tls| tls.addresses.as_slice());
        if let Some(addresses @ [_, ..]) = tls {
            summary.push_str(&format!("; TLS on {}", list(addresses)));
        }
        summary
    }
}

/// Opens AF_XDP, if the backend asks for it: the XDP programs first, which
/// replace those of a predecessor, then the sockets in the place of its own. With `auto`, a failure is logged and leaves
/// the interface to the sockets, until the supervisor succeeds with it, unless a predecessor serves over AF_XDP.
pub(super) fn open_xdp(
    config: &Config,
    addresses: &[SocketAddr],
    links: Vec<OwnedFd>,
    predecessor: &mut Predecessors<'_>,
) -> Result<Option<OpenXdp>, ServerError> {
    let wanted = config.wants_xdp();
    if config.backend != Backend::Socket && !wanted {
        info!("backend socket: no --interface is given, so AF_XDP is not used");
    }
    // What a predecessor serves over AF_XDP is not left to the sockets by a wrong setting.
    let required = match config.backend {
        Backend::Xdp => Required::All,
        _ if predecessor.is_some() && !links.is_empty() => Required::One,
        _ => Required::Nothing,
    };
    let programs = wanted.then(|| XdpPrograms::attach(config, addresses, links, required));
    let programs = match programs.transpose() {
        // A predecessor keeps its sockets then: it has only to put its programs back.
        Err(error) if required != Required::Nothing => return Err(error.into()),
        programs => programs,
    };
    if let Some(predecessor) = predecessor {
        // Also if there are none: its workers retire.
        predecessor
            .programs_are_replaced()
            .map_err(ServerError::Predecessor)?;
    }
    let open = programs.and_then(|programs| {
        let open = programs.map(|programs| programs.open_queues(config));
        open.transpose()
    });
    let open = match open {
        Ok(open) => open,
        Err(error) if required != Required::Nothing => return Err(error.into()),
        Err(error) => {
            warn!("backend socket, until a restart: {error}");
            None
        }
    };
    if open.as_ref().is_some_and(|open| open.interfaces.is_empty()) {
        warn!(
            "AF_XDP is not in use now, and the sockets serve alone; it starts by itself once an interface can be served"
        );
    }
    if open.is_none() && config.tier.mode == TierMode::On {
        warn!("hot tier off: it needs AF_XDP, which is not used");
    }
    Ok(open)
}

/// Who may use the control socket.
pub(super) fn permissions(config: &Config) -> Permissions {
    Permissions {
        mode: config.control_mode,
        group: config.control_group.clone(),
    }
}

/// Listening on an address that this host does not have may be intended, or a typing error.
pub(super) fn warn_of_absent(listen: &[SocketAddr]) {
    let host = Host::read();
    let absent = |address: &&SocketAddr| !address.ip().is_unspecified() && !host.has(**address);
    for &address in listen.iter().filter(absent) {
        warn!(
            "this host has no address {} now; {} is answered on once it has",
            address.ip(),
            Zoned(address)
        );
    }
}
