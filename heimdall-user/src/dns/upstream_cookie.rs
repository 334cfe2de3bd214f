//! The COOKIE option of queries to upstreams and of their responses, [RFC 7873 section
//! 4](https://www.rfc-editor.org/rfc/rfc7873#section-4): Heimdall is the client here.
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! |                OPTION-CODE = 10               |
//! |                 OPTION-LENGTH                 |  8, or 16 to 40
//! /                 client cookie                 /  8 octets
//! /                 server cookie                 /  8 to 32 octets, if the client has one
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use super::{edns::option, options};

/// Octets of the client's part.
const CLIENT: usize = 8;

/// Octets of both parts, at most.
const MAX: usize = 40;

/// A client cookie, and the server cookie that belongs to it, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamCookie {
    octets: [u8; MAX],
    len: u8,
}

/// What a response says about cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieEcho {
    /// Nothing.
    Absent,
    /// It has the client's cookie.
    Cookie(UpstreamCookie),
    /// It has another cookie, or one of a length that none can have: the response has to be discarded (RFC 7873
    /// section 5.3).
    Wrong,
}

impl UpstreamCookie {
    /// Without a server cookie.
    pub(crate) fn new(client: [u8; CLIENT]) -> Self {
        let mut octets = [0; MAX];
        if let Some(place) = octets.first_chunk_mut() {
            *place = client;
        }
        Self {
            octets,
            len: CLIENT as u8,
        }
    }

    /// With a server cookie in place of its own.
    #[cfg(test)]
    pub(crate) fn with_server(&self, server: &[u8]) -> Self {
        Self::read(&[&self.client()[..], server].concat()).unwrap_or(*self)
    }

    /// Reads the option's data. `None`: no cookie has this length.
    fn read(data: &[u8]) -> Option<Self> {
        if data.len() != CLIENT && !(2 * CLIENT..=MAX).contains(&data.len()) {
            return None;
        }
        let mut octets = [0; MAX];
        octets.get_mut(..data.len())?.copy_from_slice(data);
        let len = data.len() as u8;
        Some(Self { octets, len })
    }

    /// The option's data.
    pub(super) fn data(&self) -> &[u8] {
        self.octets.get(..self.len.into()).unwrap_or_default()
    }

    /// The client's part.
    pub(crate) fn client(&self) -> [u8; CLIENT] {
        self.octets.first_chunk().copied().unwrap_or_default()
    }

    /// Whether it has the server's part.
    pub(crate) fn has_server(&self) -> bool {
        usize::from(self.len) > CLIENT
    }
}

impl CookieEcho {
    /// What a response to a query with this client cookie says.
    pub(crate) fn of(response: &[u8], client: [u8; CLIENT]) -> Self {
        match options::find(response, option::COOKIE).map(UpstreamCookie::read) {
            None => Self::Absent,
            Some(Some(cookie)) if cookie.client() == client => Self::Cookie(cookie),
            Some(_) => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A response with a COOKIE option.
    fn response(data: &[u8]) -> Vec<u8> {
        let mut msg = vec![0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        msg.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        let len = data.len() as u8;
        msg.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4 + len, 0, 10, 0, len]);
        msg.extend_from_slice(data);
        msg
    }

    #[test]
    fn a_cookie_has_eight_or_sixteen_to_forty_octets() {
        for len in 0..=60 {
            let data: Vec<u8> = (1..=len).collect();
            let echo = CookieEcho::of(&response(&data), [1, 2, 3, 4, 5, 6, 7, 8]);
            let CookieEcho::Cookie(cookie) = echo else {
                assert_eq!(echo, CookieEcho::Wrong);
                assert!(!matches!(len, 8 | 16..=40), "{len}");
                continue;
            };
            assert!(matches!(len, 8 | 16..=40), "{len}");
            assert_eq!(cookie.data(), data);
            assert_eq!(cookie.has_server(), len > 8);
        }
    }

    #[test]
    fn a_response_has_to_have_the_clients_cookie() {
        let client = [7; 8];
        let given = UpstreamCookie::read(&[&client[..], &[9; 16]].concat()).unwrap();
        let of = |data: &[u8]| CookieEcho::of(&response(data), client);
        assert_eq!(of(given.data()), CookieEcho::Cookie(given));
        assert_eq!(of(&client), CookieEcho::Cookie(UpstreamCookie::new(client)));
        assert_eq!(of(&[[7; 7], [9; 7]].concat()), CookieEcho::Wrong);
        assert_eq!(of(&[8; 24]), CookieEcho::Wrong);
        let mut without = response(&[]);
        without.truncate(without.len() - 4);
        *without.last_mut().unwrap() = 0;
        assert_eq!(CookieEcho::of(&without, client), CookieEcho::Absent);
        without.truncate(19);
        assert_eq!(CookieEcho::of(&without, client), CookieEcho::Absent);
    }
}
