//! The virtio transport: registers in the I/O BAR, configuration space, MSI-X pages, and a worker
//! that writes what it likes into its words.
//!
//! Rules: a vector that may send has nothing pending; each message is one of a vector that may
//! send; a live order has rings inside RAM, aligned, of a size that the worker offered, and they
//! do not change before the next order; a reset is not told before the worker's answer was seen
//! (docs/notes/0007-msix.md).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_guest_abi::platform;
use cloister_monitor::apic::Message;
use cloister_monitor::devices::{Devices, Effect};
use cloister_monitor::msix;
use cloister_virtio::{features, wire};

use super::machine::{MEMORY, QUEUES, config, words};
use super::ports;
use crate::{Input, mark};

/// The words of the queues, as a live order had them.
type Rings = [u64; wire::QUEUE_WORDS * wire::QUEUES_MAX];

/// What is remembered of a device.
#[derive(Default)]
struct Memory {
    /// The live order that is followed, and its rings.
    live: Option<(u64, Rings)>,
    /// A reset that the worker has not been seen to answer.
    reset: Option<u64>,
}

struct Rig<'a> {
    devices: Devices<'a>,
    shared: [&'a [AtomicU64]; 2],
    memory: [Memory; 2],
    sent: Vec<Message>,
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let config = config(1, 0, 0);
    let shared = [words(512), words(512)];
    let pages = [words(512), words(512)];
    let mut devices = Devices::new();
    for (number, (words, page)) in shared.iter().zip(&pages).enumerate() {
        let added = devices.add(number, &config.devices[number], words, page, MEMORY);
        added.expect("the pages are large enough");
    }
    let shared = [&*shared[0], &*shared[1]];
    let mut rig = Rig { devices, shared, memory: Default::default(), sent: Vec::new() };
    while !input.is_empty() {
        let number = usize::from(input.byte() & 1);
        match input.byte() {
            0..90 => rig.register(number, &mut input),
            90..120 => rig.bring_up(number, &mut input),
            120..160 => rig.configuration(number, &mut input),
            160..190 => rig.entry(number, &mut input),
            _ => {
                ports::disturb(rig.shared[number], &mut input);
                rig.poll(number);
            }
        }
        rig.judge();
    }
}

/// The port of a device's register.
fn port(number: usize, offset: u16) -> u16 {
    platform::VIRTIO + number as u16 * platform::VIRTIO_LEN + offset
}

impl<'a> Rig<'a> {
    fn act<R>(&mut self, act: impl FnOnce(&mut Devices<'a>, &mut dyn FnMut(Effect)) -> R) -> R {
        let sent = &mut self.sent;
        act(&mut self.devices, &mut |effect| match effect {
            Effect::Interrupt(message) => sent.push(message),
            Effect::Signal(number) => assert!(number < 2, "no worker {number}"),
        })
    }

    fn write(&mut self, port: u16, width: u8, value: u32) {
        self.act(|devices, out| devices.write(port, width, value, out));
    }

    fn register(&mut self, number: usize, input: &mut Input<'_>) {
        let (offset, width) = (u16::from(input.byte()), ports::width(input));
        if input.flag() {
            self.devices.read(port(number, offset), width);
        } else {
            self.write(port(number, offset), width, input.value() as u32);
        }
    }

    /// What a driver does, up to a step that the bytes choose; addresses and sizes are theirs.
    fn bring_up(&mut self, number: usize, input: &mut Input<'_>) {
        let (steps, place, size) = (input.below(15), input.byte(), input.byte());
        let at = u32::from(place & 0x7f) << 13 | u32::from(place >> 7);
        let writes: [(u16, u8, u32); 14] = [
            (0x14, 1, 1),
            (0x14, 1, 3),
            (0x08, 4, 1),
            (0x0c, 4, 3),
            (0x14, 1, 0xb),
            (0x16, 2, u32::from(size & 1)),
            (0x18, 2, 1 << (size >> 4)),
            (0x1a, 2, u32::from(size >> 1 & 3)),
            (0x10, 2, u32::from(size >> 2 & 3)),
            (0x20, 4, at),
            (0x28, 4, at.wrapping_add(0x1000)),
            (0x30, 4, at.wrapping_add(0x2000)),
            (0x1c, 2, 1),
            (0x14, 1, 0xf),
        ];
        self.command(number, 0x7);
        for (offset, width, value) in writes.into_iter().take(steps as usize) {
            self.write(port(number, offset), width, value);
        }
    }

    /// Writes the command register.
    fn command(&mut self, number: usize, value: u32) {
        self.select(number, 4);
        self.write(platform::PCI_DATA, 2, value);
    }

    fn select(&mut self, number: usize, register: u32) {
        let slot = number as u32 + 1;
        self.write(platform::PCI_ADDRESS, 4, 1 << 31 | slot << 11 | register & 0xfc);
    }

    /// Configuration space: MSI-X on, off or masked, BARs, the window, anything.
    fn configuration(&mut self, number: usize, input: &mut Input<'_>) {
        let kind = input.byte();
        match kind & 3 {
            0 => self.command(number, u32::from(kind >> 2)),
            1 => {
                self.select(number, 0x40);
                self.write(platform::PCI_DATA + 2, 2, u32::from(kind & 0xc0) << 8);
            }
            _ => {
                self.select(number, u32::from(input.byte()));
                let (lane, width) = (u16::from(kind >> 2 & 3), ports::width(input));
                self.write(platform::PCI_DATA + lane, width, input.value() as u32);
            }
        }
    }

    /// A store into an MSI-X page: mostly an entry as kernels write it.
    fn entry(&mut self, number: usize, input: &mut Input<'_>) {
        let page = platform::MSIX + (number as u64) * 0x1000;
        let kind = input.byte();
        let at = page + 16 * u64::from(kind & 3);
        let (vector, masked) = (u64::from(input.byte()), u64::from(kind >> 2 & 1) << 32);
        let (at, values) = match kind >> 5 {
            0 => (page + u64::from(input.short() & 0xfff), [input.value(), input.value()]),
            1 => (at, [input.value(), masked | vector]),
            _ => (at, [platform::MSI.start | u64::from(kind >> 3 & 3) << 12, masked | vector]),
        };
        self.act(|devices, out| devices.write_page(at, values, out));
    }

    /// The worker signals; a reset that it has answered by now is over.
    fn poll(&mut self, number: usize) {
        let answer = self.shared[number][wire::ANSWER].load(Relaxed);
        self.act(|devices, out| devices.poll(number, out));
        self.memory[number].reset.take_if(|order| *order == answer);
    }

    /// The rules.
    fn judge(&mut self) {
        let latch = self.devices.read(platform::PCI_ADDRESS, 4).expect("the latch");
        let mut messages = Vec::new();
        for number in 0..2 {
            messages.extend(self.may_send(number));
            self.orders(number);
        }
        for message in std::mem::take(&mut self.sent) {
            assert!(messages.contains(&message), "no vector may send {message:?}");
            mark("message");
        }
        self.write(platform::PCI_ADDRESS, 4, latch);
    }

    /// The messages of the vectors that may send. None of them has anything pending.
    fn may_send(&mut self, number: usize) -> Vec<Message> {
        let mut dword = |register| {
            self.select(number, register);
            self.devices.read(platform::PCI_DATA, 4).expect("a register")
        };
        let (command, control) = (dword(4), dword(0x40));
        let is_open = control & 1 << 31 != 0 && control & 1 << 30 == 0 && command & 4 != 0;
        let page = platform::MSIX + (number as u64) * 0x1000;
        let sixteen = |at| self.devices.read_page(page + at).expect("a page");
        let [pending, _] = sixteen(platform::MSIX_PENDING);
        let vectors = u64::from(QUEUES[number]) + 1;
        assert_eq!(pending >> vectors, 0, "vectors that do not exist are pending");
        if pending != 0 {
            mark("pending");
        }
        let mut messages = Vec::new();
        for vector in 0..vectors {
            let [address, data] = sixteen(16 * vector);
            if is_open && data & 1 << 32 == 0 {
                assert_eq!(pending >> vector & 1, 0, "vector {vector} may send and is pending");
                messages.extend(msix::decode(address, data as u32));
            }
        }
        messages
    }

    /// What the worker is ordered, and what the driver is told of it.
    fn orders(&mut self, number: usize) {
        let words = self.shared[number];
        let order = words[wire::ORDER].load(Relaxed);
        let rings = std::array::from_fn(|at| words[wire::QUEUES + at].load(Relaxed));
        let memory = &mut self.memory[number];
        match memory.live.take() {
            Some((before, _)) if order != before => memory.reset = Some(order),
            Some((_, before)) => assert_eq!(rings, before, "rings changed under a live order"),
            None if order & wire::LIVE != 0 => {
                let features = words[wire::FEATURES].load(Relaxed);
                judge_rings(&rings, features & features::RING_PACKED != 0);
                mark("live");
            }
            None => {}
        }
        memory.live = (order & wire::LIVE != 0).then_some((order, rings));
        let is_under_way = memory.reset.is_some();
        // Without its I/O BAR the device does not answer.
        if let Some(status) = self.devices.read(port(number, 0x14), 1) {
            let is_gone = words[wire::GONE].load(Relaxed) != 0;
            if is_under_way && !is_gone {
                assert_ne!(status, 0, "a reset is told before the worker has answered it");
                mark("reset under way");
            }
            if status & 0x40 != 0 {
                mark("needs reset");
            }
        }
    }
}

/// Rings of a live order (virtio 1.3, "Virtqueues", table of alignments and sizes).
fn judge_rings(rings: &Rings, packed: bool) {
    for queue in rings.chunks(wire::QUEUE_WORDS).filter(|queue| queue[0] != 0) {
        let (size, parts) = (queue[0], &queue[1..]);
        assert!((packed || size.is_power_of_two()) && size <= 32768, "a ring of {size}");
        let areas = match packed {
            true => [(16, 16 * size), (4, 4), (4, 4)],
            false => [(16, 16 * size), (2, 2 * size + 6), (4, 8 * size + 6)],
        };
        for (at, (align, len)) in parts.iter().zip(areas) {
            assert_eq!(at % align, 0, "{at:#x} is not aligned to {align}");
            assert!(at.checked_add(len).is_some_and(|end| end <= MEMORY), "{at:#x} and {len:#x}");
        }
    }
}
