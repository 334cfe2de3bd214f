#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::{
    io::ErrorKind,
    net::{IpAddr, TcpStream},
    slice, thread,
};

use nix::{
    sys::stat::fstat,
    unistd::{Uid, fchown, geteuid},
};

use super::*;
use crate::socket::{
    batch::DatagramBatch,
    inherited::describe,
    path::{Local, Path},
};

fn list(text: &str) -> Vec<SocketAddr> {
    text.split_whitespace()
        .map(|one| one.parse().unwrap())
        .collect()
}

fn bind_all(text: &str, inherited: &mut Vec<OwnedFd>) -> Listeners {
    Listeners::bind(&list(text), inherited).unwrap()
}

/// Duplicates of all sockets.
fn duplicates(threads: &[Listeners]) -> Vec<OwnedFd> {
    let udp = threads.iter().flat_map(|of| &of.udp).map(AsFd::as_fd);
    let tcp = threads.iter().flat_map(|of| of.tcp.iter().chain(&of.tls));
    let all = udp.chain(tcp.map(AsFd::as_fd));
    all.map(|socket| socket.try_clone_to_owned().unwrap())
        .collect()
}

/// The numbers of the kernel's sockets.
fn inodes<'a, S: AsFd + 'a>(sockets: impl IntoIterator<Item = &'a S>) -> Vec<u64> {
    let numbers = sockets
        .into_iter()
        .map(|socket| fstat(socket).unwrap().st_ino);
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// The first octets of what a socket has queued.
fn queued(socket: &UdpSocket) -> Vec<u8> {
    let received = || {
        let mut buf = [0; 9];
        match socket.recv_from(&mut buf) {
            Ok(_) => Some(buf[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    };
    std::iter::from_fn(received).collect()
}

fn queued_at(threads: &[Listeners]) -> Vec<u8> {
    let all = threads.iter().flat_map(|of| &of.udp);
    let mut queued: Vec<u8> = all.flat_map(queued).collect();
    queued.sort_unstable();
    queued
}

fn send(numbers: impl IntoIterator<Item = u8>, to: SocketAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    for number in numbers {
        socket.send_to(&[number], to).unwrap();
    }
}

#[test]
fn a_family_that_the_kernel_lacks_is_left_out() {
    let v4_only =
        |of: &mut Listeners, address: SocketAddr, inherited: &mut Vec<OwnedFd>| match address {
            SocketAddr::V4(_) => of.add(address, inherited),
            SocketAddr::V6(_) => Err(SocketError::new("UDP", address, Errno::EAFNOSUPPORT)),
        };
    for listen in ["127.0.0.1:0 [::1]:0", "[::1]:0 127.0.0.1:0 [::]:0"] {
        let listeners = Listeners::bind_with(&list(listen), &mut Vec::new(), v4_only).unwrap();
        assert_eq!((listeners.udp.len(), listeners.tcp.len()), (1, 1));
        let [local] = listeners.addresses[..] else {
            panic!("{listen}: {listeners:?}");
        };
        assert_eq!(local.ip().to_string(), "127.0.0.1");
    }
    let error = Listeners::bind_with(&list("[::1]:53"), &mut Vec::new(), v4_only).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this kernel has no IPv6, which UDP [::1]:53 needs; listen on IPv4 addresses"
    );
}

#[test]
fn inherited_sockets_are_taken_by_their_addresses_and_what_is_missing_is_bound() {
    let server = Arc::new(TlsServer::new().unwrap());
    let mut first = bind_all("127.0.0.1:0 [::1]:0 127.0.0.9:0", &mut Vec::new());
    first
        .bind_tls("127.0.0.1:0".parse().unwrap(), &server, &mut Vec::new())
        .unwrap();
    let addresses = first.local_addresses();
    let tls = first.tls_addresses()[0];
    let mut inherited = duplicates(slice::from_ref(&first));
    // A connection has the same local address as its listener.
    let client = TcpStream::connect(addresses[0]).unwrap();
    let (accepted, _) = loop {
        if let Ok(accepted) = first.tcp[0].accept() {
            break accepted;
        }
    };
    inherited.insert(0, accepted.into());
    send([7], addresses[1]);

    let new = [addresses[0], addresses[1], "127.0.0.2:0".parse().unwrap()];
    let mut second = Listeners::bind(&new, &mut inherited).unwrap();
    second.bind_tls(tls, &server, &mut inherited).unwrap();
    assert_eq!(second.local_addresses()[..2], addresses[..2]);
    assert_eq!(second.tls_addresses(), [tls]);
    assert_eq!(inodes(&second.udp[..2]), inodes(&first.udp[..2]));
    assert_eq!(inodes(&second.tcp[..2]), inodes(&first.tcp[..2]));
    assert_eq!(inodes(&second.tls), inodes(&first.tls));
    assert_eq!(
        second.udp[2].local_addr().unwrap(),
        second.local_addresses()[2]
    );
    let rest: Vec<String> = inherited.iter().map(describe).collect();
    let unserved = addresses[2];
    assert_eq!(
        rest,
        [
            "a socket that does not listen for UDP or TCP".to_owned(),
            format!("UDP {unserved}"),
            format!("TCP {unserved}")
        ]
    );
    // Nothing that was queued is lost, and a client's connection is still that.
    drop(first);
    assert_eq!(queued(&second.udp[1]), [7]);
    assert!(client.peer_addr().is_ok());
}

#[test]
fn without_a_port_any_inherited_one_is_taken() {
    let first = bind_all("127.0.0.1:0", &mut Vec::new());
    let mut inherited = duplicates(slice::from_ref(&first));
    let second = bind_all("127.0.0.1:0", &mut inherited);
    assert_eq!(second.local_addresses(), first.local_addresses());
    assert_eq!(inherited.len(), 0);
}

#[test]
fn more_or_fewer_threads_lose_nothing_and_each_gets_its_share() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let first = bind_all(listen, &mut Vec::new());
        let local = first.local_addresses()[0];
        let asked = match local.ip().is_unspecified() {
            true if local.is_ipv4() => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), local.port()),
            true => format!("[::1]:{}", local.port()).parse().unwrap(),
            false => local,
        };
        let mut threads = first.split(3, 100).unwrap();
        for (count, sockets) in [(1, 3), (5, 5), (2, 5), (5, 5)] {
            send(0..100, asked);
            let mut inherited = duplicates(&threads);
            let next = Listeners::bind(&[local], &mut inherited).unwrap();
            assert_eq!(inherited.len(), 0);
            let next = next.split(count, 100).unwrap();
            drop(std::mem::replace(&mut threads, next));
            send(100..200, asked);
            assert_eq!(threads.len(), count);
            assert!(
                threads
                    .iter()
                    .all(|of| !of.udp.is_empty() && !of.tcp.is_empty())
            );
            let all = || threads.iter().flat_map(|of| &of.udp);
            assert_eq!(inodes(all()).len(), sockets, "{listen}");
            assert_eq!(
                queued_at(&threads),
                (0..200).collect::<Vec<u8>>(),
                "{listen}"
            );
            // All of them get something: that one does not, by chance, happens once in 10^19 runs.
            send(0..200, asked);
            let shares: Vec<usize> = all().map(|socket| queued(socket).len()).collect();
            assert!(
                shares.iter().all(|share| *share > 0),
                "{listen}: {shares:?}"
            );
        }
    }
}

#[test]
fn an_address_becomes_a_wildcard_and_back() {
    let (first, second, inherited) = loop {
        let first = bind_all("127.0.0.1:0 127.0.0.2:0", &mut Vec::new());
        let one = first.local_addresses()[0];
        let mut inherited = duplicates(slice::from_ref(&first));
        send([1], one);
        let wildcard = SocketAddr::new(IpAddr::from([0; 4]), one.port());
        match Listeners::bind(&[wildcard], &mut inherited) {
            Ok(second) => break (first, second, inherited),
            // Another test has the port on another address.
            Err(SocketError::Taken { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let [one, two] = first.local_addresses()[..] else {
        panic!();
    };
    // The other port is not served any more.
    assert_eq!(inherited.len(), 2);
    drop((first, inherited));
    send([2], one);
    send([3], SocketAddr::new(two.ip(), one.port()));
    TcpStream::connect(one).unwrap();
    let second = second.split(2, 10).unwrap();
    send([4], one);
    send([5], SocketAddr::new(two.ip(), one.port()));
    assert_eq!(queued_at(&second), [1, 2, 3, 4, 5]);

    let mut inherited = duplicates(&second);
    let three = SocketAddr::new(IpAddr::from([127, 0, 0, 3]), one.port());
    send([6], one);
    send([7], three);
    let third = Listeners::bind(&[three], &mut inherited).unwrap();
    // Its threads do not run yet: those that have the wildcard are read.
    send([8], three);
    TcpStream::connect(three).unwrap();
    let third = third.split(2, 10).unwrap();
    send([9], three);
    assert_eq!(queued_at(&second), [6, 7, 8]);
    assert_eq!(queued_at(&third), [9]);
    let accepted = |threads: &[Listeners]| {
        let listeners = threads.iter().flat_map(|of| &of.tcp);
        listeners.filter(|one| one.accept().is_ok()).count()
    };
    // And one that came before.
    assert_eq!((accepted(&second), accepted(&third)), (2, 0));
    drop((second, inherited));
    send([10], three);
    assert_eq!(queued_at(&third), [10]);
}

#[test]
fn a_start_that_fails_leaves_to_the_predecessor_what_it_has_joined() {
    let first = bind_all("0.0.0.0:0", &mut Vec::new());
    let wildcard = first.local_addresses()[0];
    let first = first.split(2, 10).unwrap();
    let of_first = inodes(first.iter().flat_map(|of| &of.udp));
    let address = SocketAddr::new(IpAddr::from([127, 0, 0, 2]), wildcard.port());
    // Once an address of its own, once more threads.
    for listen in [address, wildcard] {
        let mut inherited = duplicates(&first);
        let second = Listeners::bind(&[listen], &mut inherited).unwrap();
        let second = second.split(4, 10).unwrap();
        send(0..100, address);
        let mut sockets: Vec<mio::net::UdpSocket> = Vec::new();
        for of in second {
            let udp: Vec<_> = of
                .udp
                .into_iter()
                .map(mio::net::UdpSocket::from_std)
                .collect();
            let tcp = of.tcp.into_iter().map(mio::net::TcpListener::from_std);
            of.joined.leave(&udp, &tcp.collect::<Vec<_>>());
            sockets.extend(udp);
        }
        send(100..200, address);
        sockets.retain(|socket| !of_first.contains(&inodes([socket])[0]));
        let mut taken = Vec::new();
        for socket in &sockets {
            let mut buf = [0; 9];
            while let Ok((_, from)) = socket.recv_from(&mut buf) {
                taken.push(buf[0]);
                // It can still reply.
                assert_eq!(socket.send_to(&buf[..1], from).unwrap(), 1);
            }
        }
        drop((sockets, inherited));
        // What came before it left can still be read, all later is the predecessor's.
        assert!(
            !taken.is_empty() && taken.iter().all(|number| *number < 100),
            "{taken:?}"
        );
        let mut all = [taken, queued_at(&first)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<u8>>(), "{listen}");
    }
}

#[test]
fn an_error_leaves_all_sockets_for_another_attempt() {
    let first = bind_all("127.0.0.1:0 127.0.0.2:0", &mut Vec::new());
    let taken = UdpSocket::bind("127.0.0.3:0").unwrap();
    let mut addresses = first.local_addresses();
    addresses.push(taken.local_addr().unwrap());
    let mut inherited = duplicates(slice::from_ref(&first));
    for _ in 0..2 {
        let error = Listeners::bind(&addresses, &mut inherited).unwrap_err();
        assert!(matches!(error, SocketError::Taken { .. }), "{error}");
        assert_eq!(
            inodes(&inherited),
            inodes(&duplicates(slice::from_ref(&first)))
        );
    }
    drop(taken);
    let second = loop {
        match Listeners::bind(&addresses, &mut inherited) {
            // A process that another test has just forked has the socket until it runs its program.
            Err(SocketError::Taken { .. }) => thread::yield_now(),
            bound => break bound.unwrap(),
        }
    };
    assert_eq!((second.udp.len(), inherited.len()), (3, 0));
}

/// As a service manager opens them.
fn of_a_unit(listen: &str, dual: bool) -> Vec<OwnedFd> {
    let address: SocketAddr = listen.parse().unwrap();
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let open = |kind, address: SocketAddr| {
        let fd = socket(family, kind, SockFlag::empty(), None).unwrap();
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &!dual).unwrap();
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map(|()| fd)
    };
    let (udp, tcp) = loop {
        let udp = UdpSocket::from(open(SockType::Datagram, address).unwrap());
        // Another test's connection may have the port.
        if let Ok(tcp) = open(SockType::Stream, udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    listen_short(&tcp);
    setsockopt(&udp, sockopt::ReceiveTimestamp, &true).unwrap();
    vec![udp.into(), tcp]
}

fn listen_short(tcp: &OwnedFd) {
    nix::sys::socket::listen(tcp, Backlog::new(1).unwrap()).unwrap();
}

#[test]
fn sockets_of_a_socket_unit_serve_like_our_own() {
    for (listen, asked) in [("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "::1")] {
        let mut inherited = of_a_unit(listen, false);
        let listeners = bind_all(listen, &mut inherited);
        assert_eq!((listeners.udp.len(), listeners.tcp.len()), (1, 1));
        let ip: IpAddr = asked.parse().unwrap();
        let server = SocketAddr::new(ip, listeners.local_addresses()[0].port());
        // Neither blocks.
        let mut batch = DatagramBatch::new();
        assert_eq!(batch.receive(&listeners.udp[0], 0), Err(Errno::EAGAIN));
        let error = listeners.tcp[0].accept().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        send([1], server);
        assert_eq!(batch.receive(&listeners.udp[0], 0), Ok(1));
        let (path, _) = batch.received().next().unwrap();
        let Path { local, .. } = path.unwrap();
        let expected = match ip {
            IpAddr::V4(v4) => Local::V4(v4),
            IpAddr::V6(v6) => Local::V6(v6, 0),
        };
        assert_eq!(local, expected);
        // More than the unit's queue takes.
        let held: Vec<_> = (0..9)
            .map(|_| TcpStream::connect(server).unwrap())
            .collect();
        let accepted = held.iter().map(|_| listeners.tcp[0].accept().unwrap());
        assert_eq!(accepted.count(), 9);
    }
}

#[test]
fn a_socket_for_both_families_is_named() {
    let mut inherited = of_a_unit("[::]:0", true);
    let port = inherited::local(&inherited[0]).unwrap().port();
    let error = Listeners::bind(&list(&format!("[::]:{port}")), &mut inherited).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the inherited socket for UDP [::]:{port} takes IPv4 packets, too, for which there are sockets of their own; \
             set BindIPv6Only=ipv6-only in the socket unit"
        )
    );
    assert_eq!(inherited.len(), 2);
}

#[test]
fn sockets_of_another_user_serve_alone() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root to give a socket to another user");
        return;
    }
    let mut inherited = of_a_unit("127.0.0.1:0", false);
    for socket in &inherited {
        fchown(socket, Some(Uid::from_raw(12_345)), None).unwrap();
    }
    let threads = bind_all("127.0.0.1:0", &mut inherited)
        .split(2, 10)
        .unwrap();
    let sockets = threads.iter().map(|of| (of.udp.len(), of.tcp.len()));
    assert_eq!(sockets.collect::<Vec<_>>(), [(1, 1), (0, 0)]);
    let address = threads[1].local_addresses()[0];
    send([1, 2, 3], address);
    assert_eq!(queued_at(&threads), [1, 2, 3]);
}

#[test]
fn a_receive_buffer_holds_what_comes_in_a_tenth_of_a_second() {
    let listeners = bind_all("127.0.0.1:0", &mut Vec::new());
    let size = nix::sys::socket::getsockopt(&listeners.udp[0], sockopt::RcvBuf).unwrap();
    if size < 2 * RECEIVE_BUFFER {
        eprintln!("skipped: needs CAP_NET_ADMIN for the buffer");
        return;
    }
    let local = listeners.local_addresses()[0];
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..10_000 {
        client.send_to(&[1; 50], local).unwrap();
    }
    assert_eq!(queued(&listeners.udp[0]).len(), 10_000);
}
