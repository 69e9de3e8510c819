//! The rules for values of model-specific registers.
//!
//! Rules: no value comes out that the CPU or the kernel would refuse (`msr`'s own promise): EFER
//! without SVME or reserved bits, LMA as it was and LME as it was under paging; a PAT of eight
//! memory types; an XCR0 with x87, within what is supported, AVX only with SSE. A register that is
//! fixed takes what it has. No register exists that the identity's table does not name.

use cloister_monitor::msr::{self, Gp, Policy, Write};

use crate::{Input, mark};

const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
/// System calls, long mode enabled and active, no-execute.
const EFER: u64 = 1 | LME | LMA | 1 << 11;

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        let done = match input.byte() % 5 {
            0 => efer(&mut input),
            1 => pat(&mut input),
            2 => xcr0(&mut input),
            3 => {
                let value = input.value();
                let done = msr::tsc_aux(value);
                assert_eq!(done, u32::try_from(value).map_err(|_| Gp));
                done.map(|_| ())
            }
            _ => policy(&mut input),
        };
        if done.is_err() {
            mark("refused");
        }
    }
}

fn efer(input: &mut Input<'_>) -> Result<(), Gp> {
    let (current, paging) = (input.value() & EFER, input.flag());
    let value = if input.flag() { input.value() & EFER } else { input.value() };
    let new = msr::efer(value, current, paging)?;
    assert_eq!(new & !EFER, 0, "EFER {new:#x} has reserved bits");
    assert_eq!((new ^ current) & LMA, 0, "EFER.LMA is the CPU's");
    assert!(!paging || (new ^ current) & LME == 0, "EFER.LME changed under paging");
    assert_eq!(new & !LMA, value & !LMA, "what is taken is what was written");
    mark("efer");
    Ok(())
}

fn pat(input: &mut Input<'_>) -> Result<(), Gp> {
    let raw = input.long();
    let value = if input.flag() { raw & 0x0707_0707_0707_0707 } else { raw };
    // Intel SDM volume 3, "Memory Types That Can Be Encoded With PAT".
    let is_legal = value.to_le_bytes().iter().all(|byte| [0, 1, 4, 5, 6, 7].contains(byte));
    let done = msr::pat(value);
    assert_eq!(done, if is_legal { Ok(value) } else { Err(Gp) }, "{value:#x}");
    mark("pat");
    done.map(|_| ())
}

fn xcr0(input: &mut Input<'_>) -> Result<(), Gp> {
    let (register, supported) = (u32::from(input.byte() & 1), input.pick(&[0, 7]));
    let value = if input.flag() { u64::from(input.byte() & 7) } else { input.value() };
    let new = msr::xcr0(register, value, supported)?;
    assert_eq!((register, new), (0, value));
    assert!(new & 1 != 0 && new & !supported == 0 && new & 6 != 4, "XCR0 {new:#x}");
    mark("xcr0");
    Ok(())
}

fn policy(input: &mut Input<'_>) -> Result<(), Gp> {
    let known = [0x10, 0x1b, 0x3b, 0x8b, 0x277, 0x6e0, 0x808, 0xc000_0080, 0xc001_1029];
    let number = if input.flag() { input.pick(&known) } else { input.value() as u32 };
    let identity = u32::from(input.byte() & 7);
    match msr::policy(identity, number) {
        Policy::Absent => mark("absent"),
        Policy::Apic(register) => assert_eq!((number & !0xff, register), (0x800, number & 0xff)),
        Policy::Fixed(value, write) => {
            assert_eq!(msr::fixed(value, write, value), Ok(()));
            let other = msr::fixed(value, write, value ^ 1 << (input.byte() & 63));
            assert_eq!(other.is_ok(), write == Write::Ignored);
            return other;
        }
        _ => {}
    }
    // The machine's own switches: SVM and VMX, power, microcode, machine check, debug control.
    let never = [0xc001_0114, 0xc001_0117, 0x480, 0x199, 0x79, 0x17a, 0x48, 0x49, 0x10a];
    assert!(
        never.iter().all(|msr| msr::policy(identity, *msr) == Policy::Absent),
        "a register of the machine itself"
    );
    Ok(())
}
