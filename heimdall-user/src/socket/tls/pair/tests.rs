#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use super::*;
use crate::socket::testing::{Dates, Files, VALID, certificate};

fn error(files: &Files) -> PairError {
    TlsPair::read(&files.certificate, &files.key).err().unwrap()
}

#[test]
fn a_pair_says_what_it_is_for_and_how_long() {
    let directory = tempfile::tempdir().unwrap();
    for (dates, validity, problem) in [
        (VALID, Validity::Valid, None),
        (Dates(-80, 10), Validity::ExpiresSoon, Some("expires on ")),
        // Of a time that is short as a whole, a third is left.
        (Dates(-3, 3), Validity::Valid, None),
        (Dates(-5, 1), Validity::ExpiresSoon, Some("expires on ")),
        (Dates(-90, -1), Validity::Expired, Some("has expired on ")),
        (
            Dates(1, 90),
            Validity::NotYetValid,
            Some("is not valid before "),
        ),
    ] {
        let files = certificate(directory.path(), dates);
        let pair = TlsPair::read(&files.certificate, &files.key).unwrap();
        let now = SystemTime::now();
        assert_eq!(pair.certificate.validity(now), validity);
        let found = pair.certificate.problem(now);
        match (&found, problem) {
            (Some(found), Some(problem)) => assert!(found.starts_with(problem), "{found}"),
            (found, problem) => assert_eq!(found.as_deref(), problem),
        }
        assert_eq!(pair.certificate.names, ["dns.example", "192.0.2.1"]);
        let text = pair.certificate.to_string();
        assert!(
            text.starts_with("for dns.example, 192.0.2.1, until "),
            "{text}"
        );
        assert!(!pair.exposed);
        fs::set_permissions(&files.key, Permissions::from_mode(0o640)).unwrap();
        assert!(
            !TlsPair::read(&files.certificate, &files.key)
                .unwrap()
                .exposed
        );
        fs::set_permissions(&files.key, Permissions::from_mode(0o604)).unwrap();
        assert!(
            TlsPair::read(&files.certificate, &files.key)
                .unwrap()
                .exposed
        );
    }
}

#[test]
fn what_is_wrong_with_files_is_said_in_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let good = certificate(directory.path(), VALID);
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let [chain, key] = [&good.certificate, &good.key].map(|path| fs::read_to_string(path).unwrap());
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "-----END CERTIFICATE-----\n";
    for (text, says) in [
        ("", "has no certificate in PEM"),
        (key.as_str(), "has no certificate in PEM"),
        (&chain.replace(end, ""), "is no PEM"),
        (&format!("{begin}AAAA\n{end}"), "the first certificate of"),
    ] {
        let certificate = write("certificate", text);
        let error = error(&Files {
            certificate,
            key: good.key.clone(),
        });
        assert!(matches!(error, PairError::Certificate(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
                 -----END RSA PRIVATE KEY-----\n";
    let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (text, says) in [
        ("", "has no private key in PEM"),
        (chain.as_str(), "has no private key in PEM"),
        (encrypted, "is encrypted with a passphrase"),
        (older, "is encrypted with a passphrase"),
        (garbage, "give an ECDSA key"),
    ] {
        let key = write("key", text);
        let error = error(&Files {
            key,
            certificate: good.certificate.clone(),
        });
        assert!(matches!(error, PairError::Key(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let other = tempfile::tempdir().unwrap();
    let other = certificate(other.path(), VALID);
    let found = error(&Files {
        certificate: good.certificate.clone(),
        key: write("key", &fs::read_to_string(other.key).unwrap()),
    });
    assert!(
        found
            .to_string()
            .contains("does not fit the first certificate"),
        "{found}"
    );
    let found = error(&Files {
        certificate: good.certificate.clone(),
        key: directory.path().join("none"),
    });
    assert!(
        found.to_string().contains("No such file or directory"),
        "{found}"
    );
}

#[test]
fn both_may_be_in_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(directory.path(), VALID);
    let both = directory.path().join("both.pem");
    let [chain, key] =
        [&files.certificate, &files.key].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&both, format!("{key}{chain}")).unwrap();
    TlsPair::read(&both, &both).unwrap();
}

/// Keys as openssl writes them.
#[test]
fn all_forms_of_keys_are_read() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has to have openssl");
        eprintln!("SKIPPED all_forms_of_keys_are_read: it needs Debian's package openssl");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    };
    let [pkcs8, certificate, key] = ["pkcs8", "certificate", "key"].map(path);
    for (make, traditional, begins) in [
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            true,
            "BEGIN EC PRIVATE KEY",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            false,
            "BEGIN PRIVATE KEY",
        ),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            true,
            "BEGIN RSA PRIVATE KEY",
        ),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            false,
            "BEGIN PRIVATE KEY",
        ),
        ("-algorithm ED25519", false, "BEGIN PRIVATE KEY"),
    ] {
        openssl(&format!("genpkey {make} -out {pkcs8}"));
        openssl(&format!(
            "req -new -x509 -key {pkcs8} -subj /CN=x -addext subjectAltName=DNS:x.example -days 9 -out {certificate}"
        ));
        let form = if traditional { " -traditional" } else { "" };
        openssl(&format!("pkey -in {pkcs8}{form} -out {key}"));
        assert!(fs::read_to_string(&key).unwrap().contains(begins), "{make}");
        let pair = TlsPair::read(Path::new(&certificate), Path::new(&key)).unwrap();
        assert_eq!(pair.certificate.names, ["x.example"]);
    }
    // Too short for anyone to accept.
    openssl(&format!(
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out {pkcs8}"
    ));
    openssl(&format!(
        "req -new -x509 -key {pkcs8} -subj /CN=x -days 9 -out {certificate}"
    ));
    let found = error(&Files {
        certificate: certificate.into(),
        key: pkcs8.into(),
    });
    assert!(
        found.to_string().contains("RSA key of 2048 bits or more"),
        "{found}"
    );
}
