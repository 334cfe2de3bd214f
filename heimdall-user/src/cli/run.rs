//! `heimdall run`: the server, in the foreground, until a signal stops it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::anyhow;
use clap::Args;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ},
    flag,
    iterator::Signals,
};
use tracing::info;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    config::{Config, ConfigError, Flags, Host},
    log,
    server::Server,
};

const EXAMPLES: &str = "\
Examples:
  Kernel sockets only, no privileges:
    heimdall run --backend socket --listen 127.0.0.1:5300 --upstream 9.9.9.9
  AF_XDP on every receive queue of eth0; sockets answer what XDP does not steer:
    heimdall run --interface eth0 --upstream 9.9.9.9
  Queues 0 to 3 of one interface and queue 0 of another; no start without AF_XDP:
    heimdall run --backend xdp --interface eth0:0-3 --interface eth1:0 --upstream 192.0.2.53:5353
  A file, with one setting overridden:
    heimdall run --config /etc/heimdall/heimdall.toml --cache-size 1G

It logs to stderr, and logs `ready` when it answers. TERM and INT stop it, a second one at once; no XDP
program stays attached, however it ends. HUP reloads as `heimdall reload` does; USR1 logs a line of
statistics. Every answer that is not local comes from an upstream: give it at least one. Clients with
public addresses are refused unless --allow, or the file, names them. Exit code 0: a signal stopped
it. 1: it could not start, or an essential thread ended.";

/// Answer queries until TERM or INT; HUP reloads the policy
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    #[command(flatten)]
    flags: Flags,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let flags = self.flags;
        serve(move || Config::load(&flags, &Host::read()))
    }
}

/// Runs a server with the settings that `settings` reads, until a signal stops it.
fn serve(
    settings: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    // First, so that a signal during the start is not lost.
    let caught = |error| anyhow!("cannot catch signals: {error}");
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping)).map_err(caught)?;
    }
    // Caught, it makes a file size limit (setrlimit(2)) an error of the write.
    flag::register(SIGXFSZ, Arc::default()).map_err(caught)?;
    let signals = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(signals).map_err(caught)?;
    let config = settings()?;
    let _flush = log::start(log_filter(config.log.level.as_deref()), config.log.format)
        .map_err(|error| anyhow!("cannot start the log's thread: {error}"))?;
    // Closing it ends the iteration over the signals.
    let handle = signals.handle();
    let server = Server::start(&config, settings, move || handle.close())?;
    info!("ready: {}", server.summary());
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                // The outcome is in the log.
                let _ = server.reload();
            }
            SIGUSR1 => server.log_statistics(),
            // Some operators' scripts send it; without a handler it would end the process.
            SIGUSR2 => info!("USR2: ignored; USR1 logs statistics"),
            signal => {
                let name = if signal == SIGINT { "INT" } else { "TERM" };
                info!("{name}: stopping");
                break;
            }
        }
    }
    // From here on another TERM or INT ends the process at once.
    stopping.store(true, Ordering::Relaxed);
    let failed = server.failed();
    drop(server);
    info!("stopped");
    match failed {
        Some(thread) => Err(anyhow!(
            "the {thread} thread ended, without which queries are not answered; see the log, and \
             start it again"
        )),
        None => Ok(()),
    }
}

fn log_filter(filter: Option<&str>) -> EnvFilter {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    match filter {
        Some(filter) => builder.parse_lossy(filter),
        None => builder.from_env_lossy(),
    }
}
