//! Service addresses: announced while the server answers, and neither before nor after.

use std::{
    net::UdpSocket,
    path::Path,
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, SERVER_V6, UPSTREAM, debugger::Held};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{client::Settings, lab, program, threads::thread_named};

const SERVICE_V4: &str = "192.0.2.53";
const SERVICE_V6: &str = "2001:db8:53::53";

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(40);

/// Settings of a server on AF_XDP with a wildcard, and of its service addresses.
fn text(lab: &Lab, addresses: &[&str], anycast: &str) -> String {
    format!(
        "interface = [\"{}\"]\nbackend = \"xdp\"\nupstream = [\"{UPSTREAM}\"]\nstop-timeout = 1\n\
         cache.size = \"4M\"\nforward.timeout-ms = 200\nforward.attempts = 1\ntier.mode = \"off\"\n\
         [anycast]\naddress = {addresses:?}\n{anycast}\n",
        lab.server_if
    )
}

/// Both addresses on `lo`, with short times.
fn on_lo(lab: &Lab, more: &str) -> String {
    let times = "withdraw-after = 1\nannounce-after = 1\n";
    text(
        lab,
        &[SERVICE_V4, SERVICE_V6],
        &format!("interface = \"lo\"\n{times}{more}"),
    )
}

/// A lab whose client has its packets for the service addresses go to the server, as a router would.
fn routed(test: &str) -> Option<Lab> {
    let lab = lab(test)?;
    for (ip, via) in [(SERVICE_V4, SERVER_V4), (SERVICE_V6, SERVER_V6)] {
        lab.client_ip(&format!("route add {ip} via {via}")).unwrap();
    }
    Some(lab)
}

fn start(lab: &Lab, settings: &Settings, control: &Path, more: &[&str]) -> Heimdall {
    let arguments = [&["--config", settings.path()], more].concat();
    let command = lab.on_server(program());
    Heimdall::at(command, program(), control, &arguments).unwrap()
}

/// Whether an interface has both addresses: either both, or none.
fn announced_on(lab: &Lab, interface: &str) -> bool {
    let shown = lab
        .server_ip(&format!("addr show dev {interface}"))
        .unwrap_or_default();
    let has = |ip: &str| shown.contains(&format!(" {ip}/"));
    has(SERVICE_V4) && has(SERVICE_V6)
}

fn announced(lab: &Lab) -> bool {
    announced_on(lab, "lo")
}

/// Whether the kernel delivers packets for an address.
fn delivered(lab: &Lab) -> bool {
    let v4 = lab.server_ip("route show table local").unwrap();
    let v6 = lab.server_ip("-6 route show table local").unwrap();
    v4.contains(SERVICE_V4) || v6.contains(SERVICE_V6)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asks at each address over each transport. The error says where no answer came from.
fn ask(lab: &Lab, name: &str) -> Result<(), String> {
    for ip in [SERVICE_V4, SERVICE_V6] {
        for transport in ["+notcp", "+tcp"] {
            let server = format!("@{ip}");
            let arguments = [&server, name, transport, "+retry=0", "+time=2"];
            let asked = Kdig::ask(lab, &arguments);
            let status = asked.map_err(|error| format!("{ip} {transport}: {error:#}"))?;
            if status.status != "NOERROR" {
                return Err(format!("{ip} {transport}: {}", status.status));
            }
        }
    }
    Ok(())
}

fn anycast(heimdall: &Heimdall) -> Value {
    heimdall.stats().unwrap()["anycast"].clone()
}

/// `heimdall withdraw` in the server's namespace.
fn withdraw(lab: &Lab, settings: &Settings, control: &Path) -> Output {
    let mut command = lab.on_server(program());
    command.args(["withdraw", "--config", settings.path(), "--control"]);
    command.arg(control).output().unwrap()
}

#[test]
fn addresses_are_announced_when_the_server_answers_and_withdrawn_before_it_ends() {
    let Some(lab) = routed("addresses_are_announced_when") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&on_lo(&lab, "drain-wait = 3"));
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let mut heimdall = start(&lab, &settings, &control, &[]);
    wait_until("announced", || announced(&lab));
    ask(&lab, "n1.example.com").unwrap();
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["anycast"]["announced"], true, "{stats}");
    assert_eq!(stats["anycast"]["changes"], 1);
    // A wildcard stands for them on AF_XDP, too.
    assert_eq!(stats["workers"][0]["received"], 2, "{stats}");
    let ready = heimdall.command(&["ready"]).unwrap();
    assert_eq!(
        (ready.status.code(), &*ready.stdout),
        (Some(0), &b"ready\n"[..])
    );
    let top = heimdall.command(&["top", "--once", "--pane", "queues"]);
    let top = String::from_utf8(top.unwrap().stdout).unwrap();
    assert!(top.contains("\nservice addresses announced\n"), "{top}");

    heimdall.process.signal(Signal::SIGTERM).unwrap();
    wait_until("withdrawn", || !announced(&lab));
    assert!(delivered(&lab));
    // Until routers have noticed.
    ask(&lab, "n1.example.com").unwrap();
    let status = heimdall.process.wait(LIMIT).unwrap();
    assert!(status.success(), "{status}: {}", heimdall.process.output());
    assert!(!delivered(&lab), "{}", heimdall.process.output());
}

#[test]
fn an_outage_of_all_upstreams_withdraws_them_unless_stale_answers_are_to_stand_in() {
    let Some(lab) = routed("an_outage_of_all_upstreams_withdraws") else {
        return;
    };
    for (upstreams, withdraws) in [("required", true), ("optional", false)] {
        let knot = Knot::upstream(&lab).unwrap();
        let settings = Settings::new(&on_lo(&lab, &format!("upstreams = \"{upstreams}\"")));
        let directory = tempfile::tempdir().unwrap();
        let heimdall = start(&lab, &settings, &directory.path().join("s"), &[]);
        wait_until("announced", || announced(&lab));
        ask(&lab, "n1.example.com").unwrap();
        drop(knot);
        let mut number = 0;
        wait_until("an upstream known to be gone", || {
            number += 1;
            // SERVFAIL.
            let _ = ask(&lab, &format!("gone{number}.example.com"));
            !heimdall.command(&["ready"]).unwrap().status.success()
        });
        let ready = heimdall.command(&["ready"]).unwrap();
        let said = String::from_utf8_lossy(&ready.stderr).into_owned();
        assert!(
            said.contains("the server is not ready: no upstream responds: 127.0.0.1:5300"),
            "{said}"
        );
        if !withdraws {
            thread::sleep(Duration::from_secs(3));
            assert!(announced(&lab), "{}", anycast(&heimdall));
            continue;
        }
        wait_until("withdrawn", || !announced(&lab));
        let state = anycast(&heimdall);
        assert_eq!(state["announced"], false);
        assert!(
            state["reason"].to_string().contains("no upstream responds"),
            "{state}"
        );
        // What is cached is answered still.
        ask(&lab, "n1.example.com").unwrap();
        let _knot = Knot::upstream(&lab).unwrap();
        wait_until("announced again", || announced(&lab));
        assert_eq!(anycast(&heimdall)["changes"], 3);
    }
}

#[test]
fn without_an_upstream_that_has_responded_they_are_not_announced() {
    let Some(lab) = routed("without_an_upstream_that_has_responded") else {
        return;
    };
    // A silent one, which only time tells from a slow one: its port is bound, and nobody reads.
    let silent = lab.in_server(|| UdpSocket::bind(UPSTREAM).unwrap());
    let silent = silent.unwrap();
    let settings = Settings::new(&on_lo(&lab, ""));
    let directory = tempfile::tempdir().unwrap();
    let mut heimdall = start(&lab, &settings, &directory.path().join("s"), &[]);
    wait_until("a probe without a response", || {
        let state = anycast(&heimdall);
        assert!(!announced(&lab), "{state}");
        state["reason"].to_string().contains("no upstream responds")
    });
    let said = format!("{SERVICE_V4}, {SERVICE_V6} not announced: no upstream responds");
    heimdall.process.wait_for(&said, LIMIT).unwrap();
    drop(silent);
    let _knot = Knot::upstream(&lab).unwrap();
    wait_until("announced", || announced(&lab));
    ask(&lab, "n1.example.com").unwrap();
}

#[test]
fn a_stuck_thread_withdraws_them_until_it_continues() {
    let Some(lab) = routed("a_stuck_thread_withdraws") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&on_lo(&lab, "upstreams = \"optional\""));
    let directory = tempfile::tempdir().unwrap();
    let heimdall = start(&lab, &settings, &directory.path().join("s"), &[]);
    wait_until("announced", || announced(&lab));
    {
        let _held = Held::new(thread_named(heimdall.process.pid(), "forward-0"));
        wait_until("withdrawn", || !announced(&lab));
        let reason = anycast(&heimdall)["reason"].to_string();
        assert!(
            reason.contains("the forward-0 thread makes no progress"),
            "{reason}"
        );
    }
    wait_until("announced again", || announced(&lab));
}

#[test]
fn those_of_a_killed_server_are_withdrawn_by_hand_or_by_the_next_one() {
    let Some(lab) = routed("those_of_a_killed_server") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&on_lo(&lab, ""));
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let mut heimdall = start(&lab, &settings, &control, &[]);
    wait_until("announced", || announced(&lab));
    let refused = withdraw(&lab, &settings, &control);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a server runs") && said.contains("heimdall drain"),
        "{said}"
    );
    assert!(announced(&lab));
    // One that was stopped may continue.
    heimdall.process.signal(Signal::SIGSTOP).unwrap();
    let refused = withdraw(&lab, &settings, &control);
    let not_ready = heimdall.command(&["ready"]).unwrap();
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot tell whether a server runs") && said.contains("end it first"),
        "{said}"
    );
    assert_eq!(not_ready.status.code(), Some(1), "{not_ready:?}");
    assert!(announced(&lab));

    let kill = |heimdall: &mut Heimdall| {
        heimdall.process.signal(Signal::SIGKILL).unwrap();
        heimdall.process.wait(LIMIT).unwrap();
        assert!(announced(&lab), "a killed server withdraws nothing");
    };
    kill(&mut heimdall);
    // The second time nothing is left.
    for begin in ["withdrawn", "none of these is left on this host"] {
        let done = withdraw(&lab, &settings, &control);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(said, format!("{begin}: {SERVICE_V4}, {SERVICE_V6}\n"));
        assert!(!announced(&lab) && !delivered(&lab));
    }

    // The next server answers before it announces.
    let mut heimdall = start(&lab, &settings, &control, &[]);
    wait_until("announced", || announced(&lab));
    kill(&mut heimdall);
    let settings = Settings::new(&on_lo(&lab, "announce-after = 3600").replacen(
        "announce-after = 1\n",
        "",
        1,
    ));
    let second = start(&lab, &settings, &control, &[]);
    wait_until("announced by the next one", || {
        anycast(&second)["announced"] == true && announced(&lab)
    });
    let log = second.process.output();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("anycast:"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
}

#[test]
fn a_successor_keeps_them_without_a_change() {
    let Some(lab) = routed("a_successor_keeps_them") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&on_lo(&lab, ""));
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let mut first = start(&lab, &settings, &control, &[]);
    wait_until("announced", || announced(&lab));
    ask(&lab, "n1.example.com").unwrap();
    let mut monitor = lab.on_server("ip");
    let mut monitor = Process::start(monitor.args(["monitor", "address"])).unwrap();
    let stop = AtomicBool::new(false);
    let second = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                ask(&lab, "n1.example.com").unwrap();
                asked += 1;
            }
            asked
        });
        // In this process, and by another one.
        settings.write(&on_lo(&lab, "").replace("\"4M\"", "\"5M\""));
        let reloaded = first.reload().unwrap();
        assert!(reloaded.status.success(), "{reloaded:?}");
        let second = start(&lab, &settings, &control, &["--take-over"]);
        let status = first.process.wait(LIMIT).unwrap();
        assert!(status.success(), "{}", first.process.output());
        // Longer than it takes to announce.
        thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
        second
    });
    assert!(announced(&lab));
    assert_eq!(anycast(&second)["changes"], 0, "{}", anycast(&second));
    let changes = monitor.output();
    let of_services = changes
        .lines()
        .find(|line| line.contains(SERVICE_V4) || line.contains(SERVICE_V6));
    assert_eq!(of_services, None, "no address came or went");
    // Otherwise nothing shows that the monitor works.
    let fewer = on_lo(&lab, "").replace(&format!(", \"{SERVICE_V6}\""), "");
    settings.write(&fewer);
    let reloaded = second.reload().unwrap();
    assert!(reloaded.status.success(), "{reloaded:?}");
    monitor
        .wait_for(&format!("Deleted 1: lo    inet6 {SERVICE_V6}"), LIMIT)
        .unwrap();
    wait_until("without the other's route", || {
        let routes = lab.server_ip("-6 route show table local").unwrap();
        !routes.contains(SERVICE_V6)
    });
    let kept = lab.server_ip("addr show dev lo").unwrap();
    assert!(kept.contains(SERVICE_V4), "{kept}");
}

#[test]
fn their_interface_is_made_or_its_absence_is_said() {
    let Some(lab) = routed("their_interface_is_made") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&text(&lab, &[SERVICE_V4, SERVICE_V6], ""));
    let directory = tempfile::tempdir().unwrap();
    let mut heimdall = start(&lab, &settings, &directory.path().join("s"), &[]);
    let has_dummies = lab.server_ip("link add probe type dummy").is_ok();
    if !has_dummies {
        let said = "there is no interface anycast0, and it cannot be made";
        heimdall.process.wait_for(said, LIMIT).unwrap();
        assert!(
            heimdall
                .process
                .output()
                .contains("write interface = \"lo\"")
        );
        ask(&lab, "n1.example.com").unwrap();
        lab.server_ip("link add anycast0 type bridge").unwrap();
        lab.server_ip("link set anycast0 up").unwrap();
    }
    wait_until("announced", || announced_on(&lab, "anycast0"));
    wait_until("without a problem", || {
        anycast(&heimdall)["reason"].is_null()
    });
    // Somebody deletes an address, or the interface.
    lab.server_ip(&format!("addr del {SERVICE_V4}/32 dev anycast0"))
        .unwrap();
    wait_until("added again", || announced_on(&lab, "anycast0"));
    lab.server_ip("link del anycast0").unwrap();
    if !has_dummies {
        heimdall
            .process
            .wait_for("there is no interface", LIMIT)
            .unwrap();
        lab.server_ip("link add anycast0 type bridge").unwrap();
        lab.server_ip("link set anycast0 up").unwrap();
    }
    wait_until("announced on the new one", || {
        announced_on(&lab, "anycast0")
    });
    ask(&lab, "n2.example.com").unwrap();
}
