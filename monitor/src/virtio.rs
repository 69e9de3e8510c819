//! The device side of virtio's PCI transport (virtio 1.3, "Virtio Over PCI Bus"): what the
//! registers in the I/O BAR do.
//!
//! [`Virtio`] turns a driver's accesses into orders for the worker, and what the worker tells into
//! events for the driver. Neighbours: `worker` (the shared words), `devices` (BARs and vectors).
//!
//! Invariant: a worker is ordered to work only rings that lie in RAM, aligned, of a size that it
//! allows; they do not change before it has answered a reset; and the driver is told that a reset
//! is done only then.

mod worker;

use crate::ensure;
use crate::num::{high32, index, low8, low16, low32};
use crate::pci::mask;
use crate::sync::AtomicU64;
use cloister_guest_abi::platform;
use cloister_virtio::{features, wire};
use worker::{QueueWords, Worker};

/// Device status (virtio 1.3, "Device Status Field").
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;
const FAILED: u8 = 0x80;
/// What a driver may set.
const SETTABLE: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// What every device offers.
const ALWAYS: u64 = features::VERSION_1 | features::ACCESS_PLATFORM;
/// Features of queues and transport (virtio 1.3, "Feature Bits"). Of these a worker decides on
/// those of rings that it knows; the others need registers that are not here.
const TRANSPORT: u64 = 0x3_ffff_ff00_0000;

/// Descriptors, driver area, device area of a split ring: alignment, bytes for each descriptor,
/// bytes besides (virtio 1.3, "Virtqueues", table of alignments and sizes).
const SPLIT: [(u64, u64, u64); 3] = [(16, 16, 0), (2, 2, 6), (4, 8, 6)];
/// The same of a packed ring, whose areas besides are event structures.
const PACKED: [(u64, u64, u64); 3] = [(16, 16, 0), (4, 0, 4), (4, 0, 4)];
const NO_VECTOR: u16 = 0xffff;
/// Interrupt status: a queue has used buffers; configuration or status has changed.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Why there can be no such device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioError {
    /// The shared region has so many words, fewer than [`wire::WORDS`].
    Words(usize),
    /// So many queues are more than [`wire::QUEUES_MAX`].
    Queues(u16),
}

/// What an access or a signal leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Action {
    /// The worker is to be signalled.
    pub signal: bool,
    /// What was pending before is to be forgotten, before `vectors`.
    pub forget: bool,
    /// MSI-X vectors to be raised, a bit each.
    pub vectors: u64,
}

const NOTHING: Action = Action { signal: false, forget: false, vectors: 0 };
const SIGNAL: Action = Action { signal: true, ..NOTHING };

/// A queue: size, and addresses of descriptors, driver area, device area, each in two halves.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    size: u16,
    halves: [u32; 6],
    vector: u16,
    enabled: bool,
}

/// What a driver sees and sets.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    status: u8,
    isr: u8,
    config_vector: u16,
    queue_select: u16,
    device_select: u32,
    driver_select: u32,
    accepted: [u32; 2],
    /// The driver has accepted a feature above bit 63; there is none.
    beyond: bool,
    queues: [Queue; wire::QUEUES_MAX],
}

/// One device.
#[derive(Debug)]
pub struct Virtio<'a> {
    worker: Worker<'a>,
    registers: Registers,
    /// A reset was ordered and is not answered: the status keeps its value.
    resetting: bool,
    /// Bytes of the guest's RAM.
    memory: u64,
    /// Number of queues.
    count: u16,
    offered: u64,
    size_max: u16,
}

impl<'a> Virtio<'a> {
    /// Takes over the monitor's side of a device and orders its first reset: the worker is to be
    /// signalled, and the guest must not be entered before [`Virtio::is_ready`].
    pub fn new(words: &'a [AtomicU64], count: u16, memory: u64) -> Result<Virtio<'a>, VirtioError> {
        ensure(usize::from(count) <= wire::QUEUES_MAX, VirtioError::Queues(count))?;
        let worker = Worker::new(words).ok_or(VirtioError::Words(words.len()))?;
        let (registers, offered) = (Registers::new(0), ALWAYS);
        Ok(Virtio { worker, registers, resetting: true, memory, count, offered, size_max: 0 })
    }

    /// Whether the worker has answered the newest reset.
    pub fn is_ready(&mut self) -> bool {
        if self.resetting && self.worker.has_answered() {
            self.finish_reset();
        }
        !self.resetting
    }

    /// Number of MSI-X vectors: one for each queue and one for the configuration.
    pub fn vectors(&self) -> u16 {
        self.count.saturating_add(1)
    }

    /// Whether the interrupt status shows anything.
    pub fn has_interrupt(&self) -> bool {
        self.registers.isr != 0
    }

    /// Reads a register of the I/O BAR; all ones where there is none of this width.
    pub fn read(&mut self, offset: u16, width: u8) -> u32 {
        if (offset, width) == (platform::VIRTIO_ISR, 1) {
            return u32::from(core::mem::take(&mut self.registers.isr));
        }
        let at = usize::from(offset).wrapping_sub(usize::from(platform::VIRTIO_DEVICE));
        match self.worker.config.get(at..at.wrapping_add(usize::from(width))) {
            Some(bytes) => bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)),
            None => self.common(offset, width).unwrap_or(mask(width)),
        }
    }

    /// Writes a register of the I/O BAR. Nothing happens where there is none of this width, and
    /// while a reset is under way. The device's own configuration is the worker's alone.
    pub fn write(&mut self, offset: u16, width: u8, value: u32) -> Action {
        if offset >= platform::VIRTIO_NOTIFY {
            // The kernel has the doorbells. One that comes here was rung in another way than by a
            // plain write to its port.
            self.worker.ring();
            return if self.worker.is_live() { SIGNAL } else { NOTHING };
        }
        if self.resetting {
            return NOTHING;
        }
        let short = low16(u64::from(value));
        let vector = if short < self.vectors() { short } else { NO_VECTOR };
        let registers = &mut self.registers;
        match (offset, width) {
            (0x00, 4) => registers.device_select = value,
            (0x08, 4) => registers.driver_select = value,
            (0x0c, 4) => registers.accept(value),
            // Vectors are between driver and monitor; workers do not know them. They may change.
            (0x10, 2) => registers.config_vector = vector,
            (0x14, 1) => return self.set_status(low8(u64::from(value))),
            (0x16, 2) => registers.queue_select = short,
            (0x1a, 2) => self.queue().into_iter().for_each(|queue| queue.vector = vector),
            _ => self.set_queue(offset, width, value),
        }
        NOTHING
    }

    /// The worker has signalled: looks at everything that it may have written. `msix` tells whether
    /// interrupts are messages.
    pub fn poll(&mut self, msix: bool) -> Action {
        if self.resetting {
            self.is_ready();
            return NOTHING;
        }
        let changed = self.worker.copy_config();
        let pending = self.worker.take_pending();
        let mut action = NOTHING;
        if !self.worker.is_live() {
            return action;
        }
        let mut left = pending;
        while let Some(queue) = self.registers.queues.get(index(left.trailing_zeros().into())) {
            left &= left.wrapping_sub(1);
            if queue.enabled {
                action.vectors |= bit(queue.vector);
                self.registers.isr |= if msix { 0 } else { ISR_QUEUE };
            }
        }
        let breaks = self.worker.is_broken() && self.registers.status & NEEDS_RESET == 0;
        self.registers.status |= if breaks { NEEDS_RESET } else { 0 };
        if breaks || changed {
            action.vectors |= self.registers.config_event();
        }
        action
    }

    /// The queues with used buffers, a bit each, if that is all that the worker has to say. What is
    /// not dealt with is to be put back.
    #[inline(always)]
    pub fn take_completions(&mut self) -> Option<u64> {
        if self.worker.is_plain() { Some(self.worker.take_pending()) } else { None }
    }

    /// The vector, if it is one queue.
    #[inline(always)]
    pub fn completion(&self, pending: u64) -> Option<u16> {
        let queue = self.registers.queues.get(index(pending.trailing_zeros().into()))?;
        let is_one = pending & pending.wrapping_sub(1) == 0;
        if is_one && queue.enabled { Some(queue.vector) } else { None }
    }

    /// [`Virtio::poll`], which is to follow, will find these.
    pub fn put_back(&mut self, pending: u64) {
        self.worker.put_back(pending);
    }

    /// A field of the common configuration (virtio 1.3, "Common configuration structure layout").
    /// Of 64-bit fields each half is accessed by itself, as port I/O demands.
    fn common(&mut self, offset: u16, width: u8) -> Option<u32> {
        let queue = self.queue().map_or(Queue::new(0), |queue| *queue);
        let registers = &self.registers;
        let offered = [low32(self.offered), high32(self.offered)];
        let feature = |of: [u32; 2], select| of.get(index(u64::from(select))).map_or(0, |of| *of);
        Some(match (offset, width) {
            (0x00, 4) => registers.device_select,
            (0x04, 4) => feature(offered, registers.device_select),
            (0x08, 4) => registers.driver_select,
            (0x0c, 4) => feature(registers.accepted, registers.driver_select),
            (0x10, 2) => u32::from(registers.config_vector),
            (0x12, 2) => u32::from(self.count),
            (0x14, 1) => u32::from(registers.status),
            (0x15, 1) => u32::from(self.worker.generation),
            // Each queue has the doorbell with its number.
            (0x16 | 0x1e, 2) => u32::from(registers.queue_select),
            (0x18, 2) => u32::from(queue.size),
            (0x1a, 2) => u32::from(queue.vector),
            (0x1c, 2) => u32::from(queue.enabled),
            (0x20..0x38, 4) if offset & 3 == 0 => *queue.halves.get(half(offset))?,
            _ => return None,
        })
    }

    /// Queue fields change only before the queue is enabled and the driver ready.
    fn set_queue(&mut self, offset: u16, width: u8, value: u32) {
        let (is_ready, size_max) = (self.registers.status & DRIVER_OK != 0, self.size_max);
        let is_packed = self.registers.is_packed();
        let is_open = |queue: &&mut Queue| !queue.enabled && !is_ready;
        let Some(queue) = self.queue().filter(is_open) else { return };
        let new = low16(u64::from(value));
        // Packed rings may have any size ("Packed Virtqueues").
        let fits = (1..=size_max).contains(&new) && (is_packed || new.is_power_of_two());
        match (offset, width) {
            (0x18, 2) if fits => queue.size = new,
            // A queue without a size does not exist.
            (0x1c, 2) => queue.enabled = new == 1 && queue.size != 0,
            (0x20..0x38, 4) if offset & 3 == 0 => {
                queue.halves.get_mut(half(offset)).into_iter().for_each(|half| *half = value);
            }
            _ => {}
        }
    }

    /// The driver writes the status: it sets bits one after another, and clears them all together.
    /// What comes in a wrong order is left out.
    fn set_status(&mut self, value: u8) -> Action {
        let old = self.registers.status;
        if value == 0 {
            return self.reset();
        }
        if old & SETTABLE & !value != 0 {
            return NOTHING;
        }
        let added = value & SETTABLE & !old;
        let added_if = |may: bool, bit: u8| if may { added & bit } else { 0 };
        let mut new = old | added & (ACKNOWLEDGE | FAILED);
        new |= added_if(new & ACKNOWLEDGE != 0, DRIVER);
        let are_ok = self.registers.are_features_ok(self.offered);
        new |= added_if(new & DRIVER != 0 && are_ok, FEATURES_OK);
        // A driver has to read FEATURES_OK back, so that bit is from an earlier write.
        let may = old & FEATURES_OK != 0 && new & (FAILED | NEEDS_RESET) == 0;
        new |= added_if(may, DRIVER_OK);
        self.registers.status = new;
        if new & !old & DRIVER_OK != 0 { self.start() } else { NOTHING }
    }

    /// The driver is ready: hands the queues to the worker. A queue that cannot be is the driver's
    /// mistake, and the worker never hears of the device.
    fn start(&mut self) -> Action {
        let queues = self.registers.queues.map(Queue::words);
        let packed = self.registers.is_packed();
        if !queues.iter().all(|words| is_valid(words, packed, self.memory)) {
            self.registers.status |= NEEDS_RESET;
            return Action { vectors: self.registers.config_event(), ..NOTHING };
        }
        self.worker.order_live(join(self.registers.accepted), queues);
        if self.worker.is_broken() {
            // There is no worker any more, and so nobody who would say it later.
            self.registers.status |= NEEDS_RESET;
            return Action { vectors: self.registers.config_event(), ..NOTHING };
        }
        SIGNAL
    }

    fn reset(&mut self) -> Action {
        if !self.worker.is_live() {
            // The worker is at rest, so there is nobody to wait for.
            self.registers = Registers::new(self.size_max);
            return Action { forget: true, ..NOTHING };
        }
        self.resetting = true;
        self.worker.order(0);
        // Where there is no worker any more, nobody will signal that it is over: it is.
        if self.worker.is_gone() {
            self.is_ready();
        }
        Action { forget: true, ..SIGNAL }
    }

    fn finish_reset(&mut self) {
        let (offers, size_max) = self.worker.begin();
        self.offered = offers & (!TRANSPORT | features::ALL_RINGS) | ALWAYS;
        (self.resetting, self.size_max) = (false, size_max);
        self.registers = Registers::new(size_max);
    }

    /// The selected queue.
    fn queue(&mut self) -> Option<&mut Queue> {
        let select = self.registers.queue_select;
        self.registers.queues.get_mut(usize::from(select)).filter(|_| select < self.count)
    }
}

impl Registers {
    /// The state after a reset.
    fn new(size_max: u16) -> Registers {
        let queues = [Queue::new(size_max); wire::QUEUES_MAX];
        Registers { config_vector: NO_VECTOR, queues, ..Registers::default() }
    }

    fn accept(&mut self, value: u32) {
        if self.status & FEATURES_OK == 0 {
            match self.accepted.get_mut(index(u64::from(self.driver_select))) {
                Some(half) => *half = value,
                None => self.beyond |= value != 0,
            }
        }
    }

    fn are_features_ok(&self, offered: u64) -> bool {
        let accepted = join(self.accepted);
        accepted & !offered == 0 && !self.beyond && accepted & features::VERSION_1 != 0
    }

    /// Whether rings are packed, which is settled by FEATURES_OK.
    fn is_packed(&self) -> bool {
        self.status & FEATURES_OK != 0 && join(self.accepted) & features::RING_PACKED != 0
    }

    /// The driver is to look at status and configuration.
    fn config_event(&mut self) -> u64 {
        self.isr |= ISR_CONFIG;
        bit(self.config_vector)
    }
}

impl Queue {
    fn new(size: u16) -> Queue {
        Queue { size, vector: NO_VECTOR, ..Queue::default() }
    }

    /// The queue as the worker is to see it.
    fn words(self) -> QueueWords {
        let [a, b, c, d, e, f] = self.halves;
        let words = [u64::from(self.size), join([a, b]), join([c, d]), join([e, f])];
        if self.enabled { words } else { [0; 4] }
    }
}

/// Whether each part of a queue is aligned and ends inside the guest's RAM. An unused one is.
fn is_valid([size, starts @ ..]: &QueueWords, packed: bool, memory: u64) -> bool {
    starts.iter().zip(if packed { PACKED } else { SPLIT }).all(|(start, (align, each, more))| {
        let len = size.saturating_mul(each).saturating_add(more);
        let is_inside = start.checked_add(len).is_some_and(|end| end <= memory);
        start & align.wrapping_sub(1) == 0 && is_inside
    })
}

/// Which half of a queue's addresses is at an offset from 0x20 on.
fn half(offset: u16) -> usize {
    usize::from(offset & 0x1f) >> 2
}

fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn bit(vector: u16) -> u64 {
    1u64.unbounded_shl(u32::from(vector))
}
