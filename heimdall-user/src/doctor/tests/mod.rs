//! Each finding is provoked: by a file below a root, by what the kernel would tell of an interface, or on a
//! veth pair.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cases;
mod document;
mod fixture;
mod real;

use std::collections::BTreeSet;

use super::{checks, finding::Level, nic::TRAPS};
use cases::{Case, cases};
use fixture::Fixture;

#[test]
fn a_host_without_a_fault_has_good_findings_only() {
    let fixture = Fixture::new();
    let found = fixture.findings();
    for finding in &found {
        assert_eq!(
            finding.level,
            Level::Good,
            "{}: {finding}",
            finding.check.id
        );
        assert!(
            !finding.subject.is_empty() && !finding.finding.is_empty(),
            "{finding}"
        );
    }
    let ids: BTreeSet<&str> = found.iter().map(|finding| finding.check.id).collect();
    // Those that look for something in particular.
    let rare = [
        "settings",
        "memory.huge-page-pool",
        "nic.trap",
        "tls.certificate",
        "tls.key",
    ];
    let expected = checks::ALL.iter().map(|check| check.id);
    let expected: BTreeSet<&str> = expected.filter(|id| !rare.contains(id)).collect();
    assert_eq!(ids, expected);
}

#[test]
fn each_fault_is_found() {
    for Case {
        check,
        level,
        says,
        fix,
        fault,
    } in cases()
    {
        let mut fixture = Fixture::new();
        fault(&mut fixture);
        let found = fixture.findings();
        let of_check: Vec<_> = found.iter().filter(|one| one.check.id == check).collect();
        let hit = of_check.iter().any(|one| {
            one.level == level && one.finding.contains(says) && one.fix.to_string().contains(fix)
        });
        assert!(hit, "{check} {level:?} {says:?} {fix:?}: {of_check:#?}");
    }
}

#[test]
fn each_check_is_provoked() {
    // It only names the driver; and `settings` has tests of its own.
    let without_fault = ["nic.driver", "settings"];
    let faults = cases().into_iter().filter(|case| case.level != Level::Good);
    let faults: BTreeSet<&str> = faults.map(|case| case.check).collect();
    for check in checks::ALL {
        let provoked = faults.contains(check.id) || without_fault.contains(&check.id);
        assert!(provoked, "no case provokes {}", check.id);
    }
    let traps = cases().into_iter().filter(|case| case.check == "nic.trap");
    let drivers: BTreeSet<&str> = traps.map(|case| case.says).collect();
    assert!(
        drivers.len() >= TRAPS.len(),
        "a trap is not provoked: {drivers:?}"
    );
}

#[test]
fn what_cannot_be_seen_is_no_failure() {
    let mut fixture = Fixture::new();
    fixture.facts.system = super::System::at(std::path::Path::new("/none"));
    fixture.nic().details = None;
    fixture.facts.af_xdp = Some(libc::EPERM);
    let found = fixture.findings();
    let unseen = found
        .iter()
        .filter(|finding| finding.finding.contains("not known"));
    assert_eq!(unseen.count(), 2, "{found:#?}");
}

#[test]
fn an_interface_that_is_not_to_be_served_is_never_bad() {
    let mut fixture = Fixture::new();
    fixture.settings("upstream = [\"192.0.2.53\"]");
    fixture.details().carrier = false;
    let found = fixture.findings();
    let link = found.iter().find(|one| one.check.id == "nic.link").unwrap();
    assert_eq!(link.level, Level::Warn, "{link}");
    assert!(
        found.iter().all(|one| one.level != Level::Bad),
        "{found:#?}"
    );
}

#[test]
fn what_the_operator_decides_is_not_applied() {
    let fixture = Fixture::new();
    fixture.write("proc/sys/kernel/unprivileged_bpf_disabled", "0");
    fixture.write("proc/sys/net/ipv4/ip_local_port_range", "40000 41000");
    let found = fixture.findings();
    for id in ["bpf.unprivileged", "net.ports"] {
        let finding = found.iter().find(|one| one.check.id == id).unwrap();
        assert_eq!(finding.level, Level::Warn, "{finding}");
        assert_eq!(finding.fix.safe(), None, "{finding}");
    }
}
