//! Service addresses on a host that others change, too, or that lacks something.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, UPSTREAM};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{client::Settings, lab, program};

const SERVICE: &str = "192.0.2.53";
const OTHER: &str = "192.0.2.54";
const SERVICE_V6: &str = "2001:db8:53::53";

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(40);

/// Settings of a server on sockets, with these lines in `[anycast]`.
fn text(listen: &str, addresses: &[&str], anycast: &str) -> String {
    format!(
        "listen = [{listen}]\nupstream = [\"{UPSTREAM}\"]\nstop-timeout = 1\ncache.size = \"4M\"\n\
         [anycast]\naddress = {addresses:?}\ninterface = \"lo\"\ndrain-wait = 0\nannounce-after = 0\n{anycast}\n"
    )
}

const WILDCARDS: &str = "\"0.0.0.0:53\", \"[::]:53\"";

fn start(lab: &Lab, settings: &Settings, control: &Path) -> Heimdall {
    let command = lab.on_server(program());
    Heimdall::at(command, program(), control, &["--config", settings.path()]).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether an interface of the server has an address, with this prefix.
fn has(lab: &Lab, interface: &str, address: &str) -> bool {
    let shown = lab.server_ip(&format!("addr show dev {interface}"));
    shown.unwrap().contains(&format!(" {address} "))
}

fn anycast(heimdall: &Heimdall) -> Value {
    heimdall.stats().unwrap()["anycast"].clone()
}

/// The reason why addresses are not announced, or withdrawn soon.
fn reason(heimdall: &Heimdall) -> String {
    let state = anycast(heimdall);
    state["reason"].as_str().unwrap_or_default().to_owned()
}

fn stop(heimdall: &mut Heimdall) {
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    let status = heimdall.process.wait(LIMIT).unwrap();
    assert!(status.success(), "{}", heimdall.process.output());
}

#[test]
fn an_address_that_was_there_is_withdrawn_and_one_elsewhere_is_named() {
    let Some(lab) = lab("an_address_that_was_there") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let own = format!("{SERVICE}/32");
    let by_hand = format!("{SERVICE}/24");
    lab.server_ip(&format!("addr add {own} dev lo")).unwrap();
    let settings = Settings::new(&text(WILDCARDS, &[SERVICE], ""));
    let directory = tempfile::tempdir().unwrap();
    let mut heimdall = start(&lab, &settings, &directory.path().join("s"));
    wait_until("announced", || {
        anycast(&heimdall)["announced"] == true && has(&lab, "lo", &own)
    });
    assert_eq!(reason(&heimdall), "");
    let device = &lab.server_if;
    lab.server_ip(&format!("addr add {by_hand} dev {device}"))
        .unwrap();
    stop(&mut heimdall);
    assert!(!has(&lab, "lo", &own));
    assert!(has(&lab, device, &by_hand), "it is not the server's");
    let said = format!("anycast: {by_hand} is still on interface {device}");
    let log = heimdall.process.output();
    assert!(log.contains(&said), "{log}");
    // It may be the host's own, which a check says beforehand.
    let mut command = lab.on_server(program());
    command.args(["check", "--config", settings.path(), "--control"]);
    command.arg(directory.path().join("s"));
    let checked = command.output().unwrap();
    let warnings = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{warnings}");
    let said =
        format!("the host has the service address {SERVICE} already, as {by_hand} on {device}");
    assert!(warnings.contains(&said), "{warnings}");
}

#[test]
fn on_an_interface_that_is_down_nothing_is_announced() {
    let Some(lab) = lab("on_an_interface_that_is_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    lab.server_ip("link add anycast0 type bridge").unwrap();
    let settings = text(WILDCARDS, &[SERVICE], "").replace("\"lo\"", "\"anycast0\"");
    let settings = Settings::new(&settings);
    let directory = tempfile::tempdir().unwrap();
    let heimdall = start(&lab, &settings, &directory.path().join("s"));
    wait_until("a reason", || {
        reason(&heimdall) == "the interface anycast0 is down; run `ip link set anycast0 up`"
    });
    assert_eq!(anycast(&heimdall)["announced"], false);
    let own = format!("{SERVICE}/32");
    lab.server_ip("link set anycast0 up").unwrap();
    wait_until("announced", || {
        anycast(&heimdall)["announced"] == true && has(&lab, "anycast0", &own)
    });
    lab.server_ip("link set anycast0 down").unwrap();
    wait_until("known to be gone", || {
        anycast(&heimdall)["announced"] == false
    });
    lab.server_ip("link set anycast0 up").unwrap();
    wait_until("announced again", || {
        anycast(&heimdall)["announced"] == true
    });
    assert_eq!(anycast(&heimdall)["changes"], 3);
}

#[test]
fn what_the_server_may_not_change_is_said_and_it_serves() {
    let Some(lab) = lab("what_the_server_may_not_change") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new(&text(WILDCARDS, &[SERVICE], ""));
    let directory = tempfile::tempdir().unwrap();
    let mut command = lab.on_server("setpriv");
    command
        .args(["--bounding-set", "-net_admin"])
        .arg(program());
    let arguments = ["--config", settings.path()];
    let control = directory.path().join("s");
    let mut heimdall = Heimdall::at(command, program(), &control, &arguments).unwrap();
    let said = "; the server needs CAP_NET_ADMIN";
    wait_until("a reason", || reason(&heimdall).ends_with(said));
    assert_eq!(anycast(&heimdall)["announced"], false);
    let server = format!("@{SERVER_V4}");
    let answer = Kdig::ask(&lab, &[&server, "n1.example.com"]).unwrap();
    assert_eq!(answer.status, "NOERROR");
    stop(&mut heimdall);
}

#[test]
fn without_ipv6_its_addresses_keep_all_from_being_announced_and_the_reason_is_said() {
    let Some(lab) = lab("without_ipv6") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let set = |value: &str| {
        let mut sysctl = lab.on_server("sysctl");
        let setting = format!("net.ipv6.conf.lo.disable_ipv6={value}");
        lab::run(sysctl.args(["-qw", &setting])).unwrap();
    };
    set("1");
    let settings = Settings::new(&text(WILDCARDS, &[SERVICE, SERVICE_V6], ""));
    let directory = tempfile::tempdir().unwrap();
    let mut heimdall = start(&lab, &settings, &directory.path().join("s"));
    wait_until("a reason", || reason(&heimdall).contains("disable_ipv6"));
    assert_eq!(anycast(&heimdall)["announced"], false);
    set("0");
    wait_until("announced", || {
        anycast(&heimdall)["announced"] == true
            && has(&lab, "lo", &format!("{SERVICE}/32"))
            && has(&lab, "lo", &format!("{SERVICE_V6}/128"))
    });
    stop(&mut heimdall);
    assert!(!has(&lab, "lo", &format!("{SERVICE}/32")));
}

/// The settings are those with which a successor that populates its caches for long would withdraw them.
#[test]
fn a_reload_moves_addresses_and_keeps_the_others_announced() {
    let Some(lab) = lab("a_reload_moves_addresses") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let at_once = "withdraw-after = 0";
    let settings = Settings::new(&text(WILDCARDS, &[SERVICE], at_once));
    let directory = tempfile::tempdir().unwrap();
    let heimdall = start(&lab, &settings, &directory.path().join("s"));
    let (one, two) = (format!("{SERVICE}/32"), format!("{OTHER}/32"));
    wait_until("announced", || has(&lab, "lo", &one));
    let mut monitor = lab.on_server("ip");
    let mut monitor = Process::start(monitor.args(["monitor", "address"])).unwrap();
    let reload = |text: &str| {
        settings.write(text);
        let reloaded = heimdall.reload().unwrap();
        assert!(reloaded.status.success(), "{reloaded:?}");
    };
    let both = text(WILDCARDS, &[SERVICE, OTHER], at_once);
    reload(&both.replace("\"4M\"", "\"64M\""));
    wait_until("the second one", || has(&lab, "lo", &two));
    monitor.wait_for(OTHER, LIMIT).unwrap();
    let changes = monitor.output();
    assert!(!changes.contains("Deleted"), "{changes}");
    assert!(!changes.contains(SERVICE), "{changes}");
    // Another interface, and the first one no more.
    lab.server_ip("link add anycast0 type bridge").unwrap();
    lab.server_ip("link set anycast0 up").unwrap();
    let moved = text(WILDCARDS, &[OTHER], at_once).replace("\"lo\"", "\"anycast0\"");
    reload(&moved);
    wait_until("moved", || has(&lab, "anycast0", &two));
    assert!(!has(&lab, "lo", &one) && !has(&lab, "lo", &two));
    // No service address at all.
    let none = moved.split("[anycast]").next().unwrap();
    reload(none);
    wait_until("none", || !has(&lab, "anycast0", &two));
    assert_eq!(anycast(&heimdall), Value::Null);
    let routes = lab.server_ip("route show table local").unwrap();
    assert!(
        !routes.contains(SERVICE) && !routes.contains(OTHER),
        "{routes}"
    );
}

#[test]
fn two_servers_on_a_host_leave_each_other_s_addresses_alone() {
    let Some(lab) = lab("two_servers_on_a_host_leave") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = |address: &str| {
        let settings = Settings::new(&text(&format!("\"{address}:53\""), &[address], ""));
        let heimdall = start(&lab, &settings, &directory.path().join(address));
        (settings, heimdall)
    };
    let (_first_settings, first) = server(SERVICE);
    let (second_settings, mut second) = server(OTHER);
    let (one, two) = (format!("{SERVICE}/32"), format!("{OTHER}/32"));
    wait_until("announced", || {
        has(&lab, "lo", &one) && has(&lab, "lo", &two)
    });
    second.process.signal(Signal::SIGKILL).unwrap();
    second.process.wait(LIMIT).unwrap();
    let mut withdraw = lab.on_server(program());
    withdraw.args(["withdraw", "--config", second_settings.path(), "--control"]);
    lab::run(withdraw.arg(directory.path().join(OTHER))).unwrap();
    assert!(has(&lab, "lo", &one) && !has(&lab, "lo", &two));
    assert_eq!(anycast(&first)["announced"], true);
    assert_eq!(anycast(&first)["changes"], 1);
    drop(first);
    let routes = lab.server_ip("route show table local").unwrap();
    assert!(!routes.contains("192.0.2.5"), "{routes}");
}
