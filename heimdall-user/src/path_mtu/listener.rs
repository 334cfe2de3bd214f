//! The thread that hears routers' reports.
//!
//! It has a raw socket for each version of IP (raw(7); CAP_NET_RAW, which AF_XDP needs, too), with a filter in the kernel
//! (socket(7), SO_ATTACH_FILTER), so that no other ICMP message wakes it. The sockets of clients could hear the reports
//! as well (IP_RECVERR, ip(7)), but along with each error that any client's host reports, which then fails the next call on the
//! socket.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
    },
};

use super::{
    report::{Report, read_v4, read_v6},
    table::{PathMtuCounters, PathMtus, Writer},
};
use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat,
};

/// Most reports that are read at once, and the pause after them: forged ones take a part of one core.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);

/// Octets of a report that are read. A router quotes at most 576 over IPv4 (RFC 1812 section 4.3.2.3), and 1280 over IPv6.
const MAX_REPORT: usize = 1500;

type Read = fn(&[u8], &[u16]) -> Option<Report>;

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Listener {
    paths: Arc<PathMtus>,
    counters: Arc<PathMtuCounters>,
    _thread: OwnedThread,
}

impl Listener {
    /// Starts the thread, for replies from these ports.
    ///
    /// # Errors
    /// No raw socket can be opened for IPv4, or for IPv6 where the kernel has that; or the thread cannot be started.
    pub(crate) fn start(ports: BTreeSet<u16>, on_exit: OnExit) -> io::Result<Self> {
        let mut sockets: Vec<(OwnedFd, Read)> = vec![(open_v4()?, read_v4)];
        match open_v6() {
            Ok(socket) => sockets.push((socket, read_v6)),
            Err(Errno::EAFNOSUPPORT) => {}
            Err(error) => return Err(error.into()),
        }
        let paths = Arc::<PathMtus>::default();
        let counters = Arc::<PathMtuCounters>::default();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = {
            let (wake, stopped) = (Arc::clone(&wake), Arc::clone(&stopped));
            move || {
                stopped.store(true, Ordering::SeqCst);
                // EAGAIN: it is readable already.
                let _ = wake.write(1);
            }
        };
        let state = State {
            sockets,
            wake,
            ports: ports.into_iter().collect(),
            writer: Writer::new(),
            paths: Arc::clone(&paths),
            counters: Arc::clone(&counters),
        };
        let body = move || state.run(&stopped);
        Ok(Self {
            paths,
            counters,
            _thread: OwnedThread::start("path-mtu", on_exit, stop, body)?,
        })
    }

    /// What was reported, for the workers.
    pub(crate) fn paths(&self) -> Arc<PathMtus> {
        Arc::clone(&self.paths)
    }

    /// The thread's counters.
    pub(crate) fn counters(&self) -> Arc<PathMtuCounters> {
        Arc::clone(&self.counters)
    }
}

struct State {
    sockets: Vec<(OwnedFd, Read)>,
    wake: Arc<EventFd>,
    ports: Vec<u16>,
    writer: Writer,
    paths: Arc<PathMtus>,
    counters: Arc<PathMtuCounters>,
}

impl State {
    fn run(mut self, stopped: &AtomicBool) {
        while !stopped.load(Ordering::SeqCst) {
            heartbeat::beat();
            let read = self.read();
            self.writer
                .publish(&self.paths, Instant::now(), &self.counters);
            if read > 0 {
                thread::sleep(PAUSE);
            } else if let Err(error) = self.wait() {
                tracing::error!(%error, "cannot wait for reports of path MTUs");
                return;
            }
        }
    }

    /// Takes the reports that are there, up to a bound. How many messages that were.
    fn read(&mut self) -> usize {
        let mut octets = [0; MAX_REPORT];
        let mut messages = 0;
        for (socket, read) in &self.sockets {
            for _ in 0..BATCH {
                let len = match recv(socket.as_raw_fd(), &mut octets, MsgFlags::MSG_DONTWAIT) {
                    Ok(len) => len,
                    Err(Errno::EINTR) => continue,
                    // EAGAIN, or an error of one message.
                    Err(_) => break,
                };
                messages += 1;
                match read(octets.get(..len).unwrap_or_default(), &self.ports) {
                    Some(report) => self.writer.learn(report, Instant::now(), &self.counters),
                    None => self.counters.ignored.add(1),
                }
            }
        }
        messages
    }

    /// Sleeps until a message comes, for [`heartbeat::MAX_SLEEP`] at most.
    fn wait(&self) -> Result<(), Errno> {
        let sockets = self.sockets.iter().map(|(socket, _)| socket.as_fd());
        let all = sockets.chain([self.wake.as_fd()]);
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let millis = heartbeat::MAX_SLEEP.as_millis();
        let timeout = PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A socket that receives "fragmentation needed" about UDP, each message with its IP header.
fn open_v4() -> Result<OwnedFd, Errno> {
    let socket = open(AddressFamily::Inet, SockProtocol::Icmp)?;
    const BYTE: u32 = libc::BPF_LD | libc::BPF_B;
    // The IP header's length is in X. Type 3, code 4; and protocol UDP in the quoted header.
    let instructions = [
        instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        instruction(BYTE | libc::BPF_IND, 0),
        unless_equal(3, 5),
        instruction(BYTE | libc::BPF_IND, 1),
        unless_equal(4, 3),
        instruction(BYTE | libc::BPF_IND, 8 + 9),
        unless_equal(17, 1),
        instruction(libc::BPF_RET, u32::MAX),
        instruction(libc::BPF_RET, 0),
    ];
    attach(&socket, &instructions)?;
    Ok(socket)
}

/// A socket that receives "packet too big" about UDP, each message from its ICMP header on.
fn open_v6() -> Result<OwnedFd, Errno> {
    let socket = open(AddressFamily::Inet6, SockProtocol::IcmpV6)?;
    const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    // Type 2; and next header UDP in the quoted header.
    let instructions = [
        instruction(BYTE, 0),
        unless_equal(2, 3),
        instruction(BYTE, 8 + 6),
        unless_equal(17, 1),
        instruction(libc::BPF_RET, u32::MAX),
        instruction(libc::BPF_RET, 0),
    ];
    attach(&socket, &instructions)?;
    Ok(socket)
}

fn open(family: AddressFamily, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Raw, flags, protocol)
}

/// An instruction of classic BPF (the kernel's networking/filter).
fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Skips `skip` instructions unless the loaded number is `k`.
fn unless_equal(k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter {
        jf: skip,
        ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k)
    }
}

/// Has the kernel keep from the socket what the filter does not accept.
fn attach(socket: &OwnedFd, instructions: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads a `sock_fprog` at the pointer, with its length, and as many
    // instructions as it says at its own pointer. Both live until the call has returned.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}
