//! The XDP program in the kernel, for `BPF_PROG_TEST_RUN`: it is run over packets without a NIC.

use std::{
    env, fs,
    net::SocketAddr,
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    process::Command,
    thread,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray, XskMap},
    programs::Xdp,
};
use heimdall_ebpf::{
    COUNTERS_MAP, Disposition, LINKS_MAP, Link, PROGRAM, SERVED_MAP, SOCKETS_MAP, ServedKey,
    link_entry,
};
use nix::sched::{CloneFlags, unshare};
use xsk_rs::{
    CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem,
    config::{LibxdpFlags, SocketConfig, UmemConfig},
};

/// Frames of a socket that gets no packets.
const FRAMES: NonZeroU32 = NonZeroU32::MIN;

/// Actions of XDP programs (`enum xdp_action`, linux/bpf.h).
pub const XDP_PASS: u32 = 2;
/// The packet leaves by the interface that it came in by.
pub const XDP_TX: u32 = 3;
/// The packet goes to a socket.
pub const XDP_REDIRECT: u32 = 4;

/// An XDP program that serves [`V4`](Self::V4) and [`V6`](Self::V6), at the MAC address [`MAC`](Self::MAC).
pub struct LoadedProgram {
    /// The program, and its maps.
    pub ebpf: Ebpf,
}

impl LoadedProgram {
    /// An address that is served, with its port.
    pub const V4: &str = "192.0.2.1:53";
    /// The other one.
    pub const V6: &str = "[2001:db8::1]:53";
    /// The MAC address of the interface that test packets arrive on, whose index is 1.
    pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// Loads the object that is committed, or the one that `HEIMDALL_EBPF_OBJECT` names, with the globals and the sizes
    /// of maps that a loader sets.
    ///
    /// # Panics
    ///
    /// The kernel does not take it; as without root.
    pub fn load(loader: &mut EbpfLoader<'_>) -> Self {
        let committed = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../heimdall-ebpf/heimdall.bpf.o"
        );
        let object = env::var("HEIMDALL_EBPF_OBJECT").unwrap_or_else(|_| committed.to_owned());
        let mut ebpf = loader.load(&fs::read(object).unwrap()).unwrap();
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        let mut loaded = Self { ebpf };
        loaded.serve(1);
        loaded.set_link(0, Link::any_tags(Self::MAC, 1));
        loaded
    }

    /// Serves the addresses at these links, a bit each.
    pub fn serve(&mut self, links: u32) {
        let map = self.ebpf.map_mut(SERVED_MAP).unwrap();
        let mut served = HashMap::<_, [u8; ServedKey::SIZE], u32>::try_from(map).unwrap();
        for address in [Self::V4, Self::V6] {
            let address: SocketAddr = address.parse().unwrap();
            let key = ServedKey::from(address).to_bytes();
            served.insert(key, links, 0).unwrap();
        }
    }

    /// Sets the link of a number.
    pub fn set_link(&mut self, number: u32, link: Link) {
        let map = self.ebpf.map_mut(LINKS_MAP).unwrap();
        let mut links = Array::<_, [u8; Link::SIZE]>::try_from(map).unwrap();
        links
            .set(link_entry(1 << number), link.to_bytes(), 0)
            .unwrap();
    }

    /// Puts an AF_XDP socket at queue 0, where test packets arrive.
    pub fn set_socket(&mut self, socket: impl AsFd) {
        let mut sockets = XskMap::try_from(self.ebpf.map_mut(SOCKETS_MAP).unwrap()).unwrap();
        sockets.set(0, socket.as_fd().as_raw_fd(), 0).unwrap();
    }

    /// The same with a new socket, which is there until it is dropped.
    ///
    /// # Panics
    ///
    /// The kernel opens none.
    pub fn open_socket(&mut self) -> BoundSocket {
        let socket = BoundSocket::open();
        self.set_socket(&socket);
        socket
    }

    /// The program, to run.
    pub fn program(&self) -> &Xdp {
        self.ebpf.program(PROGRAM).unwrap().try_into().unwrap()
    }

    /// How many packets had each disposition, in the order of [`Disposition::ALL`].
    pub fn counters(&self) -> Vec<u64> {
        let map = PerCpuArray::<_, u64>::try_from(self.ebpf.map(COUNTERS_MAP).unwrap()).unwrap();
        let count = |disposition| map.get(&(disposition as u32), 0).unwrap().iter().sum();
        Disposition::ALL.into_iter().map(count).collect()
    }
}

/// An AF_XDP socket that gets no packets: it is bound to the loopback interface of a network namespace of its own. Linux 7
/// takes only bound ones.
pub struct BoundSocket {
    rx: RxQueue,
    _tx: TxQueue,
    _rings: Option<(FillQueue, CompQueue)>,
    _umem: Umem,
}

impl BoundSocket {
    fn open() -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            crate::run(Command::new("ip").args(["link", "set", "lo", "up"])).unwrap();
            let config = SocketConfig::builder()
                .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
                .build();
            let (umem, _frames) = Umem::new(UmemConfig::default(), FRAMES, false).unwrap();
            // SAFETY: no other socket is created on this UMEM.
            let opened = unsafe { Socket::new(config, &umem, &"lo".parse().unwrap(), 0) };
            let (tx, rx, rings) = opened.unwrap();
            Self {
                rx,
                _tx: tx,
                _rings: rings,
                _umem: umem,
            }
        };
        thread::spawn(open).join().unwrap()
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket in `self` exists.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}
