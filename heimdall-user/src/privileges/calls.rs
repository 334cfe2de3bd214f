//! System calls: a seccomp filter (seccomp(2)) with a list of those that the server makes.
//!
//! Any other fails with EPERM instead of ending the process: a later version of the C library may try a new call first, and a
//! server that falls back goes on answering. `execve`, `ptrace`, `mount`, `io_uring_setup`, key rings, modules and name spaces
//! are among what it cannot do; `bpf` is only for AF_XDP. Some calls are allowed with some arguments only.
//!
//! The list was made from what strace(1) sees of the end-to-end tests, and of what the C library may do in place of it.
//! A call that is allowed with all arguments costs a look-up in a bitmap of the kernel (Linux 5.11) and runs no filter; the
//! calls of the hot path are all of that kind.

use std::collections::BTreeMap;

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_XDP, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET,
    CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, PROT_EXEC, PROT_WRITE, TIOCLINUX,
    TIOCSTI, c_long,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Descriptors and files.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Waiting and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Threads and signals.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    // Of this process, for the one that takes over.
    libc::SYS_pidfd_open,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // raise(3), and so abort(3), of musl.
    libc::SYS_tkill,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // The process and the host.
    libc::SYS_capget,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The same: calls of the first years, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const EARLIER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_setrlimit,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const EARLIER: &[c_long] = &[];

/// Name spaces that no thread is to be started in.
const NAMESPACES: i32 = CLONE_NEWCGROUP
    | CLONE_NEWIPC
    | CLONE_NEWNET
    | CLONE_NEWNS
    | CLONE_NEWPID
    | CLONE_NEWUSER
    | CLONE_NEWUTS;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Restricts all threads to the calls of a server, with AF_XDP or without. Returns how many there are.
///
/// # Errors
/// Why it cannot.
pub(super) fn restrict(xdp: bool) -> Result<usize, String> {
    let text = |error: BackendError| error.to_string();
    let apply = |rules: Rules, otherwise, then| -> Result<(), String> {
        let arch = std::env::consts::ARCH.try_into().map_err(text)?;
        let filter = SeccompFilter::new(rules, otherwise, then, arch).map_err(text)?;
        let program = BpfProgram::try_from(filter).map_err(text)?;
        seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())
    };
    // Its flags are in memory, where no filter can look. The C library then uses clone(2).
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply(clone3, SeccompAction::Allow, unknown)?;
    let mut rules = rules(xdp).map_err(text)?;
    let calls = rules.len();
    // The filter before this one decides.
    rules.insert(libc::SYS_clone3, Vec::new());
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    apply(rules, denied, SeccompAction::Allow)?;
    Ok(calls)
}

fn rules(xdp: bool) -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED
        .iter()
        .chain(EARLIER)
        .map(|call| (*call, Vec::new()))
        .collect();
    let argument = |index, operator, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
    };
    // `flags` & `mask` == `value`, for the argument with this index.
    let masked = |index, mask: i32, value: i32| {
        let operator = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
        SeccompRule::new(vec![argument(index, operator, value)?])
    };
    let mut families = vec![AF_INET, AF_INET6, AF_NETLINK, AF_UNIX];
    if xdp {
        families.push(AF_XDP);
        rules.insert(libc::SYS_bpf, Vec::new());
    }
    let families: Result<Vec<_>, _> = families
        .into_iter()
        .map(|family| SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, family)?]))
        .collect();
    rules.insert(libc::SYS_socket, families?);
    let unix = argument(0, SeccompCmpOp::Eq, AF_UNIX)?;
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![unix])?]);
    rules.insert(libc::SYS_clone, vec![masked(0, NAMESPACES, 0)?]);
    // No memory is both written and executed, and none becomes executable.
    let both = PROT_WRITE | PROT_EXEC;
    let mapped = vec![masked(2, PROT_EXEC, 0)?, masked(2, both, PROT_EXEC)?];
    rules.insert(libc::SYS_mmap, mapped);
    rules.insert(libc::SYS_mprotect, vec![masked(2, PROT_EXEC, 0)?]);
    // No input is put into a terminal.
    let requests = [TIOCSTI, TIOCLINUX].map(|request| {
        let value = request as u32 as i32;
        argument(1, SeccompCmpOp::Ne, value)
    });
    let requests = requests.into_iter().collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(requests)?]);
    Ok(rules)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_never_does_is_not_on_the_list() {
        for xdp in [false, true] {
            let rules = rules(xdp).unwrap();
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_mount,
                libc::SYS_setuid,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_io_uring_setup,
                libc::SYS_init_module,
                libc::SYS_keyctl,
                libc::SYS_perf_event_open,
                libc::SYS_process_vm_writev,
                libc::SYS_kill,
            ] {
                assert!(!rules.contains_key(&call), "{call}");
            }
            assert_eq!(rules.contains_key(&libc::SYS_bpf), xdp);
        }
    }

    #[test]
    fn the_calls_of_the_hot_path_run_no_filter() {
        let rules = rules(true).unwrap();
        for call in [
            libc::SYS_ppoll,
            libc::SYS_epoll_pwait,
            libc::SYS_recvmmsg,
            libc::SYS_sendmmsg,
            libc::SYS_sendto,
            libc::SYS_recvfrom,
            libc::SYS_write,
            libc::SYS_read,
            libc::SYS_futex,
        ] {
            assert_eq!(rules.get(&call).map(Vec::len), Some(0), "{call}");
        }
    }

    #[test]
    fn other_calls_and_arguments_are_denied() {
        const NAME: &str = "privileges::calls::tests::other_calls_and_arguments_are_denied";
        if !lab::in_own_process(NAME).unwrap() {
            return;
        }
        let mapped = |protection| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new memory, which nothing uses.
            let address =
                unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            address != libc::MAP_FAILED
        };
        let opened = |family| {
            // SAFETY: no pointers. The socket stays open to the end of the process.
            let socket = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            socket >= 0
        };
        let error = |call| {
            // SAFETY: no pointers. These calls fail, or change nothing but this process.
            let result = unsafe { libc::syscall(call, 0, 0, 0) };
            assert_eq!(result, -1);
            std::io::Error::last_os_error().raw_os_error()
        };
        assert!(mapped(libc::PROT_READ | PROT_WRITE | PROT_EXEC));
        assert_ne!(error(libc::SYS_keyctl), Some(libc::EPERM));
        restrict(false).unwrap();
        for call in [
            libc::SYS_keyctl,
            libc::SYS_bpf,
            libc::SYS_ptrace,
            libc::SYS_unshare,
        ] {
            assert_eq!(error(call), Some(libc::EPERM), "{call}");
        }
        assert_eq!(error(libc::SYS_clone3), Some(libc::ENOSYS));
        assert!(!mapped(libc::PROT_READ | PROT_WRITE | PROT_EXEC));
        assert!(mapped(libc::PROT_READ | PROT_EXEC) && mapped(libc::PROT_READ | PROT_WRITE));
        assert!(opened(AF_UNIX) && !opened(AF_XDP) && !opened(libc::AF_PACKET));
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EPERM)
        );
        let started = std::process::Command::new("/bin/true").status();
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EPERM));
        // Threads of the process are still started.
        std::thread::spawn(|| assert!(std::fs::read("/proc/self/status").is_ok()))
            .join()
            .unwrap();
    }
}
