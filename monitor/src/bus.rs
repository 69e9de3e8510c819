//! The devices of a virtual machine that belong to thread 0, and which port or page is whose.
//!
//! [`Bus`] joins the serial port with its console, the clock, the legacy parts, the I/O APIC and
//! the virtio devices, and wires their interrupts. What its devices want of others it leaves in
//! [`Env`]. Neighbours: `access` brings accesses, `run` brings time and signals.
//!
//! Invariant: [`constant`] says of every port whether a device is behind it, and on every thread
//! the same; where none is, the answers are those that stock kernels take for "absent" without
//! trying again.

use crate::devices::{self, DeviceError, Devices};
use crate::ioapic::IoApic;
use crate::machine::Machine;
use crate::num::{index, low8};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::pm_timer::PmTimer;
use crate::request::{Op, Request};
use crate::rtc::Rtc;
use crate::uart::Uart;
use cloister_guest_abi::platform;
use cloister_proto::vm::{MAX_VM_DEVICES, VM_IOAPIC, VM_LEGACY};
use cloister_ring::Stream;
use core::num::NonZeroU64;

/// In [`Env::signals`]: the first of a bit for each device's worker, behind those of the threads.
pub const SIGNAL_WORKER: u32 = 8;
/// In [`Env::signals`]: the console.
pub const SIGNAL_CONSOLE: u64 = 1 << 16;

/// No device has a port from here on.
const PORTS_END: u16 = 0x1800;
/// The interrupt pin of the timer, at either controller.
const PIT_PIN: u8 = 0;

/// What a device's work needs of the monitor, and what comes of it.
pub struct Env<'m> {
    /// Where interrupts go.
    pub machine: &'m Machine,
    /// The machine's TSC.
    pub now: u64,
    /// Who is to be signalled: threads from bit 0, workers from [`SIGNAL_WORKER`],
    /// [`SIGNAL_CONSOLE`].
    pub signals: u64,
}

/// The parts of an older machine that some guests need.
#[derive(Debug)]
struct Legacy {
    pic: Pic,
    pit: Pit,
    pm_timer: PmTimer,
}

/// The devices.
#[derive(Debug)]
pub struct Bus<'a> {
    flags: u32,
    uart: Uart,
    console: Option<Stream<'a>>,
    rtc: Rtc,
    legacy: Option<Legacy>,
    ioapic: Option<IoApic>,
    devices: Devices<'a>,
    /// The bits of thread 0's signal word that the console sets.
    console_bits: u64,
    /// By the number of a bit: the device whose worker sets it.
    workers: [u8; 64],
    /// The legacy parts have changed something that only the virtual CPU itself can see.
    changed: bool,
}

/// What is behind a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Uart,
    Rtc,
    /// PCI configuration and the virtio devices.
    Devices,
    Pit,
    /// Speaker and gate of the timer, and two error bits that must not look set.
    ControlB,
    Pic,
    PmTimer,
    /// Nothing, and 0 says so: status of a keyboard controller without anything to wait for, sleep
    /// registers.
    Zero,
    /// Nothing.
    Nobody,
}

#[inline(always)]
fn part(port: u16) -> Part {
    match port {
        0x3f8..=0x3ff => Part::Uart,
        0xcf8..=0xcff | platform::VIRTIO..PORTS_END => Part::Devices,
        0x70 | 0x71 => Part::Rtc,
        0x40..=0x43 => Part::Pit,
        0x61 => Part::ControlB,
        0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Part::Pic,
        0x508..=0x50b => Part::PmTimer,
        0x64 | platform::SLEEP_CONTROL..=platform::SLEEP_STATUS => Part::Zero,
        _ => Part::Nobody,
    }
}

const _: () = {
    assert!(platform::UART == 0x3f8 && platform::RTC == 0x70 && platform::PM_TIMER == 0x508);
    assert!(platform::PCI_ADDRESS == 0xcf8 && platform::PCI_DATA == 0xcfc);
    assert!(PORTS_END - platform::VIRTIO == 8 * platform::VIRTIO_LEN && MAX_VM_DEVICES == 8);
};

/// What a port reads that has no device behind it, for a virtual machine with these flags; `None`
/// if there is one.
#[inline]
pub fn constant(port: u16, flags: u32) -> Option<u32> {
    if port >= PORTS_END {
        return Some(u32::MAX);
    }
    match part(port) {
        Part::Uart | Part::Rtc | Part::Devices => None,
        Part::Pit | Part::ControlB | Part::Pic | Part::PmTimer if flags & VM_LEGACY != 0 => None,
        // A counter that stands still makes Linux give up at once; one of ones, after 100,000 reads.
        Part::Pit | Part::ControlB | Part::Zero => Some(0),
        Part::Pic | Part::PmTimer | Part::Nobody => Some(u32::MAX),
    }
}

impl<'a> Bus<'a> {
    /// The devices of a virtual machine with these flags, started now, as yet without console and
    /// virtio devices. `unix` is the time in seconds since 1970.
    pub fn new(flags: u32, tsc_hz: u64, unix: u64, now: u64) -> Bus<'a> {
        let legacy = || Legacy {
            pic: Pic::new(),
            pit: Pit::new(tsc_hz, now),
            pm_timer: PmTimer::new(tsc_hz, now),
        };
        Bus {
            flags,
            uart: Uart::new(),
            console: None,
            rtc: Rtc::new(unix, tsc_hz, now),
            legacy: (flags & VM_LEGACY != 0).then(legacy),
            ioapic: (flags & VM_IOAPIC != 0).then(IoApic::new),
            devices: Devices::new(),
            console_bits: 0,
            workers: [u8::MAX; 64],
            changed: false,
        }
    }

    /// Connects the serial port to a console, whose signals come with these bits.
    pub fn set_console(&mut self, console: Stream<'a>, bits: u64) {
        (self.console, self.console_bits) = (Some(console), bits);
    }

    /// Adds a virtio device, whose worker's signals come with these bits. The worker is to be
    /// signalled.
    pub fn add_device(
        &mut self,
        number: usize,
        bits: u64,
        add: impl FnOnce(&mut Devices<'a>) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let own = u8::try_from(number).unwrap_or(u8::MAX);
        for (worker, bit) in self.workers.iter_mut().zip(0..) {
            *worker = if bits >> bit & 1 != 0 { own } else { *worker };
        }
        add(&mut self.devices)
    }

    /// A device whose worker has not answered the first reset. The guest must not run before there
    /// is none.
    pub fn unready(&mut self) -> Option<usize> {
        self.devices.unready()
    }

    /// Reads a port.
    #[inline(always)]
    pub fn read(&mut self, port: u16, width: u8, env: &mut Env<'_>) -> u32 {
        let part = part(port);
        if part == Part::Devices {
            return self.devices.read(port, width).unwrap_or(u32::MAX);
        }
        if let Some(value) = constant(port, self.flags) {
            return value;
        }
        let mut value = [0; 4];
        for (byte, number) in value.iter_mut().zip(0..u16::from(width)) {
            *byte = self.read_byte(port.wrapping_add(number), env.now);
        }
        self.after(part, env);
        u32::from_le_bytes(value)
    }

    /// Writes a port.
    #[inline(always)]
    pub fn write(&mut self, port: u16, width: u8, value: u32, env: &mut Env<'_>) {
        let part = part(port);
        if part == Part::Devices {
            self.devices.write(port, width, value, &mut |effect| apply(effect, env));
            return;
        }
        if constant(port, self.flags).is_some() {
            return;
        }
        for (byte, number) in value.to_le_bytes().into_iter().zip(0..u16::from(width)) {
            self.write_byte(port.wrapping_add(number), byte, env.now);
        }
        self.after(part, env);
    }

    fn read_byte(&mut self, port: u16, now: u64) -> u8 {
        match (part(port), &mut self.legacy) {
            (Part::Uart, _) => self.uart.read(port & 7),
            (Part::Rtc, _) if port & 1 != 0 => self.rtc.read(now),
            (Part::Pit, Some(legacy)) => legacy.pit.read(port & 3, now),
            (Part::ControlB, Some(legacy)) => legacy.pit.read_control(now),
            (Part::Pic, Some(legacy)) => legacy.pic.read(port),
            (Part::PmTimer, Some(legacy)) => {
                low8(u64::from(legacy.pm_timer.read(now)) >> ((port & 3) << 3))
            }
            _ => u8::MAX,
        }
    }

    fn write_byte(&mut self, port: u16, byte: u8, now: u64) {
        match (part(port), &mut self.legacy) {
            (Part::Uart, _) => self.uart.write(port & 7, byte),
            (Part::Rtc, _) if port & 1 != 0 => self.rtc.write(byte, now),
            (Part::Rtc, _) => self.rtc.select(byte),
            (Part::Pit, Some(legacy)) => legacy.pit.write(port & 3, byte, now),
            (Part::ControlB, Some(legacy)) => legacy.pit.write_control(byte, now),
            (Part::Pic, Some(legacy)) => legacy.pic.write(port, byte),
            _ => {}
        }
    }

    /// After an access: wires, bytes and deadlines follow the registers.
    #[inline(always)]
    fn after(&mut self, part: Part, env: &mut Env<'_>) {
        if part == Part::Uart {
            self.exchange(env);
        } else if self.legacy.is_some() {
            self.changed = true;
            self.tick(env);
        }
    }

    /// The 16 bytes of a device page that an address lies in.
    fn look(&self, address: u64) -> [u64; 2] {
        match &self.ioapic {
            Some(ioapic) if is_ioapic(address) => [u64::from(ioapic.read(register(address))), 0],
            _ => self.devices.read_page(address).unwrap_or([u64::MAX; 2]),
        }
    }

    /// A register in a device page was written; these are its 16 bytes.
    fn store(&mut self, address: u64, values: [u64; 2], env: &mut Env<'_>) {
        match &mut self.ioapic {
            Some(ioapic) if is_ioapic(address) => {
                // Registers are the first four bytes of each sixteen.
                let [value, _] = values;
                if address & 0xf < 4 {
                    ioapic.write(register(address), crate::num::low32(value));
                }
                self.flush(env);
            }
            _ => {
                self.devices.write_page(address, values, &mut |effect| apply(effect, env));
            }
        }
    }

    /// Carries out what a virtual CPU asks for.
    #[inline(always)]
    pub fn carry_out(&mut self, request: &Request, env: &mut Env<'_>) -> [u64; 2] {
        let Request { op, address, width, values } = *request;
        let (port, [value, _]) = (crate::num::low16(u64::from(address)), values);
        match op {
            Op::PortIn => return [u64::from(self.read(port, width, env)), 0],
            Op::PortOut => self.write(port, width, crate::num::low32(value), env),
            Op::MemoryRead => return self.look(u64::from(address)),
            Op::MemoryWrite => self.store(u64::from(address), values, env),
            Op::EndOfInterrupt => {
                if let Some(ioapic) = &mut self.ioapic {
                    ioapic.eoi(low8(u64::from(address)));
                }
                self.flush(env);
            }
        }
        [0; 2]
    }

    /// Peers have signalled.
    pub fn poll(&mut self, bits: u64, env: &mut Env<'_>) {
        if bits & self.console_bits != 0 {
            self.exchange(env);
        }
        let mut left = bits;
        while let Some(number) = self.workers.get(index(left.trailing_zeros().into())) {
            left &= left.wrapping_sub(1);
            self.devices.poll(usize::from(*number), &mut |effect| apply(effect, env));
        }
    }

    /// If these bits tell of a completion that interrupts virtual CPU 0 and of nothing else: the
    /// vector. It is that of this thread, and needs no post. Otherwise [`Bus::poll`] is to follow.
    #[inline(always)]
    pub fn completion(&mut self, bits: u64) -> Option<u8> {
        let first = NonZeroU64::new(bits)?.trailing_zeros();
        let number = self.workers.get(index(first.into()))?;
        let is_one = bits & bits.wrapping_sub(1) == 0;
        if is_one { self.devices.completion(usize::from(*number)) } else { None }
    }

    /// When [`Bus::tick`] is to be called.
    pub fn deadline(&self) -> u64 {
        self.legacy.as_ref().and_then(|legacy| legacy.pit.deadline()).unwrap_or(u64::MAX)
    }

    /// It is time.
    pub fn tick(&mut self, env: &mut Env<'_>) {
        if self.legacy.as_mut().is_some_and(|legacy| legacy.pit.tick(env.now)) {
            self.set_line(PIT_PIN, false, env);
            self.set_line(PIT_PIN, true, env);
        }
    }

    /// Whether the legacy parts have changed what the virtual CPU sees of them; once.
    #[inline(always)]
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// The vector that the 8259A would give.
    pub fn external(&self) -> Option<u8> {
        self.legacy.as_ref().and_then(|legacy| legacy.pic.pending())
    }

    /// The virtual CPU has taken it.
    #[inline(never)]
    pub fn acknowledge(&mut self) {
        if let Some(legacy) = &mut self.legacy {
            legacy.pic.acknowledge();
        }
    }

    /// Moves bytes between serial port and console as far as both have room, and wires the port's
    /// interrupt.
    fn exchange(&mut self, env: &mut Env<'_>) {
        match &mut self.console {
            Some(console) => {
                let mut moved = 0usize;
                while console.room() != 0
                    && let Some(byte) = self.uart.transmitted()
                {
                    moved |= console.write(&[byte]);
                }
                let mut byte = [0];
                while self.uart.can_take() && console.read(&mut byte) != 0 {
                    self.uart.received(byte[0]);
                    moved |= 1;
                }
                env.signals |= if moved != 0 { SIGNAL_CONSOLE } else { 0 };
            }
            // Nobody listens: the line is open, and what is sent is gone.
            None => while self.uart.transmitted().is_some() {},
        }
        if self.ioapic.is_some() || self.legacy.is_some() {
            self.set_line(platform::UART_PIN, self.uart.line(), env);
        }
    }

    /// Drives a pin of the interrupt controllers.
    fn set_line(&mut self, pin: u8, is_active: bool, env: &mut Env<'_>) {
        if let Some(legacy) = &mut self.legacy {
            legacy.pic.set_line(pin, is_active);
            self.changed = true;
        }
        if let Some(ioapic) = &mut self.ioapic {
            ioapic.set_line(pin, is_active);
            self.flush(env);
        }
    }

    /// Delivers the messages of the I/O APIC.
    fn flush(&mut self, env: &mut Env<'_>) {
        while let Some(message) = self.ioapic.as_mut().and_then(IoApic::next_message) {
            env.signals |= u64::from(env.machine.post(&message, None));
        }
    }
}

/// What a virtio device wants of others.
fn apply(effect: devices::Effect, env: &mut Env<'_>) {
    env.signals |= match effect {
        devices::Effect::Interrupt(message) => u64::from(env.machine.post(&message, None)),
        devices::Effect::Signal(number) => worker_signal(number),
    };
}

/// The bit of [`Env::signals`] for a device's worker.
pub fn worker_signal(number: usize) -> u64 {
    1u64.wrapping_shl(SIGNAL_WORKER) << (number & 7)
}

fn is_ioapic(address: u64) -> bool {
    address & !0xfff == platform::IOAPIC
}

/// The register's offset in the page of the I/O APIC.
fn register(address: u64) -> u32 {
    crate::num::low32(address & 0xff0)
}
