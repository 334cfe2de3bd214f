//! Messages in a stream of octets, each after its length in two octets, [RFC 1035 section
//! 4.2.2](https://www.rfc-editor.org/rfc/rfc1035#section-4.2.2).

use crate::dns::u16_at;

/// Octets of memory that a connection keeps while it has no part of a message: more than most responses of a turn take, so
/// that those need no other.
const KEPT: usize = 16 << 10;

/// Puts received octets together to messages.
#[derive(Debug, Default)]
pub(in crate::forward) struct Framing {
    octets: Vec<u8>,
    /// Where the first message begins that was not taken.
    start: usize,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self {
            octets: Vec::with_capacity(KEPT),
            start: 0,
        }
    }

    /// Adds what was received.
    pub(in crate::forward) fn push(&mut self, received: &[u8]) {
        self.octets.extend_from_slice(received);
    }

    /// Gives back the memory of messages that were taken.
    pub(super) fn trim(&mut self) {
        self.octets.drain(..self.start.min(self.octets.len()));
        self.start = 0;
        if self.octets.is_empty() {
            self.octets.shrink_to(KEPT);
        }
    }

    /// The next message that is whole. At most a part of one is left when there is none.
    pub(in crate::forward) fn next(&mut self) -> Option<&[u8]> {
        let len = usize::from(u16_at(&self.octets, self.start)?);
        let begin = self.start + 2;
        let message = self.octets.get(begin..begin + len)?;
        self.start = begin + len;
        Some(message)
    }
}

/// Appends a message with its length. It fits: queries are shorter than 512 octets.
pub(super) fn append(output: &mut Vec<u8>, message: &[u8]) {
    output.extend_from_slice(&(message.len() as u16).to_be_bytes());
    output.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a network splits and merges segments, the messages are those that were sent.
        #[test]
        fn messages_come_out_as_they_went_in(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..12),
            pieces in prop::collection::vec(1..900_usize, 1..9),
            cut in 0..3_usize,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                append(&mut stream, message);
            }
            let whole = stream.len();
            stream.truncate(whole.saturating_sub(cut));
            let mut framing = Framing::default();
            let mut got = Vec::new();
            let mut rest = stream.as_slice();
            for len in pieces.iter().cycle() {
                let (piece, left) = rest.split_at((*len).min(rest.len()));
                framing.push(piece);
                while let Some(message) = framing.next() {
                    got.push(message.to_vec());
                }
                framing.trim();
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            let is_cut = stream.len() < whole;
            prop_assert_eq!(&got[..], &messages[..messages.len() - usize::from(is_cut)]);
        }
    }

    #[test]
    fn the_responses_of_a_turn_need_no_other_memory() {
        let mut framing = Framing::new();
        let memory = framing.octets.as_ptr();
        for messages in [1, 64, 1, 200] {
            let mut stream = Vec::new();
            for _ in 0..messages {
                append(&mut stream, &[7; 75]);
            }
            framing.push(&stream);
            while framing.next().is_some() {}
            framing.trim();
            assert_eq!(framing.octets.as_ptr(), memory);
        }
    }

    #[test]
    fn memory_of_a_large_message_is_given_back() {
        let mut framing = Framing::default();
        let mut stream = Vec::new();
        append(&mut stream, &[7; 60_000]);
        framing.push(&stream);
        assert_eq!(framing.next().map(<[u8]>::len), Some(60_000));
        framing.trim();
        assert!(framing.octets.capacity() <= KEPT);
    }
}
