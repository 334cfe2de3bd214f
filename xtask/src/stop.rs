//! Ctrl-C and other signals that ask for an end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Whether Ctrl-C was pressed, or another signal asked for an end.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on these signals set it, and do nothing else.
    pub(crate) fn on_signals() -> Result<Self> {
        let stop = Self(Arc::default());
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            flag::register(signal, stop.0.clone())?;
        }
        Ok(stop)
    }

    /// Fails once a signal came.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("stopped; namespaces, servers and XDP programs are gone");
        }
        Ok(())
    }
}
