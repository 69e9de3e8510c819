//! Accesses to devices: ports, device pages, ends of interrupts.
//!
//! On thread 0 they go to the devices directly; the other threads ask it ([`crate::request`]) for
//! what they do not know by themselves. Device pages are stepped: [`Cpu::memory`] answers a fault,
//! `finish_step` gives what was written its effect. Neighbours: `exits` calls, `step` keeps the
//! slots' state, `bus` has the devices.
//!
//! Invariant: an address without an owner reads as ones and takes writes without effect, inside
//! [`GUEST_DEVICES`]; anywhere else nothing can be put in its place, and the access is a general
//! protection fault.
//!
//! [`GUEST_DEVICES`]: cloister_abi::layout::GUEST_DEVICES

use crate::apic::{DFR, LDR, Mode, TPR};
use crate::bus;
use crate::num::{index, low32};
use crate::request::{Op, Request};
use crate::run::{Cpu, Host, NEVER, Stop};
use crate::step::{Pages, is_device};
use cloister_abi::layout::PAGE;
use cloister_abi::vcpu;
use cloister_guest_abi::platform;
use cloister_proto::stopped;
use cloister_proto::vm::VM_IOAPIC;

/// Whose a device page is.
enum Owner {
    /// The local APIC of the virtual CPU itself.
    Apic,
    /// A device of thread 0.
    Device,
    /// Nobody.
    Nobody,
}

impl<H: Host> Cpu<'_, '_, H> {
    /// Reads a port.
    #[inline(always)]
    pub(crate) fn port_in(&mut self, port: u16, width: u8) -> u32 {
        match bus::constant(port, self.config.flags) {
            Some(value) => value,
            None => low32(self.access(Op::PortIn, port.into(), width, [0; 2])[0]),
        }
    }

    /// Writes a port.
    #[inline(always)]
    pub(crate) fn port_out(&mut self, port: u16, width: u8, value: u32) {
        match (bus::constant(port, self.config.flags), port) {
            (Some(_), platform::SLEEP_CONTROL | platform::PANIC) | (None, platform::RESET) => {
                self.leave(port, width, value);
            }
            (Some(_), _) => {}
            (None, _) => _ = self.access(Op::PortOut, port.into(), width, [value.into(), 0]),
        }
    }

    /// The ports by which a guest ends. Other values do nothing.
    #[cold]
    fn leave(&mut self, port: u16, width: u8, value: u32) {
        let [byte, ..] = value.to_le_bytes();
        match port {
            platform::PANIC => self.stopped(stopped::STOPPED_PANIC, byte),
            platform::SLEEP_CONTROL if byte == platform::SLEEP_OFF => self.end(Stop::PowerOff),
            // The bit below the one that resets only says how; some kernels set it first.
            platform::RESET if width == 1 && byte & 4 != 0 => self.end(Stop::Reset),
            _ => {}
        }
    }

    /// An access to an address that is not RAM.
    #[inline(never)]
    pub(crate) fn memory(&mut self) {
        let state = self.host.state();
        let ([address, kind, _], flags) = (state.info, state.flags);
        if kind & (vcpu::MEMORY_FETCH | vcpu::MEMORY_WALK) != 0 {
            return self
                .stopped(stopped::STOPPED_DEVICE_PAGE, u8::from(kind & vcpu::MEMORY_WALK != 0));
        }
        if flags & vcpu::FLAG_EVENT != 0 {
            // Tables or stack of an event's delivery are where there is no memory. Ones instead of
            // them end in a triple fault on any CPU.
            return self.stopped(stopped::STOPPED_TRIPLE_FAULT, 0);
        }
        if !is_device(address) {
            self.step.cancel();
            return self.refuse();
        }
        let Ok(slot) = self.step.fault(address, kind & vcpu::MEMORY_WRITE != 0) else {
            return self.stopped(stopped::STOPPED_TOO_MANY_PAGES, 0);
        };
        self.fill(slot, address);
        self.arm_step();
    }

    /// Has the next turn run one instruction.
    pub(crate) fn arm_step(&mut self) {
        let slots = self.step.addresses();
        let state = self.host.state();
        state.slots = slots;
        state.set |= vcpu::STEP;
    }

    /// Puts the register's value into its slot.
    fn fill(&mut self, slot: usize, address: u64) {
        match self.owner(address) {
            Owner::Apic => {
                self.store_task_priority();
                let value = self.apic.read_mmio(low32(address & 0xff0), self.host.now());
                // Reading what is not there is an error, which may interrupt.
                self.attention |= self.apic.errors != 0;
                Pages(self.host.slots()).fill(slot, address, [u64::from(value), 0]);
            }
            Owner::Device => self.fill_device(slot, address),
            Owner::Nobody => Pages(self.host.slots()).fill_ones(slot, address),
        }
    }

    /// The slot hides a page of MSI-X that the guest reads by itself. An instruction that stores
    /// into it may load from anywhere else in it (MOVS), so the slot shows all that is there.
    fn fill_device(&mut self, slot: usize, address: u64) {
        let page = address & !(PAGE - 1);
        let device = self.config.devices.get(index(page.wrapping_sub(platform::MSIX) / PAGE));
        let table = device.map(|device| (0..=u64::from(device.queues)).map(|entry| entry << 4));
        let shown = table.into_iter().flat_map(|table| table.chain([platform::MSIX_PENDING]));
        for line in shown.map(|offset| page | offset).chain([address]) {
            let values = self.access(Op::MemoryRead, low32(line), 16, [0; 2]);
            Pages(self.host.slots()).fill(slot, line, values);
        }
    }

    /// The stepped instruction is done: registers that it wrote get their values.
    pub(crate) fn finish_step(&mut self) {
        for (slot, written) in self.step.writes().into_iter().enumerate() {
            let Some(address) = written else { continue };
            let values = Pages(self.host.slots()).read(slot, address);
            match self.owner(address) {
                Owner::Apic => self.store_apic(address, values),
                Owner::Device => {
                    self.access(Op::MemoryWrite, low32(address), 16, values);
                }
                Owner::Nobody => {}
            }
        }
    }

    /// A register of the APIC's page was written: four bytes out of each sixteen.
    fn store_apic(&mut self, address: u64, values: [u64; 2]) {
        let [value, _] = values;
        if address & 0xf < 4 {
            let offset = low32(address & 0xff0);
            let effect = self.apic.write_mmio(offset, low32(value), self.host.now());
            match offset >> 4 {
                TPR => self.load_task_priority(),
                LDR | DFR => self.publish_route(),
                _ => self.effect(effect),
            }
        }
    }

    fn owner(&self, address: u64) -> Owner {
        match address & !(PAGE - 1) {
            platform::APIC if self.apic.mode() == Mode::XApic => Owner::Apic,
            platform::IOAPIC if self.config.flags & VM_IOAPIC != 0 => Owner::Device,
            page => {
                let number = index(page.wrapping_sub(platform::MSIX) / PAGE);
                let device = self.config.devices.get(number);
                // An empty name ends the list.
                match device.map(|device| device.name) {
                    Some([first, ..]) if first != 0 => Owner::Device,
                    _ => Owner::Nobody,
                }
            }
        }
    }

    /// A level-triggered interrupt is over.
    #[inline(never)]
    pub(crate) fn end_of_interrupt(&mut self, vector: u8) {
        self.access(Op::EndOfInterrupt, u32::from(vector), 0, [0; 2]);
    }

    /// Carries an access out, here or on thread 0.
    fn access(&mut self, op: Op, address: u32, width: u8, values: [u64; 2]) -> [u64; 2] {
        let request = Request { op, address, width, values };
        self.carry_out(&request).unwrap_or_else(|| self.ask(&request))
    }

    /// Carries it out if the devices are this thread's.
    #[inline(never)]
    pub(crate) fn carry_out(&mut self, request: &Request) -> Option<[u64; 2]> {
        self.with_bus(|bus, env| bus.carry_out(request, env))
    }

    /// Asks thread 0 and waits for the answer.
    #[inline(never)]
    fn ask(&mut self, request: &Request) -> [u64; 2] {
        if self.machine.requests.ask(self.number, request) {
            self.host.signal(1);
        }
        // The bit that the answer comes with is the one that posted interrupts come with.
        self.attention = true;
        loop {
            if let Some(values) = self.machine.requests.answer(self.number) {
                return values;
            }
            self.host.wait(NEVER);
        }
    }
}
