//! A guest made of bytes: the host of a virtual CPU that exits as an input says, and judges what
//! the monitor asks for before each turn.
//!
//! Rules, before each turn: an event that is injected is an exception that guests have or an NMI;
//! the interrupt that waits has a vector of 16 or more unless an 8259A may have given it; registers
//! in groups that are set have values that the kernel takes; a step names device pages; the
//! instruction pointer is at the exited instruction, behind it, or where a start put it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_abi::layout::GUEST_DEVICES;
use cloister_abi::vcpu::{self, Exit, VcpuState};
use cloister_monitor::request::Requests;
use cloister_monitor::run::{Host, Ran};
use cloister_proto::vm::VM_LEGACY;

use super::ports;
use crate::{Input, mark};

/// MSRs that have something behind them.
const MSRS: [u64; 13] = [
    0x10,
    0x1b,
    0x3a,
    0x3b,
    0x277,
    0x6e0,
    0x80b,
    0x80f,
    0x830,
    0x832,
    0x838,
    0xc000_0080,
    0xc000_0103,
];

/// The host.
pub struct Guest<'a> {
    /// What is left of the input.
    pub input: Input<'a>,
    /// Turns and waits so far.
    pub turns: u32,
    /// The number of the virtual CPU.
    pub number: usize,
    /// Flags of the virtual machine.
    pub flags: u32,
    /// What the virtual CPUs ask of thread 0.
    pub requests: &'a Requests,
    /// Words of the two workers.
    pub shared: [&'a [AtomicU64]; 2],
    /// The page.
    pub page: VcpuState,
    /// The slots.
    pub slots: Vec<AtomicU64>,
    /// The machine's TSC.
    pub now: u64,
    /// The exited instruction and the one behind it.
    pub last: [u64; 2],
    /// The kernel holds an interrupt.
    pub waiting: u32,
}

impl Host for Guest<'_> {
    fn state(&mut self) -> &mut VcpuState {
        &mut self.page
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }

    fn run(&mut self, deadline: u64) -> Ran {
        self.judge();
        self.turns += 1;
        self.last = [self.page.rip; 2];
        self.now = self.now.saturating_add(self.input.delay());
        let set = std::mem::take(&mut self.page.set);
        if set & vcpu::SET_INTERRUPT != 0 {
            self.waiting = self.page.interrupt;
        }
        self.disturb();
        if self.input.flag() {
            self.waiting = 0;
        }
        self.page.interrupt = self.waiting;
        match self.input.byte() {
            0..8 => Ran::Bits(u64::from(self.input.byte() & 0x1f)),
            8..16 => {
                self.now = self.now.max(deadline.min(self.now.saturating_add(1 << 32)));
                Ran::Deadline
            }
            _ => {
                self.exit(set & vcpu::STEP != 0);
                Ran::Exit
            }
        }
    }

    fn wait(&mut self, deadline: u64) -> Ran {
        self.turns += 1;
        self.answer();
        self.disturb();
        if self.input.flag() && deadline != u64::MAX {
            self.now = self.now.max(deadline);
            return Ran::Deadline;
        }
        Ran::Bits(u64::from(self.input.byte()))
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn signal(&mut self, signals: u64) {
        let own = 1 << self.number;
        assert_eq!(signals & own, 0, "a virtual CPU signals itself");
        assert_eq!(signals & !0x1_03ff, 0, "somebody is signalled who is not there");
    }
}

impl Guest<'_> {
    fn disturb(&mut self) {
        if self.input.byte() & 7 == 0 {
            let words = self.shared[usize::from(self.input.byte() & 1)];
            ports::disturb(words, &mut self.input);
        }
    }

    /// Thread 0 answers what this virtual CPU asked it.
    fn answer(&mut self) {
        while let Some((vcpu, _)) = self.requests.next() {
            self.requests.reply(vcpu, [self.input.value(), self.input.value()]);
            mark("asked");
        }
    }

    /// An exit, with what belongs to it.
    fn exit(&mut self, steps: bool) {
        let (input, page) = (&mut self.input, &mut self.page);
        page.rip = u64::from(input.short());
        page.next_rip = page.rip + 1 + u64::from(input.byte() & 7);
        self.last = [page.rip, page.next_rip];
        let flags = input.byte();
        page.rflags = u64::from(flags & 1) << 9 | 2;
        page.flags = if flags & 0xf0 == 0 { u32::from(flags >> 1 & 3) } else { 0 };
        page.tpr = u32::from(flags >> 4);
        let few = [6, 8, 8, 8, 9, 1, 5, 6];
        let all = [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 10, 11, 12, 13, 2, 3];
        let kind = input.byte();
        page.exit = match (kind, steps) {
            (250.., _) => u32::from(input.byte() & 31),
            (_, true) => few[usize::from(kind & 7)],
            (_, false) => all[usize::from(kind & 15)],
        };
        page.info = [input.value(), 0, 0];
        match Exit::from_code(page.exit) {
            Some(Exit::Port) => {
                let (port, width) = (ports::port(input), u64::from(ports::width(input)));
                let kind = input.byte();
                let input_or_not = if kind & 1 == 0 { vcpu::PORT_IN } else { 0 };
                let string = if kind & 0xfc == 0 { vcpu::PORT_STRING } else { 0 };
                page.info[0] = u64::from(port) | width << 16 | input_or_not | string;
                page.registers[0] = input.value();
            }
            Some(Exit::MsrRead | Exit::MsrWrite) => {
                page.registers[0] = input.value();
                page.registers[2] = if input.flag() { input.value() } else { 0 };
                page.registers[1] = match input.byte() {
                    240.. => input.value(),
                    kind => MSRS[usize::from(kind) % MSRS.len()],
                };
            }
            Some(Exit::Memory) => {
                page.info[0] = ports::address(input);
                page.info[1] = u64::from(input.byte() & 1);
                let odd = input.byte();
                page.info[1] |= if odd > 252 { u64::from(odd & 7) } else { 0 };
                page.info[0] ^= if odd == 252 { input.value() } else { 0 };
            }
            Some(Exit::Stepped | Exit::Exception) => {
                let slot = usize::from(input.short() & 0x3ff);
                self.slots[slot].store(input.value(), Relaxed);
            }
            Some(Exit::Xsetbv) => {
                page.registers[..3].copy_from_slice(&[u64::from(input.byte() & 7), 0, 0]);
            }
            Some(Exit::Cpuid) => page.registers[0] = input.value(),
            _ => {}
        }
    }

    /// The rules.
    fn judge(&self) {
        let (page, set) = (&self.page, self.page.set);
        let is_started = set & vcpu::RESET != 0;
        let is_kept = self.last.contains(&page.rip) || is_started;
        assert!(is_kept, "rip {:#x} is neither of {:#x?}", page.rip, self.last);
        if set & vcpu::SET_EVENT != 0 {
            self.judge_event();
        }
        if set & vcpu::SET_INTERRUPT != 0 && page.interrupt != 0 {
            let (vector, is_legacy) = (page.interrupt, self.flags & VM_LEGACY != 0);
            assert!(vector < 256 && (vector > 15 || is_legacy), "interrupt {vector:#x} is offered");
            mark("interrupt");
        }
        if set & vcpu::SET_CONTROL != 0 {
            assert_eq!(page.efer & !0xd01, 0, "EFER {:#x}", page.efer);
            let is_type = |byte: &u8| [0, 1, 4, 5, 6, 7].contains(byte);
            assert!(page.pat.to_le_bytes().iter().all(is_type), "PAT {:#x}", page.pat);
        }
        if set & vcpu::SET_XCR0 != 0 {
            assert!(page.xcr0 & !7 == 0 && page.xcr0 & 1 != 0, "XCR0 {:#x}", page.xcr0);
        }
        assert!(set & vcpu::SET_TPR == 0 || page.tpr < 16, "task priority {}", page.tpr);
        if set & vcpu::STEP != 0 {
            for slot in page.slots.iter().filter(|slot| **slot != 0) {
                let address = slot & !vcpu::SLOT_WRITE;
                assert!(GUEST_DEVICES.contains(&address), "a slot at {address:#x}");
                assert_eq!(address & 0xfff, 0);
            }
            mark("step");
        }
    }

    /// #DB, #UD, #GP and #PF are the monitor's; what an instruction raised during a step comes
    /// back as it was.
    fn judge_event(&self) {
        let event = self.page.event;
        if event == vcpu::EVENT_NMI {
            return mark("nmi");
        }
        assert_eq!(event & 0x7ff & !0xff, vcpu::EVENT_EXCEPTION & 0x7ff, "event {event:#x}");
        let excepted = self.page.exit == Exit::Exception as u32;
        let is_known = [1, 6, 13, 14].contains(&(event & 0xff)) || excepted;
        assert!(is_known && event & 1 << 31 != 0, "event {event:#x}");
        mark("exception");
    }
}
