//! Sockets of several threads on one address (SO_REUSEPORT, socket(7)).

use std::{
    mem,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{setsockopt, sockopt},
};

/// Lets further sockets of this user join `socket`, which is bound. They set the option before they
/// are bound.
pub(super) fn open(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::ReusePort, &true)
}

/// Has the kernel choose one of the first `sockets` that `socket`'s group got, at random, for each
/// datagram and each connection (SO_ATTACH_REUSEPORT_CBPF, socket(7)). This replaces the choice of a predecessor, which had
/// fewer, or more.
///
/// Without this it chooses by a hash of addresses and ports: a few busy clients may share a thread
/// while others idle. And a foreign socket that joins later gets nothing.
pub(super) fn distribute(socket: &impl AsFd, sockets: usize) -> Result<(), Errno> {
    // Classic BPF (the kernel's networking/filter): A = random; A %= sockets; return A.
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let mut instructions = [
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
        (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets as u32),
        (libc::BPF_RET | libc::BPF_A, 0),
    ]
    .map(|(code, k)| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    });
    let program = libc::sock_fprog {
        len: instructions.len() as u16,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel reads a `sock_fprog` at the pointer, with its length, and as many
    // instructions as it says at its own pointer. Both live until the call has returned.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::{
        io::ErrorKind,
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
        os::fd::OwnedFd,
    };

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket,
    };

    use super::*;
    use crate::socket::{Listeners, MAX_CONNECTIONS, SocketError};

    /// Datagrams, or connections, of as many clients. That a thread gets none of them by chance:
    /// once in 10^23 runs.
    const CLIENTS: usize = 128;

    fn datagrams(socket: &UdpSocket) -> usize {
        let received = || match socket.recv_from(&mut [0; 9]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        std::iter::repeat_with(received)
            .take_while(|got| *got)
            .count()
    }

    fn connections(listener: &TcpListener) -> usize {
        let accepted = || match listener.accept() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        std::iter::repeat_with(accepted)
            .take_while(|got| *got)
            .count()
    }

    /// A socket of another program, that joins if it can.
    fn foreign(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let fd = socket(family, kind, SockFlag::SOCK_NONBLOCK, None)?;
        open(&fd)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        if kind == SockType::Stream {
            listen(&fd, Backlog::MAXCONN)?;
        }
        Ok(fd)
    }

    #[test]
    fn each_thread_gets_datagrams_and_connections_and_a_foreign_socket_none() {
        for (listen, asked) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "::1"),
        ] {
            let bound = Listeners::bind(&[listen.parse().unwrap()], &mut Vec::new()).unwrap();
            let [local] = bound.local_addresses()[..] else {
                panic!("{bound:?}");
            };
            let threads = bound.split(3, MAX_CONNECTIONS).unwrap();
            let connections_of_all: usize = threads.iter().map(|one| one.max_connections).sum();
            assert!(connections_of_all <= MAX_CONNECTIONS);
            let asked = SocketAddr::new(asked.parse().unwrap(), local.port());
            let udp = foreign(local, SockType::Datagram).unwrap();
            let tcp = foreign(local, SockType::Stream).unwrap();
            let tcp = TcpListener::from(tcp);

            let client =
                UdpSocket::bind((if asked.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
            for _ in 0..CLIENTS {
                // All from one port: a hash would choose one thread for them.
                client.send_to(b"datagram", asked).unwrap();
            }
            let held: Vec<_> = (0..CLIENTS)
                .map(|_| TcpStream::connect(asked).unwrap())
                .collect();

            let got: Vec<_> = threads.iter().map(|one| datagrams(&one.udp[0])).collect();
            assert!(got.iter().all(|count| *count > 0), "{listen}: {got:?}");
            assert_eq!(got.iter().sum::<usize>(), CLIENTS, "{listen}");
            assert_eq!(datagrams(&UdpSocket::from(udp)), 0, "{listen}");
            let got: Vec<_> = threads.iter().map(|one| connections(&one.tcp[0])).collect();
            assert!(got.iter().all(|count| *count > 0), "{listen}: {got:?}");
            assert_eq!(got.iter().sum::<usize>(), CLIENTS, "{listen}");
            assert_eq!(connections(&tcp), 0, "{listen}");
            drop(held);
        }
    }

    #[test]
    fn a_second_server_cannot_join() {
        for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let bound = Listeners::bind(&[listen.parse().unwrap()], &mut Vec::new()).unwrap();
            let addresses = bound.local_addresses();
            let held = bound.split(2, MAX_CONNECTIONS).unwrap();
            let second = Listeners::bind(&addresses, &mut Vec::new());
            assert!(
                matches!(
                    second,
                    Err(SocketError::Taken {
                        protocol: "UDP",
                        ..
                    })
                ),
                "{listen}: {second:?}"
            );
            drop(held);
            Listeners::bind(&addresses, &mut Vec::new()).unwrap();
        }
    }
}
