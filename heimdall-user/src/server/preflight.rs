//! Checks before anything is opened, by a start and by `heimdall check`.

use std::fmt::Display;

use tracing::{info, warn};

use super::{
    PolicyLoader, ServerError, max_connections, opened::permissions, snapshot::unix_now, tls,
    warnings::warn_of_settings,
};
use crate::{
    cache::Cache,
    config::{Backend, Config, InterfaceConfig, Location},
    control,
    doctor::{self, Level},
    file, forward,
    snapshot::Snapshot,
    tap::DnstapTarget,
    xdp::{Interface, Layers, Port, XdpError},
};

/// Makes the checks of a start, without opening a socket, attaching a program, writing a file or
/// starting a thread. Warnings go to the log. Returns what else is to be said, in lines.
///
/// # Errors
/// A server with these settings would not start, or not serve TLS.
pub(crate) fn check(config: &Config) -> Result<Vec<String>, ServerError> {
    let queues = preflight(config)?;
    warn_of_settings(config);
    max_connections(config, &queues);
    let memory = doctor::memory(config);
    if let Some(finding) = memory.filter(|finding| finding.level != Level::Good) {
        let refused = match finding.level {
            Level::Bad => "a start would be refused now: ",
            Level::Good | Level::Warn => "",
        };
        warn!("{refused}{finding}; a server that runs already is counted twice");
    }
    let policy = PolicyLoader::default().load(config)?;
    let certificate = tls::check(config)?;
    if config.backend == Backend::Auto {
        for (wanted, ports) in config.interfaces.iter().zip(ports(config)?) {
            match ports {
                Ok(ports) => {
                    (ports.iter().filter_map(|port| port.absent.as_ref())).for_each(lacks_queues)
                }
                Err(error) => left_out(&wanted.name, &error),
            }
        }
    }
    if let Some(path) = &config.cache.snapshot
        && let Err(error) = Snapshot::open(path, unix_now())
    {
        warn!("snapshot: {error}; a start would begin with an empty cache");
    }
    let digest = format!("The digest of what decides answers is {}.", policy.digest);
    Ok([digest].into_iter().chain(certificate).collect())
}

/// Logs that AF_XDP does not serve an interface, with the backend `auto`.
pub(super) fn left_out(interface: &str, error: &impl Display) {
    warn!("the sockets alone serve {interface}: {error}");
}

/// Logs that an interface lacks queues that are to be served, so that only the others are.
pub(super) fn lacks_queues(absent: &XdpError) {
    warn!("{absent}; the queues that it has are served");
}

/// Checks the settings that [`Config`] cannot check by itself, so that their errors name the file and line.
/// Returns how many queues of each configured interface AF_XDP is to serve, on ports that no interface before it has: none of
/// one that it cannot serve, with the backend `auto`.
pub(super) fn preflight(config: &Config) -> Result<Vec<usize>, ServerError> {
    let settings = &config.settings;
    control::check(&config.control).map_err(|error| at(settings.location("control"), error))?;
    find_group(config)?;
    forward::check_tls(&config.upstream_options()).map_err(|error| {
        at(
            settings.location("forward.tls-roots"),
            ServerError::Roots(error),
        )
    })?;
    let mut queues = Vec::new();
    for (item, found) in ports(config)?.into_iter().enumerate() {
        match found {
            Ok(ports) => queues.push(ports.iter().map(|port| port.queues.len()).sum()),
            Err(error) if config.backend == Backend::Xdp => {
                return Err(at(settings.item_location("interface", item), error));
            }
            // Kernel sockets serve the interface.
            Err(_) => queues.push(0),
        }
    }
    reserve(config, queues.iter().sum())
        .map_err(|error| at(settings.location("cache.size"), error))?;
    Ok(queues)
}

/// Settings of files to be written in whose directories none can be made, and why.
pub(super) fn unwritable(config: &Config) -> impl Iterator<Item = (&'static str, ServerError)> {
    let dnstap = match &config.dnstap.output {
        Some(DnstapTarget::File(path)) => Some(path),
        _ => None,
    };
    let files = [
        ("cache.snapshot", "snapshot", config.cache.snapshot.as_ref()),
        ("dnstap.output", "dnstap stream", dnstap),
        (
            "query-log.file",
            "query log",
            config.query_log.file.as_ref(),
        ),
    ];
    files.into_iter().filter_map(|(key, what, path)| {
        let directory = file::directory_of(path?);
        let source = file::check_writable(directory).err()?;
        let error = ServerError::Unwritable {
            what,
            directory: directory.to_owned(),
            source,
        };
        Some((key, at(config.settings.location(key), error)))
    })
}

/// Checks what these settings name and those in force do not, which differ in the keys that `has_changed` tells: a start goes on
/// without an interface or a directory, but whoever reloads settings waits for what is new in them.
///
/// # Errors
/// It cannot be used.
pub(super) fn additions(
    config: &Config,
    running: &Config,
    has_changed: impl Fn(&str) -> bool,
) -> Result<(), ServerError> {
    let found = config.interfaces.iter().zip(ports(config)?);
    for (item, (wanted, found)) in found.enumerate() {
        let is_known = running.interfaces.iter().any(|one| one.name == wanted.name);
        if config.backend == Backend::Auto
            && !is_known
            && let Err(error) = found
        {
            return Err(at(config.settings.item_location("interface", item), error));
        }
    }
    let mut unwritable = unwritable(config).filter(|(key, _)| has_changed(key));
    unwritable.next().map_or(Ok(()), |(_, error)| Err(error))
}

/// An interface on which packets arrive, and the queues of it to serve.
pub(super) struct PortQueues {
    pub(super) interface: Interface,
    pub(super) queues: Vec<u32>,
    /// It lacks others that are to be served.
    pub(super) absent: Option<XdpError>,
}

/// Looks up the group of the control socket: later the process cannot, as it is restricted to its own files.
///
/// # Errors
/// There is no such group.
pub(crate) fn find_group(config: &Config) -> Result<(), ServerError> {
    let found = control::check_group(&permissions(config));
    found.map_err(|error| at(config.settings.location("control-group"), error))
}

/// For each interface that AF_XDP is to serve its ports, without those of an interface before it; or why it has none.
///
/// # Errors
/// The kernel does not list its links.
pub(super) fn ports(config: &Config) -> Result<Vec<Result<Vec<PortQueues>, XdpError>>, XdpError> {
    let wanted = match config.backend {
        Backend::Socket => &[],
        Backend::Auto | Backend::Xdp => config.interfaces.as_slice(),
    };
    let mut layers = layers(wanted)?;
    let ports = wanted.iter().map(|one| {
        let mut refused = layers.refused.iter();
        if let Some(at) = refused.position(|(name, _)| *name == one.name) {
            return Err(layers.refused.swap_remove(at).1);
        }
        let ports = layers.ports.iter();
        let own = ports.filter(|port| port.serves.first() == Some(&one.name));
        let is_strict = config.backend == Backend::Xdp;
        own.map(|port| queues_of(wanted, port, is_strict)).collect()
    });
    Ok(ports.collect())
}

/// How many queues of each configured interface AF_XDP can serve now: none of one that it cannot.
pub(super) fn queues(config: &Config) -> Vec<usize> {
    let count = |ports: Result<Vec<PortQueues>, XdpError>| -> usize {
        let ports = ports.unwrap_or_default();
        ports.iter().map(|port| port.queues.len()).sum()
    };
    let found = ports(config).unwrap_or_default().into_iter();
    found.map(count).collect()
}

/// Reserves the caches of the sockets, the forwarder and the workers of this many queues, all at once, and frees them
/// again. Their pages are not touched.
fn reserve(config: &Config, queues: usize) -> Result<(), ServerError> {
    let bytes = config.cache.bytes;
    let workers = config.xdp.workers(queues);
    (0..config.socket.threads + config.forward.threads + workers)
        .map(|_| Cache::new(bytes))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| ServerError::Cache { bytes, source })?;
    Ok(())
}

fn at(location: Location, error: impl Into<ServerError>) -> ServerError {
    ServerError::At {
        location,
        error: Box::new(error.into()),
    }
}

/// Says what a server with these settings takes of the available memory, soon after the start; warns if that is more
/// than half.
///
/// # Errors
/// It is more than there is.
pub(super) fn claim_memory(config: &Config) -> Result<(), ServerError> {
    let Some(finding) = doctor::memory(config) else {
        return Ok(());
    };
    match finding.level {
        Level::Good => info!("{finding}"),
        Level::Warn => warn!("{finding}"),
        Level::Bad => {
            let error = ServerError::Memory(finding.to_string());
            return Err(at(config.settings.location("cache.size"), error));
        }
    }
    Ok(())
}

/// Checks that the caches and frames of a server with these settings fit into the memory that is available beside the
/// running one.
///
/// # Errors
/// What they take, and what there is.
pub(super) fn room_beside(config: &Config) -> Result<(), String> {
    match doctor::memory(config) {
        Some(finding) if finding.level == Level::Bad => Err(finding.to_string()),
        _ => Ok(()),
    }
}

/// The ports of the configured interfaces.
///
/// # Errors
/// The kernel does not list its links.
pub(super) fn layers(configured: &[InterfaceConfig]) -> Result<Layers, XdpError> {
    Layers::read(configured.iter().map(|one| one.name.as_str()))
}

/// The port with this name. Nothing is opened.
///
/// # Errors
/// As [`XdpError`] says; [`XdpError::UnknownInterface`], too, if it is no port of a configured interface.
pub(super) fn port(configured: &[InterfaceConfig], name: &str) -> Result<Port, XdpError> {
    let port = layers(configured)?.take(name);
    port.unwrap_or_else(|| {
        Err(XdpError::UnknownInterface {
            name: name.to_owned(),
            present: "the ports of the configured ones".to_owned(),
        })
    })
}

/// A port, and the queues of it to serve: all that are configured if this `is_strict`, else those that it has.
///
/// # Errors
/// It has no such queue.
pub(super) fn queues_of(
    configured: &[InterfaceConfig],
    port: &Port,
    is_strict: bool,
) -> Result<PortQueues, XdpError> {
    let interface = port.interface.clone();
    let wanted = InterfaceConfig::of_port(configured, &interface.name, &port.serves);
    let (queues, absent) = interface.present_queues(wanted.queues.as_ref())?;
    match absent {
        Some(absent) if is_strict => Err(absent),
        absent => Ok(PortQueues {
            interface,
            queues,
            absent,
        }),
    }
}
