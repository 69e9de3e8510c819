//! Guest memory that watches every access: [`TestRam`].

use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;

use cloister_guestmem::{BadAddress, GuestPhys, Ram};

/// Guest memory on the host. It refuses what real memory refuses, and counts.
pub struct TestRam {
    bytes: RefCell<Vec<u8>>,
    accesses: Cell<u64>,
    outside: Cell<u64>,
    locked: Cell<bool>,
    trespasses: Cell<u64>,
}

impl TestRam {
    /// So many zeros.
    pub fn new(size: usize) -> TestRam {
        TestRam {
            bytes: RefCell::new(vec![0; size]),
            accesses: Cell::new(0),
            outside: Cell::new(0),
            locked: Cell::new(false),
            trespasses: Cell::new(0),
        }
    }

    /// Accesses by the code under test that were refused: a worker that checks first makes none.
    pub fn outside(&self) -> u64 {
        self.outside.get()
    }

    /// Accesses by the code under test.
    pub fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// From now on (or no longer) every access is a trespass, as after an answered reset.
    pub fn lock(&self, locked: bool) {
        self.locked.set(locked);
    }

    /// Accesses while locked.
    pub fn trespasses(&self) -> u64 {
        self.trespasses.get()
    }

    /// The guest writes; it may write anywhere in its memory.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The guest reads.
    pub fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let at = at as usize;
        self.bytes.borrow()[at..at + len].to_vec()
    }

    /// The guest reads a number of two bytes.
    pub fn peek_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes([self.peek(at, 1)[0], self.peek(at + 1, 1)[0]])
    }

    fn check(
        &self,
        at: GuestPhys,
        len: usize,
        align: u64,
    ) -> Result<core::ops::Range<usize>, BadAddress> {
        self.accesses.set(self.accesses.get() + 1);
        self.trespasses.set(self.trespasses.get() + u64::from(self.locked.get()));
        let size = self.bytes.borrow().len() as u128;
        if u128::from(at.get()) + len as u128 > size {
            self.outside.set(self.outside.get() + 1);
            return Err(BadAddress::Outside);
        }
        if !at.get().is_multiple_of(align) {
            self.outside.set(self.outside.get() + 1);
            return Err(BadAddress::Unaligned);
        }
        Ok(at.get() as usize..at.get() as usize + len)
    }
}

impl Ram for TestRam {
    fn size(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let range = self.check(at, bytes.len(), 1)?;
        bytes.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        let range = self.check(at, bytes.len(), 1)?;
        self.bytes.borrow_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn load_u16(&self, at: GuestPhys, _order: Ordering) -> Result<u16, BadAddress> {
        let range = self.check(at, 2, 2)?;
        let bytes = self.bytes.borrow();
        Ok(u16::from_le_bytes([bytes[range.start], bytes[range.start + 1]]))
    }

    fn store_u16(&self, at: GuestPhys, value: u16, _order: Ordering) -> Result<(), BadAddress> {
        let range = self.check(at, 2, 2)?;
        self.bytes.borrow_mut()[range].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn store_u32(&self, at: GuestPhys, value: u32, _order: Ordering) -> Result<(), BadAddress> {
        let range = self.check(at, 4, 4)?;
        self.bytes.borrow_mut()[range].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}
