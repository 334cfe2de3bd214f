//! The change from root to the server's own user.

use std::{ffi::CString, io};

use nix::{
    sys::prctl,
    unistd::{Gid, Uid, User, geteuid, initgroups, setresgid, setresuid},
};

use super::PrivilegeError;
use crate::config::Location;

/// A user of the system.
pub(super) struct Target {
    user: User,
}

/// Finds a user by its name or number.
pub(super) fn find(name: &str, location: Location) -> Result<Target, PrivilegeError> {
    let by_number = || User::from_uid(Uid::from_raw(name.parse().ok()?)).ok()?;
    let found = User::from_name(name).ok().flatten().or_else(by_number);
    match found {
        Some(user) => Ok(Target { user }),
        None => Err(PrivilegeError::NoUser {
            location,
            name: name.to_owned(),
        }),
    }
}

impl Target {
    pub(super) fn name(&self) -> &str {
        &self.user.name
    }

    pub(super) fn id(&self) -> (Uid, Gid) {
        (self.user.uid, self.user.gid)
    }

    /// Changes to it, with its groups. The permitted capabilities stay, to be dropped afterwards.
    ///
    /// # Errors
    /// The process is neither root nor that user.
    pub(super) fn change(&self) -> io::Result<()> {
        let (uid, gid) = self.id();
        if geteuid() == uid {
            return Ok(());
        }
        let name = CString::new(self.name()).map_err(io::Error::other)?;
        // Else they would be lost with the last ID of root.
        prctl::set_keepcaps(true)?;
        initgroups(&name, gid)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        prctl::set_keepcaps(false)?;
        // The change made /proc/self root's, as for a set-user-ID program. What this one has read as root it needs, and
        // its user could read that in its memory; it reads its own figures there.
        prctl::set_dumpable(true)?;
        Ok(())
    }
}
