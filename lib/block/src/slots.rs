//! The commands that a driver's core has in flight: [`Slots`], and [`Set`]s of their numbers.
//!
//! A command has a slot from its submission to its answer, over resets of its controller: it is
//! issued again until it was tried too often, or nobody wants it any more. What the controller gets
//! is the core's affair (`T`), as is which slots it has. Invariant: each command that was taken is
//! answered once, by [`Slots::end`] or [`Slots::failed`].

use core::num::NonZeroU64;

use crate::disk::{Busy, Tag};

/// Looks, one a second, that a command may take before its controller is reset.
const PATIENCE: u32 = 30;
/// How often a command is tried before it fails for good.
const TRIES_MAX: u8 = 3;

/// A set of slots; as an iterator, its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// No slot.
    pub const EMPTY: Set = Set(0);

    /// This slot alone.
    #[inline]
    pub const fn one(slot: u8) -> Set {
        Set(if slot < 64 { 1 << slot } else { 0 })
    }

    /// So many slots, from the first on.
    pub const fn of(count: u8) -> Set {
        Set(if count < 64 { (1u64 << count).wrapping_sub(1) } else { u64::MAX })
    }

    /// The first member.
    #[inline]
    pub fn first(self) -> Option<u8> {
        u8::try_from(NonZeroU64::new(self.0)?.trailing_zeros()).ok()
    }

    /// Whether there is no member.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this slot is a member.
    #[inline]
    pub const fn has(self, slot: u8) -> bool {
        self.0 & Set::one(slot).0 != 0
    }

    /// The members of either.
    #[inline]
    #[must_use]
    pub const fn or(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// The members of both.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// The members that are not the other's.
    #[inline]
    #[must_use]
    pub const fn minus(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// Those of the first 32 slots, as a register has them.
    pub fn bits(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(0)
    }
}

impl From<u32> for Set {
    fn from(bits: u32) -> Set {
        Set(bits.into())
    }
}

impl Iterator for Set {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let slot = self.first()?;
        // The lowest bit goes.
        self.0 &= self.0.wrapping_sub(1);
        Some(slot)
    }
}

/// A place for a command.
#[derive(Clone, Copy, Debug)]
pub struct Slot<T> {
    /// What the core knows of the command. What the command before left is still there.
    pub command: T,
    tag: Tag,
    /// When it was issued.
    epoch: u32,
    issues: u16,
    tries: u8,
    is_cancelled: bool,
}

impl<T> Slot<T> {
    /// It is issued now.
    #[inline]
    pub const fn issue(&mut self, epoch: u32) {
        self.epoch = epoch;
        self.issues = self.issues.wrapping_add(1);
    }

    /// How often commands in this slot were issued, which tells them apart.
    #[inline]
    pub const fn issues(&self) -> u16 {
        self.issues
    }

    /// It was tried once more.
    #[inline]
    pub const fn count_try(&mut self) {
        self.tries = self.tries.saturating_add(1);
    }

    /// It is of no use to try it again.
    pub const fn spend(&mut self) {
        self.tries = TRIES_MAX;
    }

    /// Whether it may be tried again.
    #[inline]
    pub const fn may_try(&self) -> bool {
        !self.is_cancelled && self.tries < TRIES_MAX
    }

    /// Whether it was issued too long ago.
    pub const fn is_overdue(&self, epoch: u32) -> bool {
        epoch.wrapping_sub(self.epoch) > PATIENCE
    }
}

/// All slots of a queue, 64 at most.
pub struct Slots<T, const N: usize> {
    slots: [Slot<T>; N],
    /// Slots that there are, and those without a command.
    all: Set,
    free: Set,
    /// Slots whose commands failed here, and are to be answered so.
    failed: Set,
}

impl<T: Copy, const N: usize> Slots<T, N> {
    /// None yet: [`Slots::open`] says how many there are. What is in a slot without a command is the
    /// core's to say.
    pub const fn new(command: T) -> Slots<T, N> {
        const { assert!(N <= 64) };
        let tag = Tag { slot: 0, generation: 0, client: 0 };
        let slot = Slot { command, tag, epoch: 0, issues: 0, tries: 0, is_cancelled: false };
        Slots { slots: [slot; N], all: Set::EMPTY, free: Set::EMPTY, failed: Set::EMPTY }
    }

    /// There are so many slots, of which none is used.
    pub const fn open(&mut self, count: u8) {
        (self.all, self.free) = (Set::of(count), Set::of(count));
    }

    /// A slot.
    #[inline]
    pub fn get(&self, slot: u8) -> Option<&Slot<T>> {
        self.slots.get(usize::from(slot))
    }

    /// The same, to change it.
    #[inline]
    pub fn get_mut(&mut self, slot: u8) -> Option<&mut Slot<T>> {
        self.slots.get_mut(usize::from(slot))
    }

    /// Whether no command is in flight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free == self.all
    }

    /// Slots with a command.
    #[inline]
    pub const fn taken(&self) -> Set {
        self.all.minus(self.free)
    }

    /// Those whose command did not fail here.
    #[inline]
    pub const fn live(&self) -> Set {
        self.taken().minus(self.failed)
    }

    /// Takes a slot for a command.
    #[inline]
    pub fn take(&mut self, tag: Tag) -> Result<u8, Busy> {
        let number = self.free.next().ok_or(Busy)?;
        let slot = self.slots.get_mut(usize::from(number)).ok_or(Busy)?;
        slot.tag = tag;
        (slot.tries, slot.is_cancelled) = (0, false);
        Ok(number)
    }

    /// Fails commands here.
    #[inline]
    pub const fn fail(&mut self, slots: Set) {
        self.failed = self.failed.or(slots);
    }

    /// Takes a command and fails it here.
    pub fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        let slot = self.take(tag)?;
        self.fail(Set::one(slot));
        Ok(())
    }

    /// The next command that failed here.
    #[inline]
    pub fn failed(&mut self) -> Option<Tag> {
        let slot = self.failed.next()?;
        self.end(slot)
    }

    /// Ends a command: its slot is free.
    #[inline]
    pub fn end(&mut self, slot: u8) -> Option<Tag> {
        let tag = self.get(slot)?.tag;
        self.free = self.free.or(Set::one(slot));
        Some(tag)
    }

    /// The commands of a request are not to be tried again.
    pub fn cancel(&mut self, tag: Tag) {
        for number in self.taken() {
            if let Some(slot) = self.get_mut(number) {
                slot.is_cancelled |= slot.tag == tag;
            }
        }
    }

    /// The first of these that was issued too long ago.
    pub fn overdue(&self, mut among: Set, epoch: u32) -> Option<u8> {
        among.find(|slot| self.get(*slot).is_some_and(|slot| slot.is_overdue(epoch)))
    }

    /// Of commands that a controller forgot: fails those that are not to be tried again, and
    /// returns the others.
    pub fn wanted(&mut self, slots: Set) -> Set {
        let mut wanted = Set::EMPTY;
        for slot in slots {
            if self.get(slot).is_some_and(Slot::may_try) {
                wanted = wanted.or(Set::one(slot));
            }
        }
        self.fail(slots.minus(wanted));
        wanted
    }
}
