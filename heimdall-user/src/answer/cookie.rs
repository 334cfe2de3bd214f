//! Server cookies (RFC 7873) in the interoperable form, with which servers that share an address and a
//! secret check each other's (RFC 9018 section 4):
//!
//! ```text
//! version 1 (8) | reserved (24) | timestamp (32)
//! SipHash-2-4 of client cookie | version | reserved | timestamp | client address (64)
//! ```

use std::{hash::Hasher, net::IpAddr};

use rand::random;
use siphasher::{
    sip::SipHasher24,
    sip128::{self, Hasher128},
};

/// Version and reserved octets.
const HEAD: [u8; 4] = [1, 0, 0, 0];

/// Seconds for which a cookie is valid (RFC 9018 section 4.3).
const MAX_AGE: i32 = 3600;

/// Seconds after which the client gets a new one.
const RENEW_AGE: i32 = 1800;

/// Seconds by which the clock of another server with the same secret may be ahead.
const MAX_CLOCK_SKEW: i32 = 300;

/// Seconds for which a derived secret is used.
const SECRET_PERIOD: u32 = 86_400;

/// The secrets that cookies are made and checked with.
#[derive(Clone)]
pub struct Secrets(Kind);

#[derive(Clone)]
enum Kind {
    Configured(Vec<[u8; 16]>),
    /// The key from which the secret of each period is derived, so that secrets change by themselves.
    Derived([u8; 16]),
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// The first makes cookies, all check them. To change the secret of a set of servers, append the
    /// new one on all of them, then move it to the front, then remove the old one (RFC 9018 section
    /// 5).
    pub fn configured(secrets: &[[u8; 16]]) -> Self {
        Self(Kind::Configured(secrets.to_vec()))
    }

    /// Secrets derived from a random key, a new one every day.
    pub fn random() -> Self {
        Self(Kind::Derived(random()))
    }

    /// Secrets derived from a key that [`key`](Self::key) gave.
    pub(crate) fn derived(key: [u8; 16]) -> Self {
        Self(Kind::Derived(key))
    }

    /// The key that they are derived from, if they are.
    pub(crate) fn key(&self) -> Option<[u8; 16]> {
        match self.0 {
            Kind::Derived(key) => Some(key),
            Kind::Configured(_) => None,
        }
    }
}

/// The result of checking a server cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieStatus {
    /// This server, or one with the same secret, made it.
    Valid,
    /// As [`Valid`](Self::Valid), but the client should get a new one.
    Renew,
    /// It has another secret, is too old, or belongs to another client.
    Invalid,
}

/// Makes and checks server cookies.
#[derive(Debug)]
pub struct CookieMaker(Secrets);

impl CookieMaker {
    /// Makes cookies with these secrets.
    pub fn new(secrets: Secrets) -> Self {
        Self(secrets)
    }

    /// The server cookie for a client, at `unix` seconds since 1970 modulo 2³².
    pub fn make(&self, client: &[u8; 8], address: IpAddr, unix: u32) -> [u8; 16] {
        let time = unix.to_be_bytes();
        let hash = match &self.0.0 {
            Kind::Configured(secrets) => {
                hash(secrets.first().unwrap_or(&[0; 16]), client, time, address)
            }
            Kind::Derived(key) => hash(&derive(key, unix), client, time, address),
        };
        let mut cookie = [0; 16];
        for (octet, value) in cookie
            .iter_mut()
            .zip(HEAD.into_iter().chain(time).chain(hash))
        {
            *octet = value;
        }
        cookie
    }

    /// Checks a server cookie that came from this client.
    pub fn check(
        &self,
        client: &[u8; 8],
        server: &[u8; 16],
        address: IpAddr,
        unix: u32,
    ) -> CookieStatus {
        let [v, r0, r1, r2, t0, t1, t2, t3, given @ ..] = *server;
        let time = [t0, t1, t2, t3];
        let stamp = u32::from_be_bytes(time);
        // Serial number arithmetic (RFC 1982): the seconds wrap in 2106.
        let age = unix.wrapping_sub(stamp) as i32;
        if [v, r0, r1, r2] != HEAD || !(-MAX_CLOCK_SKEW..=MAX_AGE).contains(&age) {
            return CookieStatus::Invalid;
        }
        let matches = match &self.0.0 {
            Kind::Configured(secrets) => secrets
                .iter()
                .any(|secret| hash(secret, client, time, address) == given),
            // The timestamp determines the secret.
            Kind::Derived(key) => hash(&derive(key, stamp), client, time, address) == given,
        };
        match matches {
            false => CookieStatus::Invalid,
            true if age > RENEW_AGE => CookieStatus::Renew,
            true => CookieStatus::Valid,
        }
    }
}

fn hash(secret: &[u8; 16], client: &[u8; 8], time: [u8; 4], address: IpAddr) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(client);
    hasher.write(&HEAD);
    hasher.write(&time);
    match address {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.finish().to_le_bytes()
}

/// The secret of the period that contains `unix`.
fn derive(key: &[u8; 16], unix: u32) -> [u8; 16] {
    let mut hasher = sip128::SipHasher24::new_with_key(key);
    hasher.write_u32(unix / SECRET_PERIOD);
    hasher.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        let digit = |at| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap();
        std::array::from_fn(|i| digit(2 * i))
    }

    /// RFC 9018 appendix A.
    #[test]
    fn agrees_with_the_test_vectors_of_the_rfc() {
        for (secret, client, address, unix, cookie) in [
            (
                "e5e973e5a6b2a43f48e7dc849e37bfcf",
                "2464c4abcf10c957",
                "198.51.100.100",
                1_559_731_985,
                "010000005cf79f111f8130c3eee29480",
            ),
            (
                "e5e973e5a6b2a43f48e7dc849e37bfcf",
                "2464c4abcf10c957",
                "198.51.100.100",
                1_559_734_385,
                "010000005cf7a871d4a564a1442aca77",
            ),
            (
                "dd3bdf9344b678b185a6f5cb60fca715",
                "22681ab97d52c298",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_817,
                "010000005cf7c57926556bd0934c72f8",
            ),
            (
                "445536bcd2513298075a5d379663c962",
                "22681ab97d52c298",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961,
                "010000005cf7c609a6bb79d16625507a",
            ),
        ] {
            let maker = CookieMaker::new(Secrets::configured(&[octets(secret)]));
            let (client, address) = (octets(client), address.parse().unwrap());
            assert_eq!(
                maker.make(&client, address, unix),
                octets(cookie),
                "{cookie}"
            );
            let check = maker.check(&client, &octets(cookie), address, unix);
            assert_eq!(check, CookieStatus::Valid);
        }
    }

    #[test]
    fn cookies_age_and_belong_to_one_client() {
        for secrets in [Secrets::random(), Secrets::configured(&[[1; 16], [2; 16]])] {
            let maker = CookieMaker::new(secrets);
            let (client, address) = ([7; 8], "192.0.2.1".parse().unwrap());
            // Around the wrap of the seconds, and the change of the derived secret.
            for made in [1_800_000_000, u32::MAX - 100, 86_400 * 20_000 - 1] {
                let cookie = maker.make(&client, address, made);
                for (age, expected) in [
                    (-301, CookieStatus::Invalid),
                    (-300, CookieStatus::Valid),
                    (0, CookieStatus::Valid),
                    (1800, CookieStatus::Valid),
                    (1801, CookieStatus::Renew),
                    (3600, CookieStatus::Renew),
                    (3601, CookieStatus::Invalid),
                ] {
                    let now = made.wrapping_add_signed(age);
                    assert_eq!(
                        maker.check(&client, &cookie, address, now),
                        expected,
                        "{age}"
                    );
                }
                let other = "192.0.2.2".parse().unwrap();
                assert_eq!(
                    maker.check(&client, &cookie, other, made),
                    CookieStatus::Invalid
                );
                assert_eq!(
                    maker.check(&[8; 8], &cookie, address, made),
                    CookieStatus::Invalid
                );
                for at in 0..16 {
                    let mut bad = cookie;
                    *bad.get_mut(at).unwrap() ^= 1;
                    assert_eq!(
                        maker.check(&client, &bad, address, made),
                        CookieStatus::Invalid,
                        "{at}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_successor_knows_the_cookies_of_its_predecessor() {
        let secrets = Secrets::random();
        let (client, address) = ([7; 8], "192.0.2.1".parse().unwrap());
        let key = secrets.key().unwrap();
        let cookie = CookieMaker::new(secrets).make(&client, address, 100);
        let successor = CookieMaker::new(Secrets::derived(key));
        assert_eq!(
            successor.check(&client, &cookie, address, 100),
            CookieStatus::Valid
        );
        assert_eq!(Secrets::configured(&[[1; 16]]).key(), None);
    }

    #[test]
    fn a_secret_is_changed_in_steps() {
        let (client, address) = ([7; 8], "2001:db8::1".parse().unwrap());
        let old = CookieMaker::new(Secrets::configured(&[[1; 16]]));
        let both = CookieMaker::new(Secrets::configured(&[[2; 16], [1; 16]]));
        let new = CookieMaker::new(Secrets::configured(&[[2; 16]]));
        let cookie = old.make(&client, address, 100);
        assert_eq!(
            both.check(&client, &cookie, address, 100),
            CookieStatus::Valid
        );
        assert_eq!(
            new.check(&client, &cookie, address, 100),
            CookieStatus::Invalid
        );
        let cookie = both.make(&client, address, 100);
        assert_eq!(
            new.check(&client, &cookie, address, 100),
            CookieStatus::Valid
        );
    }
}
