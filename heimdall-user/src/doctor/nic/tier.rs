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
    match (settings.mode, settings.entries) {
        (TierMode::Off, _) | (TierMode::Auto, 0) => {
            return check.good(subject, "it is off by the settings");
        }
        (TierMode::On, 0) => {
            let fix = Fix::advice("give it entries, or leave mode = \"on\" out");
            return check.warn(subject, "off: tier.entries is 0", fix);
        }
        (TierMode::On | TierMode::Auto, _) => {}
    }
    if let Some(why) = facts.config.tier_obstacle() {
        let fix = Fix::advice("leave that out, if the hot tier is worth more");
        return check.warn(subject, format!("off: {why}"), fix);
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
        ("virtio_net", ..) if details.xdp.as_ref().is_some_and(|features| features.zero_copy) => check
            .good(
                subject,
                "off in zero-copy mode, in which virtio_net sends no replies of the XDP program",
            ),
        (_, Some(false), TierMode::Auto) => check.good(subject, "off in generic mode"),
        (_, None, _) => check.good(subject, "the kernel does not tell (Linux 6.3 and newer do)"),
        _ => check.good(
            subject,
            "on; not checked: whether the driver sends the program's replies (XDP_TX)",
        ),
    }
}
