//! Guests that hammer the classic devices: seeded accesses at any offset, width and time. No device
//! panics, and what each promises in its first lines still holds.

use cloister_monitor::apic::{Effect, Kind, LocalApic, Mode};
use cloister_monitor::ioapic::IoApic;
use cloister_monitor::pic::Pic;
use cloister_monitor::pit::Pit;
use cloister_monitor::pm_timer::PmTimer;
use cloister_monitor::rtc::Rtc;
use cloister_monitor::uart::Uart;

const ROUNDS: u32 = 250_000;
const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Numbers of which any may be tried: xorshift with a multiplication (Vigna, "An experimental
/// exploration of Marsaglia's xorshift generators, scrambled").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 32) % end
    }

    /// Values that are often small, often a single bit, often all ones.
    fn value(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(0x100),
            1 => 1 << self.below(64),
            2 => u64::MAX >> self.below(64),
            3 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }

    /// A later time; sometimes much later, in the end at the end of time.
    fn later(&mut self, now: u64) -> u64 {
        now.saturating_add(match self.below(1_000) {
            0 => self.next() >> self.below(64),
            1..50 => self.below(1 << 30),
            _ => self.below(1 << 12),
        })
    }
}

/// Runs a storm of each seed; a failure says which round it was.
fn storm(mut round: impl FnMut(&mut Random, u64), mut restart: impl FnMut()) {
    for seed in SEEDS {
        let (mut random, mut now) = (Random(seed), 0);
        for number in 0..ROUNDS {
            if now == u64::MAX || number % 50_000 == 0 {
                restart();
                now = 0;
            }
            now = random.later(now);
            round(&mut random, now);
        }
    }
}

/// What an effect may be; counts messages and ends of interrupts.
fn judge(effect: &Effect, sent: &mut u32, ended: &mut u32) {
    match effect {
        Effect::Ipi(message) => {
            *sent += 1;
            assert!(!message.is_level);
            match message.kind {
                Kind::Fixed(vector) | Kind::LowestPriority(vector) => assert!(vector > 15),
                kind => assert_ne!(kind, Kind::ExtInt),
            }
        }
        Effect::Eoi(vector) => {
            *ended += 1;
            assert!(*vector > 15);
        }
        Effect::None => {}
    }
}

#[test]
fn local_apic() {
    let apic = std::cell::RefCell::new(LocalApic::new(0, true, true, 1));
    let mut count = 0u32;
    let restart = || {
        count += 1;
        let tsc_hz = [1, 1_000_000_000, u64::MAX][count as usize % 3];
        *apic.borrow_mut() =
            LocalApic::new(count as u8, count & 1 == 0, !count.is_multiple_of(3), tsc_hz);
    };
    let (mut sent, mut ended) = (0u32, 0u32);
    storm(
        |random, now| {
            let apic = &mut *apic.borrow_mut();
            let value = random.value();
            let register = random.below(0x48) as u32;
            let effect = match random.below(16) {
                0 => apic.write_msr(0x830, value & !0xfff3_3000, now).unwrap_or(Effect::None),
                1..4 => apic.write_msr(0x800 + register, value, now).unwrap_or(Effect::None),
                4 => apic.write_msr(value as u32, value, now).unwrap_or(Effect::None),
                5..8 => apic.write_mmio(register << 4, value as u32, now),
                8 => apic.write_mmio(value as u32, value as u32, now),
                9 => {
                    let is_x2 = apic.read_msr(0x800 + register, now).is_ok();
                    assert!(!is_x2 || apic.mode() == Mode::X2Apic);
                    apic.read_mmio(register << 4, now);
                    apic.read_mmio(value as u32, now);
                    Effect::None
                }
                10 => {
                    // Mostly harmless, so that both modes stay for a while.
                    let bits = if random.below(8) == 0 { value & 0xc00 } else { 0xc00 };
                    let _ = apic.write_base(0xfee0_0000 | bits);
                    Effect::None
                }
                11 => {
                    // Whoever is disabled shall not stay so.
                    let _ = apic.write_msr(0x80f, 0x1ff, now);
                    apic.write_mmio(0xf0, 0x1ff, now)
                }
                12 => {
                    apic.write_tsc_deadline(value, random.next(), now);
                    Effect::None
                }
                13 => {
                    apic.set_task_priority(value as u32);
                    Effect::None
                }
                14 if random.below(1_000) == 0 => {
                    apic.init();
                    Effect::None
                }
                _ => {
                    apic.accept(value as u8, value & 0x100 != 0);
                    apic.eoi()
                }
            };
            judge(&effect, &mut sent, &mut ended);
            apic.tick(now);
            assert!(apic.task_priority() < 16);
            assert!(now == u64::MAX || apic.deadline().is_none_or(|deadline| deadline > now));
            if let Some(vector) = apic.highest() {
                assert!(vector > 15);
                apic.taken(vector);
                assert!(apic.highest().is_none_or(|next| next >> 4 > vector >> 4));
            }
        },
        restart,
    );
    assert!(sent > 1_000 && ended > 1_000, "the storm reaches them: {sent} {ended}");
}

#[test]
fn io_apic() {
    let mut apic = IoApic::new();
    let mut sent = 0;
    storm(
        |random, _| {
            let value = random.value();
            match random.below(8) {
                0 => apic.set_line(value as u8, value & 0x100 != 0),
                1 | 2 => apic.set_line(random.below(24) as u8, value & 1 != 0),
                3 => apic.eoi(value as u8),
                4 => apic.write(value as u32, value as u32),
                5 => {
                    let _ = (apic.read(value as u32), apic.read(0x10));
                }
                _ => {
                    apic.write(0, random.below(0x44) as u32);
                    apic.write(0x10, value as u32);
                }
            }
            let messages = std::iter::from_fn(|| apic.next_message()).take(25).count();
            assert!(messages <= 24, "a device does not send without end");
            sent += messages;
        },
        || {},
    );
    assert!(sent > 1_000, "{sent}");
}

#[test]
fn interrupt_controllers() {
    let mut pic = Pic::new();
    let mut taken = 0;
    storm(
        |random, _| {
            let value = random.value();
            let ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, value as u16];
            let port = ports[random.below(7) as usize];
            match random.below(8) {
                0..3 => pic.set_line(value as u8 & 31, value & 0x100 != 0),
                3 | 4 => pic.write(port, value as u8),
                // Commands that are no initialization, or a controller would never work.
                5 => pic.write(port & 0xfe, value as u8 & !0x10),
                6 => {
                    let _ = pic.read(port);
                }
                _ => {
                    let pending = pic.pending();
                    let vector = pic.acknowledge();
                    assert!(pending.is_none_or(|pending| pending == vector));
                    assert!(pending.is_some() || vector & 7 == 7);
                    taken += u32::from(pending.is_some());
                }
            }
        },
        || {},
    );
    assert!(taken > 1_000, "{taken}");
}

#[test]
fn interval_timer() {
    let pit = std::cell::RefCell::new(Pit::new(1, 0));
    let mut count = 0usize;
    let restart = || {
        count += 1;
        *pit.borrow_mut() = Pit::new([1_193_182, 3_000_000_000, 1_000_000, u64::MAX][count % 4], 0);
    };
    let mut risen = 0;
    storm(
        |random, now| {
            let pit = &mut *pit.borrow_mut();
            let value = random.value();
            match random.below(8) {
                0 | 1 => pit.write(3, value as u8, now),
                2 | 3 => pit.write(value as u16, random.next() as u8, now),
                4 => {
                    let _ = pit.read(value as u16, now);
                }
                5 => pit.write_control(value as u8, now),
                6 => {
                    let _ = (pit.read_control(now), pit.output(value as usize, now));
                }
                _ => {
                    risen += u32::from(pit.tick(now));
                    let is_later = |deadline| deadline > now || now > u64::MAX >> 2;
                    assert!(pit.deadline().is_none_or(is_later), "{:?} at {now}", pit.deadline());
                }
            }
        },
        restart,
    );
    assert!(risen > 1_000, "{risen}");
}

#[test]
fn serial_port() {
    let mut uart = Uart::new();
    let (mut out, mut active) = (0, 0);
    storm(
        |random, _| {
            let value = random.value();
            match random.below(6) {
                0 | 1 => uart.write(value as u16, random.next() as u8),
                2 => {
                    let _ = uart.read(value as u16);
                }
                3 => {
                    let has_room = uart.can_take();
                    assert_eq!(uart.received(value as u8), has_room);
                }
                4 => out += u32::from(uart.transmitted().is_some()),
                _ => uart.write(0, value as u8),
            }
            if uart.line() {
                active += 1;
                assert_eq!(uart.read(2) & 1, 0, "who interrupts says why");
            }
        },
        || {},
    );
    assert!(out > 1_000 && active > 1_000, "{out} {active}");
}

#[test]
fn clocks() {
    let mut rtc = Rtc::new(1_700_000_000, 1_000, 0);
    let timer = PmTimer::new(1_000, 0);
    storm(
        |random, now| {
            let value = random.value();
            rtc.select(value as u8);
            match random.below(3) {
                0 => rtc.write(random.next() as u8, now),
                _ => {
                    let _ = rtc.read(now);
                }
            }
            rtc.select(0xa);
            assert_eq!(rtc.read(now) & 0x80, 0, "no update is ever in progress");
            timer.read(now.wrapping_sub(value));
        },
        || {},
    );
}
