//! Capabilities (capabilities(7)): those that the settings need are kept, and all others leave every set of the thread.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::unistd::geteuid;

/// What is kept if the process has it. `same_user`: it stays the user that it was started as.
pub(super) fn kept(xdp: bool, same_user: bool) -> CapsHashSet {
    let mut kept = vec![
        // For ports below 1024, also of listen addresses that a reload brings.
        Capability::CAP_NET_BIND_SERVICE,
        // Receive buffers above net.core.rmem_max (SO_RCVBUFFORCE); with AF_XDP its link and busy polling.
        Capability::CAP_NET_ADMIN,
    ];
    if xdp {
        kept.extend([
            // Programs and maps, AF_XDP sockets, locked frames.
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
            Capability::CAP_NET_RAW,
            Capability::CAP_IPC_LOCK,
        ]);
    }
    if same_user && geteuid().is_root() {
        // Root reads keys and writes files of other users, and gives its control socket to a group. Landlock says which files.
        kept.extend([Capability::CAP_DAC_OVERRIDE, Capability::CAP_CHOWN]);
    }
    kept.into_iter().collect()
}

/// Takes all others out of the bounding set. Only a process with CAP_SETPCAP can: without, there is nothing to gain by an
/// exec(2), as the process has no_new_privs.
pub(super) fn bound(kept: &CapsHashSet) {
    for capability in caps::all() {
        if !kept.contains(&capability) {
            // EINVAL: the kernel does not know it.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
}

/// Takes all others out of the other sets. Returns the names of what is left, in alphabetical order.
///
/// # Errors
/// Why not.
pub(super) fn keep(kept: &CapsHashSet) -> Result<Vec<String>, String> {
    let left = take(kept).map_err(|error| error.to_string())?;
    let mut names: Vec<String> = left
        .iter()
        .map(|capability| capability.to_string().trim_start_matches("CAP_").to_owned())
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn take(kept: &CapsHashSet) -> Result<CapsHashSet, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = permitted.intersection(kept).copied().collect();
    // An ambient capability is lowered with the others by itself; all go, as nothing is executed.
    caps::clear(None, CapSet::Ambient)?;
    // This order: what is effective has to be permitted.
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_need_their_ports_and_buffers() {
        let has = |kept: &CapsHashSet, capability| kept.contains(&capability);
        let sockets = kept(false, false);
        assert_eq!(sockets.len(), 2);
        assert!(has(&sockets, Capability::CAP_NET_BIND_SERVICE));
        assert!(has(&sockets, Capability::CAP_NET_ADMIN));
        let xdp = kept(true, false);
        assert!(xdp.is_superset(&sockets) && has(&xdp, Capability::CAP_BPF));
        for all in [&sockets, &xdp] {
            for never in [
                Capability::CAP_SYS_ADMIN,
                Capability::CAP_DAC_OVERRIDE,
                Capability::CAP_SETUID,
                Capability::CAP_SYS_PTRACE,
            ] {
                assert!(!has(all, never), "{never}");
            }
        }
    }
}
