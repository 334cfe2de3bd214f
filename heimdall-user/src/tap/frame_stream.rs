//! Frame Streams, the transport of dnstap: frames in a file or over a socket.
//!
//! From the specification in fstrm's `fstrm/control.h` and `fstrm/fstrm.h` (Farsight Security): numbers are
//! big-endian words of 32 bits. The kept crates write files alone, and are bound to a runtime or to an old mio.
//!
//! ```text
//! data frame:     length (not 0), payload
//! control frame:  0, length, type, fields; a field: type, length, payload
//!
//! in a file:      START, data frames, STOP
//! on a socket:    we: READY    reader: ACCEPT    we: START, data frames, STOP    reader: FINISH
//! ```

use thiserror::Error;

/// What dnstap's frames contain.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

/// The field of a control frame that names a content type.
const FIELD_CONTENT_TYPE: u32 = 1;

/// Longest control frame (FSTRM_CONTROL_FRAME_LENGTH_MAX).
const MAX_CONTROL: usize = 512;

/// A control frame's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Control {
    Accept = 1,
    Start = 2,
    Stop = 3,
    Ready = 4,
    Finish = 5,
}

/// What a reader sent is no control frame, or offers no content type that we have.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct BadFrame(&'static str);

impl Control {
    /// The frame, with dnstap's content type where one belongs.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut body = (self as u32).to_be_bytes().to_vec();
        if !matches!(self, Self::Stop | Self::Finish) {
            body.extend_from_slice(&FIELD_CONTENT_TYPE.to_be_bytes());
            body.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
            body.extend_from_slice(CONTENT_TYPE);
        }
        let mut frame = vec![0; 4];
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&body);
        frame
    }

    /// Reads a frame, with its length. `None`: it is not whole yet.
    ///
    /// # Errors
    /// It is no control frame, or for other content.
    pub(super) fn decode(octets: &[u8]) -> Result<Option<(Self, usize)>, BadFrame> {
        let (Some(escape), len) = (word(octets, 0), word(octets, 4)) else {
            return Ok(None);
        };
        if escape != 0 {
            return Err(BadFrame("it sent data instead of a control frame"));
        }
        let Some(len) = len else { return Ok(None) };
        let len = len as usize;
        if len > MAX_CONTROL {
            return Err(BadFrame("it sent a control frame that is too long"));
        }
        let Some(body) = octets.get(8..8 + len) else {
            return Ok(None);
        };
        let control = match word(body, 0) {
            Some(1) => Self::Accept,
            Some(2) => Self::Start,
            Some(3) => Self::Stop,
            Some(4) => Self::Ready,
            Some(5) => Self::Finish,
            _ => return Err(BadFrame("it sent a control frame of an unknown type")),
        };
        if !offers_dnstap(body.get(4..).unwrap_or_default())? {
            return Err(BadFrame("it does not take protobuf:dnstap.Dnstap"));
        }
        Ok(Some((control, 8 + len)))
    }
}

/// Whether the fields of a control frame have dnstap's content type, or none: which stands for any.
fn offers_dnstap(mut fields: &[u8]) -> Result<bool, BadFrame> {
    let (mut any, mut ours) = (false, false);
    while !fields.is_empty() {
        let payload = word(fields, 4).and_then(|len| {
            let (payload, rest) = fields.get(8..)?.split_at_checked(len as usize)?;
            Some((word(fields, 0)?, payload, rest))
        });
        let (FIELD_CONTENT_TYPE, payload, rest) =
            payload.ok_or(BadFrame("it sent a control frame that is cut short"))?
        else {
            return Err(BadFrame("it sent a control frame with an unknown field"));
        };
        any = true;
        ours |= payload == CONTENT_TYPE;
        fields = rest;
    }
    Ok(ours || !any)
}

/// A data frame.
pub(super) fn data_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    let word = octets.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_those_of_the_specification() {
        let start = Control::Start.encode();
        let expected = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
        assert_eq!(start, expected);
        assert_eq!(Control::Stop.encode(), b"\0\0\0\0\0\0\0\x04\0\0\0\x03");
        assert_eq!(data_frame(b"ab"), b"\0\0\0\x02ab");
    }

    #[test]
    fn control_frames_are_read_whole_or_not() {
        for control in [
            Control::Accept,
            Control::Start,
            Control::Stop,
            Control::Ready,
            Control::Finish,
        ] {
            let frame = control.encode();
            let more = [&frame[..], b"more"].concat();
            assert_eq!(
                Control::decode(&more).unwrap(),
                Some((control, frame.len()))
            );
            for len in 0..frame.len() {
                assert_eq!(Control::decode(&frame[..len]).unwrap(), None);
            }
        }
        // An ACCEPT without a content type takes any.
        let bare = b"\0\0\0\0\0\0\0\x04\0\0\0\x01";
        assert_eq!(Control::decode(bare).unwrap(), Some((Control::Accept, 12)));
    }

    #[test]
    fn other_frames_are_refused() {
        let mut other = Control::Accept.encode();
        *other.last_mut().unwrap() = b'x';
        let mut cut = Control::Accept.encode();
        cut[19] = 0x17;
        let mut field = Control::Accept.encode();
        field[15] = 2;
        for bad in [
            &other,
            &cut,
            &field,
            &b"\0\0\0\x01".to_vec(),
            &b"HTTP/1.1 400".to_vec(),
            &b"\0\0\0\0\0\0\x02\x01".to_vec(),
            &b"\0\0\0\0\0\0\0\x04\0\0\0\x06".to_vec(),
            &b"\0\0\0\0\0\0\0\0".to_vec(),
        ] {
            assert!(Control::decode(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(mut octets in prop::collection::vec(any::<u8>(), 0..600), control: bool) {
            if control {
                let head = [0, 0, 0, 0, 0, 0, 0];
                octets.splice(..head.len().min(octets.len()), head);
            }
            let _ = Control::decode(&octets);
        }
    }
}
