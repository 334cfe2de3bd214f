//! The return path: by which interface replies leave, as the kernel routes them and as AF_XDP sends them.

use super::Nic;
use crate::{
    config::Config,
    doctor::{
        checks,
        facts::Facts,
        finding::{Finding, Level},
        fix::Fix,
        system::System,
    },
    xdp::{Details, Layers},
};

/// The look-up of routes by programs with `bpf_ktime_get_coarse_ns`.
const OLDEST: (u32, u32) = (5, 11);

/// What lets programs look up routes as those of this host, which the kernel counts as forwarding.
const FORWARDING: [(bool, &str); 2] = [
    (true, "net.ipv4.conf.lo.forwarding"),
    (false, "net.ipv6.conf.lo.forwarding"),
];

pub(super) fn examine(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let (system, version) = (&facts.system, facts.kernel());
    judge(system, version, &facts.config, &nic.name, details)
}

/// What a start is to warn of: queries that AF_XDP does not serve, or replies that leave by another way than the kernel's.
pub(crate) fn return_path(config: &Config, interface: &str) -> Vec<Finding> {
    let names = config.interfaces.iter().map(|one| one.name.as_str());
    let layers = Layers::read(names);
    let port = layers.ok().and_then(|mut layers| layers.take(interface));
    let Some(Ok(port)) = port else {
        return Vec::new();
    };
    let Ok(details) = Details::read(interface, &port.links) else {
        return Vec::new();
    };
    let system = System::host();
    let mut findings = judge(&system, system.kernel(), config, interface, &details);
    findings.retain(|finding| finding.level != Level::Good);
    findings
}

fn judge(
    system: &System,
    version: (u32, u32),
    config: &Config,
    subject: &str,
    details: &Details,
) -> Vec<Finding> {
    let check = &checks::NIC_RETURN_PATH;
    if !config.xdp.route_check {
        return vec![match &details.elsewhere {
            Some((address, other)) => check.warn(
                subject,
                format!(
                    "the kernel sends replies from {address} to clients beyond its networks out of {other}; AF_XDP sends \
                     them back to the MAC address that the query came from"
                ),
                Fix::advice("set route-check = \"on\" in [xdp], unless that is the right way"),
            ),
            None => check.good(
                subject,
                "replies go to the MAC address that the query came from; no route is known to differ",
            ),
        }];
    }
    let (major, minor) = version;
    if version < OLDEST && version != (0, 0) {
        let finding = format!("xdp.route-check: Linux {major}.{minor} cannot look up routes");
        let fix = Fix::advice("Linux 5.11 or newer, or route-check = \"off\"");
        return vec![check.bad(subject, finding, fix)];
    }
    let judge = |vrf: &str, (v4, key): (bool, &'static str)| {
        let mut listen = config.listen.iter();
        let is_used = listen.any(|address| address.is_ipv4() == v4);
        let (key, fix) = match vrf {
            "lo" => (key.to_owned(), Fix::sysctl(key, 1)),
            vrf => {
                let key = key.replace(".lo.", &format!(".{vrf}."));
                let fix = Fix::command(&format!("sysctl -w {key}=1"));
                (key, fix)
            }
        };
        let finding = format!(
            "xdp.route-check: {key} is 0, so programs find no routes, and the sockets answer all queries over {}",
            if v4 { "IPv4" } else { "IPv6" }
        );
        (is_used && system.sysctl(&key) == Some(0)).then(|| check.bad(subject, finding, fix))
    };
    let vrfs = details.vrfs.iter();
    let keys = vrfs.flat_map(|vrf| FORWARDING.map(|key| (vrf, key)));
    let found: Vec<_> = keys.filter_map(|(vrf, key)| judge(vrf, key)).collect();
    match found.is_empty() {
        true => vec![check.good(
            subject,
            "replies go to the next hop of the kernel's route (route-check)",
        )],
        false => found,
    }
}
