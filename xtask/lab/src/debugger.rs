//! What a debugger does to a thread of another process (ptrace(2)): holds it, or has it fail where it waits for events.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    ptr, thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};

/// How long a thread may take to have its name, or to wait for events.
const LIMIT: Duration = Duration::from_secs(20);

/// The thread of a process whose name is accepted. It names itself, a moment after its start.
///
/// # Panics
/// There is none.
pub fn thread(pid: u32, is_it: impl Fn(&str) -> bool) -> i32 {
    let end = Instant::now() + LIMIT;
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let found = tasks.flatten().find(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            is_it(comm.trim_end())
        });
        if let Some(found) = found {
            return found.file_name().to_string_lossy().parse().unwrap();
        }
        assert!(Instant::now() < end, "no such thread");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A thread of another process that this one has stopped, until this is dropped. Only the thread that made it may drop it.
#[derive(Debug)]
pub struct Held(i32);

impl Held {
    /// Stops a thread.
    ///
    /// # Panics
    /// It cannot be stopped.
    pub fn new(thread: i32) -> Self {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: the request takes no pointer.
        let attached = unsafe { libc::ptrace(libc::PTRACE_ATTACH, thread, none, none) };
        assert_eq!(attached, 0, "{}", io::Error::last_os_error());
        waitpid(Pid::from_raw(thread), Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: the request takes no pointer.
        let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
        if detached != 0 {
            // It was killed, and its process does not end before this one knows.
            let _ = waitpid(Pid::from_raw(self.0), Some(WaitPidFlag::__WALL));
        }
    }
}

/// Stops a thread in the system call in which it waits for events, and changes its registers.
fn in_wait(thread: i32, change: impl Fn(&mut libc::user_regs_struct)) {
    let none = ptr::null_mut::<libc::c_void>();
    let end = Instant::now() + LIMIT;
    loop {
        let held = Held::new(thread);
        // SAFETY: plain integers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let to = (&raw mut registers).cast::<libc::c_void>();
        // SAFETY: the kernel writes a user_regs_struct to `registers`.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, none, to) };
        assert_eq!(got, 0, "{}", io::Error::last_os_error());
        let waits = [libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
        if waits.contains(&registers.orig_rax.cast_signed()) {
            change(&mut registers);
            // No system call: it is not to be started again.
            registers.orig_rax = u64::MAX;
            let from = (&raw mut registers).cast::<libc::c_void>();
            // SAFETY: the kernel reads a user_regs_struct from `registers`.
            let set = unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, none, from) };
            assert_eq!(set, 0, "{}", io::Error::last_os_error());
            return;
        }
        drop(held);
        assert!(Instant::now() < end, "the thread does not wait");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the system call in which a thread waits for events fail with EBADF.
///
/// # Panics
/// It does not wait.
pub fn fail_wait(thread: i32) {
    in_wait(thread, |registers| {
        registers.rax = (-i64::from(libc::EBADF)).cast_unsigned();
    });
}

/// Makes a thread of `program` panic where it waits for events: there it calls a function of the standard library that does
/// nothing but panic.
///
/// # Panics
/// It does not wait, or the program has no symbols.
pub fn panic_in_wait(program: &Path, pid: u32, thread: i32) {
    let symbols = super::run(Command::new("nm").arg("--defined-only").arg(program)).unwrap();
    let mut names = symbols.lines().map(|line| line.split_whitespace());
    let offset = names.find_map(|mut fields| {
        let (offset, _, name) = (fields.next()?, fields.next()?, fields.next()?);
        let found = name.contains("raw_vec17capacity_overflow");
        found.then(|| u64::from_str_radix(offset, 16).unwrap())
    });
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let base = maps.split('-').next().unwrap();
    let function = u64::from_str_radix(base, 16).unwrap() + offset.unwrap();
    in_wait(thread, |registers| {
        // As a call instruction would: the return address goes on the stack.
        registers.rsp -= 8;
        let memory = fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .unwrap();
        let address = registers.rip.to_le_bytes();
        memory.write_all_at(&address, registers.rsp).unwrap();
        registers.rip = function;
    });
}
