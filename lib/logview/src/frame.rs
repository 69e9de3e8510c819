//! One frame of the serial stream: COBS, checksum and header.
//!
//! On the wire a frame is a zero byte, the COBS encoding of its body, and a zero byte. The body,
//! all numbers little-endian:
//!
//! ```text
//! 0   u8   0xC1, which no UTF-8 text contains
//! 1   u16  source: index of the task, or 0xFFFF - core for the ring of a core's kernel
//! 3   u8   core
//! 4   u8   kind
//! 5   u16  low bits of the sequence number
//! 7   u32  frames lost before this one
//! 11  u64  time stamp counter
//! 19       payload
//! …   u16  CRC-16/CCITT-FALSE over everything before
//! ```
//!
//! Invariant: [`Frame::decode`] accepts exactly the encodings of well-formed bodies; what it
//! refuses it describes with a [`Defect`].

use cloister_abi::log::FRAME_MAX;
use crc::{CRC_16_IBM_3740, Crc};

/// First byte of every body: kind of stream and version.
pub(crate) const MARK: u8 = 0xc1;
/// Sources from here on are rings of kernels, counted down from `0xffff`.
pub const KERNEL_SOURCE_FIRST: u16 = 0xff00;
/// Largest payload: what a log ring holds.
pub const MAX_PAYLOAD: usize = FRAME_MAX;
/// Bytes before the payload.
const HEAD: usize = 19;
/// Bytes behind the payload.
const TAIL: usize = 2;
/// Longest COBS encoding of a body.
pub const MAX_ENCODED: usize = {
    let body = HEAD + MAX_PAYLOAD + TAIL;
    body + body / 254 + 1
};

/// CRC-16/CCITT-FALSE, which the catalogue lists as IBM-3740.
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);

/// What the payload of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A defmt frame, encoding `raw`.
    Defmt,
    /// Text.
    Text,
    /// The kernel's record of a start.
    Boot,
    /// The console's greeting: ticks of the time stamp counter in a second, as a `u64`.
    Hello,
    /// Bytes for the terminal: guests, and the console's answers.
    Terminal,
}

impl Kind {
    /// The kind for a code.
    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            0 => Kind::Defmt,
            1 => Kind::Text,
            2 => Kind::Boot,
            3 => Kind::Hello,
            4 => Kind::Terminal,
            _ => return None,
        })
    }
}

/// Why bytes between two zeros are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Shorter than head and checksum.
    TooShort,
    /// Longer than any frame.
    TooLong,
    /// The COBS code bytes lead beyond the end.
    Cut,
    /// The checksum is another.
    Checksum,
    /// The kind is not one of [`Kind`]; holds the code.
    UnknownKind(u8),
    /// Bytes outside frames that are no text.
    Noise,
}

/// A frame that passed every check of this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index of the task, or `0xffff - core` for a kernel's ring.
    pub source: u16,
    /// The core that wrote it.
    pub core: u8,
    /// What the payload is.
    pub kind: Kind,
    /// Low 16 bits of the sequence number.
    pub seq: u16,
    /// Frames of this source that were lost before this one.
    pub lost: u32,
    /// Time stamp counter when it was written.
    pub tsc: u64,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads a frame from what stands between two zero bytes.
    pub fn decode(encoded: &[u8]) -> Result<Frame, Defect> {
        if encoded.len() > MAX_ENCODED {
            return Err(Defect::TooLong);
        }
        let (body, whole) = cobs_decode(encoded);
        if !whole {
            return Err(Defect::Cut);
        }
        let Some((checked, tail)) = body.split_last_chunk::<TAIL>() else {
            return Err(Defect::TooShort);
        };
        let Some((head, payload)) = checked.split_first_chunk::<HEAD>() else {
            return Err(Defect::TooShort);
        };
        if CRC.checksum(checked) != u16::from_le_bytes(*tail) {
            return Err(Defect::Checksum);
        }
        let &[mark, s0, s1, core, code, q0, q1, l0, l1, l2, l3, ref tsc @ ..] = head;
        let (MARK, Some(kind)) = (mark, Kind::from_code(code)) else {
            return Err(Defect::UnknownKind(code));
        };
        Ok(Frame {
            source: u16::from_le_bytes([s0, s1]),
            core,
            kind,
            seq: u16::from_le_bytes([q0, q1]),
            lost: u32::from_le_bytes([l0, l1, l2, l3]),
            tsc: u64::from_le_bytes(*tsc),
            payload: payload.to_vec(),
        })
    }
}

/// The source that a damaged frame names, if its head is readable. It is a hint: the checksum did
/// not match.
pub(crate) fn claimed_source(encoded: &[u8]) -> Option<u16> {
    let start = encoded.get(..encoded.len().min(8))?;
    match cobs_decode(start).0.as_slice() {
        [MARK, s0, s1, ..] => Some(u16::from_le_bytes([*s0, *s1])),
        _ => None,
    }
}

/// Decodes COBS as far as it goes; the flag says whether the code bytes end where the input ends.
/// A library decoder would not do: it gives nothing back for a frame that was cut.
fn cobs_decode(encoded: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&code, behind)) = rest.split_first() {
        let length = usize::from(code).saturating_sub(1);
        let Some((run, next)) = behind.split_at_checked(length) else {
            body.extend_from_slice(behind);
            return (body, false);
        };
        if code == 0 || run.contains(&0) {
            return (body, false);
        }
        body.extend_from_slice(run);
        // A code of 0xff stands for 254 bytes without a zero behind them, and the zero behind the
        // last run is the one that the encoder added.
        if code != 0xff && !next.is_empty() {
            body.push(0);
        }
        rest = next;
    }
    (body, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cobs_undoes_the_library_encoder(body in prop::collection::vec(0u8..4, 0..1200)) {
            prop_assert_eq!(cobs_decode(&cobs::encode_vec(&body)), (body, true));
        }

        #[test]
        fn cobs_undoes_long_runs(body in prop::collection::vec(1u8.., 0..1200)) {
            prop_assert_eq!(cobs_decode(&cobs::encode_vec(&body)), (body, true));
        }

        #[test]
        fn a_prefix_decodes_to_a_prefix(
            body in prop::collection::vec(any::<u8>(), 0..600),
            cut in any::<prop::sample::Index>(),
        ) {
            let encoded = cobs::encode_vec(&body);
            let (part, _) = cobs_decode(&encoded[..cut.index(encoded.len())]);
            prop_assert!(body.starts_with(&part));
        }

        #[test]
        fn garbage_is_refused_or_read(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(&garbage);
            let _ = claimed_source(&garbage);
        }
    }

    #[test]
    fn the_checksum_is_the_named_one() {
        // The check value that the catalogue of CRC algorithms gives for "123456789".
        assert_eq!(CRC.checksum(b"123456789"), 0x29b1);
    }

    #[test]
    fn the_longest_frame_fits() {
        let mut body = vec![MARK; HEAD + MAX_PAYLOAD];
        body[4] = 1;
        body.extend(CRC.checksum(&body).to_le_bytes());
        let encoded = cobs::encode_vec(&body);
        assert!(encoded.len() <= MAX_ENCODED);
        assert_eq!(Frame::decode(&encoded).map(|f| f.payload.len()), Ok(MAX_PAYLOAD));
        assert_eq!(Frame::decode(&vec![1; MAX_ENCODED + 1]), Err(Defect::TooLong));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let mut body = vec![MARK; HEAD];
        body[4] = 9;
        body.extend(CRC.checksum(&body).to_le_bytes());
        assert_eq!(Frame::decode(&cobs::encode_vec(&body)), Err(Defect::UnknownKind(9)));
        assert_eq!(Frame::decode(&cobs::encode_vec(&body[..20])), Err(Defect::TooShort));
    }
}
