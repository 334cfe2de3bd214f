//! The hot tier: whether replies of the XDP program leave by the interface, as far as that is known.

use super::Nic;
use crate::{
    config::TierMode,
    doctor::{checks, facts::Facts, finding::Finding, fix::Fix},
    xdp::Details,
};

/// The coarse clock for programs (`bpf_ktime_get_coarse_ns`).
const OLDEST: (u32, u32) = (5, 11);

pub(super) fn examine(facts: &Facts, nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_TIER);
    let settings = &facts.config.tier;
    if settings.mode == TierMode::Off || settings.entries == 0 {
        return check.good(subject, "it is off by the settings");
    }
    let version @ (major, minor) = facts.kernel();
    if version < OLDEST && version != (0, 0) {
        let finding = format!("Linux {major}.{minor} has no hot tier: workers answer all queries");
        return check.warn(subject, finding, Fix::advice("Linux 5.11 or newer"));
    }
    let is_native = details.xdp.as_ref().map(|features| features.native);
    match (nic.driver(), is_native, settings.mode) {
        ("veth", _, TierMode::On) => check.warn(
            subject,
            "the peer of a veth takes the program's replies at once only while it has an XDP program, too",
            Fix::advice("attach a program to the peer, or set mode = \"auto\" in [tier]"),
        ),
        ("veth", ..) => check.good(
            subject,
            "off on a veth, whose peer would need an XDP program, too; --tier on, if it has one",
        ),
        (_, Some(false), TierMode::Auto) => check.good(subject, "off in generic mode"),
        (_, None, _) => check.good(subject, "the kernel does not tell (Linux 6.3 and newer do)"),
        _ => check.good(
            subject,
            "on; not checked: whether the driver sends the program's replies (XDP_TX)",
        ),
    }
}
