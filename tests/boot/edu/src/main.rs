//! Test task: owns the PCI function `edu` of QEMU, which `init` finds by its identity, and talks to
//! its registers (QEMU, "EDU device": 0x00 identification, 0x04 answers the complement): a few words,
//! and then as many as the manifest's number `words` says.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_rt::grants;

cloister_rt::entry!(main);

const IDENTITY: u32 = 0x0100_00ed;

fn main() -> u32 {
    let Ok(edu) = grants().registers("edu.bar0") else { return 2 };
    if edu.read(0) != Some(IDENTITY) {
        defmt::error!("edu: identity {=u32:#x}", edu.read(0).unwrap_or(0));
        return 3;
    }
    for word in [0u32, 1, 0x1234_5678, u32::MAX] {
        if edu.write(4, word).is_none() || edu.read(4) != Some(!word) {
            defmt::error!("edu: {=u32:#x} was not answered with its complement", word);
            return 4;
        }
    }
    defmt::info!("edu: its registers answer");
    let words = grants().number("words").unwrap_or(0) as u32;
    for word in 0..words {
        let _ = edu.write(4, word);
        let answer = edu.read(4).unwrap_or(0);
        if answer != !word {
            defmt::error!("edu: {=u32:#x} was not answered but by {=u32:#x}", word, answer);
            return 5;
        }
    }
    if words > 0 {
        defmt::info!("edu: {=u32} words were answered", words);
    }
    0
}
