//! Catching a target's panic and finding a shorter input that panics too.
//!
//! [`catch`] runs a target, [`shorter`] takes away what is not needed. Invariant: while a target is
//! tried here nothing is printed, and the panics of other threads are.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

/// Most tries to make an input shorter.
const TRIES: u32 = 3_000;

/// An input that breaks a rule.
#[derive(Clone, Debug)]
pub struct Caught {
    /// The input.
    pub bytes: Vec<u8>,
    /// What the panic said.
    pub message: String,
}

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the message of a panic in a thread that is watched instead of printing it.
fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match IS_WATCHED.get() {
            true => MESSAGE.set(info.to_string()),
            false => before(info),
        }));
    });
}

/// Runs a target.
pub(crate) fn catch(run: fn(&[u8]), bytes: &[u8]) -> Result<(), Caught> {
    watch();
    IS_WATCHED.set(true);
    let done = panic::catch_unwind(|| run(bytes));
    IS_WATCHED.set(false);
    done.map_err(|_| Caught { bytes: bytes.to_vec(), message: MESSAGE.take() })
}

/// Takes away pieces of halving length, then makes bytes zero, as long as it still panics. The
/// message may become another one: any broken rule is a find.
pub(crate) fn shorter(run: fn(&[u8]), mut caught: Caught) -> Caught {
    let mut tries = 0;
    let mut try_out = |caught: &mut Caught, bytes: Vec<u8>| {
        tries += 1;
        let again = if tries <= TRIES { catch(run, &bytes).err() } else { None };
        let is_found = again.is_some();
        *caught = again.unwrap_or_else(|| caught.clone());
        is_found
    };
    let mut piece = caught.bytes.len().next_power_of_two();
    while piece > 0 {
        let mut at = 0;
        while at < caught.bytes.len() {
            let mut bytes = caught.bytes.clone();
            bytes.drain(at..(at + piece).min(caught.bytes.len()));
            if !try_out(&mut caught, bytes) {
                at += piece;
            }
        }
        piece /= 2;
    }
    for at in 0..caught.bytes.len() {
        let mut bytes = caught.bytes.clone();
        if bytes.get(at).is_some_and(|byte| *byte != 0) {
            bytes[at] = 0;
            try_out(&mut caught, bytes);
        }
    }
    caught
}
