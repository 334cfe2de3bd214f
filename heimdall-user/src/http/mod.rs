//! HTTP for operators: metrics for Prometheus, health for load balancers, and the status page.
//!
//! One thread serves all connections with an epoll loop. It is meant for a few scrapers and browsers, and
//! nothing that they do may disturb the server: connections, requests, times and event streams are bounded
//! (`MAX_CONNECTIONS` and below), and a response is made from counters that are only read. `server` starts it and
//! gives it the contents (`Source`); this module must not know what they mean.
//!
//! Each connection carries one request (RFC 9112 section 9.6, `Connection: close`). Only GET and HEAD are allowed.

mod accept;
mod connection;
mod exposition;
mod hosts;
mod listener;
mod request;
mod response;
mod routes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;

pub(crate) use exposition::{Families, Labels};
pub(crate) use listener::{HttpListener, HttpServer};

/// Connections at once. One more closes the one whose phase (request, response, close) began first, event
/// streams left out.
pub(crate) const MAX_CONNECTIONS: usize = 64;

/// Event streams among them, so that scrapers always have the other connections. One more closes one of the address
/// that has the most, if that has two more than the client's; else it is refused.
const MAX_EVENT_STREAMS: usize = 8;

/// Longest request line and headers together, in octets.
const MAX_HEAD: usize = 8 << 10;

/// Time between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// To send a request.
    request: Duration,
    /// To read a response, or an event.
    response: Duration,
    /// To close the connection after the response.
    close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            response: Duration::from_secs(30),
            close: Duration::from_secs(1),
        }
    }
}

/// The contents. All of them are asked for on the HTTP thread.
pub(crate) trait Source: Send + 'static {
    /// Everything that Prometheus is to get.
    fn metrics(&self) -> Families;
    /// The document of `heimdall stats --json`.
    fn stats(&self) -> Value;
    /// The settings in force.
    fn config(&self) -> Value;
    /// The doctor's findings.
    fn doctor(&mut self) -> Value;
    /// Whether queries can be answered.
    ///
    /// # Errors
    /// Why they cannot, in a line.
    fn ready(&mut self) -> Result<(), String>;
}
