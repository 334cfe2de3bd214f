//! The loop around readings, keys and frames.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{anyhow, bail};
use crossterm::event::{self, Event};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use ratatui::DefaultTerminal;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    app::{App, Next},
    draw,
};
use crate::cli::view::Reading;

/// How long a key, a reading or a signal may wait.
const TICK: Duration = Duration::from_millis(50);

/// How long the terminal may take to be restored after a signal.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How long crossterm looks for a key or a new size. In no time at all it does not look.
const LOOK: Duration = Duration::from_millis(1);

/// Shows the program until a key or a signal ends it. However it ends, the terminal is restored, unless it takes no
/// octets for [`LAST_WAIT`] after a signal.
///
/// # Errors
/// The terminal cannot be used.
pub(super) fn run(app: &mut App, path: PathBuf) -> anyhow::Result<()> {
    let stop = Arc::<AtomicBool>::default();
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM]);
    let signals = signals.map_err(|error| anyhow!("cannot catch signals: {error}"))?;
    let stopped = Arc::clone(&stop);
    spawn("signals", move || wait_for_signal(signals, &stopped))?;
    let interval = app.options.interval;
    let (to, readings) = channel();
    spawn("readings", move || ask(&path, interval, &to))?;
    with_terminal(|terminal| show(app, terminal, &readings, &stop))
}

/// Starts a thread without an owner: it may wait for a signal or a server that never comes, and ends with the process.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map_err(|error| anyhow!("cannot start a thread: {error}"))?;
    Ok(())
}

/// Sets `stop` at a signal, and ends the process if that has not ended a moment later: the terminal blocks what is drawn.
/// Signals that come meanwhile change nothing, as some programs (timeout(1)) send two.
fn wait_for_signal(mut signals: Signals, stop: &AtomicBool) {
    if let Some(signal) = signals.forever().next() {
        stop.store(true, Ordering::Relaxed);
        thread::sleep(LAST_WAIT);
        process::exit(128 + signal);
    }
}

/// Asks the server again and again, until the receiver is dropped.
fn ask(path: &Path, interval: Duration, to: &Sender<Result<Reading, String>>) {
    loop {
        thread::sleep(interval);
        let reading = Reading::ask(path).map_err(|error| error.to_string());
        if to.send(reading).is_err() {
            return;
        }
    }
}

fn show(
    app: &mut App,
    terminal: &mut DefaultTerminal,
    readings: &Receiver<Result<Reading, String>>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let failed = |error| anyhow!("cannot use the terminal: {error}");
    let mut has_changed = true;
    while !stop.load(Ordering::Relaxed) {
        if has_changed {
            let mut furthest = 0;
            let frame = terminal.draw(|frame| {
                furthest = draw::draw(app, frame.area(), frame.buffer_mut());
            });
            frame.map_err(failed)?;
            app.drawn(furthest);
        }
        has_changed = false;
        wait(TICK)?;
        if event::poll(LOOK).map_err(failed)? {
            match event::read().map_err(failed)? {
                Event::Key(key) if app.key(key) == Next::Quit => break,
                // A new size as well: drawing asks for it.
                _ => has_changed = true,
            }
        }
        for reading in readings.try_iter() {
            app.update(reading);
            has_changed = true;
        }
    }
    Ok(())
}

/// Waits for a key. crossterm reads a terminal that is gone again and again, so it is not asked then.
fn wait(time: Duration) -> anyhow::Result<()> {
    let stdout = io::stdout();
    let mut terminal = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut terminal, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => bail!("cannot wait for the terminal: {error}"),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let [terminal] = terminal;
    match terminal.revents() {
        // Nothing can be restored, and no message shown: ratatui panics when it tries.
        Some(events) if events.intersects(gone) => process::exit(1),
        _ => Ok(()),
    }
}

/// Runs something on the alternate screen of a terminal in raw mode, and restores the terminal: also when
/// that panics, by the panic hook that `try_init` installs.
fn with_terminal<T>(
    show: impl FnOnce(&mut DefaultTerminal) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let outcome = ratatui::try_init()
        .map_err(|error| anyhow!("cannot use the terminal: {error}"))
        .and_then(|mut terminal| show(&mut terminal));
    // A terminal that is gone needs nothing.
    let _ = ratatui::try_restore();
    outcome
}

#[cfg(test)]
mod tests;
