//! Views of a region: there or refused, exact, and nothing beside them is touched.

use cloister_dma::{Group, LANE, Memory, Region, Shelf, View};

const BYTES: usize = size_of::<Group>();
/// Bytes of the memory, of which a region has some.
const ALL: usize = 6 * BYTES;
/// Where the region begins, and its bytes: three groups and a bit.
const BEGIN: usize = BYTES;
const LEN: usize = 3 * BYTES + 24;

/// A memory whose region ends within a group; used by regions alone.
struct Bench(*mut Shelf<6>);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(Box::into_raw(Box::new(Shelf::ZEROS)));
        bench.all().write(0, &numbered()).unwrap();
        bench
    }

    fn all(&self) -> Region {
        // SAFETY: (1) the box has so many bytes, at a multiple of sixteen. (2) Nothing refers to
        // them until the bench is dropped, which outlives its regions in every test.
        unsafe { Region::at(self.0.cast(), ALL) }
    }

    fn region(&self) -> Region {
        // SAFETY: as in `all`; the region ends before the box does.
        unsafe { Region::at(self.0.cast::<u8>().wrapping_add(BEGIN), LEN) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; ALL];
        self.all().read(0, &mut bytes).unwrap();
        bytes
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is freed once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

fn numbered() -> Vec<u8> {
    (0..ALL).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// A view of `GROUPS` groups at each place of the region and behind it.
fn every_view<const GROUPS: usize>() {
    let near = 0..(LEN + 2 * BYTES) as u64;
    let far = [u64::MAX - 127, u64::MAX - 15, u64::MAX, 1 << 63, 1 << 32];
    for at in near.chain(far) {
        let bench = Bench::new();
        let region = bench.region();
        let view: Option<View<'_, GROUPS>> = region.view(at);
        let end = u128::from(at) + (GROUPS * BYTES) as u128;
        let fits = at.is_multiple_of(LANE as u64) && end <= LEN as u128;
        assert_eq!(view.is_some(), fits, "{GROUPS} groups at {at}");
        let mut expected = numbered();
        if let Some(view) = view {
            let there = &mut expected[BEGIN + at as usize..][..GROUPS * BYTES];
            let found: Vec<Group> = view.spots().map(|spot| spot.load()).collect();
            assert_eq!(found.as_flattened().as_flattened(), there);
            for (nth, spot) in view.spots().enumerate() {
                spot.store([[nth as u8 + 0x80; LANE]; 8]);
            }
            for (nth, group) in there.chunks_mut(BYTES).enumerate() {
                group.fill(nth as u8 + 0x80);
            }
        }
        assert_eq!(bench.bytes(), expected, "{GROUPS} groups at {at}");
    }
}

#[test]
fn every_view_is_exact_or_refused() {
    every_view::<1>();
    every_view::<2>();
    every_view::<3>();
    every_view::<4>();
}

#[test]
fn a_copy_is_of_all_groups_and_of_nothing_else() {
    let (source, target) = (Bench::new(), Bench::new());
    let (from, to) = (source.region(), target.region());
    let (from, to) = (from.view::<2>(16).unwrap(), to.view::<2>(96).unwrap());
    from.copy_to(&to);
    let mut expected = numbered();
    expected[BEGIN + 96..][..2 * BYTES].copy_from_slice(&numbered()[BEGIN + 16..][..2 * BYTES]);
    assert_eq!(target.bytes(), expected);
    assert_eq!(source.bytes(), numbered());
}

#[test]
fn a_shelf_is_memory_like_any_other() {
    let bench = Bench::new();
    let (region, mut shelf) = (bench.region(), Shelf::<2>::ZEROS);
    let view = region.view(16).unwrap();
    view.copy_to(&shelf.view());
    assert_eq!(shelf.bytes(), &numbered()[BEGIN + 16..][..2 * BYTES]);
    shelf.bytes_mut().fill(0xee);
    shelf.view().copy_to(&view);
    let mut expected = numbered();
    expected[BEGIN + 16..][..2 * BYTES].fill(0xee);
    assert_eq!(bench.bytes(), expected);
}
