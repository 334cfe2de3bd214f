//! Reads a request's head. It comes from anyone who can connect.

use httparse::{EMPTY_HEADER, Status};

use super::{MAX_HEAD, hosts::Hosts, response::Response};

/// Fields of a request at most.
const MAX_FIELDS: usize = 64;

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The response has no body.
    pub(super) head: bool,
    /// Without the query.
    pub(super) path: String,
    /// The Accept field.
    pub(super) accept: Option<String>,
}

/// Reads a request from the octets that have arrived. `None`: they are only a part of one.
pub(super) fn read(octets: &[u8], hosts: &Hosts) -> Option<Result<Request, Response>> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(octets) {
        Ok(Status::Complete(_)) => Some(check(&request, hosts)),
        Ok(Status::Partial) if octets.len() < MAX_HEAD => None,
        Ok(Status::Partial) if !octets.contains(&b'\n') => {
            Some(Err(Response::error(414, "the target is too long")))
        }
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Some(Err(Response::error(431, "the header is too long")))
        }
        Err(httparse::Error::Version) => Some(Err(Response::error(505, "use HTTP/1.1"))),
        Err(error) => Some(Err(Response::error(400, &error.to_string()))),
    }
}

/// Whether the method of a request is HEAD, also of one that is refused or has arrived in part: no response to it has a
/// body (RFC 9110 section 9.3.2).
pub(super) fn is_head(octets: &[u8]) -> bool {
    // RFC 9112 section 2.2: a server ignores empty lines before a request.
    let start = octets.iter().position(|octet| !b"\r\n".contains(octet));
    let request = start.and_then(|start| octets.get(start..));
    request.is_some_and(|request| request.starts_with(b"HEAD "))
}

fn check(request: &httparse::Request<'_, '_>, hosts: &Hosts) -> Result<Request, Response> {
    let bad = |why| Err(Response::error(400, why));
    let named = |name: &'static str| {
        let fields = request.headers.iter();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    let target = request.path.unwrap_or_default();
    // RFC 9112 section 3.2.2: a server must accept the absolute form, whose host counts.
    let (host, path) = match target.strip_prefix("http://") {
        Some(rest) => {
            let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
            let path = rest.strip_prefix(host).filter(|path| !path.is_empty());
            (Some(host), path.unwrap_or("/"))
        }
        None => (None, target),
    };
    let mut host_fields = named("host");
    let field = match (host_fields.next(), host_fields.next()) {
        (Some(field), None) => Some(str::from_utf8(field.value).unwrap_or_default().trim()),
        // Only HTTP/1.0 may do without.
        (None, _) if request.version == Some(0) => None,
        (None, _) => return bad("no Host field"),
        (Some(_), Some(_)) => return bad("more than one Host field"),
    };
    if let Some(host) = host.or(field).filter(|host| !hosts.allow(host)) {
        return Err(Response::error(
            421,
            &format!("{host:?} is none of `names` in [metrics], no address and not localhost"),
        ));
    }
    let head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Response::error(405, "only GET and HEAD are allowed")),
    };
    let accept: Vec<_> = named("accept")
        .filter_map(|field| str::from_utf8(field.value).ok())
        .collect();
    Ok(Request {
        head,
        path: path.split('?').next().unwrap_or_default().to_owned(),
        accept: (!accept.is_empty()).then(|| accept.join(",")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Request, u16> {
        let outcome = read(text.as_bytes(), &Hosts::default());
        outcome.unwrap().map_err(|response| response.status)
    }

    #[test]
    fn requests_are_read() {
        let request = Request {
            head: false,
            path: "/metrics".to_owned(),
            accept: None,
        };
        for text in [
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9453\r\n\r\n",
            "GET /metrics?a=b HTTP/1.1\r\nhOST:   localhost  \r\nX: y\r\n\r\n",
            "GET http://localhost:9453/metrics HTTP/1.1\r\nHost: attacker.example\r\n\r\n",
            "GET /metrics HTTP/1.0\r\n\r\n",
            "\r\nGET /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\nGET / HTTP/1.1",
        ] {
            assert_eq!(of(text).unwrap(), request, "{text}");
        }
        let text = "HEAD / HTTP/1.1\r\nHost: localhost\r\nAccept: a/b\r\naccept: c/d\r\n\r\n";
        let request = of(text).unwrap();
        assert!(request.head);
        assert_eq!(request.accept.unwrap(), "a/b,c/d");
        assert_eq!(
            of("GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .unwrap()
                .path,
            "/"
        );
    }

    #[test]
    fn others_get_the_status_that_says_why() {
        let long = "x".repeat(MAX_HEAD);
        let many = "X: y\r\n".repeat(MAX_FIELDS + 1);
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
            ("GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n", 421),
            (
                "GET http://attacker.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
                421,
            ),
            ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
            ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
            (&format!("GET /{long}"), 414),
            (&format!("GET / HTTP/1.1\r\nX: {long}"), 431),
            (&format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
            ("\x16\x03\x01\x02\0\x01\0\x01\x03\x03", 400),
        ] {
            assert_eq!(of(text).unwrap_err(), status, "{text:.60}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\nHost: l", &Hosts::default()), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&octets, &Hosts::default());
        }

        #[test]
        fn any_field_is_read_without_a_panic(target in "[ -~]{0,40}", host in "[ -~]{0,40}") {
            let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let _ = read(text.as_bytes(), &Hosts::default());
        }
    }
}
