//! The service manager: what a service of type `notify` tells it (sd_notify(3)), and the descriptors that it keeps for the
//! service's next process (its FD store, systemd.service(5)). Without one, every function does nothing.

use std::{
    env, io,
    os::fd::{AsFd, BorrowedFd},
    process,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};
use sd_notify::NotifyState;
use tracing::debug;

/// Descriptors in one message: the kernel's SCM_MAX_FD.
const MAX_BATCH: usize = 253;

/// Milliseconds for which the manager may leave messages unread.
const BARRIER_TIMEOUT: u16 = 5000;

/// Whether a service manager started this process.
pub(crate) fn is_managed() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// The start, or a reload, is complete. `status`: one line, which `systemctl status` shows.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload has begun; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => debug!("the service manager is not told of the reload: {error}"),
    }
}

/// The end has begun.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// All threads make progress, for WatchdogSec= of the unit.
pub(crate) fn alive() {
    let watched = env::var("WATCHDOG_PID").map_or(true, |pid| pid == process::id().to_string());
    if watched && env::var_os("WATCHDOG_USEC").is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

/// The service is another process from now on.
pub(crate) fn main_pid(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        notify(&[NotifyState::MainPid(pid)]);
    }
}

/// How many descriptors the manager keeps for the service's next process: FileDescriptorStoreMax= of the unit.
pub(crate) fn store_size() -> usize {
    let size = env::var("FDSTORE").ok().and_then(|size| size.parse().ok());
    size.filter(|_| is_managed()).unwrap_or_default()
}

/// Has the manager keep descriptors under a name, until they are removed.
///
/// # Errors
/// It cannot be told.
pub(crate) fn store(name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    // Without FDPOLL=0 it would drop a UDP socket that has got an ICMP error.
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    for batch in descriptors.chunks(MAX_BATCH) {
        sd_notify::notify_with_fds(&states, batch)?;
    }
    Ok(())
}

/// Has the manager close the descriptors of this name.
pub(crate) fn remove(name: &str) {
    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Waits until the manager has read all messages: those of a process that has ended may be ignored.
///
/// # Errors
/// It has not, for five seconds.
pub(crate) fn wait_until_read() -> io::Result<()> {
    if !is_managed() {
        return Ok(());
    }
    // The manager closes its copy of this end when the message's turn has come.
    let (kept, sent) = pipe2(OFlag::O_CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[sent.as_fd()])?;
    drop(sent);
    let mut fds = [PollFd::new(kept.as_fd(), PollFlags::empty())];
    match poll(&mut fds, PollTimeout::from(BARRIER_TIMEOUT))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager cannot be told {states:?}: {error}");
    }
}
