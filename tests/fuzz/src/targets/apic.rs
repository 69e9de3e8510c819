//! The local APIC: registers by MSR and by page, arriving interrupts, time.
//!
//! Rules: an access that is refused changes nothing, and is refused outside of x2APIC mode; no
//! vector below 16 is requested, in service or sent; what may be injected is above all in service;
//! the processor priority is that of the manual; nothing is due in the past; an APIC that is off
//! requests nothing (Intel SDM volume 3, "Advanced Programmable Interrupt Controller (APIC)").

use cloister_monitor::apic::{BASE, Effect, Gp, Kind, LocalApic, Mode};

use super::machine::TSC_HZ;
use crate::{Input, mark};

/// Registers of an x2APIC that can be read: numbers from 0x800 on.
const READABLE: [std::ops::RangeInclusive<u32>; 8] = [
    0x02..=0x03,
    0x08..=0x08,
    0x0a..=0x0a,
    0x0d..=0x0d,
    0x0f..=0x28,
    0x30..=0x30,
    0x32..=0x39,
    0x3e..=0x3e,
];

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let mut apic = LocalApic::new(kind >> 4, kind & 1 != 0, kind & 2 == 0, TSC_HZ);
    let mut now = 0u64;
    while !input.is_empty() {
        now = now.saturating_add(input.delay());
        let effect = step(&mut apic, &mut input, now);
        judge_effect(&effect);
        apic.tick(now);
        judge(&mut apic, now);
    }
}

fn step(apic: &mut LocalApic, input: &mut Input<'_>, now: u64) -> Effect {
    let register = u32::from(input.byte() & 0x3f);
    match input.byte() & 15 {
        0..4 => {
            let value = input.value();
            refusable(apic, |apic| apic.write_msr(0x800 + register, value, now))
        }
        4 | 5 => {
            let before = format!("{apic:?}");
            let (is_x2apic, is_there) = (
                apic.mode() == Mode::X2Apic,
                READABLE.iter().any(|range| range.contains(&register)),
            );
            let read = apic.read_msr(0x800 + register, now);
            assert_eq!(read.is_ok(), is_x2apic && is_there, "reading register {register:#x}");
            assert!(read.is_ok() || format!("{apic:?}") == before, "a refused read changed it");
            Effect::None
        }
        6..9 => apic.write_mmio(register << 4, input.value() as u32, now),
        9 => {
            apic.read_mmio(u32::from(input.short()), now);
            Effect::None
        }
        10 => {
            let base = BASE | u64::from(input.byte() & 0xd) << 8;
            let value = if input.byte() < 8 { base ^ input.value() } else { base };
            refusable(apic, |apic| apic.write_base(value).map(|()| Effect::None))
        }
        11 => {
            // Whoever is disabled shall not stay so.
            if apic.mode() == Mode::Off {
                let _ = apic.write_base(BASE | 1 << 11);
            }
            let _ = apic.write_msr(0x80f, 0x1ff, now);
            apic.write_mmio(0xf0, 0x1ff, now)
        }
        12 => {
            let offset = input.value();
            apic.write_tsc_deadline(input.value(), offset, now);
            Effect::None
        }
        13 => {
            apic.set_task_priority(u32::from(input.byte() & 0xf));
            Effect::None
        }
        14 => {
            let level = input.flag();
            apic.accept(input.byte(), level);
            Effect::None
        }
        _ => apic.eoi(),
    }
}

/// Does what may be refused; then nothing is changed.
fn refusable(
    apic: &mut LocalApic,
    act: impl FnOnce(&mut LocalApic) -> Result<Effect, Gp>,
) -> Effect {
    let before = apic.clone();
    act(apic).unwrap_or_else(|Gp| {
        assert_eq!(format!("{apic:?}"), format!("{before:?}"), "what is refused changed it");
        mark("refused");
        Effect::None
    })
}

fn judge_effect(effect: &Effect) {
    match effect {
        Effect::None => {}
        Effect::Eoi(vector) => {
            assert!(*vector > 15, "vector {vector} ended");
            mark("ended");
        }
        Effect::Ipi(message) => {
            assert!(!message.is_level && message.kind != Kind::ExtInt, "{message:?}");
            if let Kind::Fixed(vector) | Kind::LowestPriority(vector) = message.kind {
                assert!(vector > 15, "{message:?}");
            }
            mark("sent");
        }
    }
}

/// 256 bits of eight registers.
fn bits(apic: &mut LocalApic, first: u32, now: u64) -> [u32; 8] {
    std::array::from_fn(|number| {
        let register = first + number as u32;
        match apic.mode() {
            Mode::X2Apic => apic.read_msr(0x800 + register, now).expect("a register") as u32,
            _ => apic.read_mmio(register << 4, now),
        }
    })
}

fn highest(bits: &[u32; 8]) -> Option<u32> {
    (0..256).rev().find(|vector| bits[*vector as usize / 32] >> (vector % 32) & 1 != 0)
}

fn judge(apic: &mut LocalApic, now: u64) {
    assert!(apic.task_priority() < 16);
    if let Some(deadline) = apic.deadline() {
        assert!(deadline > now || now == u64::MAX, "due at {deadline}, it is {now}");
        mark("deadline");
    }
    let injectable = apic.highest();
    if apic.mode() == Mode::Off {
        assert_eq!(injectable, None, "an APIC that is off requests");
        return mark("off");
    }
    let is_x2apic = apic.mode() == Mode::X2Apic;
    if is_x2apic {
        mark("x2apic");
    }
    let [serviced, requested] = [0x10, 0x20].map(|first| bits(apic, first, now));
    assert_eq!((serviced[0] | requested[0]) & 0xffff, 0, "a vector below 16");
    let service = highest(&serviced).unwrap_or(0);
    let expected = highest(&requested).filter(|vector| vector >> 4 > service >> 4);
    assert_eq!(injectable.map(u32::from), expected, "what is to be injected");
    let priority = |apic: &mut LocalApic, register: u32| match is_x2apic {
        true => apic.read_msr(0x800 + register, now).expect("a register") as u32,
        false => apic.read_mmio(register << 4, now),
    };
    let (task, processor) = (priority(apic, 0x08), priority(apic, 0x0a));
    // "Processor-Priority Register (PPR)".
    let expected = if task >> 4 >= service >> 4 { task } else { service & 0xf0 };
    assert_eq!(processor, expected, "task priority {task:#x}, in service {service:#x}");
    if let Some(vector) = injectable.filter(|vector| u32::from(*vector) >> 4 > task >> 4) {
        apic.taken(vector);
        assert!(apic.highest().is_none_or(|next| next >> 4 > vector >> 4), "the same class again");
        mark("in service");
    }
}
