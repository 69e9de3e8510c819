//! The format of the serial line.
//!
//! A frame is a zero byte, a COBS-encoded body, a zero byte. The body, all numbers little-endian:
//! ```text
//! 0   mark 0xC1             4   kind as in the ring    11  TSC, 8 bytes
//! 1   source, 2 bytes       5   number, 2 bytes        19  payload
//! 3   core                  7   lost before, 4 bytes   end CRC-16 of all before, 2 bytes
//! ```
//! The source is the index of a task, or 65535 less the core for a kernel ring. The CRC is
//! CCITT-FALSE (polynomial 0x1021, begins with 0xffff). Bytes outside of valid frames are plain
//! text: the boot stub and the kernel's last words use the same line. Kind [`KIND_HELLO`] comes
//! once, when the console starts; its payload is the TSC's frequency in ticks a second, 8 bytes. The
//! payload of kind [`KIND_TERMINAL`] is for the terminal, as it is: what guests say and what the
//! console answers. A frame of any other kind is shown on a line of its own, so whoever shows it
//! ends the terminal's line first, and the console counts on that. Both kinds come from no ring;
//! their numbers mean nothing.
//!
//! Invariant: [`Body::encode`] never writes a zero inside a frame, whatever the payload.

use cloister_abi::log::FRAME_MAX;
use crc::{CRC_16_IBM_3740, Crc};

/// First byte of every body.
pub const MARK: u8 = 0xc1;
/// Kind of the console's first frame.
pub const KIND_HELLO: u8 = 3;
/// Kind of a frame for the terminal.
pub const KIND_TERMINAL: u8 = 4;
/// Bytes of a body before its payload.
const HEAD: usize = 19;
/// Most bytes of a body.
const BODY_MAX: usize = HEAD + FRAME_MAX + 2;
/// Most bytes between two code bytes of the encoding.
const RUN_MAX: usize = 254;
/// Most bytes of an encoded frame with its two zeros.
pub const ENCODED_MAX: usize = BODY_MAX + BODY_MAX / RUN_MAX + 1 + 2;

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);

/// What a frame says beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who wrote it.
    pub source: u16,
    /// On which core.
    pub core: u8,
    /// What the payload is.
    pub kind: u8,
    /// Low bits of its number.
    pub seq: u16,
    /// Frames lost directly before it.
    pub lost: u32,
    /// When it was written.
    pub tsc: u64,
}

/// A body in the making: the payload is put in its place at once and copied only by the encoding.
pub struct Body {
    bytes: [u8; BODY_MAX],
}

impl Default for Body {
    fn default() -> Self {
        Body { bytes: [0; BODY_MAX] }
    }
}

impl Body {
    /// Where the payload belongs.
    pub fn payload(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEAD..HEAD + FRAME_MAX).unwrap_or_default()
    }

    /// Encodes the frame with the first `len` bytes of the payload, and says how many bytes it has.
    pub fn encode(&mut self, head: &Head, len: usize, to: &mut [u8; ENCODED_MAX]) -> usize {
        let parts: [&[u8]; 6] = [
            &[MARK],
            &head.source.to_le_bytes(),
            &[head.core, head.kind],
            &head.seq.to_le_bytes(),
            &head.lost.to_le_bytes(),
            &head.tsc.to_le_bytes(),
        ];
        for (place, byte) in self.bytes.iter_mut().zip(parts.iter().copied().flatten()) {
            *place = *byte;
        }
        let end = HEAD + len.min(FRAME_MAX);
        let crc = CRC.checksum(self.bytes.get(..end).unwrap_or_default());
        for (place, byte) in self.bytes.iter_mut().skip(end).zip(crc.to_le_bytes()) {
            *place = byte;
        }
        let body = self.bytes.get(..end + 2).unwrap_or_default();
        // The places outside of the encoding stay zero: they are the frame's two ends.
        to.fill(0);
        stuff(body, to.get_mut(1..).unwrap_or_default()) + 2
    }
}

/// Consistent Overhead Byte Stuffing (Cheshire and Baker, 1997): each code byte says how far it is
/// to the next one, and stands for a zero unless the run before it was full. The crate `cobs` is
/// for hosts: what it depends on needs `std` as soon as any crate of the workspace asks for that.
fn stuff(body: &[u8], to: &mut [u8]) -> usize {
    let mut put = |at: usize, byte: u8| {
        if let Some(place) = to.get_mut(at) {
            *place = byte;
        }
    };
    let (mut code_at, mut code, mut next) = (0, 1, 1);
    for byte in body {
        if *byte != 0 {
            put(next, *byte);
            next += 1;
            code += 1;
        }
        if *byte == 0 || code == u8::MAX {
            put(code_at, code);
            (code_at, code) = (next, 1);
            next += 1;
        }
    }
    put(code_at, code);
    next
}

#[cfg(test)]
mod tests {
    use super::{Body, CRC, ENCODED_MAX, FRAME_MAX, Head, MARK};
    use proptest::prelude::*;

    fn encode(head: &Head, payload: &[u8], to: &mut [u8; ENCODED_MAX]) -> usize {
        let mut body = Body::default();
        for (to, from) in body.payload().iter_mut().zip(payload) {
            *to = *from;
        }
        body.encode(head, payload.len(), to)
    }

    /// The text of the format, read the other way: no code is shared with the encoder.
    fn decode(bytes: &[u8]) -> Option<(Head, Vec<u8>)> {
        let inner = bytes.strip_prefix(&[0])?.strip_suffix(&[0])?;
        let mut body = Vec::new();
        let mut rest = inner;
        while let Some((&code, more)) = rest.split_first() {
            let run = usize::from(code).checked_sub(1)?;
            body.extend_from_slice(more.get(..run)?);
            rest = &more[run..];
            if code != 0xff && !rest.is_empty() {
                body.push(0);
            }
        }
        let (content, sum) = body.split_last_chunk::<2>()?;
        let mut crc = 0xffffu16;
        for byte in content {
            crc ^= u16::from(*byte) << 8;
            for _ in 0..8 {
                crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            }
        }
        if crc.to_le_bytes() != *sum || content.first() != Some(&MARK) {
            return None;
        }
        let number = |from: usize, len: usize| {
            let mut word = [0; 8];
            word[..len].copy_from_slice(&content[from..from + len]);
            u64::from_le_bytes(word)
        };
        let head = Head {
            source: number(1, 2) as u16,
            core: content[3],
            kind: content[4],
            seq: number(5, 2) as u16,
            lost: number(7, 4) as u32,
            tsc: number(11, 8),
        };
        Some((head, content[19..].to_vec()))
    }

    #[test]
    fn the_checksum_is_the_one_that_is_named() {
        assert_eq!(CRC.checksum(b"123456789"), 0x29b1);
    }

    #[test]
    fn a_frame_of_known_bytes() {
        let head = Head { source: 2, core: 1, kind: 0, seq: 7, lost: 0, tsc: 0x0102_0304 };
        let mut bytes = [0; ENCODED_MAX];
        let len = encode(&head, &[0xaa], &mut bytes);
        assert_eq!(bytes[..6], [0, 3, MARK, 2, 2, 1]);
        assert_eq!((bytes[len - 1], len), (0, 1 + 1 + 22 + 1));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            payload in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..=FRAME_MAX),
            source: u16, core: u8, kind: u8, seq: u16, lost: u32, tsc: u64,
        ) {
            let head = Head { source, core, kind, seq, lost, tsc };
            let mut bytes = [0xff; ENCODED_MAX];
            let len = encode(&head, &payload, &mut bytes);
            prop_assert!(!bytes[1..len - 1].contains(&0));
            prop_assert_eq!(decode(&bytes[..len]), Some((head, payload)));
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            place in 1usize..100, bit in 0u32..8,
        ) {
            let head = Head { source: 1, core: 2, kind: 0, seq: 3, lost: 4, tsc: 5 };
            let mut bytes = [0; ENCODED_MAX];
            let len = encode(&head, &payload, &mut bytes);
            let place = 1 + place % (len - 2);
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn the_longest_payload_without_a_zero_fits() {
        let head = Head { source: 9, core: 9, kind: 9, seq: 9, lost: 9, tsc: u64::MAX };
        let mut bytes = [0; ENCODED_MAX];
        let payload = [0x55; FRAME_MAX + 1];
        let len = encode(&head, &payload, &mut bytes);
        assert_eq!(decode(&bytes[..len]), Some((head, payload[..FRAME_MAX].to_vec())));
    }
}
