//! What each path gets.

use serde_json::Value;

use super::{Source, accept::Format, request::Request, response::Response};

/// The status page: one file that needs no other.
const PAGE: &str = include_str!("page.html");

/// For a path that does not exist.
const PATHS: &str = "there are / (the status page), /metrics, /healthz, /readyz, /stats.json, /events, \
                     /config.json and /doctor.json";

/// What a request gets.
pub(super) enum Route {
    Response(Response),
    /// An event each second.
    Events,
}

pub(super) fn route(request: &Request, source: &mut impl Source) -> Route {
    Route::Response(match request.path.as_str() {
        "/" => Response::new(200, "text/html; charset=utf-8", PAGE.to_owned()),
        "/metrics" => {
            let format = Format::choose(request.accept.as_deref());
            match source.metrics().encode(format) {
                Ok(text) => Response::new(200, format.media_type(), text),
                Err(_) => Response::error(500, "the metrics cannot be written"),
            }
        }
        "/healthz" => Response::text(200, "alive\n".to_owned()),
        "/readyz" => match source.ready() {
            Ok(()) => Response::text(200, "ready\n".to_owned()),
            Err(why) => Response::text(503, format!("not ready: {why}\n")),
        },
        "/stats.json" => json(&source.stats()),
        "/config.json" => json(&source.config()),
        "/doctor.json" => json(&source.doctor()),
        "/events" => return Route::Events,
        _ => Response::error(404, PATHS),
    })
}

fn json(document: &Value) -> Response {
    Response::new(200, "application/json", format!("{document}\n"))
}

/// The document as an event. It has no line breaks, which would end the field.
pub(super) fn event(document: &Value) -> Vec<u8> {
    format!("data: {document}\n\n").into_bytes()
}
