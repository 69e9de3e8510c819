//! Commands in flight against a slow model.

use std::collections::BTreeMap;

use cloister_block::{Busy, Set, Slots, Tag};
use proptest::prelude::*;

const COUNT: u8 = 5;

fn tag(slot: u8) -> Tag {
    Tag { slot, generation: 7, client: 1 }
}

/// What the model knows of a command.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    tries: u8,
    epoch: u32,
    is_issued: bool,
    is_cancelled: bool,
    has_failed: bool,
}

/// What a core does with its slots.
#[derive(Clone, Debug)]
enum Step {
    Take,
    Refuse,
    Try(u8, u32),
    Spend(u8),
    End(u8),
    Fail(u8),
    Failed,
    Cancel(u8),
    Reset,
    Overdue(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = 0..COUNT;
    let epoch = prop_oneof![0u32..80, Just(u32::MAX)];
    let step = prop_oneof![
        4 => Just(Step::Take),
        1 => Just(Step::Refuse),
        4 => (slot.clone(), epoch.clone()).prop_map(|(slot, epoch)| Step::Try(slot, epoch)),
        1 => slot.clone().prop_map(Step::Spend),
        2 => slot.clone().prop_map(Step::End),
        1 => slot.clone().prop_map(Step::Fail),
        2 => Just(Step::Failed),
        1 => slot.prop_map(Step::Cancel),
        1 => Just(Step::Reset),
        2 => epoch.prop_map(Step::Overdue),
    ];
    prop::collection::vec(step, 1..120)
}

fn takes(slots: &mut Slots<u8, 8>, model: &mut BTreeMap<u8, Known>, refuse: bool) {
    let wanted = (0..COUNT).find(|slot| !model.contains_key(slot));
    let name = tag(wanted.unwrap_or(0));
    let taken = if refuse { slots.refuse(name).map(|()| name.slot) } else { slots.take(name) };
    assert_eq!(taken, wanted.ok_or(Busy));
    if let Some(slot) = wanted {
        model.insert(slot, Known { has_failed: refuse, ..Known::default() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn slots_are_what_a_slow_model_says(steps in steps()) {
        let mut slots: Slots<u8, 8> = Slots::new(0);
        assert_eq!(slots.take(tag(0)), Err(Busy), "there are none yet");
        slots.open(COUNT);
        let mut model = BTreeMap::<u8, Known>::new();
        let mut issues = [0u16; COUNT as usize];
        for step in steps {
            // A core touches commands alone that it took and that did not fail.
            let live = |slot: &u8| model.get(slot).is_some_and(|known| !known.has_failed);
            match step {
                Step::Take => takes(&mut slots, &mut model, false),
                Step::Refuse => takes(&mut slots, &mut model, true),
                Step::Try(slot, epoch) if live(&slot) => {
                    let place = slots.get_mut(slot).unwrap();
                    place.issue(epoch);
                    place.count_try();
                    let known = model.get_mut(&slot).unwrap();
                    (known.epoch, known.is_issued) = (epoch, true);
                    known.tries = known.tries.saturating_add(1);
                    issues[usize::from(slot)] += 1;
                    prop_assert_eq!(slots.get(slot).unwrap().issues(), issues[usize::from(slot)]);
                }
                Step::Spend(slot) if live(&slot) => {
                    slots.get_mut(slot).unwrap().spend();
                    model.get_mut(&slot).unwrap().tries = 3;
                }
                Step::End(slot) if live(&slot) => {
                    prop_assert_eq!(slots.end(slot), Some(tag(slot)));
                    model.remove(&slot);
                }
                Step::Fail(slot) if live(&slot) => {
                    slots.fail(Set::one(slot));
                    model.get_mut(&slot).unwrap().has_failed = true;
                }
                Step::Failed => {
                    let first = model.iter().find(|(_, known)| known.has_failed);
                    let first = first.map(|(slot, _)| *slot);
                    prop_assert_eq!(slots.failed(), first.map(tag));
                    first.map(|slot| model.remove(&slot));
                }
                Step::Cancel(slot) => {
                    slots.cancel(tag(slot));
                    model.get_mut(&slot).into_iter().for_each(|known| known.is_cancelled = true);
                }
                Step::Reset => {
                    let mut wanted = Vec::new();
                    for (slot, known) in model.iter_mut().filter(|(_, known)| !known.has_failed) {
                        if known.tries < 3 && !known.is_cancelled {
                            wanted.push(*slot);
                        } else {
                            known.has_failed = true;
                        }
                    }
                    prop_assert_eq!(slots.wanted(slots.live()).collect::<Vec<_>>(), wanted);
                }
                Step::Overdue(now) => {
                    let is_old = |known: &Known| now.wrapping_sub(known.epoch) > 30;
                    let issued = model.iter().filter(|(_, known)| known.is_issued);
                    let among = issued.clone().fold(Set::EMPTY, |set, (slot, _)| set.or(Set::one(*slot)));
                    let first = issued.filter(|(_, known)| is_old(known)).map(|(slot, _)| *slot).next();
                    prop_assert_eq!(slots.overdue(among, now), first);
                }
                _ => {}
            }
            let taken: Vec<u8> = model.keys().copied().collect();
            prop_assert_eq!(slots.taken().collect::<Vec<_>>(), taken);
            prop_assert_eq!(slots.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn sets_are_their_bits(one: u32, other: u32, slot in 0u8..32) {
        let (a, b) = (Set::from(one), Set::from(other));
        prop_assert_eq!(a.or(b).bits(), one | other);
        prop_assert_eq!(a.and(b).bits(), one & other);
        prop_assert_eq!(a.minus(b).bits(), one & !other);
        prop_assert_eq!(a.has(slot), one >> slot & 1 != 0);
        prop_assert_eq!(a.is_empty(), one == 0);
        prop_assert_eq!(a.fold(0, |bits, slot| bits | 1 << slot), one);
    }
}

#[test]
fn sets_end_with_the_last_slot() {
    assert_eq!((Set::of(64).last(), Set::of(64).count()), (Some(63), 64));
    assert_eq!((Set::of(u8::MAX), Set::of(0)), (Set::of(64), Set::EMPTY));
    assert_eq!((Set::one(63).first(), Set::one(64)), (Some(63), Set::EMPTY));
}
