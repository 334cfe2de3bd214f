//! Servers that take over from each other, in the lab: real packets, programs and AF_XDP sockets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    sync::atomic::AtomicU32,
};

use lab::{Lab, SERVER_V4};

use super::*;
use crate::{
    config::{Flags, Host},
    forward::{
        ForwardOptions, Forwarder, ForwarderBuilder,
        testing::{Upstream, query, response},
    },
    heartbeat::Heartbeat,
    server::{
        preflight::port,
        report::{QueueReport, WorkerReport},
        xdp::{Required, XdpPrograms},
    },
    tap::{Observations, TapOptions},
    worker::max_pending,
    xdp::{
        Interface, Link,
        xsk::{BindMode, NoZeroCopy, Xsk},
    },
};

/// For what happens soon if it happens.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Queries of a client that wait at most. A veth's ring holds 256 packets.
const WINDOW: usize = 64;

const REFUSED: u8 = 5;

fn lab(test: &str) -> Option<Lab> {
    lab::available(test).then(|| Lab::new().unwrap())
}

fn config(lab: &Lab) -> Config {
    config_on(&[&lab.server_if])
}

fn config_on(interfaces: &[&str]) -> Config {
    let host = Host {
        control: Some("/run/heimdall/control.sock".into()),
        ..Host::default()
    };
    let text = format!(
        "upstream = [\"192.0.2.1\"]\nbackend = \"xdp\"\ninterface = {interfaces:?}\ncache.size = \"1M\""
    );
    Config::from_text(&Flags::default(), &text, &host).unwrap()
}

fn listen() -> Vec<SocketAddr> {
    vec![format!("{SERVER_V4}:53").parse().unwrap()]
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "not {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The part of a server that AF_XDP needs. Its sockets are [`Sockets`].
struct Server {
    supervisor: Supervisor,
    _forwarder: Forwarder,
    _threads: Arc<Threads>,
}

impl Server {
    fn programs(config: &Config, links: Vec<OwnedFd>) -> XdpPrograms {
        XdpPrograms::attach(config, &listen(), links, Required::All).unwrap()
    }

    fn start(config: &Config, programs: XdpPrograms, upstream: &Upstream) -> Self {
        let observations = Arc::new(Observations::new(&TapOptions::default()));
        let cores = CoreFactory::new(config, Arc::default(), observations);
        let capacity = max_pending(config.xdp.frames as usize);
        let mailboxes: Vec<_> = (config.interfaces.iter())
            .map(|_| Arc::new(Mailbox::new(capacity).unwrap()))
            .collect();
        let options = ForwardOptions {
            upstreams: vec![upstream.address.into()],
            ..ForwardOptions::default()
        };
        let forwarder = ForwarderBuilder::new(&options, mailboxes.clone(), cores.hasher()).unwrap();
        let forwarder = forwarder.start().unwrap();
        let threads = Threads::new(|| panic!("a thread has ended"));
        let supervisor = Supervisor::start(
            programs.open_queues(config).unwrap(),
            config,
            listen(),
            cores,
            forwarder.handle(),
            (0..).zip(mailboxes).collect(),
            &threads,
        );
        Self {
            supervisor: supervisor.unwrap(),
            _forwarder: forwarder,
            _threads: threads,
        }
    }

    /// The ids of the link, and of the program that it has now.
    fn ids(&self) -> [u32; 2] {
        let link = self.supervisor.links().unwrap().pop().unwrap();
        let info = Link::inherit(link).unwrap().info().unwrap();
        [info.id, info.program]
    }

    fn worker<T>(&self, read: impl FnOnce(&WorkerReport) -> T) -> T {
        read(&self.supervisor.report().load().workers[0])
    }

    fn queue<T>(&self, read: impl FnOnce(&QueueReport) -> T) -> T {
        self.worker(|worker| read(&worker.queues[0]))
    }

    fn received(&self) -> u64 {
        self.queue(|queue| queue.counters.received.get())
    }
}

/// In the place of the socket front: refuses each query.
struct Sockets<'a> {
    socket: &'a UdpSocket,
    refused: AtomicU32,
}

impl Sockets<'_> {
    fn serve(&self, on: &AtomicBool) {
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut buffer = [0; 512];
        while on.load(Ordering::Relaxed) {
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                buffer[3] |= REFUSED;
                self.socket.send_to(&buffer[..len], from).unwrap();
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address).unwrap()
}

/// Sends queries while `on` is set, and checks that each gets one reply. Returns how many there were.
fn load(socket: &UdpSocket, on: &AtomicBool) -> u64 {
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (mut asked, mut id) = (0, 0_u16);
    let mut waiting = BTreeSet::new();
    let mut buffer = [0; 512];
    loop {
        while waiting.len() < WINDOW && on.load(Ordering::Relaxed) {
            id = id.wrapping_add(1);
            assert!(waiting.insert(id));
            let name = format!("n{}", id % 200);
            socket.send(&query(id, &name, None)).unwrap();
            asked += 1;
        }
        if waiting.is_empty() {
            return asked;
        }
        let len = socket.recv(&mut buffer);
        let len = len.unwrap_or_else(|_| panic!("{asked} asked, without a reply: {waiting:?}"));
        assert!(len > 12 && buffer[2] & 0x80 != 0);
        assert!(
            matches!(buffer[3] & 15, 0 | REFUSED),
            "{:x?}",
            &buffer[..12]
        );
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        assert!(waiting.remove(&id), "a second reply to {id}");
    }
}

/// Clears a flag, also when a test fails: the threads end then.
struct Off<'a>(&'a AtomicBool);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn servers_take_over_from_each_other_under_load_and_nothing_is_lost() {
    let Some(lab) = lab("servers_take_over_from_each_other") else {
        return;
    };
    let config = config(&lab);
    let client = lab.in_client(|| bind("0.0.0.0:0")).unwrap();
    client.connect((SERVER_V4, 53)).unwrap();
    let run = || {
        let upstream = Upstream::start(|seen| vec![response(&seen.msg, 10)]);
        let socket = bind("10.53.0.1:53");
        let sockets = Sockets {
            socket: &socket,
            refused: AtomicU32::new(0),
        };
        let serving = AtomicBool::new(true);
        let asking = AtomicBool::new(true);
        let mut server = Server::start(&config, Server::programs(&config, Vec::new()), &upstream);
        let [link, first] = server.ids();
        let mut programs = BTreeSet::from([first]);
        thread::scope(|scope| {
            scope.spawn(|| sockets.serve(&serving));
            let _not_serving = Off(&serving);
            let asked = {
                let asked = scope.spawn(|| load(&client, &asking));
                let _not_asking = Off(&asking);
                for round in 0..6 {
                    let before = server.received();
                    wait_until("steered", || server.received() > before + 200);
                    let [_, own] = server.ids();
                    let links = server.supervisor.links().unwrap();
                    let next = Server::programs(&config, links);
                    let [still, other] = server.ids();
                    assert_eq!(still, link);
                    assert!(programs.insert(other), "a new program");
                    server.supervisor.retire(TIMEOUT).unwrap();
                    let refused = sockets.refused.load(Ordering::Relaxed);
                    wait_until("passed", || {
                        sockets.refused.load(Ordering::Relaxed) > refused
                    });
                    server.queue(|queue| {
                        assert_eq!(queue.counters.frames_missing.get(), 0);
                        assert_eq!(queue.counters.frames_total.get(), 0);
                    });
                    if round % 2 == 0 {
                        // The successor has failed.
                        drop(next);
                        server.supervisor.resume().unwrap();
                        assert_eq!(server.ids(), [link, own]);
                    } else {
                        let successor = Server::start(&config, next, &upstream);
                        drop(std::mem::replace(&mut server, successor));
                        assert_eq!(server.ids(), [link, other]);
                    }
                }
                let before = server.received();
                wait_until("steered", || server.received() > before + 200);
                asked
            };
            assert!(asked.join().unwrap() > 1400);
        });
        drop(server);
    };
    lab.in_server(run).unwrap();
    assert!(
        !lab.has_xdp().unwrap(),
        "the link ends with the last server"
    );
}

/// An upstream that answers once it is opened.
fn gated(gate: &Arc<AtomicBool>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |seen| {
        while !gate.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        vec![response(&seen.msg, 10)]
    })
}

#[test]
fn a_queue_ends_when_it_has_answered_what_waits() {
    const QUERIES: u16 = 50;
    let Some(lab) = lab("a_queue_ends_when_it_has_answered") else {
        return;
    };
    let config = config(&lab);
    let client = lab.in_client(|| bind("0.0.0.0:0")).unwrap();
    client.connect((SERVER_V4, 53)).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let ask = |id: u16| {
        let query = query(id, &format!("w{id}"), None);
        client.send(&query).unwrap();
    };
    let run = || {
        let gate = Arc::new(AtomicBool::new(false));
        let upstream = gated(&gate);
        let kernel = bind("10.53.0.1:53");
        kernel.set_nonblocking(true).unwrap();
        let server = Server::start(&config, Server::programs(&config, Vec::new()), &upstream);
        (0..QUERIES).for_each(ask);
        wait_until("received", || server.received() == u64::from(QUERIES));
        thread::scope(|scope| {
            let retired = scope.spawn(|| server.supervisor.retire(TIMEOUT));
            let mut buffer = [0; 512];
            let mut id = QUERIES;
            wait_until("passed to the kernel", || {
                ask(id);
                id += 1;
                kernel.recv(&mut buffer).is_ok()
            });
            assert!(!retired.is_finished());
            gate.store(true, Ordering::Relaxed);
            retired.join().unwrap().unwrap();
            // Those that came before the end of steering are among them.
            let mut answered = BTreeSet::new();
            let expected = server.received();
            while (answered.len() as u64) < expected {
                client.recv(&mut buffer).unwrap();
                assert!(answered.insert([buffer[0], buffer[1]]));
            }
            assert!(expected >= u64::from(QUERIES));
        });
        server.queue(|queue| {
            assert_eq!(queue.counters.answered.get(), queue.counters.received.get());
            assert_eq!(queue.counters.frames_missing.get(), 0);
        });
        let restarts = server.queue(|queue| queue.restarts);
        server.supervisor.resume().unwrap();
        wait_until("running again", || {
            server.queue(|queue| queue.state == "running" && queue.restarts == restarts + 1)
        });
    };
    lab.in_server(run).unwrap();
}

#[test]
fn a_queue_whose_queries_are_not_answered_ends_at_the_limit() {
    let Some(lab) = lab("a_queue_whose_queries_are_not_answered") else {
        return;
    };
    let config = config(&lab);
    let client = lab.in_client(|| bind("0.0.0.0:0")).unwrap();
    client.connect((SERVER_V4, 53)).unwrap();
    let run = || {
        let gate = Arc::new(AtomicBool::new(false));
        let upstream = gated(&gate);
        let programs = |links| Server::programs(&config, links);
        let server = Server::start(&config, programs(Vec::new()), &upstream);
        client.send(&query(1, "never", None)).unwrap();
        wait_until("received", || server.received() == 1);
        server.supervisor.retire(Duration::from_millis(50)).unwrap();
        // Its queue is free.
        let links = server.supervisor.links().unwrap();
        let successor = Server::start(&config, programs(links), &upstream);
        drop(successor);
        // The outcome for the old worker does not confuse the new one.
        server.supervisor.resume().unwrap();
        gate.store(true, Ordering::Relaxed);
        wait_until("running again", || {
            server.queue(|queue| queue.state == "running")
        });
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.send(&query(2, "answered", None)).unwrap();
        let mut buffer = [0; 512];
        client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..2], [0, 2]);
    };
    lab.in_server(run).unwrap();
}

/// The parts of a supervisor, to be called one by one.
struct Parts {
    interface: ServedInterface,
    pool: Pool,
    context: Context,
    _forwarder: Forwarder,
}

impl Parts {
    fn open(config: &Config) -> Self {
        let observations = Arc::new(Observations::new(&TapOptions::default()));
        let cores = CoreFactory::new(config, Arc::default(), observations);
        let mailbox = Arc::new(Mailbox::new(max_pending(config.xdp.frames as usize)).unwrap());
        let options = ForwardOptions {
            upstreams: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53)).into()],
            ..ForwardOptions::default()
        };
        let mailboxes = vec![Arc::clone(&mailbox)];
        let forwarder = ForwarderBuilder::new(&options, mailboxes, cores.hasher()).unwrap();
        let forwarder = forwarder.start().unwrap();
        let context = Context {
            config: config.clone(),
            wanted: Wanted::new(config, listen()),
            cores,
            forwarder: forwarder.handle(),
            paths: Arc::default(),
            tier: None,
            signal: Arc::new(Signal::new().unwrap()),
        };
        let programs = Server::programs(config, Vec::new());
        let open = programs.open_queues(config).unwrap();
        let mut pool = Pool::new(vec![(0, mailbox)], &config.xdp);
        let interface = open.interfaces.into_iter().next().unwrap();
        let interface = ServedInterface::start(interface, &mut pool, &context).unwrap();
        Self {
            interface,
            pool,
            context,
            _forwarder: forwarder,
        }
    }
}

#[test]
fn each_queue_and_each_interface_that_returns_is_a_step_of_its_own() {
    let Some(lab) = lab("each_queue_and_each_interface") else {
        return;
    };
    let config = config(&lab);
    let run = || {
        let Parts {
            mut interface,
            mut pool,
            context,
            _forwarder,
        } = Parts::open(&config);
        let heartbeat = Heartbeat::new("steps", false);
        heartbeat.begin();
        let turns = |step: &mut dyn FnMut()| {
            let before = heartbeat.turns();
            step();
            heartbeat.turns() - before
        };
        assert_eq!(turns(&mut || interface.serve(&pool).unwrap()), 1);
        let now = Instant::now();
        // Nothing is to be done.
        assert_eq!(
            turns(&mut || interface.restart_due(now, &mut pool, &context)),
            0
        );
        assert_eq!(
            turns(&mut || assert!(interface.queues[0].stop(Instant::now() + TIMEOUT))),
            1
        );
        // A socket is opened, and registered; the kernel may still hold the queue.
        let mut counted = 0;
        wait_until("running", || {
            let now = Instant::now();
            interface.queues[0].start_at(now);
            counted = turns(&mut || interface.restart_due(now, &mut pool, &context));
            interface.queues[0].is_running()
        });
        assert_eq!(counted, 2);
        interface.queues[0].stop(Instant::now() + TIMEOUT);
        pool.stop_all();
    };
    lab.in_server(run).unwrap();
}

#[test]
fn a_queue_is_refused_for_lack_of_memory_until_there_is_enough() {
    let Some(lab) = lab("a_queue_is_refused_for_lack_of_memory") else {
        return;
    };
    let config = config(&lab);
    let interface = lab.server_if.as_str();
    let run = || {
        let Parts {
            interface: mut served,
            mut pool,
            mut context,
            _forwarder,
        } = Parts::open(&config);
        let state = |served: &ServedInterface, pool: &Pool, at: usize| {
            let queues = served.queue_reports(pool).map(|(_, queue)| queue);
            let queue = queues.into_iter().nth(at).unwrap();
            (queue.state, queue.reason.unwrap_or_default())
        };
        // No host has as much.
        let frames = std::mem::replace(&mut context.config.xdp.frames, 1 << 30);
        // The one that it has takes nothing more, and is not asked.
        served.restart_due(Instant::now(), &mut pool, &context);
        assert_eq!(state(&served, &pool, 0).0, "running");
        let found = Interface::find(interface).unwrap();
        served.set_queues(&found, &[0, 1], &mut pool);
        served.restart_due(Instant::now(), &mut pool, &context);
        let (refused, why) = state(&served, &pool, 1);
        assert_eq!(refused, "restarting");
        assert!(
            why.starts_with("memory: frames of 1 queue (2097152 MiB) take 2097152 MiB, and "),
            "{why}"
        );
        assert_eq!(state(&served, &pool, 0).0, "running");
        // One that is served keeps its frames if there is no memory for larger ones.
        served.set_queues(&found, &[0], &mut pool);
        lab.server_ip(&format!("link set {interface} mtu 9000"))
            .unwrap();
        served.attached.as_ref().unwrap().follow().unwrap();
        let mtu = served.attached.as_ref().unwrap().port_mtu();
        assert_eq!(mtu, 9000);
        served.fit(mtu, Instant::now(), &context);
        served.restart_due(Instant::now(), &mut pool, &context);
        assert_eq!(served.queues[0].frame_size(), Some(2048));
        context.config.xdp.frames = frames;
        served.fit(mtu, Instant::now(), &context);
        assert!(!served.queues[0].is_running());
        // The kernel may still have the socket before.
        served.restart_due(Instant::now(), &mut pool, &context);
        assert_eq!(served.queues[0].frame_size(), Some(4096));
        served.queues[0].stop(Instant::now() + TIMEOUT);
        pool.stop_all();
    };
    lab.in_server(run).unwrap();
}

#[test]
fn a_socket_that_cannot_be_bound_is_attempted_again_only_after_a_change_of_the_interface() {
    let Some(lab) = lab("a_socket_that_cannot_be_bound") else {
        return;
    };
    let config = config(&lab);
    let name = lab.server_if.as_str();
    let run = || {
        let Parts {
            interface: mut served,
            mut pool,
            context,
            _forwarder,
        } = Parts::open(&config);
        // The kernel knows of no queue 7.
        let found = Interface::find(name).unwrap();
        served.set_queues(&found, &[0, 7], &mut pool);
        let mut is_due_after = |change: &str| {
            lab.server_ip(&change.replace("INTERFACE", name)).unwrap();
            let port = port(&context.wanted.interfaces, name);
            assert!(served.refresh(Some(port), &context, Instant::now()));
            let is_due = served.due(&pool).is_some();
            served.restart_due(Instant::now(), &mut pool, &context);
            let (_, queue) = served.queue_reports(&pool).nth(1).unwrap();
            let why = queue.reason.unwrap();
            assert!(why.contains("Invalid argument"), "{why}");
            assert_eq!(served.due(&pool), None, "it waits for a change");
            is_due
        };
        for (change, is_due) in [
            ("link show dev INTERFACE", true),
            ("link show dev INTERFACE", false),
            ("addr add 10.53.0.77/24 dev INTERFACE", false),
            ("link set INTERFACE mtu 1400", true),
            ("link set INTERFACE down", false),
            ("link set INTERFACE up", true),
        ] {
            assert_eq!(is_due_after(change), is_due, "{change}");
        }
        served.queues[0].stop(Instant::now() + TIMEOUT);
        pool.stop_all();
    };
    lab.in_server(run).unwrap();
}

#[test]
fn what_the_start_has_left_out_is_attached_when_it_comes() {
    let Some(lab) = lab("what_the_start_has_left_out") else {
        return;
    };
    let config = config_on(&["late0"]);
    let run = || {
        let upstream = Upstream::start(|seen| vec![response(&seen.msg, 10)]);
        let attach = |required| XdpPrograms::attach(&config, &listen(), Vec::new(), required);
        assert!(attach(Required::All).is_err() && attach(Required::One).is_err());
        let server = Server::start(&config, attach(Required::Nothing).unwrap(), &upstream);
        let reported = |is_so: &dyn Fn(&XdpReport) -> bool| {
            let report = server.supervisor.report();
            is_so(&report.load())
        };
        wait_until("gone", || {
            reported(&|report| report.workers.is_empty() && report.interfaces[0].state == "gone")
        });
        // A successor that fails.
        assert!(server.supervisor.links().unwrap().is_empty());
        server.supervisor.retire(TIMEOUT).unwrap();
        server.supervisor.resume().unwrap();
        lab.server_ip("link add late0 type veth peer name late1")
            .unwrap();
        lab.server_ip("link set late0 up").unwrap();
        wait_until("served", || {
            reported(&|report| {
                let queues = report.workers.iter().flat_map(|worker| &worker.queues);
                queues.map(|queue| queue.state).eq(["running"])
            })
        });
        assert_eq!(server.supervisor.links().unwrap().len(), 1);
        server.supervisor.retire(TIMEOUT).unwrap();
    };
    lab.in_server(run).unwrap();
}

#[test]
fn a_driver_without_zero_copy_is_asked_once() {
    if !lab::available("a_driver_without_zero_copy") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let config = config(&lab);
    let run = || {
        let programs = Server::programs(&config, Vec::new());
        let open = programs.open_queues(&config).unwrap();
        let interface = &open.interfaces[0];
        let known = interface.attached.no_zero_copy().unwrap();
        assert!(known.why.contains("the driver has no zero-copy ("));
        for queue in &interface.queues {
            assert_eq!(queue.xsk.mode(), BindMode::Copy);
            assert_eq!(queue.xsk.why_not_zero_copy(), Some(&known));
        }
        // What is known is believed.
        drop(open);
        let known = NoZeroCopy::device("somebody said so");
        wait_until("free", || {
            let opened = Xsk::open(&lab.server_if, 0, 64, 1500, Some(known.clone()));
            opened.is_ok_and(|(xsk, _)| xsk.why_not_zero_copy() == Some(&known))
        });
    };
    lab.in_server(run).unwrap();
}

#[test]
fn sockets_are_bound_once_a_link_that_attaching_has_reset_is_back() {
    let Some(lab) = lab("sockets_are_bound_once_a_link") else {
        return;
    };
    let config = config(&lab);
    let set = |state: &str| {
        let command = format!("link set {} {state}", lab.client_if);
        lab.client_ip(&command).unwrap();
    };
    let run = || {
        let programs = Server::programs(&config, Vec::new());
        // As a driver does.
        set("down");
        let is_back = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(500));
                is_back.store(true, Ordering::Relaxed);
                set("up");
            });
            let open = programs.open_queues(&config).unwrap();
            assert!(is_back.load(Ordering::Relaxed), "it did not wait");
            assert!(open.interfaces[0].attached.interface.has_carrier().unwrap());
        });
    };
    lab.in_server(run).unwrap();
}

#[test]
fn of_several_interfaces_each_keeps_gets_or_loses_its_program() {
    let Some(lab) = lab("of_several_interfaces_each") else {
        return;
    };
    for name in ["kept", "new"] {
        let peer = format!("link add {name} type veth peer name {name}-peer");
        lab.server_ip(&peer).unwrap();
        lab.server_ip(&format!("link set {name} up")).unwrap();
        lab.server_ip(&format!("link set {name}-peer up")).unwrap();
    }
    let program_on = |name: &str| {
        let shown = lab.server_ip(&format!("-details link show dev {name}"));
        let shown = shown.unwrap();
        let words: Vec<_> = shown.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "prog/xdp")?;
        Some(words[at + 2].parse::<u32>().unwrap())
    };
    let gone = lab.server_if.as_str();
    let run = || {
        let upstream = Upstream::start(|seen| vec![response(&seen.msg, 10)]);
        let before = config_on(&[gone, "kept"]);
        let server = Server::start(&before, Server::programs(&before, Vec::new()), &upstream);
        let [on_gone, on_kept] = [gone, "kept"].map(|name| program_on(name).unwrap());
        assert_eq!(program_on("new"), None);
        let after = config_on(&["new", "kept"]);
        let programs = Server::programs(&after, server.supervisor.links().unwrap());
        assert_eq!(program_on(gone), Some(on_gone));
        assert!(program_on("kept").is_some_and(|id| id != on_kept));
        server.supervisor.retire(TIMEOUT).unwrap();
        let successor = Server::start(&after, programs, &upstream);
        drop(server);
        assert_eq!(program_on(gone), None);
        assert!(program_on("kept").is_some() && program_on("new").is_some());
        drop(successor);
        assert_eq!(["kept", "new"].map(program_on), [None, None]);
    };
    lab.in_server(run).unwrap();
}
