//! On the real thing: this host, and a veth pair in a network namespace of its own.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

use crate::{
    config::{Config, Flags, Host},
    doctor::{Finding, Level, checks, findings},
    xdp::{AttachPolicy, Details, Interface, Program, ProgramOptions, candidates},
};

/// Runs `test` in a new network namespace with a veth pair hdd0, hdd1 of two queues.
fn in_namespace(name: &str, test: fn()) {
    if !lab::available(name) {
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let queues = "numrxqueues 2 numtxqueues 2";
        ip(&format!(
            "link add hdd0 {queues} type veth peer name hdd1 {queues}"
        ));
        ip("addr add 192.0.2.1/24 dev hdd0");
        ip("link set hdd0 up");
        ip("link set hdd1 up");
        test();
    };
    thread::spawn(run).join().unwrap();
}

fn ip(arguments: &str) {
    assert!(try_ip(arguments), "ip {arguments}");
}

/// Whether that could be done: not every kernel has every kind of interface.
fn try_ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.unwrap().status.success()
}

fn config(interface: &str) -> Config {
    let flags = Flags {
        config: None,
        settings: [
            ("--upstream", vec!["192.0.2.53".to_owned()]),
            ("--interface", vec![interface.to_owned()]),
            ("--control", vec!["/tmp/doctor.sock".to_owned()]),
        ]
        .into(),
    };
    Config::load(&flags, &Host::read()).unwrap()
}

/// The only finding of a check on an interface.
fn finding(all: &[Finding], id: &str) -> (Level, String) {
    let mut of_check = all
        .iter()
        .filter(|one| one.check.id == id && one.subject == "hdd0");
    let found = of_check
        .next()
        .unwrap_or_else(|| panic!("no {id}: {all:#?}"));
    (found.level, found.finding.clone())
}

#[test]
fn a_veth_pair_is_described() {
    in_namespace("a_veth_pair_is_described", || {
        let details = Details::read("hdd0", &[]).unwrap();
        assert_eq!(details.driver.as_ref().unwrap().name, "veth");
        assert!(details.up && details.carrier, "{details:?}");
        let channels = details.channels.as_ref().unwrap();
        assert_eq!(channels.most(), 2, "{channels:?}");
        assert!(
            details
                .offloads
                .as_ref()
                .is_some_and(|offloads| !offloads.lro)
        );
        assert_eq!((&details.master, details.vlans.len()), (&None, 0));
        // From Linux 6.3 on.
        if let Some(features) = &details.xdp {
            assert!(features.native && !features.zero_copy, "{features:?}");
        }
        assert_eq!(candidates().unwrap(), ["hdd0"], "the one with an address");
        assert!(Details::read("hdd9", &[]).is_err());
    });
}

#[test]
fn what_is_around_a_veth_pair_is_found() {
    in_namespace("what_is_around_a_veth_pair", || {
        let all = findings(&config("hdd0"), None);
        assert_eq!(finding(&all, "nic.usable").0, Level::Good);
        assert_eq!(finding(&all, "nic.program").1, "no XDP program is attached");
        assert_eq!(finding(&all, "nic.link").1, "up");

        if try_ip("link add link hdd0 name hdd0.5 type vlan id 5") {
            assert_eq!(Details::read("hdd0", &[]).unwrap().vlans, ["hdd0.5"]);
        }
        if try_ip("link add hdbr type bridge") {
            ip("link set hdd0 master hdbr");
            let master = Details::read("hdd0", &[]).unwrap().master.unwrap();
            assert_eq!(master, ("hdbr".to_owned(), "bridge".to_owned()));
            ip("link set hdd0 nomaster");
        }
        let interface = Interface::find("hdd0").unwrap();
        let program = Program::attach(
            &interface,
            AttachPolicy::GenericOnly,
            ProgramOptions::default(),
        )
        .unwrap();
        let all = findings(&config("hdd0"), None);
        let found = finding(&all, "nic.program");
        let expected = format!("Heimdall's program ({}) is in generic mode", program.id());
        assert_eq!(found, (Level::Warn, expected));
        let found = |programs| finding(&findings(&config("hdd0"), Some(programs)), "nic.program");
        assert_eq!(found(vec![program.id()]).0, Level::Warn);
        let (level, text) = found(Vec::new());
        assert_eq!(level, Level::Bad, "{text}");
        drop(program);

        ip("link set hdd1 down");
        let (level, text) = finding(&findings(&config("hdd0"), None), "nic.link");
        assert_eq!(
            (level, text.contains("no carrier")),
            (Level::Bad, true),
            "{text}"
        );
        ip("link set hdd0 mtu 9000");
        let (level, text) = finding(&findings(&config("hdd0"), None), "nic.usable");
        assert_eq!(level, Level::Good, "{text}");
        // An interface of another namespace in sysfs is not taken for this one.
        let all = findings(&config("hdd0"), None);
        assert!(
            all.iter().all(|one| one.check.id != "nic.deferral"),
            "{all:#?}"
        );
    });
}

#[test]
fn replies_that_leave_elsewhere_are_found_whatever_has_the_address() {
    in_namespace("replies_that_leave_elsewhere", || {
        ip("link add hde0 type veth peer name hde1");
        ip("addr add 198.51.100.1/24 dev hde0");
        ip("link set hde0 up");
        ip("link set hde1 up");
        ip("route add default via 198.51.100.2");
        let found = |name: &str| finding(&findings(&config(name), None), "nic.return-path");
        let elsewhere = |name: &str| {
            let (level, text) = found(name);
            assert_eq!(level, Level::Warn, "{name}: {text}");
            assert!(text.contains("out of hde0"), "{name}: {text}");
        };
        elsewhere("hdd0");
        ip("addr del 192.0.2.1/24 dev hdd0");
        assert_eq!(found("hdd0").0, Level::Good);
        if try_ip("link add hdbr type bridge") {
            ip("link set hdd0 master hdbr");
            ip("addr add 192.0.2.1/24 dev hdbr");
            ip("link set hdbr up");
            elsewhere("hdd0");
            ip("link del hdbr");
        }
        for (name, kind) in [("hdmv", "macvlan"), ("hdd0.5", "vlan id 5")] {
            if try_ip(&format!("link add link hdd0 name {name} type {kind}")) {
                ip(&format!("addr add 192.0.2.1/24 dev {name}"));
                let all = findings(&config(name), None);
                let (level, text) = finding(&all, "nic.usable");
                assert_eq!(level, Level::Bad, "it is down: {text}");
                ip(&format!("link set {name} up"));
                elsewhere(name);
                ip(&format!("link del {name}"));
            }
        }
    });
}

#[test]
fn this_host_is_examined() {
    let found = findings(&config("lo"), None);
    let ids: Vec<&str> = found.iter().map(|one| one.check.id).collect();
    for id in [
        "kernel.version",
        "privilege.capabilities",
        "nic.usable",
        "files.limit",
    ] {
        assert!(ids.contains(&id), "no {id}: {ids:?}");
    }
    let lo = found
        .iter()
        .find(|one| one.check.id == checks::NIC_USABLE.id);
    assert_eq!(
        lo.unwrap().level,
        Level::Bad,
        "AF_XDP serves no loopback interface"
    );
}
