//! The panic handler: says it on the console, then tells the platform.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{console, power};

/// A panic while panicking says nothing more, or it would go on for ever.
static PANICKING: AtomicBool = AtomicBool::new(false);

/// What the platform is told: see [`power::panic`].
const CODE: u8 = 1;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    if !PANICKING.swap(true, Ordering::Relaxed) {
        console::last_words(format_args!("{info}\n"));
    }
    power::panic(CODE)
}
