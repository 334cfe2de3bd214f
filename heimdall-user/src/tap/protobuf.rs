//! dnstap's messages (`dnstap.proto`, <https://dnstap.info>), of which only the fields that we fill in. Written by
//! hand, so that the build needs no protoc.

/// The type of a `Dnstap` that has a `Message`.
pub(super) const MESSAGE: i32 = 1;

/// The top-level message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dnstap {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) identity: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) version: Option<Vec<u8>>,
    #[prost(message, optional, tag = "14")]
    pub(super) message: Option<Message>,
    /// [`MESSAGE`].
    #[prost(int32, required, tag = "15")]
    pub(super) kind: i32,
}

/// A DNS message and what is known of its transport.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    /// [`MessageKind`](super::MessageKind).
    #[prost(int32, required, tag = "1")]
    pub(super) kind: i32,
    /// 1: IPv4; 2: IPv6.
    #[prost(int32, optional, tag = "2")]
    pub(super) socket_family: Option<i32>,
    /// 1: UDP; 2: TCP; 3: DOT.
    #[prost(int32, optional, tag = "3")]
    pub(super) socket_protocol: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(super) query_address: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub(super) response_address: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) query_port: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) response_port: Option<u32>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) query_time_sec: Option<u64>,
    #[prost(fixed32, optional, tag = "9")]
    pub(super) query_time_nsec: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "10")]
    pub(super) query_message: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "12")]
    pub(super) response_time_sec: Option<u64>,
    #[prost(fixed32, optional, tag = "13")]
    pub(super) response_time_nsec: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub(super) response_message: Option<Vec<u8>>,
}
