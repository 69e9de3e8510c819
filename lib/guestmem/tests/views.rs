//! Views of a guest's RAM: there or refused, exact, and nothing beside them is touched.

use cloister_dma::{Group, LANE, Shelf, View};
use cloister_guestmem::{GuestMemory, GuestPhys, Ram};

const BYTES: usize = size_of::<Group>();
/// Bytes of the memory, and where the RAM begins in it and its bytes: two groups and a bit.
const ALL: usize = 5 * BYTES;
const BEGIN: usize = BYTES;
const LEN: usize = 2 * BYTES + 40;

/// A memory whose RAM ends within a group; used by guest memories alone.
struct Bench(*mut Shelf<5>);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(Box::into_raw(Box::new(Shelf::ZEROS)));
        bench.all().write_from(GuestPhys::new(0), &numbered()).unwrap();
        bench
    }

    fn all(&self) -> GuestMemory {
        // SAFETY: (1) the box has so many bytes, at a multiple of sixteen. (2) Nothing refers to
        // them until the bench is dropped, which outlives its memories in every test.
        unsafe { GuestMemory::at(self.0.cast(), ALL) }
    }

    fn ram(&self) -> GuestMemory {
        // SAFETY: as in `all`; the RAM ends before the box does.
        unsafe { GuestMemory::at(self.0.cast::<u8>().wrapping_add(BEGIN), LEN) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; ALL];
        self.all().read_into(GuestPhys::new(0), &mut bytes).unwrap();
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
    (0..ALL).map(|at| (at * 11 + at / 251) as u8).collect()
}

fn every_view<const GROUPS: usize>() {
    let near = 0..(LEN + 2 * BYTES) as u64;
    let far = [u64::MAX - 127, u64::MAX - 15, u64::MAX, 1 << 63, 1 << 32];
    for at in near.chain(far) {
        let bench = Bench::new();
        let ram = bench.ram();
        let view: Option<View<'_, GROUPS>> = ram.view(GuestPhys::new(at));
        let end = u128::from(at) + (GROUPS * BYTES) as u128;
        let fits = at.is_multiple_of(LANE as u64) && end <= LEN as u128;
        assert_eq!(view.is_some(), fits, "{GROUPS} groups at {at}");
        let mut expected = numbered();
        if let Some(view) = view {
            let there = &mut expected[BEGIN + at as usize..][..GROUPS * BYTES];
            let mut shelf = Shelf::<GROUPS>::ZEROS;
            view.copy_to(&shelf.view());
            assert_eq!(shelf.bytes(), there);
            for (nth, spot) in view.spots().enumerate() {
                let group = spot.load();
                spot.store(group.map(|lane| lane.map(|byte| byte ^ (nth as u8 + 1))));
            }
            for (nth, byte) in there.iter_mut().enumerate() {
                *byte ^= (nth / BYTES) as u8 + 1;
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
}
