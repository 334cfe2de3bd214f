//! Listen addresses that appear later or never, and the choice of connections to close.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lab::{
    CLIENT_V4, CLIENT_V6, Frames, Heimdall, Kdig, Knot, Lab, QueryFrame, SERVER_V4, SERVER_V6,
    ScriptedUpstream, UPSTREAM, by_label, sum,
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket},
};

use crate::{
    client::{DnsClient, query},
    heimdall_without_tier, lab, program,
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Sends queries to the address until a reply comes: the kernel may not use it for some seconds.
fn ask_until_answered(lab: &Lab, address: &str, transport: &str) -> Kdig {
    let server = format!("@{address}");
    let arguments = [&server, "n1.example.com", "+timeout=1", transport];
    let end = Instant::now() + TIMEOUT;
    loop {
        match Kdig::ask(lab, &arguments) {
            Ok(reply) => return reply,
            Err(error) => assert!(Instant::now() < end, "{error:#}"),
        }
    }
}

#[test]
fn addresses_that_come_after_the_start_are_served() {
    let Some(lab) = lab("addresses_that_come_after") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let interface = lab.server_if.as_str();
    // Duplicate address detection takes a second or two: it is still tentative at the start.
    lab.server_ip(&format!("addr add fd53::7/64 dev {interface}"))
        .unwrap();
    let listen = [
        ["--listen", "10.53.0.9:53"],
        ["--listen", "[fd53::9]:53"],
        ["--listen", "[fd53::7]:53"],
    ];
    let listen = listen.concat();
    for backend in [
        &["--backend", "socket"][..],
        &["--backend", "xdp", "--interface", interface],
    ] {
        let arguments = [backend, &listen, &["--upstream", UPSTREAM]].concat();
        let mut heimdall =
            Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
        let log = heimdall.process.output();
        for absent in ["10.53.0.9", "fd53::9"] {
            assert!(
                log.contains(&format!("this host has no address {absent} now")),
                "{log}"
            );
        }
        assert!(!log.contains("no address fd53::7"), "{log}");
        lab.server_ip(&format!("addr add 10.53.0.9/24 dev {interface}"))
            .unwrap();
        lab.server_ip(&format!("addr add fd53::9/64 dev {interface}"))
            .unwrap();
        for address in ["10.53.0.9", "fd53::9", "fd53::7"] {
            for transport in ["+notcp", "+tcp"] {
                let reply = ask_until_answered(&lab, address, transport);
                assert_eq!(reply.status, "NOERROR", "{address} {transport}");
                assert_eq!(reply.from, format!("{address}@53"), "{transport}");
            }
        }
        if backend.contains(&"xdp") {
            let stats = heimdall.stats().unwrap();
            assert!(
                stats["workers"][0]["answered"].as_u64() >= Some(3),
                "{stats:#}"
            );
        }
        heimdall
            .process
            .signal(nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        heimdall.process.wait(TIMEOUT).unwrap();
        lab.server_ip(&format!("addr del 10.53.0.9/24 dev {interface}"))
            .unwrap();
        lab.server_ip(&format!("addr del fd53::9/64 dev {interface}"))
            .unwrap();
    }
}

/// A named address that moves to another host, as with VRRP: a router forwards its queries then.
#[test]
fn an_address_that_the_host_has_no_more_is_left_to_the_kernel() {
    let Some(lab) = lab("an_address_that_the_host_has_no_more") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let frames = Frames::open(&lab).unwrap();
    let query = QueryFrame::new(frames.macs, "n1.example.com", 1);
    let received = || sum(&heimdall.stats().unwrap(), "received");
    // By AF_XDP; the sockets answer when the host has the address, too.
    let wait_for = |answered: bool| {
        let end = Instant::now() + TIMEOUT;
        loop {
            let before = received();
            let is_answered = frames.exchange(&query).unwrap().is_some();
            let is_steered = received() > before;
            if (is_answered, is_steered) == (answered, answered) {
                return;
            }
            assert!(
                Instant::now() < end,
                "answered: {is_answered}, steered: {is_steered}"
            );
        }
    };
    wait_for(true);
    let interface = &lab.server_if;
    for (change, answered) in [
        (format!("addr del {SERVER_V4}/24 dev {interface}"), false),
        (format!("route add local {SERVER_V4} dev lo"), true),
        (format!("route del local {SERVER_V4} dev lo"), false),
        (format!("addr add {SERVER_V4}/24 dev {interface}"), true),
    ] {
        lab.server_ip(&change).unwrap();
        wait_for(answered);
    }
}

/// Makes socket(2) fail as without IPv6 in the kernel, for a command and its children.
fn without_ipv6(command: &mut Command) {
    /// Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let code = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |at| code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let skip_unless =
        |value, skip| code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |value| code(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let mut filter = [
        load(NUMBER),
        skip_unless(libc::SYS_socket as u32, 3),
        load(FIRST_ARGUMENT),
        skip_unless(libc::AF_INET6 as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: `program` points to the filter, and both live until the call returns.
        let set = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
}

#[test]
fn a_host_without_ipv6_is_served_over_ipv4() {
    let Some(lab) = lab("a_host_without_ipv6") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let arguments = [
        "--backend",
        "xdp",
        "--interface",
        &lab.server_if,
        "--upstream",
        UPSTREAM,
    ];
    let mut command = lab.on_server(program());
    without_ipv6(&mut command);
    let heimdall = Heimdall::start(command, program(), &arguments).unwrap();
    let log = heimdall.process.output();
    assert!(
        log.contains("not listening on [::]:53: this kernel has no IPv6"),
        "{log}"
    );
    assert!(log.contains("sockets on 0.0.0.0:53\n"), "{log}");
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(
            ask_until_answered(&lab, SERVER_V4, transport).status,
            "NOERROR"
        );
    }
    drop(heimdall);
    // With IPv6 alone there is nothing to serve.
    let mut command = lab.on_server(program());
    without_ipv6(&mut command);
    let alone = [
        "--listen",
        "[::1]:53",
        "--backend",
        "socket",
        "--upstream",
        UPSTREAM,
    ];
    let error = Heimdall::start(command, program(), &alone).unwrap_err();
    assert!(format!("{error:#}").contains("this kernel has no IPv6, which UDP [::1]:53 needs"));

    // Here the kernel has IPv6, and no interface does.
    let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    lab::run(lab.on_server("sh").args(["-c", off])).unwrap();
    let _heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    assert_eq!(
        ask_until_answered(&lab, SERVER_V4, "+notcp").status,
        "NOERROR"
    );
}

#[test]
fn a_link_local_address_is_served_on_its_link() {
    let Some(lab) = lab("a_link_local_address") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    lab.server_ip(&format!("addr add fe80::53/64 dev {} nodad", lab.server_if))
        .unwrap();
    let listen = format!("[fe80::53%{}]:53", lab.server_if);
    let heimdall =
        Heimdall::on_xdp_at(&lab, program(), &[&listen], &["--upstream", UPSTREAM]).unwrap();
    let log = heimdall.process.output();
    assert!(
        log.contains(&format!("sockets on {listen}")) && !log.contains("no address"),
        "{log}"
    );
    let server = format!("fe80::53%{}", lab.client_if);
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(
            ask_until_answered(&lab, &server, transport).status,
            "NOERROR"
        );
    }
    let stats = heimdall.stats().unwrap();
    assert!(
        stats["workers"][0]["answered"].as_u64() >= Some(1),
        "{stats:#}"
    );
    assert!(
        stats["sockets"]["tcp_answered"].as_u64() >= Some(1),
        "{stats:#}"
    );
}

/// A connection from `source`. To be made in the client's namespace.
fn tcp(source: &str, server: &str) -> TcpStream {
    let [from, to] = [(source, 0), (server, 53)]
        .map(|(text, port)| SocketAddr::new(text.parse::<IpAddr>().unwrap(), port));
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Whether a query over a connection is answered.
fn is_answered(stream: &mut TcpStream) -> bool {
    let msg = query(7, "plain.example");
    let framed = [&(msg.len() as u16).to_be_bytes()[..], &msg].concat();
    let mut len = [0; 2];
    stream.write_all(&framed).is_ok() && stream.read_exact(&mut len).is_ok() && {
        let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut reply).is_ok() && reply.get(3).is_some_and(|code| code & 0xf == 0)
    }
}

/// Gives the client addresses of other networks.
fn add_networks(lab: &Lab) {
    for (address, client) in [("10.77.0.2/32", CLIENT_V4), ("fd77::2/128", CLIENT_V6)] {
        lab.client_ip(&format!("addr add {address} dev {} nodad", lab.client_if))
            .or_else(|_| lab.client_ip(&format!("addr add {address} dev {}", lab.client_if)))
            .unwrap();
        lab.server_ip(&format!("route add {address} via {client}"))
            .unwrap();
    }
}

#[test]
fn a_client_that_holds_all_connections_does_not_block_others() {
    const FIRST: &str = "127.0.0.1:5301";
    let Some(lab) = lab("a_client_that_holds_all") else {
        return;
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    add_networks(&lab);
    let heimdall = Heimdall::on_sockets(&lab, program(), &["--upstream", FIRST]).unwrap();
    for (holder, other, server) in [
        (CLIENT_V4, "10.77.0.2", SERVER_V4),
        (CLIENT_V6, "fd77::2", SERVER_V6),
    ] {
        lab.in_client(|| {
            let mut before = tcp(other, server);
            assert!(is_answered(&mut before), "{other}");
            let held: Vec<TcpStream> = (0..1100).map(|_| tcp(holder, server)).collect();
            let mut after = tcp(other, server);
            assert!(is_answered(&mut after), "{other}: a new connection");
            assert!(is_answered(&mut before), "{other}: the one from before");
            drop(held);
        })
        .unwrap();
    }
    let closed = &heimdall.stats().unwrap()["sockets"]["tcp_closed_full"];
    assert!(closed.as_u64() >= Some(2 * 76), "{closed}");
}

#[test]
fn without_descriptors_the_largest_holder_loses_connections() {
    const FIRST: &str = "127.0.0.1:5301";
    let Some(lab) = lab("without_descriptors") else {
        return;
    };
    let _upstream = ScriptedUpstream::with_script(&lab, FIRST, by_label).unwrap();
    add_networks(&lab);
    let mut command = lab.on_server("prlimit");
    command.arg("--nofile=64:64").arg(program());
    let listen = format!("{SERVER_V4}:53");
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--upstream",
        FIRST,
    ];
    let heimdall = Heimdall::start(command, program(), &arguments).unwrap();
    let held = lab.in_client(|| {
        let mut before = tcp("10.77.0.2", SERVER_V4);
        assert!(is_answered(&mut before));
        let held: Vec<TcpStream> = (0..200).map(|_| tcp(CLIENT_V4, SERVER_V4)).collect();
        let mut after = tcp("10.77.0.2", SERVER_V4);
        assert!(is_answered(&mut after), "a new connection");
        assert!(is_answered(&mut before), "the older connection");
        held
    });
    // Commands work, several at once, and so does a query to an upstream over TCP.
    let stats = || {
        let mut command = Command::new(program());
        command.args(["stats", "--control"]).arg(heimdall.control());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let several: Vec<Child> = (0..8).map(|_| stats()).collect();
    for mut one in several {
        assert!(one.wait().unwrap().success());
    }
    let reply = DnsClient::v4(&lab).udp("truncate.example A rd edns");
    assert!(reply.starts_with("NOERROR"), "{reply}");
    let stats = heimdall.stats().unwrap();
    assert!(
        stats["forwarder"]["sent_tcp"].as_u64() > Some(0),
        "{stats:#}"
    );
    drop(held);
    assert!(heimdall.process.output().contains("ready"));
}
