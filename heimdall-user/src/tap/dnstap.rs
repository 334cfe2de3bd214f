//! dnstap: samples as its frames.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message as _;

use super::{
    frame_stream::data_frame,
    options::{DnstapOptions, MessageKind},
    protobuf::{Dnstap, MESSAGE, Message},
    sample::{Kind, Protocol, Sample},
    wall_clock::WallClock,
};

/// Makes frames of samples.
pub(super) struct Encoder {
    identity: Option<Vec<u8>>,
    version: Vec<u8>,
    messages: Vec<MessageKind>,
}

impl Encoder {
    pub(super) fn new(options: &DnstapOptions) -> Self {
        Self {
            identity: options.identity.clone().map(String::into_bytes),
            version: options.version.clone().into_bytes(),
            messages: options.messages.clone(),
        }
    }

    /// Gives `push` the frames of a sample: of a client's query two, that and its reply.
    pub(super) fn encode(&self, sample: &Sample, clock: &WallClock, mut push: impl FnMut(&[u8])) {
        let mut frame = |kind: MessageKind| {
            if self.messages.contains(&kind) {
                let dnstap = self.dnstap(message(sample, clock, kind));
                push(&data_frame(&dnstap.encode_to_vec()));
            }
        };
        match sample.kind {
            Kind::Client => {
                frame(MessageKind::ClientQuery);
                if sample.replied.is_some() {
                    frame(MessageKind::ClientResponse);
                }
            }
            Kind::ForwarderQuery => frame(MessageKind::ForwarderQuery),
            Kind::ForwarderResponse => frame(MessageKind::ForwarderResponse),
        }
    }

    fn dnstap(&self, message: Message) -> Dnstap {
        Dnstap {
            identity: self.identity.clone(),
            version: Some(self.version.clone()),
            message: Some(message),
            kind: MESSAGE,
        }
    }
}

/// The fields that `dnstap.proto` recommends for a kind. A message that was too long for a sample is left out.
fn message(sample: &Sample, clock: &WallClock, kind: MessageKind) -> Message {
    let (family, address) = match sample.peer() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let (queried_sec, queried_nsec) = since_epoch(clock.at(sample.queried));
    let mut message = Message {
        kind: kind as i32,
        socket_family: Some(family),
        socket_protocol: Some(match sample.protocol {
            Protocol::Udp => 1,
            Protocol::Tcp => 2,
            Protocol::Tls => 3,
        }),
        query_time_sec: Some(queried_sec),
        query_time_nsec: Some(queried_nsec),
        ..Message::default()
    };
    let port = sample.port.map(u32::from);
    // The initiator is the client, the responder the upstream.
    match kind {
        MessageKind::ClientQuery | MessageKind::ClientResponse => {
            message.query_address = Some(address);
            message.query_port = port;
        }
        MessageKind::ForwarderQuery | MessageKind::ForwarderResponse => {
            message.response_address = Some(address);
            message.response_port = port;
        }
    }
    match kind {
        MessageKind::ClientQuery | MessageKind::ForwarderQuery => {
            message.query_message = sample.query().map(<[u8]>::to_vec);
        }
        MessageKind::ClientResponse | MessageKind::ForwarderResponse => {
            if let Some(replied) = sample.replied {
                let (sec, nsec) = since_epoch(clock.at(replied));
                message.response_time_sec = Some(sec);
                message.response_time_nsec = Some(nsec);
            }
            message.response_message = sample.reply().map(<[u8]>::to_vec);
        }
    }
    message
}

/// Seconds since 1970, and nanoseconds.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{
        net::Ipv4Addr,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::tap::{DnstapTarget, Rate, sample::MESSAGES};

    fn encoder(messages: &[MessageKind]) -> Encoder {
        Encoder::new(&DnstapOptions {
            target: DnstapTarget::File("/unused".into()),
            rate: Rate::one_in(1),
            messages: messages.to_vec(),
            identity: Some("ns1".to_owned()),
            version: "Heimdall".to_owned(),
        })
    }

    fn frames(encoder: &Encoder, sample: &Sample) -> Vec<Dnstap> {
        let mut frames = Vec::new();
        let clock = WallClock::new(sample.queried, UNIX_EPOCH + Duration::new(7, 8));
        encoder.encode(sample, &clock, |frame| {
            let (len, payload) = frame.split_first_chunk().unwrap();
            assert_eq!(u32::from_be_bytes(*len) as usize, payload.len());
            frames.push(Dnstap::decode(payload).unwrap());
        });
        frames
    }

    const ALL: [MessageKind; 4] = [
        MessageKind::ClientQuery,
        MessageKind::ClientResponse,
        MessageKind::ForwarderQuery,
        MessageKind::ForwarderResponse,
    ];

    #[test]
    fn a_clients_query_and_its_reply_are_two_messages() {
        let mut sample = Sample::new(MESSAGES);
        sample.begin(2, b"query", Instant::now());
        sample.peer = "2001:db8::7".parse().unwrap();
        sample.port = Some(4000);
        sample.replied = Some(sample.queried + Duration::new(2, 2));
        sample.set_reply(b"reply");
        let frames_of = |messages: &[MessageKind]| frames(&encoder(messages), &sample);
        let both = frames_of(&ALL);
        let [query, reply] = &both[..] else {
            panic!("{both:?}")
        };
        assert_eq!(
            (query.kind, query.identity.as_deref()),
            (1, Some(&b"ns1"[..]))
        );
        let (query, reply) = (
            query.message.clone().unwrap(),
            reply.message.clone().unwrap(),
        );
        assert_eq!((query.kind, reply.kind), (5, 6));
        assert_eq!(
            (query.socket_family, query.socket_protocol),
            (Some(2), Some(1))
        );
        assert_eq!(query.query_port, Some(4000));
        assert_eq!(query.query_address.unwrap()[15], 7);
        assert_eq!(
            (query.query_time_sec, query.query_time_nsec),
            (Some(7), Some(8))
        );
        assert_eq!(query.query_message.unwrap(), b"query");
        assert_eq!(
            (query.response_message, query.response_time_sec),
            (None, None)
        );
        assert_eq!(
            (
                reply.query_time_sec,
                reply.response_time_sec,
                reply.response_time_nsec
            ),
            (Some(7), Some(9), Some(10))
        );
        assert_eq!(reply.response_message.unwrap(), b"reply");
        assert_eq!(frames_of(&[MessageKind::ClientResponse]).len(), 1);
        assert!(frames_of(&[MessageKind::ForwarderQuery]).is_empty());
        sample.replied = None;
        assert_eq!(frames(&encoder(&ALL), &sample).len(), 1, "it got no reply");
    }

    #[test]
    fn upstreams_are_the_responders() {
        let mut sample = Sample::new(MESSAGES);
        sample.begin(2, b"query", Instant::now());
        sample.kind = Kind::ForwarderQuery;
        sample.peer = Ipv4Addr::new(192, 0, 2, 53).to_ipv6_mapped();
        sample.port = Some(53);
        for (protocol, number) in [(Protocol::Udp, 1), (Protocol::Tcp, 2), (Protocol::Tls, 3)] {
            sample.protocol = protocol;
            let frames = frames(&encoder(&ALL), &sample);
            let message = frames[0].message.clone().unwrap();
            assert_eq!(
                (message.kind, message.socket_family, message.socket_protocol),
                (7, Some(1), Some(number))
            );
            assert_eq!(message.response_address, Some(vec![192, 0, 2, 53]));
            assert_eq!(
                (message.response_port, message.query_address),
                (Some(53), None)
            );
        }
    }
}
