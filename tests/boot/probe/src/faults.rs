//! The probe's side of `boot_common::faults`: does what a case says, which ends this life.

use core::arch::asm;

use boot_common::faults::{ALL, Act};
use boot_common::page::{EXPECTED, Page};
use boot_common::raw;
use cloister_rt::abi::call::Call;

use crate::{Boss, instructions, memory};

/// Commits a fault. Returns only if nothing faulted.
pub fn commit(boss: &Boss, index: u64) {
    let Some(case) = ALL.get(index as usize) else {
        return;
    };
    let page = &boss.page;
    for word in 0..3 {
        page.set(EXPECTED + word, 0);
    }
    match case.act {
        Act::Memory(access, place) => memory::touch(page, access, place),
        Act::Recursion => drop(memory::recurse(0)),
        Act::Instruction(name) => instructions::run(boss, name),
        Act::In(width, port) => input(page, width, port),
        Act::Out(width, port) => output(page, width, port),
        Act::Call(number) => drop(raw::call(number, 0, 0, 0)),
        Act::Leave(reason, detail) => drop(raw::known(Call::Leave, reason, detail, 0)),
        Act::Panic => panic!("a panic that was ordered"),
    }
}

macro_rules! port_access {
    ($page:expr, $port:expr, $code:literal) => {
        // SAFETY: the access faults; where it does not, the case fails and the device behind the
        // port is not one that writes memory.
        unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{n}], {t}", concat!("2: ", $code),
                 n = in(reg) $page.word(EXPECTED).as_ptr(), t = out(reg) _, in("dx") $port,
                 inout("eax") 0 => _);
        }
    };
}

fn input(page: &Page, width: u8, port: u16) {
    match width {
        1 => port_access!(page, port, "in al, dx"),
        2 => port_access!(page, port, "in ax, dx"),
        _ => port_access!(page, port, "in eax, dx"),
    }
}

fn output(page: &Page, width: u8, port: u16) {
    match width {
        1 => port_access!(page, port, "out dx, al"),
        2 => port_access!(page, port, "out dx, ax"),
        _ => port_access!(page, port, "out dx, eax"),
    }
}
