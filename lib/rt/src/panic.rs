//! The panic handler: last words, then `leave`.
//!
//! A task that promises not to panic (`cloister_rt_build::task_without_panics`) does not link if
//! the handler can be reached: the handler keeps [`REACHED`], whose section must then be empty.

use core::hint::black_box;
use core::panic::PanicInfo;

use cloister_abi::fault::LeaveReason;

use crate::{log, syscall};

/// Marks the section `.panic_reached` of task.ld.
#[unsafe(link_section = ".panic_reached")]
static REACHED: u8 = 1;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    black_box(&REACHED);
    // A panic inside a log statement leaves the logger in the middle of a frame.
    log::abandon();
    let (file, line) = info.location().map_or(("unknown file", 0), |l| (l.file(), l.line()));
    defmt::error!(
        "panicked at {=str}:{=u32}: {}",
        file,
        line,
        defmt::Display2Format(&info.message())
    );
    syscall::leave(LeaveReason::Panic, line.into())
}
