//! Whether the process of a peer has ended: by a descriptor of it (pidfd_open(2)) that it hands over itself. Its process ID
//! could be that of another name space, or of a later process.

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// How long a process that has closed its sockets may take to end: the kernel first releases its AF_XDP sockets and memory.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A descriptor of the process with this ID.
///
/// # Errors
/// There is none; or EPERM in a container that does not allow the call.
pub(super) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call has two integers as arguments, and no pointers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = Errno::result(descriptor)?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has made this descriptor for this process, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether a process has ended, or does so within some seconds.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    let end = Instant::now() + END_TIMEOUT;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(left)) {
            Err(Errno::EINTR) => {}
            // What is no process, such as a file, has no such events or always: it is the peer's own word.
            polled => return polled.is_ok_and(|ready| ready > 0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{self, Command};

    use super::*;

    #[test]
    fn an_ended_process_is_told_from_one_that_runs() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let running = open(child.id()).unwrap();
        let polled = |limit: u16| {
            let mut fds = [PollFd::new(running.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(limit)).unwrap()
        };
        assert_eq!(polled(10), 0);
        child.kill().unwrap();
        assert!(has_ended(&running));
        // It may be asked again, also when the process ID is free.
        child.wait().unwrap();
        assert!(has_ended(&running));
        assert!(!has_ended(&open(process::id()).unwrap()));
        // Of the kernel's init task.
        assert!(open(0).is_err());
    }
}
