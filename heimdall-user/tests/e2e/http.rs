//! A client of HTTP.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use lab::Lab;
use serde_json::Value;

use crate::client::TIMEOUT;

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A connection from the lab's client.
pub(crate) fn connect(lab: &Lab, address: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    let stream = lab.in_client(|| TcpStream::connect(address)).unwrap()?;
    stream.set_read_timeout(Some(2 * TIMEOUT))?;
    Ok(stream)
}

/// The response to a GET request from the lab's client.
pub(crate) fn get(lab: &Lab, address: &str, path: &str, fields: &str) -> Response {
    let mut stream = connect(lab, address).unwrap();
    // With HTTP/1.0 no server sends chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    Response {
        status: head[9..12].parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
