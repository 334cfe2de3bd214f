//! Knot DNS as an upstream with real zones.

use std::{fmt::Write as _, fs, path::Path, process::Command, thread, time::Duration};

use anyhow::Result;

use super::{
    Lab, Process, SERVER_V4, UPSTREAM,
    rich::{self, Signing, Zone},
    run,
};

/// Names `n0` to `n9999` of `example.com` have addresses.
pub const HOSTS: usize = 10_000;

/// `knotd`.
#[derive(Debug)]
pub struct Knot;

impl Knot {
    /// Starts one on the lab's server, at [`UPSTREAM`].
    ///
    /// # Errors
    /// `knotd` (Debian: `knot`) is missing or does not start.
    pub fn upstream(lab: &Lab) -> Result<Process> {
        Self::start(lab.on_server("knotd"), &listen(UPSTREAM), &plain_zones())
    }

    /// Starts one on the lab's server, at [`UPSTREAM`], that has the zones of [`rich`] besides.
    pub fn rich_upstream(lab: &Lab) -> Result<Process> {
        let zones = [plain_zones(), rich::zones()].concat();
        Self::start(lab.on_server("knotd"), &listen(UPSTREAM), &zones)
    }

    /// Starts one in the client's namespace, at these addresses, which are the client's afterwards.
    ///
    /// # Errors
    /// As for [`upstream`](Self::upstream), or an address is none.
    pub fn in_client(lab: &Lab, addresses: &[&str]) -> Result<Process> {
        for address in addresses {
            lab.client_ip(&format!("addr add {address} dev lo"))?;
        }
        let listen = format!("    listen: [{}]", addresses.join(", "));
        Self::start(lab.on_client("knotd"), &listen, &plain_zones())
    }

    /// Starts one on loopback, without a lab.
    pub fn on_loopback(port: u16) -> Result<Process> {
        let listen = listen(&format!("127.0.0.1:{port}"));
        Self::start(Command::new("/usr/sbin/knotd"), &listen, &plain_zones())
    }

    /// Starts one by a command that runs `knotd`, perhaps in a namespace, at an address with its port.
    pub fn at(command: Command, address: &str) -> Result<Process> {
        Self::start(command, &listen(address), &plain_zones())
    }

    /// Starts one on the lab's server that answers from AF_XDP itself, to be measured against.
    ///
    /// # Errors
    /// As for [`upstream`](Self::upstream), or it has no XDP.
    pub fn on_xdp(lab: &Lab, core: usize) -> Result<Process> {
        let server = format!(
            "    udp-workers: 1\n    tcp-workers: 1\n    listen: {SERVER_V4}@53\n\
             xdp:\n    listen: {}@53\n    udp: on",
            lab.server_if
        );
        let mut command = lab.on_server("taskset");
        command.args(["-c", &core.to_string(), "knotd"]);
        let knot = Self::start(command, &server, &plain_zones())?;
        // Knot has pinned the first thread of each kind to the first core, which is kxdpgun's.
        thread::sleep(Duration::from_millis(300));
        let pid = knot.pid().to_string();
        run(Command::new("taskset").args(["-a", "-p", "-c", &core.to_string(), &pid]))?;
        Ok(knot)
    }

    fn start(mut command: Command, server: &str, zones: &[Zone]) -> Result<Process> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        for zone in zones {
            fs::write(path.join(zone.file()), &zone.text)?;
        }
        fs::write(path.join("knot.conf"), configuration(path, server, zones))?;
        // For keys; knotd does not create it.
        fs::create_dir(path.join("db"))?;
        command.arg("-c").arg(path.join("knot.conf"));
        let mut process = Process::start_in(directory, &mut command)?;
        process.wait_for("server started", Duration::from_secs(20))?;
        for zone in zones.iter().filter(|zone| zone.signing != Signing::None) {
            let signed = format!("[{}.] DNSSEC, next signing", zone.domain);
            process.wait_for(&signed, Duration::from_secs(20))?;
        }
        Ok(process)
    }
}

fn listen(address: &str) -> String {
    format!("    listen: {}", address.replace(':', "@"))
}

fn configuration(path: &Path, server: &str, zones: &[Zone]) -> String {
    let path = path.display();
    let mut text = format!(
        "server:\n    rundir: {path}\n{server}\nlog:\n  - target: stderr\n    any: info\ndatabase:\n    storage: {path}/db\n\
         policy:\n  - id: nsec\n  - id: nsec3\n    nsec3: on\nzone:\n"
    );
    for zone in zones {
        let _ = writeln!(
            text,
            "  - domain: {}\n    storage: {path}\n    file: {}\n    zonefile-sync: -1",
            zone.domain,
            zone.file()
        );
        let policy = match zone.signing {
            Signing::None => continue,
            Signing::Nsec => "nsec",
            Signing::Nsec3 => "nsec3",
        };
        let _ = writeln!(text, "    dnssec-signing: on\n    dnssec-policy: {policy}");
    }
    text
}

fn plain_zones() -> Vec<Zone> {
    vec![
        Zone::plain("example.com", forward_zone()),
        Zone::plain("18.198.in-addr.arpa", reverse_zone().to_owned()),
    ]
}

pub(crate) fn forward_zone() -> String {
    let mut zone = String::from(
        "$ORIGIN example.com.\n$TTL 3600\n\
         @ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 10.53.0.1\n\
         @ A 192.0.2.1\n@ AAAA 2001:db8::1\n@ MX 10 mail\nmail A 192.0.2.2\n\
         www CNAME @\n_dns._udp SRV 0 5 53 ns\ntext TXT \"one\" \"two\"\n\
         short 2 A 192.0.2.3\n*.wild A 192.0.2.4\n",
    );
    for i in 0..60 {
        let _ = writeln!(zone, "big TXT \"{i} {}\"", "x".repeat(200));
    }
    for i in 0..HOSTS {
        let _ = writeln!(zone, "n{i} A 10.0.{}.{}", i / 256, i % 256);
    }
    zone
}

fn reverse_zone() -> &'static str {
    "$ORIGIN 18.198.in-addr.arpa.\n$TTL 3600\n@ SOA ns.example.com. hostmaster.example.com. 1 3600 600 86400 300\n\
     @ NS ns.example.com.\n1.0 PTR ns.example.com.\n"
}
