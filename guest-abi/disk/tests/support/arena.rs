//! Memory that the driver reaches as words and the device by address: [`Arena`].

use std::sync::atomic::{AtomicU64, Ordering};

use cloister_guestmem::{BadAddress, GuestPhys, Ram};

/// The memory, from address 0 on.
pub struct Arena {
    words: Vec<AtomicU64>,
}

impl Arena {
    pub fn new(bytes: usize) -> Self {
        Self { words: (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn words(&self, at: u64, len: usize) -> &[AtomicU64] {
        &self.words[at as usize / 8..(at as usize + len) / 8]
    }

    pub fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        (at as usize..at as usize + len).map(|at| self.byte(at)).collect()
    }

    pub fn poke(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at as usize..).zip(bytes) {
            let word = &self.words[at / 8];
            let mut all = word.load(Ordering::Relaxed).to_le_bytes();
            all[at % 8] = *byte;
            word.store(u64::from_le_bytes(all), Ordering::Release);
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.words[at / 8].load(Ordering::Acquire).to_le_bytes()[at % 8]
    }

    fn check(&self, at: GuestPhys, len: usize, align: u64) -> Result<u64, BadAddress> {
        if at.get().checked_add(len as u64).is_none_or(|end| end > self.size()) {
            return Err(BadAddress::Outside);
        }
        if at.get().is_multiple_of(align) { Ok(at.get()) } else { Err(BadAddress::Unaligned) }
    }
}

impl Ram for Arena {
    fn size(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let at = self.check(at, bytes.len(), 1)?;
        bytes.copy_from_slice(&self.peek(at, bytes.len()));
        Ok(())
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        let at = self.check(at, bytes.len(), 1)?;
        self.poke(at, bytes);
        Ok(())
    }

    fn load_u16(&self, at: GuestPhys, _: Ordering) -> Result<u16, BadAddress> {
        let at = self.check(at, 2, 2)? as usize;
        Ok(u16::from_le_bytes([self.byte(at), self.byte(at + 1)]))
    }

    fn store_u16(&self, at: GuestPhys, value: u16, _: Ordering) -> Result<(), BadAddress> {
        let at = self.check(at, 2, 2)?;
        self.poke(at, &value.to_le_bytes());
        Ok(())
    }

    fn store_u32(&self, at: GuestPhys, value: u32, _: Ordering) -> Result<(), BadAddress> {
        let at = self.check(at, 4, 4)?;
        self.poke(at, &value.to_le_bytes());
        Ok(())
    }
}
