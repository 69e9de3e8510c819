//! A lock whose holder takes no interrupts, so that an interrupt handler may take it too.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;

/// A value that one vCPU at a time uses.
pub struct Lock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `taken` lets one holder at a time reach the value.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to use the value; gives it back when dropped.
pub struct Held<'a, T> {
    lock: &'a Lock<T>,
    interrupts: bool,
}

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock. Interrupts are off until the result is dropped.
    pub fn lock(&self) -> Held<'_, T> {
        let interrupts = cpu::interrupts_enabled();
        cpu::disable_interrupts();
        while self.taken.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        Held { lock: self, interrupts }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the holder is the only one who reaches the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the holder is the only one who reaches the value, and this borrows the holder.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.lock.taken.store(false, Ordering::Release);
        if self.interrupts {
            cpu::enable_interrupts();
        }
    }
}
