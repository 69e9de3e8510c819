//! Capability lookup, exhaustively: every slot around the end, every kind, every set of rights.
#![cfg(not(loom))]

use cloister_abi::call::Status;
use cloister_abi::table::{Cap, CapKind};
use cloister_core::caps::{code, lookup};

const KINDS: [CapKind; 7] = [
    CapKind::Empty,
    CapKind::Thread,
    CapKind::Task,
    CapKind::Irq,
    CapKind::Power,
    CapKind::Device,
    CapKind::Vcpu,
];

#[test]
fn every_kind_and_right_is_found_or_refused_for_the_right_reason() {
    for held in 0..=u8::MAX {
        for rights in 0..=u8::MAX {
            let caps = [Cap { kind: held % 9, rights, bit: 1, reserved: 0, object: held.into() }];
            for kind in KINDS {
                for right in [0, 1, 2, 4, 8, 3, 128, 255] {
                    let expected = if held % 9 != code(kind) {
                        Err(Status::WrongKind)
                    } else if (0..8).any(|bit| right >> bit & 1 == 1 && rights >> bit & 1 == 0) {
                        Err(Status::NoRight)
                    } else {
                        Ok(u32::from(held))
                    };
                    let found = lookup(&caps, 0, kind, right).map(|cap| cap.object);
                    assert_eq!(found, expected);
                }
            }
        }
    }
}

#[test]
fn slots_beyond_the_table_are_no_capabilities() {
    let cap = |object| Cap { kind: code(CapKind::Power), rights: 3, bit: 0, reserved: 0, object };
    let caps: Vec<Cap> = (0..5).map(cap).collect();
    for len in 0..=caps.len() {
        for slot in (0..8).chain([u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX]) {
            let found = lookup(&caps[..len], slot, CapKind::Power, 1).map(|cap| cap.object);
            let inside = slot < len as u64;
            let expected = if inside { Ok(slot as u32) } else { Err(Status::NoCap) };
            assert_eq!(found, expected, "slot {slot} of {len}");
        }
    }
}
