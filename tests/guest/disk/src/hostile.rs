//! `role=hostile`: breaks each rule of a ring once, on a live device.
//!
//! A case has the name of the rule in `lib/virtio` that is to refuse it. After it the device needs
//! a reset; after the reset it works. The first case keeps all rules and is completed, so the
//! others fail for what they break and nothing else.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_rt::abi::disk::features;
use cloister_guest_rt::virtio::Failure;
use cloister_guest_rt::virtio::disk::{Disk, Request};
use cloister_guest_rt::{clock, cpu, memory, println};
use guest_disk_core::BLOCK;
use virtio_drivers::transport::Transport;

use crate::options::{Failed, Options};
use crate::rules::{Broken, CASES, Case, Memory, NEXT, SIZE};

/// How long the device may take to find a rule broken, or to complete a request.
const PATIENCE: Duration = Duration::from_secs(5);
const PAGES: usize = 3;
/// The words of the rings, the tables and the header; the data come behind.
const DRIVER: usize = 32;
const DEVICE: usize = 64;
const TABLE: usize = 128;
const HEADER: usize = 256;
const STATUS: usize = 264;
const DATA: usize = 512;
/// A descriptor of a packed ring is available, in the first turn.
const AVAIL: u16 = 1 << 7;

/// Memory of a ring that is written by hand.
struct Ring {
    words: &'static [AtomicU64],
    memory: Memory,
}

/// Runs every case of the wanted layout.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let words = memory::leak_words(PAGES).ok_or(Failed::Other("no memory", PAGES as u64))?;
    let at = |word: usize| words.as_ptr() as u64 + word as u64 * 8;
    let memory = Memory {
        header: at(HEADER),
        status: at(STATUS),
        data: at(DATA),
        table: at(TABLE),
        end: memory::size(),
    };
    let mut ring = Ring { words, memory };
    let buffer = &mut memory::leak_pages(1);
    let mut count = 0;
    for case in CASES.iter().filter(|case| !options.is_packed || case.is_for_packed) {
        disk.reset(|_| {});
        ring.set(disk, options, case)?;
        let needs_reset = ring.outcome(disk, options)?;
        if needs_reset == case.is_good {
            println!("FAILED hostile {}: needs a reset: {needs_reset}", case.name);
            return Err(Failed::Other("a case has the wrong end", count));
        }
        disk.transport().reset();
        disk.restart()?;
        works(disk, buffer)?;
        println!("ok hostile {}", case.name);
        count += 1;
    }
    println!("disk: {count} cases, each refused and the device works after it, ok");
    Ok(())
}

impl Ring {
    /// Sets queue 0 up as the case wants it and rings.
    fn set(&mut self, disk: &mut Disk, options: &Options, case: &Case) -> Result<(), Failed> {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let broken = (case.make)(&self.memory);
        let mut wanted = features::DISK;
        wanted |= if options.is_packed { features::RING_PACKED } else { 0 };
        wanted |= if case.is_asked { features::INDIRECT } else { 0 };
        let transport = disk.transport();
        transport.negotiate(wanted)?;
        transport.set_vector(None);
        let at = |word: usize| self.words.as_ptr() as u64 + word as u64 * 8;
        let areas = [at(0), at(DRIVER), at(DEVICE)];
        let [descriptors, driver, device] = broken.areas.unwrap_or(areas);
        let moved = [descriptors, driver, device].map(|at| if at == 0 { areas[0] } else { at });
        transport.queue_set(0, SIZE.into(), moved[0], moved[1] | broken.odd, moved[2]);
        self.write(&broken, options.is_packed);
        transport.finish_init();
        if let Some(bell) = transport.doorbell(0) {
            bell.ring();
        }
        Ok(())
    }

    /// Writes header, table and ring.
    fn write(&self, broken: &Broken, is_packed: bool) {
        // The header stays zero, which is a read of block 0.
        self.store(STATUS, 0xff);
        for (place, entry) in broken.table.iter().enumerate() {
            self.store(TABLE + place * 2, entry.at);
            // The order in a packed ring's table is that of its entries.
            let word = if is_packed {
                packed(entry.len, entry.flags & !NEXT)
            } else {
                second(entry.len, entry.flags, entry.next.into())
            };
            self.store(TABLE + place * 2 + 1, word);
        }
        let chain = broken.chain.iter().enumerate().filter(|(_, entry)| entry.at != 0);
        for (place, entry) in chain.rev() {
            self.store(place * 2, entry.at);
            let word = if is_packed {
                packed(entry.len, entry.flags | AVAIL)
            } else {
                second(entry.len, entry.flags, entry.next.into())
            };
            self.store(place * 2 + 1, word);
        }
        if !is_packed {
            let [first, other] = broken.heads;
            let entries = u64::from(first) << 32 | u64::from(other) << 48;
            self.store(DRIVER, entries | u64::from(broken.index) << 16);
        }
    }

    /// Whether the device needs a reset; false if it has completed the request.
    fn outcome(&self, disk: &mut Disk, options: &Options) -> Result<bool, Failed> {
        let end = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
        loop {
            match disk.check() {
                Err(Failure::NeedsReset) => return Ok(true),
                other => other?,
            }
            let is_done = if options.is_packed {
                self.words[1].load(Ordering::Acquire) >> 63 != 0
            } else {
                self.words[DEVICE].load(Ordering::Acquire) >> 16 & 0xffff != 0
            };
            if is_done {
                return Ok(false);
            }
            if cpu::tsc() > end {
                return Err(Failed::Silence(1));
            }
            core::hint::spin_loop();
        }
    }

    fn store(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }
}

fn second(len: u32, flags: u16, next: u64) -> u64 {
    u64::from(len) | u64::from(flags) << 32 | next << 48
}

fn packed(len: u32, flags: u16) -> u64 {
    u64::from(len) | u64::from(flags) << 48
}

/// One read, to its end.
fn works(disk: &mut Disk, buffer: &mut Option<&'static mut [u8]>) -> Result<(), Failed> {
    let data = buffer.take().map(|buffer| (buffer, BLOCK));
    let made = disk.submit(0, Request::Read { block: 0 }, data);
    made.map_err(|(why, _)| Failed::Refused(why))?;
    disk.ring(0);
    if !disk.wait_until(cpu::tsc().saturating_add(clock::ticks(PATIENCE))) {
        return Err(Failed::Silence(1));
    }
    let done = disk.poll(0)?.ok_or(Failed::Silence(1))?;
    done.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
    *buffer = done.buffer;
    Ok(())
}
