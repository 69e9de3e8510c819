//! The MSI-X table against a model of the specification's rules.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_monitor::apic::{Destination, Kind, Message};
use cloister_monitor::msix::{Msix, PAGE_WORDS, VECTORS_MAX, decode};
use proptest::prelude::*;

const MASKED: u64 = 1 << 32;
const PENDING: usize = 0x800 / 8;

fn page() -> Vec<AtomicU64> {
    (0..PAGE_WORDS as u64).map(|word| AtomicU64::new(word ^ u64::MAX)).collect()
}

/// An address that means this CPU.
fn address(cpu: u64) -> u64 {
    0xfee0_0000 | cpu << 12
}

fn message(cpu: u32, vector: u8) -> Message {
    let destination = Destination::Physical(cpu);
    Message { destination, kind: Kind::Fixed(vector), is_level: false }
}

#[test]
fn after_reset_every_vector_is_masked_and_nothing_is_pending() {
    let words = page();
    let msix = Msix::new(&words, 5).unwrap();
    for (at, word) in words.iter().enumerate() {
        let is_control = at < 10 && at % 2 == 1;
        assert_eq!(word.load(Relaxed), if is_control { MASKED } else { 0 }, "word {at}");
    }
    assert!(!msix.is_enabled());
    assert_eq!((msix.read(0x1f), msix.read(0x50)), ([0, MASKED], [0, 0]));
}

#[test]
fn too_small_a_page_or_too_many_vectors_are_refused() {
    let words = page();
    assert!(Msix::new(&words[1..], 1).is_none());
    assert!(Msix::new(&words, VECTORS_MAX + 1).is_none());
    assert!(Msix::new(&words, VECTORS_MAX).is_some());
}

#[test]
fn an_event_under_any_mask_is_pending_and_delivered_once_when_it_goes() {
    let words = page();
    let mut sent = Vec::new();
    let mut msix = Msix::new(&words, 2).unwrap();
    msix.set_control(true, false, &mut |m| sent.push(m));
    msix.write(0x10, [address(3), 0x41 | MASKED], &mut |m| sent.push(m));
    msix.raise(2, &mut |m| sent.push(m));
    msix.raise(2, &mut |m| sent.push(m));
    assert_eq!((sent.len(), words[PENDING].load(Relaxed)), (0, 2));
    msix.set_control(true, true, &mut |m| sent.push(m));
    msix.write(0x1c, [address(3), 0x41], &mut |m| sent.push(m));
    assert_eq!((sent.len(), words[PENDING].load(Relaxed)), (0, 2), "the function is masked");
    msix.set_control(true, false, &mut |m| sent.push(m));
    assert_eq!(sent, [message(3, 0x41)]);
    msix.write(0x10, [address(3), 0x41 | MASKED], &mut |m| sent.push(m));
    msix.write(0x10, [address(3), 0x41], &mut |m| sent.push(m));
    assert_eq!((sent.len(), words[PENDING].load(Relaxed)), (1, 0));
}

#[test]
fn a_change_of_target_under_the_mask_is_what_the_delivery_uses() {
    let words = page();
    let mut sent = Vec::new();
    let mut msix = Msix::new(&words, 1).unwrap();
    msix.set_control(true, false, &mut |m| sent.push(m));
    msix.raise(1, &mut |m| sent.push(m));
    msix.write(0, [address(1), 0x31 | MASKED], &mut |m| sent.push(m));
    msix.write(0, [address(2), 0x32 | MASKED], &mut |m| sent.push(m));
    msix.write(0, [address(2), 0x32], &mut |m| sent.push(m));
    assert_eq!(sent, [message(2, 0x32)]);
}

#[test]
fn what_is_pending_at_a_reset_is_never_delivered() {
    let words = page();
    let mut sent = Vec::new();
    let mut msix = Msix::new(&words, 1).unwrap();
    msix.set_control(true, false, &mut |m| sent.push(m));
    msix.raise(1, &mut |m| sent.push(m));
    msix.forget();
    msix.write(0, [address(1), 0x31], &mut |m| sent.push(m));
    assert_eq!((sent.len(), words[PENDING].load(Relaxed)), (0, 0));
}

#[test]
fn reserved_bits_read_zero_and_the_pending_bits_are_read_only() {
    let words = page();
    let mut sent = Vec::new();
    let mut msix = Msix::new(&words, 1).unwrap();
    msix.write(0, [u64::MAX, u64::MAX], &mut |m| sent.push(m));
    assert_eq!(msix.read(0), [!3, 0x1_ffff_ffff]);
    for offset in [0x10, 0x7ff, 0x800, 0x808, 0xfff] {
        msix.write(offset, [u64::MAX, u64::MAX], &mut |m| sent.push(m));
        assert_eq!(msix.read(offset), [0, 0], "{offset:#x}");
    }
    assert_eq!(words[PENDING].load(Relaxed), 0);
}

#[test]
fn messages_decode_as_the_manual_says() {
    let fixed = |data| decode(0xfee0_5000, data);
    let to = |destination, kind, is_level| Some(Message { destination, kind, is_level });
    let five = Destination::Physical(5);
    assert_eq!(fixed(0x30), to(five, Kind::Fixed(0x30), false));
    assert_eq!(fixed(0x130), to(five, Kind::LowestPriority(0x30), false));
    assert_eq!(fixed(0x230), to(five, Kind::Smi, false));
    assert_eq!(fixed(0x330), None);
    assert_eq!(fixed(0x430), to(five, Kind::Nmi, false));
    assert_eq!(fixed(0x530), to(five, Kind::Init, false));
    assert_eq!(fixed(0x630), None);
    assert_eq!(fixed(0x730), to(five, Kind::ExtInt, false));
    assert_eq!(fixed(0x8030), to(five, Kind::Fixed(0x30), true));
    assert_eq!(fixed(0x4030), to(five, Kind::Fixed(0x30), false), "the level of an edge");
    let logical = Destination::Logical(0xc);
    assert_eq!(decode(0xfee0_c00c, 0x55), to(logical, Kind::Fixed(0x55), false));
    assert_eq!(decode(0xfeef_f000, 0x55), to(Destination::All, Kind::Fixed(0x55), false));
    for elsewhere in [0, 0xfedf_fffc, 0xfef0_0000, 0x1_fee0_0000, u64::MAX] {
        assert_eq!(decode(elsewhere, 0x55), None, "{elsewhere:#x}");
    }
}

/// What may happen to a table.
#[derive(Clone, Copy, Debug)]
enum Op {
    Store { offset: u16, cpu: u64, vector: u8, masked: bool },
    Control(bool, bool),
    Raise(u64),
    Forget,
}

fn op() -> impl Strategy<Value = Op> {
    let store = (0u16..0x60, 0u64..4, 0x20u8..0x40, any::<bool>())
        .prop_map(|(offset, cpu, vector, masked)| Op::Store { offset, cpu, vector, masked });
    prop_oneof![
        4 => store,
        1 => any::<(bool, bool)>().prop_map(|(enabled, masked)| Op::Control(enabled, masked)),
        4 => (0u64..0x40).prop_map(Op::Raise),
        1 => Just(Op::Forget),
    ]
}

/// A vector as the specification tells of it.
#[derive(Clone, Copy, Default)]
struct Vector {
    cpu: u32,
    vector: u8,
    open: bool,
    pending: bool,
}

proptest! {
    #[test]
    fn sends_and_pending_bits_are_those_of_the_model(ops in prop::collection::vec(op(), 1..60)) {
        const COUNT: usize = 4;
        let words = page();
        let mut msix = Msix::new(&words, COUNT as u16).unwrap();
        let mut model = [Vector::default(); COUNT];
        let (mut enabled, mut masked) = (false, false);
        for op in ops {
            let mut sent = Vec::new();
            let send = &mut |message| sent.push(message);
            match op {
                Op::Store { offset, cpu, vector, masked } => {
                    let control = if masked { MASKED } else { 0 };
                    msix.write(offset, [address(cpu), u64::from(vector) | control], send);
                    if let Some(entry) = model.get_mut(usize::from(offset) / 16) {
                        (entry.cpu, entry.vector, entry.open) = (cpu as u32, vector, !masked);
                    }
                }
                Op::Control(on, all) => {
                    msix.set_control(on, all, send);
                    (enabled, masked) = (on, all);
                }
                Op::Raise(vectors) => {
                    msix.raise(vectors, send);
                    for (number, entry) in model.iter_mut().enumerate().filter(|_| enabled) {
                        entry.pending |= vectors & 1 << number != 0;
                    }
                }
                Op::Forget => {
                    msix.forget();
                    model.iter_mut().for_each(|entry| entry.pending = false);
                }
            }
            let mut expected = Vec::new();
            for entry in model.iter_mut().filter(|entry| entry.pending && entry.open) {
                if enabled && !masked {
                    expected.push(message(entry.cpu, entry.vector));
                    entry.pending = false;
                }
            }
            prop_assert_eq!(sent, expected);
            let pending = model.iter().rev().fold(0, |bits, e| bits << 1 | u64::from(e.pending));
            prop_assert_eq!(words[PENDING].load(Relaxed), pending);
        }
    }
}
