//! DNS over TLS towards clients, with real ones: kdig, openssl, dnsperf.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Kdig, Knot, Lab, SERVER_V4, UPSTREAM};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::{lab, program};

/// A certificate for `dns.example`, signed by itself, in a directory.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.renew();
        files
    }

    /// Makes another one.
    fn renew(&self) {
        let params = CertificateParams::new(vec!["dns.example".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        fs::write(self.path("certificate.pem"), certificate).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Flags of a server that uses it.
    pub(super) fn flags(&self) -> Vec<String> {
        let listen = format!("{SERVER_V4}:853");
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| self.text(name));
        [
            "--listen-tls",
            &listen,
            "--tls-certificate",
            &certificate,
            "--tls-key",
            &key,
        ]
        .map(str::to_owned)
        .into()
    }
}

/// A server on AF_XDP with the lab's upstream, and for TLS.
fn heimdall(lab: &Lab, files: &Files) -> Heimdall {
    let flags = files.flags();
    let mut arguments = vec!["--upstream", UPSTREAM];
    arguments.extend(flags.iter().map(String::as_str));
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}

/// What kdig says to a query over TLS, whether or not it gets a reply.
fn kdig(lab: &Lab, arguments: &[&str]) -> String {
    let server = format!("@{SERVER_V4}");
    let mut command = lab.on_client("kdig");
    let fixed = [
        server.as_str(),
        "+tls",
        "+timeout=5",
        "+retry=0",
        "n1.example.com",
    ];
    let output = command.args(fixed).args(arguments).output().unwrap();
    text(&output)
}

fn text(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|octets| String::from_utf8_lossy(octets));
    texts.concat()
}

/// What openssl says to a connection, on which `input` is written.
fn openssl(lab: &Lab, arguments: &[&str], input: &[u8]) -> String {
    let server = format!("{SERVER_V4}:853");
    let mut command = lab.on_client("openssl");
    command
        .args([
            "s_client",
            "-connect",
            &server,
            "-servername",
            "dns.example",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    // It ends when its input does: what the server sends after the handshake, tickets, has to come first.
    thread::sleep(Duration::from_millis(500));
    drop(stdin);
    text(&child.wait_with_output().unwrap())
}

fn count(heimdall: &Heimdall, pointer: &str) -> u64 {
    let stats = heimdall.stats().unwrap();
    stats
        .pointer(&format!("/sockets/{pointer}"))
        .unwrap()
        .as_u64()
        .unwrap()
}

/// Waits until a counter of the sockets has a value.
fn wait_for(heimdall: &Heimdall, pointer: &str, value: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    while count(heimdall, pointer) != value {
        assert!(
            Instant::now() < end,
            "{pointer}: {}",
            heimdall.stats().unwrap()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kdig_checks_the_name_and_the_key_and_gets_padded_replies() {
    let Some(lab) = lab("kdig_checks_the_name_and_the_key") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let files = Files::new();
    let heimdall = heimdall(&lab, &files);
    let authority = format!("+tls-ca={}", files.text("certificate.pem"));
    let digest = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "openssl x509 -in {} -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
            files.text("certificate.pem")
        ))
        .output()
        .unwrap();
    let pin = format!("+tls-pin={}", text(&digest).trim());
    let wrong = "+tls-pin=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (arguments, answered) in [
        (&[][..], true),
        (&[&authority, "+tls-hostname=dns.example"], true),
        (&[&authority, "+tls-hostname=other.example"], false),
        (&[&pin], true),
        (&[wrong], false),
    ] {
        let said = kdig(&lab, arguments);
        assert_eq!(
            said.contains("status: NOERROR"),
            answered,
            "{arguments:?}: {said}"
        );
    }
    for (padding, padded) in [("+padding=128", true), ("+nopadding", false)] {
        let said = kdig(&lab, &[padding]);
        assert_eq!(said.contains("Received 468 B"), padded, "{padding}: {said}");
    }
    // The access list, cookies and options are as on port 53.
    let said = kdig(&lab, &["+nsid", "+cookie", "+subnet=192.0.2.0/24"]);
    assert!(
        said.contains("status: NOERROR") && said.contains("COOKIE"),
        "{said}"
    );
    // Port 53 goes on, and the XDP program leaves TLS to the kernel.
    let server = format!("@{SERVER_V4}");
    let got = Kdig::ask(&lab, &[&server, "n1.example.com"]).unwrap();
    assert_eq!(got.status, "NOERROR");
    assert!(count(&heimdall, "tls_received") >= 6);
    let stats = heimdall.stats().unwrap();
    assert_eq!(
        stats["tls"]["certificate"]["names"],
        serde_json::json!(["dns.example"])
    );
    assert_eq!(
        stats["tls"]["listen"],
        serde_json::json!([format!("{SERVER_V4}:853")])
    );
    let text = heimdall.stats_text().unwrap();
    assert!(
        text.contains("over TLS") && text.contains("handshakes"),
        "{text}"
    );
}

#[test]
fn openssl_gets_both_versions_resumption_and_alpn() {
    let Some(lab) = lab("openssl_gets_both_versions_resumption_and_alpn") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let files = Files::new();
    let heimdall = heimdall(&lab, &files);
    let session = files.text("session");
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = openssl(&lab, &[version, "-alpn", "dot", "-sess_out", &session], b"");
        assert!(said.contains(&format!("New, {name}")), "{said}");
        assert!(said.contains("ALPN protocol: dot"), "{said}");
        let said = openssl(&lab, &[version, "-sess_in", &session], b"");
        assert!(said.contains(&format!("Reused, {name}")), "{said}");
    }
    assert_eq!(count(&heimdall, "tls_handshakes"), 4);
    assert_eq!(count(&heimdall, "tls_resumed"), 2);
    let said = openssl(&lab, &["-alpn", "h2"], b"");
    assert!(said.contains("no application protocol"), "{said}");
    wait_for(&heimdall, "tls_failed/alpn", 1);
    let said = openssl(&lab, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], b"");
    assert!(said.contains("Cipher is (NONE)"), "{said}");
    wait_for(&heimdall, "tls_failed/incompatible", 1);
    // Renegotiation, which TLS 1.2 has, is declined.
    let said = openssl(&lab, &["-tls1_2"], b"R\n");
    assert!(said.contains("no renegotiation"), "{said}");
    // Octets that are no messages: a length of 18,245.
    let _ = openssl(&lab, &[], b"GET / HTTP/1.1\n");
    assert!(kdig(&lab, &[]).contains("status: NOERROR"));
    wait_for(&heimdall, "tls_open", 0);
}

#[test]
fn dnsperf_gets_all_its_replies_over_tls() {
    let Some(lab) = lab("dnsperf_gets_all_its_replies_over_tls") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let files = Files::new();
    let heimdall = heimdall(&lab, &files);
    let queries = files.path("queries");
    let names = (0..100).map(|i| format!("n{i}.example.com. A\n"));
    fs::write(&queries, names.collect::<String>()).unwrap();
    let mut command = lab.on_client("dnsperf");
    command
        .args([
            "-m", "dot", "-s", SERVER_V4, "-p", "853", "-c", "10", "-n", "20", "-d",
        ])
        .arg(&queries);
    let said = text(&command.output().unwrap());
    assert!(
        said.contains("Queries completed:    2000 (100.00%)"),
        "{said}"
    );
    assert_eq!(count(&heimdall, "tls_received"), 2000);
    assert_eq!(count(&heimdall, "tls_answered"), 2000);
}

/// `heimdall check` with the settings in a file.
fn check(settings: &Path) -> Output {
    let mut command = Command::new(program());
    command.arg("check").arg("--config").arg(settings);
    command.output().unwrap()
}

#[test]
fn a_certificate_is_reloaded_and_a_bad_one_is_not() {
    let Some(lab) = lab("a_certificate_is_reloaded_and_a_bad_one_is_not") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let files = Files::new();
    let settings = files.path("heimdall.toml");
    let (certificate, key) = (files.text("certificate.pem"), files.text("key.pem"));
    fs::write(
        &settings,
        format!(
            "upstream = [{UPSTREAM:?}]\nlisten-tls = [\"{SERVER_V4}:853\"]\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n"
        ),
    )
    .unwrap();
    // At the start there is no key: all else is served.
    let kept = fs::read_to_string(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let place = format!(
        "{}:5: key `tls.key`: cannot read {key}: No such file",
        settings.display()
    );
    let checked = check(&settings);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked).contains(&place), "{}", text(&checked));
    let arguments = ["--config", settings.to_str().unwrap()];
    let heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
    let log = heimdall.process.output();
    let line = format!("TLS connections are closed until a reload finds a certificate: {place}");
    assert!(log.contains(&line), "{log}");
    let server = format!("@{SERVER_V4}");
    let got = Kdig::ask(&lab, &[&server, "n1.example.com"]).unwrap();
    assert_eq!(got.status, "NOERROR");
    assert!(!kdig(&lab, &[]).contains("status: NOERROR"));
    let failed = heimdall.reload().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        text(&failed).contains("the new policy is in force, but the certificate"),
        "{failed:?}"
    );

    fs::write(&key, &kept).unwrap();
    let checked = text(&check(&settings));
    assert!(
        checked.contains("TLS: the certificate is for dns.example, until"),
        "{checked}"
    );
    let reloaded = text(&heimdall.reload().unwrap());
    assert!(
        reloaded.contains("TLS: the certificate is for dns.example, until"),
        "{reloaded}"
    );
    let trusting = |path: &str| {
        let authority = format!("+tls-ca={path}");
        kdig(&lab, &[&authority, "+tls-hostname=dns.example"]).contains("status: NOERROR")
    };
    assert!(trusting(&certificate));

    // Another certificate, whose key is not in place yet: the old one stays.
    let old = files.text("old.pem");
    fs::copy(&certificate, &old).unwrap();
    files.renew();
    let new_key = fs::read_to_string(&key).unwrap();
    fs::write(&key, &kept).unwrap();
    let failed = heimdall.reload().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        text(&failed).contains("does not fit the first certificate"),
        "{failed:?}"
    );
    assert!(trusting(&old) && !trusting(&certificate));
    // Both are in place.
    fs::write(&key, new_key).unwrap();
    assert!(heimdall.reload().unwrap().status.success());
    assert!(trusting(&certificate) && !trusting(&old));
}

#[test]
fn a_port_that_cannot_be_bound_leaves_the_rest() {
    let Some(lab) = lab("a_port_that_cannot_be_bound_leaves_the_rest") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let files = Files::new();
    let mut flags = files.flags();
    // The metrics have that port.
    flags.extend(
        [
            "--metrics-listen",
            &format!("{SERVER_V4}:853"),
            "--upstream",
            UPSTREAM,
        ]
        .map(str::to_owned),
    );
    let arguments: Vec<&str> = flags.iter().map(String::as_str).collect();
    let heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
    let log = heimdall.process.output();
    let line = format!("no TLS is served on {SERVER_V4}:853: TCP {SERVER_V4}:853 is taken");
    assert!(log.contains(&line), "{log}");
    let server = format!("@{SERVER_V4}");
    let got = Kdig::ask(&lab, &[&server, "n1.example.com"]).unwrap();
    assert_eq!(got.status, "NOERROR");
}
