//! Checks before anything is opened, by a start and by `heimdall check`.

use std::{fmt::Display, path::Path};

use tracing::warn;

use super::{
    PolicyLoader, ServerError, file_limit, forward_options, permissions, snapshot::unix_now, start,
    start_warnings,
};
use crate::{
    cache::Cache,
    config::{Backend, Config, InterfaceConfig, Location},
    control, file, forward,
    snapshot::Snapshot,
    tap::DnstapTarget,
    xdp::{Interface, XdpError},
};

/// Makes the checks of a start, without opening a socket, attaching a program, writing a file or
/// starting a thread. Warnings go to the log.
///
/// # Errors
/// A server with these settings would not start.
pub(crate) fn check(config: &Config) -> Result<(), ServerError> {
    let queues: usize = preflight(config)?.iter().sum();
    let sockets = config.socket.threads;
    file_limit::fit(
        &forward_options(config),
        sockets + queues,
        sockets * config.listen.len(),
    );
    forward::check_tls(&forward_options(config)).map_err(start("the forwarder"))?;
    PolicyLoader::default().load(config)?;
    if config.backend == Backend::Auto {
        for (wanted, queues) in config.interfaces.iter().zip(interfaces(config)) {
            if let Err(error) = queues {
                left_out(&wanted.name, &error);
            }
        }
    }
    if let Some(path) = &config.cache.snapshot
        && let Err(error) = Snapshot::open(path, unix_now())
    {
        warn!("snapshot: {error}; a start would begin with an empty cache");
    }
    Ok(())
}

/// Logs that AF_XDP does not serve an interface, with the backend `auto`.
pub(super) fn left_out(interface: &str, error: &impl Display) {
    warn!("AF_XDP does not serve {interface}, kernel sockets do: {error}");
}

/// Checks the settings that [`Config`] cannot check by itself, so that their errors name the file and line.
/// Returns how many queues of each configured interface AF_XDP is to serve: none of one that it cannot serve,
/// with the backend `auto`.
pub(super) fn preflight(config: &Config) -> Result<Vec<usize>, ServerError> {
    let settings = &config.settings;
    control::check(&config.control).map_err(|error| at(settings.location("control"), error))?;
    control::check_group(&permissions(config))
        .map_err(|error| at(settings.location("control-group"), error))?;
    let mut queues = Vec::new();
    for (item, found) in interfaces(config).enumerate() {
        match found {
            Ok((interface, count)) => {
                start_warnings::queues(&interface, count, config.xdp.cpus.len());
                queues.push(count);
            }
            Err(error) if config.backend == Backend::Xdp => {
                return Err(at(settings.item_location("interface", item), error));
            }
            // Kernel sockets serve the interface.
            Err(_) => queues.push(0),
        }
    }
    let all = queues.iter().sum();
    reserve(config, all).map_err(|error| at(settings.location("cache.size"), error))?;
    start_warnings::memory(config, all);
    start_warnings::socket_threads(config);
    let dnstap = match &config.dnstap.output {
        Some(DnstapTarget::File(path)) => Some(path),
        _ => None,
    };
    for (key, what, path) in [
        ("cache.snapshot", "snapshot", config.cache.snapshot.as_ref()),
        ("dnstap.output", "dnstap stream", dnstap),
        (
            "query-log.file",
            "query log",
            config.query_log.file.as_ref(),
        ),
    ] {
        if let Some(path) = path {
            warn_unless_writable(&settings.location(key), what, path);
        }
    }
    Ok(queues)
}

/// Warns if no file can be made at `path`, which `location` gives.
fn warn_unless_writable(location: &Location, what: &str, path: &Path) {
    let directory = path.parent().filter(|path| *path != Path::new(""));
    let directory = directory.unwrap_or(Path::new("."));
    if let Err(error) = file::check_writable(directory) {
        warn!(
            "{location}no {what} can be written to {}: {error}; make the directory, or give another path",
            directory.display()
        );
    }
}

/// The interfaces that AF_XDP is to serve, each with its number of queues.
fn interfaces(config: &Config) -> impl Iterator<Item = Result<(Interface, usize), XdpError>> {
    let wanted = match config.backend {
        Backend::Socket => &[],
        Backend::Auto | Backend::Xdp => config.interfaces.as_slice(),
    };
    let queues = |wanted| look_up(wanted).map(|(interface, queues)| (interface, queues.len()));
    wanted.iter().map(queues)
}

/// Reserves the caches of the sockets, the forwarder and this many queues, all at once, and frees them
/// again. Their pages are not touched.
fn reserve(config: &Config, queues: usize) -> Result<(), ServerError> {
    let bytes = config.cache.bytes;
    (0..config.socket.threads + config.forward.threads + queues)
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

/// An interface and the queues of it to serve, if AF_XDP can serve them. Nothing is opened.
pub(super) fn look_up(wanted: &InterfaceConfig) -> Result<(Interface, Vec<u32>), XdpError> {
    Interface::find_queues(&wanted.name, wanted.queues.as_ref())
}
