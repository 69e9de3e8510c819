//! Accesses to memory that is not the task's, or not for this kind of access.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use boot_common::faults::{Access, Where};
use boot_common::page::{EXPECTED, Page};
use cloister_rt::abi::layout::{PAGE, STACK_TOP};

static DATA: AtomicU64 = AtomicU64::new(0x90c3);
static CONSTANT: u64 = 0x0bad_cafe_c390_c390;

/// Bytes of this task's stack, as its manifest says.
pub const STACK: u64 = 16 * 1024;

unsafe extern "C" {
    /// Of the linker script: where the image keeps the data's bytes.
    static __pristine: u8;
}

/// The address that an access goes to.
fn address(place: Where, local: &u64) -> u64 {
    match place {
        Where::At(address) => address,
        Where::Text => address as fn(Where, &u64) -> u64 as usize as u64,
        Where::Constants => (&raw const CONSTANT) as u64,
        Where::Pristine => (&raw const __pristine) as u64,
        Where::Data => (&raw const DATA) as u64,
        Where::Stack => core::ptr::from_ref(local) as u64,
        Where::Guard => STACK_TOP - STACK - 8,
    }
}

/// Does what faults. Returns only if it did not.
pub fn touch(page: &Page, access: Access, place: Where) {
    let local = black_box(0xc3_u64);
    let at = address(place, &local);
    let note = page.word(EXPECTED).as_ptr();
    page.set(EXPECTED + 2, at);
    page.set(EXPECTED + 1, 0);
    match access {
        // SAFETY: the load faults, or reads a byte of this task's own memory and drops it.
        Access::Read => unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{n}], {t}", "2: mov {t:l}, byte ptr [{a}]",
                 n = in(reg) note, a = in(reg) at, t = out(reg) _);
        },
        // SAFETY: the store faults; should it not, the kernel is broken and the case fails,
        // whatever this program does then.
        Access::Write => unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{n}], {t}", "2: mov byte ptr [{a}], 1",
                 n = in(reg) note, a = in(reg) at, t = out(reg) _);
        },
        Access::Jump => {
            // The fault is at the target, or, where the target is no address, at the jump.
            page.set(EXPECTED + 1, at);
            // SAFETY: as for the store. What could run are a few bytes that return.
            unsafe {
                asm!("lea rax, [rip + 2f]", "mov [rcx], rax", "2: call rdx",
                     inout("rcx") note => _, inout("rdx") at => _, out("rax") _);
            }
        }
    }
    black_box(DATA.load(Ordering::Relaxed));
}

/// Uses up the stack.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the case")]
pub fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse(depth + 1) + black_box(frame)[0]
}

const _: () = assert!(STACK.is_multiple_of(PAGE));
