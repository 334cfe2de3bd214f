//! Upstreams over TLS: Debian's unbound at the far end.

use std::{fs, path::Path};

use lab::{Heimdall, Kdig, Lab, Process, SERVER_V4};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{lab, program};

const UNBOUND: &str = "/usr/sbin/unbound";

/// Answers every name below `example`.
const CONFIGURATION: &str = r#"
server:
    interface: 127.0.0.1@853
    tls-port: 853
    tls-service-key: "PLACE/key.pem"
    tls-service-pem: "PLACE/certificate.pem"
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: ""
    pidfile: ""
    use-syslog: no
    num-threads: 1
    local-zone: "example." redirect
    local-data: "example. 300 IN A 192.0.2.1"
remote-control:
    control-enable: no
"#;

/// A resolver with a certificate for `dns.example`; the root's is in `roots.pem`.
struct Unbound {
    directory: TempDir,
    _process: Process,
}

impl Unbound {
    fn start(lab: &Lab) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        write("roots.pem", &root.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(root, key);
        let params = CertificateParams::new(vec!["dns.example".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write("key.pem", &key.serialize_pem());
        write("certificate.pem", &certificate.pem());
        let place = directory.path().display().to_string();
        write("unbound.conf", &CONFIGURATION.replace("PLACE", &place));
        write(
            "heimdall.toml",
            &format!("forward.tls-roots = \"{place}/roots.pem\"\n"),
        );
        let mut command = lab.on_server(UNBOUND);
        let file = directory.path().join("unbound.conf");
        command.args(["-d", "-c"]).arg(file);
        let process = Process::start(&mut command).unwrap();
        Self {
            directory,
            _process: process,
        }
    }

    fn heimdall(&self, lab: &Lab, upstream: &str) -> Heimdall {
        let config = self.directory.path().join("heimdall.toml");
        let arguments = ["--upstream", upstream, "--config", config.to_str().unwrap()];
        Heimdall::on_xdp(lab, program(), &arguments).unwrap()
    }
}

/// The response code for a name, once it is not SERVFAIL, or after five seconds.
fn status(lab: &Lab, name: &str) -> String {
    let server = format!("@{SERVER_V4}");
    for _ in 0..5 {
        let got = Kdig::ask(lab, &[&server, name, "A", "+retry=0"]).unwrap();
        if got.status != "SERVFAIL" {
            return got.status;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    "SERVFAIL".to_owned()
}

#[test]
fn unbound_is_asked_over_tls_and_has_to_show_its_name() {
    let Some(lab) = lab("unbound_is_asked_over_tls") else {
        return;
    };
    if !Path::new(UNBOUND).exists() {
        assert!(std::env::var_os("CI").is_none(), "CI has to have unbound");
        eprintln!("SKIPPED unbound_is_asked_over_tls: it needs Debian's package unbound");
        return;
    }
    let unbound = Unbound::start(&lab);
    let heimdall = unbound.heimdall(&lab, "tls://dns.example@127.0.0.1");
    for number in 0..10 {
        assert_eq!(status(&lab, &format!("n{number}.example")), "NOERROR");
    }
    let stats = heimdall.stats().unwrap();
    let upstream = &stats["upstreams"][0];
    assert_eq!(upstream["address"], "tls://dns.example@127.0.0.1:853");
    assert_eq!(upstream["problem"], serde_json::Value::Null);
    assert_eq!(stats["forwarder"]["tls_handshakes"], 1);
    assert_eq!(stats["forwarder"]["sent_udp"], 0);
    drop(heimdall);

    let heimdall = unbound.heimdall(&lab, "tls://other.example@127.0.0.1");
    assert_eq!(status(&lab, "n0.example"), "SERVFAIL");
    let stats = heimdall.stats_text().unwrap();
    let said = "tls://other.example@127.0.0.1:853: invalid peer certificate: certificate not valid for name";
    assert!(stats.contains(said), "{stats}");
    let log = heimdall.process.output();
    let lines = log.lines().filter(|line| line.contains("gets no queries"));
    assert_eq!(lines.count(), 1, "{log}");
}
