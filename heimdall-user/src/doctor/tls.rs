//! The certificate and the key that TLS clients get.

use std::time::SystemTime;

use super::{checks, facts::Facts, finding::Finding, fix::Fix};
use crate::socket::{PairError, TlsPair, Validity};

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let config = &facts.config;
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) else {
        return Vec::new();
    };
    let place = |key| config.settings.location(key).to_string();
    let reload = || Fix::advice("correct it, and run `heimdall reload`");
    let pair = match TlsPair::read(certificate, key) {
        Ok(pair) => pair,
        Err(error) => {
            let (check, key) = match error {
                PairError::Certificate(_) => (&checks::TLS_CERTIFICATE, "tls.certificate"),
                PairError::Key(_) => (&checks::TLS_KEY, "tls.key"),
            };
            return vec![check.bad(key, format!("{}{error}", place(key)), reload())];
        }
    };
    let now = SystemTime::now();
    let check = &checks::TLS_CERTIFICATE;
    let (subject, said) = (certificate.display().to_string(), &pair.certificate);
    let valid = match (said.validity(now), said.problem(now)) {
        (Validity::Expired | Validity::NotYetValid, Some(problem)) => check.bad(
            subject,
            format!("{}the certificate {problem}", place("tls.certificate")),
            Fix::advice("renew it, and run `heimdall reload`; or correct this host's clock"),
        ),
        (_, Some(problem)) => check.warn(
            subject,
            format!("the certificate {problem}"),
            Fix::advice("renew it, and run `heimdall reload`"),
        ),
        _ if said.names.is_empty() => check.warn(
            subject,
            "the certificate has no names (subjectAltName): clients that check it do not connect",
            reload(),
        ),
        _ => check.good(subject, format!("the certificate is {said}")),
    };
    let (subject, check) = (key.display().to_string(), &checks::TLS_KEY);
    let readable = match pair.exposed {
        true => {
            let fix = Fix::command(&format!("chmod o-rwx {subject}"));
            check.warn(subject, "all users of this host can read the key", fix)
        }
        false => check.good(
            subject,
            "it fits the certificate, and not all users can read it",
        ),
    };
    vec![valid, readable]
}
