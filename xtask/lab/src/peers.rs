//! Other resolvers from Debian's packages, to compare answers with: each a caching forwarder to
//! the lab's upstream, as plain as its options allow, on a port of its own of the server.

use std::{fs, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use super::{Lab, Process, UPSTREAM};

/// Port of unbound.
pub const UNBOUND_PORT: u16 = 5301;
/// Port of dnsmasq.
pub const DNSMASQ_PORT: u16 = 5302;

/// A running resolver.
#[derive(Debug)]
pub struct Peer {
    _process: Process,
    _directory: TempDir,
}

impl Peer {
    /// Starts unbound on the lab's server.
    ///
    /// # Errors
    /// `unbound` (Debian: `unbound`) is missing or does not start.
    pub fn unbound(lab: &Lab) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("unbound.conf");
        fs::write(&file, unbound_configuration())?;
        let mut process =
            Process::start(lab.on_server("unbound").args(["-d", "-p", "-c"]).arg(file))?;
        process.wait_for("start of service", Duration::from_secs(20))?;
        Ok(Self {
            _process: process,
            _directory: directory,
        })
    }

    /// Starts dnsmasq on the lab's server.
    ///
    /// # Errors
    /// `dnsmasq` (Debian: `dnsmasq-base`) is missing or does not start.
    pub fn dnsmasq(lab: &Lab) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Without one dnsmasq reads the machine's.
        let file = directory.path().join("dnsmasq.conf");
        fs::write(&file, "")?;
        let mut command = lab.on_server("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--user=root",
            "--pid-file=",
            "--no-resolv",
            "--no-hosts",
            "--cache-size=10000",
            "--dns-forward-max=1000",
            "--edns-packet-max=1232",
        ]);
        command
            .arg(format!("--conf-file={}", file.display()))
            .arg(format!("--port={DNSMASQ_PORT}"))
            .arg(format!("--server={}", UPSTREAM.replace(':', "#")));
        let mut process = Process::start(&mut command)?;
        process.wait_for("started", Duration::from_secs(20))?;
        Ok(Self {
            _process: process,
            _directory: directory,
        })
    }
}

/// No validation, no zones of its own, no answer of its own making, no hardening that changes
/// answers, and Heimdall's own limits on size and TTLs.
fn unbound_configuration() -> String {
    let upstream = UPSTREAM.replace(':', "@");
    format!(
        "server:
    interface: {}
    port: {UNBOUND_PORT}
    access-control: 0.0.0.0/0 allow_setrd
    username: \"\"
    chroot: \"\"
    directory: \"\"
    pidfile: \"\"
    use-syslog: no
    verbosity: 1
    num-threads: 1
    module-config: \"iterator\"
    do-not-query-localhost: no
    minimal-responses: no
    qname-minimisation: no
    aggressive-nsec: no
    prefetch: no
    rrset-roundrobin: no
    root-key-sentinel: no
    trust-anchor-signaling: no
    harden-below-nxdomain: no
    harden-dnssec-stripped: no
    harden-algo-downgrade: no
    harden-glue: no
    deny-any: no
    unblock-lan-zones: yes
    insecure-lan-zones: yes
    hide-identity: yes
    hide-version: yes
    edns-buffer-size: 1232
    max-udp-size: 1232
    outgoing-range: 256
    cache-max-ttl: 86400
    cache-max-negative-ttl: 3600
    local-zone: \"localhost.\" nodefault
    local-zone: \"127.in-addr.arpa.\" nodefault
    local-zone: \"home.arpa.\" nodefault
    local-zone: \"onion.\" nodefault
    local-zone: \"test.\" nodefault
    local-zone: \"invalid.\" nodefault
remote-control:
    control-enable: no
forward-zone:
    name: \".\"
    forward-addr: {upstream}
    forward-first: no
",
        super::SERVER_V4
    )
}
