//! Responses: their status, fields and body.

use std::time::SystemTime;

/// Sent with every response. The page needs its own script and style and nothing else; no site may frame it or
/// read it, and nothing is cached.
const FIELDS: &str = "\
Cache-Control: no-store\r\n\
Connection: close\r\n\
Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
Cross-Origin-Resource-Policy: same-origin\r\n\
Referrer-Policy: no-referrer\r\n\
X-Content-Type-Options: nosniff\r\n";

/// A response that is not written yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    media_type: &'static str,
    body: String,
    /// It goes on after the body, until the connection is closed.
    stream: bool,
}

impl Response {
    pub(super) fn new(status: u16, media_type: &'static str, body: String) -> Self {
        Self {
            status,
            media_type,
            body,
            stream: false,
        }
    }

    pub(super) fn text(status: u16, body: String) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// Begins a stream of events (HTML, section 9.2).
    pub(super) fn events() -> Self {
        Self {
            stream: true,
            ..Self::new(200, "text/event-stream", String::new())
        }
    }

    /// The response to a request that is not served, with one line that says why.
    pub(super) fn error(status: u16, why: &str) -> Self {
        Self::text(status, format!("{}: {why}\n", reason(status)))
    }

    /// The octets to send. `head`: the request's method is HEAD, so the body stays away.
    pub(super) fn octets(self, head: bool) -> Vec<u8> {
        let Self {
            status,
            media_type,
            body,
            stream,
        } = self;
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut text = format!("HTTP/1.1 {status} {}\r\nDate: {date}\r\n", reason(status));
        text.push_str(FIELDS);
        text.push_str(&format!("Content-Type: {media_type}\r\n"));
        match status {
            405 => text.push_str("Allow: GET, HEAD\r\n"),
            503 => text.push_str("Retry-After: 1\r\n"),
            _ => {}
        }
        if !stream {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        if !head {
            text.push_str(&body);
        }
        text.into_bytes()
    }
}

/// The phrase of a status code (RFC 9110 section 15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    }
}
