//! What is in flight in one queue: [`Flight`], a set of slots with the descriptors they hold.
//!
//! A slot is a number below the size of the queue that belongs to one chain from its fetch to its
//! completion; heads ([`crate::Head`]) and in-flight records go by it.
//! Invariant: a slot is taken once, and all of them together hold no more descriptors than were
//! put in.

/// Words of the set.
const WORDS: usize = 4;

/// Slots that are taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight {
    slots: [u64; WORDS],
    chains: u16,
    descriptors: u16,
}

impl Flight {
    /// Chains in flight.
    pub(crate) fn chains(&self) -> u16 {
        self.chains
    }

    /// Descriptors that they have in the ring.
    pub(crate) fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// Whether a slot is taken.
    pub(crate) fn has(&self, slot: u16) -> bool {
        self.slots.get(usize::from(slot >> 6)).is_some_and(|word| word & bit(slot) != 0)
    }

    /// The lowest slot that is not taken. It is no higher than there are chains.
    pub(crate) fn vacant(&self) -> Option<u16> {
        let (place, word) = self.slots.iter().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let base = u16::try_from(place).ok()?.checked_mul(64)?;
        base.checked_add(u16::try_from(word.trailing_ones()).ok()?)
    }

    /// Takes a slot for a chain of so many descriptors.
    pub(crate) fn add(&mut self, slot: u16, descriptors: u16) {
        if let Some(word) = self.slots.get_mut(usize::from(slot >> 6)) {
            *word |= bit(slot);
            self.chains = self.chains.saturating_add(1);
            self.descriptors = self.descriptors.saturating_add(descriptors);
        }
    }

    /// Gives a slot back.
    pub(crate) fn remove(&mut self, slot: u16, descriptors: u16) {
        if let Some(word) = self.slots.get_mut(usize::from(slot >> 6)) {
            *word &= !bit(slot);
            self.chains = self.chains.saturating_sub(1);
            self.descriptors = self.descriptors.saturating_sub(descriptors);
        }
    }
}

fn bit(slot: u16) -> u64 {
    1 << (slot & 63)
}
