//! Cutting the memory of a request into commands that a disk can take: [`Cursor`].
//!
//! Most requests are one command with the very pieces that the client gave, and [`fits`] says so.
//! Else a cursor walks over the pieces and takes the longest beginning that the disk can take.
//! Invariant: the pieces of all commands together are the request's, in order, each byte once.

use crate::disk::{Fit, Limits, PAGE, Segment};
use crate::request::SEGMENTS_MAX;

/// Whether a disk can take these pieces as one command. They are `bytes` together.
pub(crate) fn fits(segments: &[Segment], bytes: u64, limits: &Limits) -> bool {
    if bytes > limits.bytes_max || segments.len() > limits.segments_max {
        return false;
    }
    let mask = limits.align.wrapping_sub(1);
    // What must be a multiple of the alignment: all of it, by one comparison at the end.
    let mut low = 0u64;
    let mut seam = 0u64;
    let mut ended = 0u64;
    for (number, segment) in segments.iter().enumerate() {
        low |= segment.address | segment.len;
        if number != 0 {
            seam |= segment.address | ended;
        }
        ended = segment.address.wrapping_add(segment.len);
    }
    low & mask == 0 && (limits.fit == Fit::Any || seam & PAGE.wrapping_sub(1) == 0)
}

/// The pieces of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
    /// All bytes of the pieces.
    pub(crate) bytes: u64,
}

impl Cut {
    pub(crate) const EMPTY: Cut =
        Cut { segments: [Segment { address: 0, len: 0 }; SEGMENTS_MAX], count: 0, bytes: 0 };

    /// The pieces.
    pub(crate) fn segments(&self) -> &[Segment] {
        self.segments.get(..self.count).unwrap_or_default()
    }

    fn last(&self) -> Option<&Segment> {
        self.segments().last()
    }

    /// Adds a piece; `false` if there is no room.
    fn push(&mut self, segment: Segment) -> bool {
        let Some(place) = self.segments.get_mut(self.count) else {
            return false;
        };
        *place = segment;
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(segment.len);
        true
    }

    /// Takes bytes off the end.
    fn shorten(&mut self, mut bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        while bytes != 0 {
            let last = self.count.checked_sub(1).and_then(|last| self.segments.get_mut(last));
            let Some(last) = last else {
                return;
            };
            let now = last.len.min(bytes);
            last.len = last.len.saturating_sub(now);
            bytes = bytes.saturating_sub(now);
            if last.len == 0 {
                self.count = self.count.saturating_sub(1);
            }
        }
    }

    /// As many pieces of the same memory `page` as make up `bytes`, or as the disk takes.
    pub(crate) fn repeat(page: Segment, bytes: u64, limits: &Limits) -> Cut {
        let mut cut = Cut::EMPTY;
        let most = bytes.min(limits.bytes_max);
        while cut.bytes < most && cut.count < limits.segments_max {
            let len = page.len.min(most.saturating_sub(cut.bytes));
            if !cut.push(Segment { address: page.address, len }) {
                break;
            }
        }
        cut.shorten(cut.bytes & u64::from(limits.block_size).wrapping_sub(1));
        cut
    }
}

/// The pieces of a request's memory from its byte `skip` on that the disk can take as one command,
/// as many as possible; none if not even one block of them fits.
pub(crate) fn cut(segments: &[Segment], mut skip: u64, limits: &Limits) -> Cut {
    let mut cut = Cut::EMPTY;
    let mask = limits.align.wrapping_sub(1);
    for segment in segments {
        if skip >= segment.len {
            skip = skip.saturating_sub(segment.len);
            continue;
        }
        let room = limits.bytes_max.saturating_sub(cut.bytes);
        let address = segment.address.saturating_add(skip);
        let len = segment.len.saturating_sub(skip).min(room);
        skip = 0;
        let meets = cut.last().is_none_or(|last| {
            let seam = last.address.wrapping_add(last.len) | address;
            limits.fit == Fit::Any || seam & PAGE.wrapping_sub(1) == 0
        });
        let takes = len != 0 && cut.count < limits.segments_max && (address | len) & mask == 0;
        if !meets || !takes || !cut.push(Segment { address, len }) {
            break;
        }
    }
    cut.shorten(cut.bytes & u64::from(limits.block_size).wrapping_sub(1));
    cut
}

#[cfg(test)]
mod tests {
    use super::{Cut, cut, fits};
    use crate::disk::{Fit, Limits, PAGE, Segment};
    use proptest::prelude::*;

    fn limits(block_size: u32, bytes_max: u64, segments_max: usize, fit: Fit) -> Limits {
        Limits {
            block_size,
            blocks: 1 << 30,
            bytes_max,
            segments_max,
            fit,
            align: 4,
            zero_blocks_max: 0,
            discard_blocks_max: 0,
            write_cache: false,
        }
    }

    /// What a disk that takes pages only would check, said in another way.
    fn is_takable(segments: &[Segment], limits: &Limits) -> bool {
        let bytes: u64 = segments.iter().map(|s| s.len).sum();
        let inner = segments.windows(2).all(|pair| {
            let end = pair[0].address + pair[0].len;
            end.is_multiple_of(PAGE) && pair[1].address.is_multiple_of(PAGE)
        });
        bytes <= limits.bytes_max
            && bytes.is_multiple_of(limits.block_size.into())
            && segments.len() <= limits.segments_max
            && segments.iter().all(|s| s.address.is_multiple_of(4) && s.len.is_multiple_of(4))
            && (limits.fit == Fit::Any || inner)
    }

    fn bytes_of(segments: &[Segment]) -> Vec<u64> {
        segments.iter().flat_map(|s| s.address..s.address + s.len).collect()
    }

    fn pieces() -> impl Strategy<Value = Vec<Segment>> {
        let address = prop_oneof![
            (1u64..9).prop_map(|page| page * PAGE),
            (1u64..72).prop_map(|n| n * 512),
            (4096u64..40_000),
        ];
        let len = prop_oneof![
            (1u64..3).prop_map(|pages| pages * PAGE),
            (1u64..12).prop_map(|n| n * 512),
            (1u64..5000),
        ];
        prop::collection::vec((address, len), 1..8).prop_map(|all| {
            all.into_iter().map(|(address, len)| Segment { address, len }).collect()
        })
    }

    proptest! {
        #[test]
        fn commands_together_are_the_request(
            segments in pieces(),
            block in prop::sample::select(vec![512u32, 4096]),
            most in 1u64..6,
            count in 1usize..6,
            fit in prop::sample::select(vec![Fit::Any, Fit::Pages]),
        ) {
            let limits = limits(block, most * 4096, count, fit);
            let total: u64 = segments.iter().map(|s| s.len).sum();
            let mut seen = Vec::new();
            let mut at = 0;
            while at < total {
                let part = cut(&segments, at, &limits);
                if part.bytes == 0 {
                    break;
                }
                prop_assert!(is_takable(part.segments(), &limits), "{part:?}");
                prop_assert_eq!(bytes_of(part.segments()).len() as u64, part.bytes);
                seen.extend(bytes_of(part.segments()));
                at += part.bytes;
            }
            let all = bytes_of(&segments);
            prop_assert_eq!(&seen[..], &all[..seen.len()]);
            if fits(&segments, total, &limits) && total.is_multiple_of(block.into()) {
                prop_assert!(is_takable(&segments, &limits));
                prop_assert_eq!(seen.len(), all.len());
            }
        }

        #[test]
        fn what_a_disk_can_take_is_not_cut(segments in pieces(), fit in prop::sample::select(vec![Fit::Any, Fit::Pages])) {
            let limits = limits(512, 1 << 20, 8, fit);
            let total: u64 = segments.iter().map(|s| s.len).sum();
            if total.is_multiple_of(512) {
                prop_assert_eq!(fits(&segments, total, &limits), is_takable(&segments, &limits));
            }
        }

        #[test]
        fn zeros_are_the_same_page_again_and_again(blocks in 1u64..100, most in 1u64..9) {
            let limits = limits(512, most * 4096, 5, Fit::Pages);
            let page = Segment { address: 0x10_0000, len: PAGE };
            let part = Cut::repeat(page, blocks * 512, &limits);
            prop_assert!(is_takable(part.segments(), &limits));
            prop_assert_eq!(part.bytes, (blocks * 512).min(most.min(5) * 4096));
            prop_assert!(part.segments().iter().all(|s| s.address == page.address));
        }
    }
}
