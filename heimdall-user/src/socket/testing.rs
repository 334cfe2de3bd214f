//! Certificates for tests.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rcgen::{CertificateParams, KeyPair};

/// The files of a certificate for `dns.example` and 192.0.2.1, signed by itself.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// From when until when, in days from now.
#[derive(Clone, Copy)]
pub(crate) struct Dates(pub(crate) i64, pub(crate) i64);

pub(crate) const VALID: Dates = Dates(-1, 89);

/// Makes a certificate in a directory.
pub(crate) fn certificate(directory: &Path, dates: Dates) -> Files {
    let names = ["dns.example", "192.0.2.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    let day = |days: i64| {
        let day = std::time::Duration::from_secs(86_400 * days.unsigned_abs());
        let now = SystemTime::now();
        match days < 0 {
            true => now - day,
            false => now + day,
        }
    };
    (params.not_before, params.not_after) = (day(dates.0).into(), day(dates.1).into());
    let key = KeyPair::generate().unwrap();
    let files = Files {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
    };
    let certificate = params.self_signed(&key).unwrap();
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    files
}
