//! Certificates for servers of the lab, from an authority that each test makes.

use std::{fs, io, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// As all of these: if a key or a certificate cannot be made.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Issuers are found by name: no two have the same one.
        let name = format!("authority {:02x?}", &key.public_key_raw()[1..17]);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its own certificate in PEM, for clients.
    pub fn roots(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a host name, with its key.
    pub fn issue(&self, name: &str) -> Certified {
        self.sign(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    /// A certificate that has expired on the first day of 2020.
    pub fn issue_expired(&self, name: &str) -> Certified {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified {
            pem: [certificate.pem(), key.serialize_pem()],
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A certificate, and its key.
pub struct Certified {
    pem: [String; 2],
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certified {
    /// Writes `certificate.pem` and `key.pem` to a directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let [certificate, key] = &self.pem;
        fs::write(directory.join("certificate.pem"), certificate)?;
        fs::write(directory.join("key.pem"), key)
    }

    /// A server with it, which offers ALPN `dot` and gives out session tickets, that only it can read.
    pub fn server(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let mut config = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"dot".to_vec()];
        config.ticketer = ring::Ticketer::new().unwrap();
        Arc::new(config)
    }
}
