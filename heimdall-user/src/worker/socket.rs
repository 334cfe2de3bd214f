//! A queue's socket, for the thread that registers it in the XSKMAP.
//!
//! A descriptor of the socket that outlived the queue would keep it in the XSKMAP, and packets would go to where
//! none takes them. So the worker closes the one that is shared here with its own, however the queue ends.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A descriptor of the socket, until the queue ends.
#[derive(Clone, Debug)]
pub(super) struct SharedSocket(Arc<Mutex<Option<OwnedFd>>>);

/// What the worker's thread owns: dropping it closes the shared descriptor.
#[derive(Debug)]
pub(super) struct Owner(SharedSocket);

impl SharedSocket {
    /// Shares a socket.
    ///
    /// # Errors
    /// Too many descriptors are open.
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let socket = socket.try_clone_to_owned()?;
        Ok(Self(Arc::new(Mutex::new(Some(socket)))))
    }

    pub(super) fn owner(&self) -> Owner {
        Owner(self.clone())
    }

    /// Calls `register` with the socket, unless the queue has ended. It does not end meanwhile.
    pub(super) fn with<T>(&self, register: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.lock().as_ref().map(|socket| register(socket.as_fd()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;

    use super::*;

    #[test]
    fn the_descriptor_is_closed_with_the_owner() {
        let file = File::open("/dev/null").unwrap();
        let shared = SharedSocket::new(file.as_fd()).unwrap();
        let owner = shared.owner();
        assert!(shared.with(|_| ()).is_some());
        drop(owner);
        assert!(shared.with(|_| ()).is_none());
    }
}
