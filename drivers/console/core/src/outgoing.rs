//! The bytes that wait for the serial line: one encoded frame at a time.

use crate::wire::{Body, ENCODED_MAX, Head};

/// The line's output buffer.
pub struct Outgoing {
    body: Body,
    bytes: [u8; ENCODED_MAX],
    next: usize,
    end: usize,
}

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing { body: Body::default(), bytes: [0; ENCODED_MAX], next: 0, end: 0 }
    }
}

impl Outgoing {
    /// Whether nothing waits; only then may a frame be loaded.
    pub fn is_empty(&self) -> bool {
        self.next >= self.end
    }

    /// Loads the frame that `source` gives, in place of what is there. `source` puts the payload
    /// into the buffer and returns head and length, or `None` if there is no frame.
    pub fn load(&mut self, source: impl FnOnce(&mut [u8]) -> Option<(Head, usize)>) -> bool {
        let Some((head, len)) = source(self.body.payload()) else {
            return false;
        };
        self.next = 0;
        self.end = self.body.encode(&head, len, &mut self.bytes);
        true
    }

    /// Takes the next bytes, at most `most`.
    pub fn take(&mut self, most: usize) -> &[u8] {
        let start = self.next;
        self.next = self.end.min(start.saturating_add(most));
        self.bytes.get(start..self.next).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Outgoing;
    use crate::wire::Head;

    #[test]
    fn a_frame_leaves_in_pieces_and_whole() {
        let message = |buffer: &mut [u8]| {
            let text = b"a message that is longer than one load of the device";
            buffer[..text.len()].copy_from_slice(text);
            let head = Head { source: 1, core: 0, kind: 1, seq: 0, lost: 0, tsc: 1 };
            Some((head, text.len()))
        };
        let mut out = Outgoing::default();
        assert!(out.is_empty() && out.take(16).is_empty());
        assert!(out.load(message) && !out.load(|_| None));
        let mut sent = Vec::new();
        while !out.is_empty() {
            let piece = out.take(16);
            assert!(!piece.is_empty() && piece.len() <= 16);
            sent.extend_from_slice(piece);
        }
        let mut whole = Outgoing::default();
        assert!(whole.load(message));
        assert_eq!(sent, whole.take(usize::MAX));
        assert_eq!(sent.iter().filter(|byte| **byte == 0).count(), 2);
    }
}
