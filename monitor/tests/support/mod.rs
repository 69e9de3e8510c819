//! A virtual CPU that exits as a test's script says.
//!
//! [`Script`] is the run loop's host: each turn of the guest is one closure, which sees what the
//! monitor asked for and writes an exit. It behaves as the kernel does at its edges: it clears
//! `set`, keeps the interrupt that waits until the script accepts it, and tells the task priority.

#![allow(dead_code, reason = "each test program uses a part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use cloister_abi::vcpu::{Exit, SET_INTERRUPT, SET_TPR, VcpuState};
use cloister_monitor::bus::Bus;
use cloister_monitor::cpuid::{CpuidTable, HostFacts};
use cloister_monitor::machine::Machine;
use cloister_monitor::run::{Cpu, Host, Ran, Stop};
use cloister_proto::vm::{MAX_VM_DEVICES, VmConfig, VmDevice};

/// Frequency of the scripted machine's TSC.
pub const TSC_HZ: u64 = 1_000_000_000;

/// One turn.
pub type Turn = Box<dyn FnMut(&mut Guest) -> Ran>;

/// What a script sees and changes.
pub struct Guest {
    pub state: VcpuState,
    pub slots: Rc<Vec<AtomicU64>>,
    /// What the monitor had asked for at this turn.
    pub asked: u32,
    pub deadline: u64,
    /// The interrupt that waits, as the kernel keeps it.
    pub waiting: u32,
    pub tpr: u32,
    pub now: u64,
    /// All that was signalled.
    pub signals: Vec<u64>,
}

impl Guest {
    /// Exits with these facts.
    pub fn exit(&mut self, exit: Exit, info: [u64; 3]) -> Ran {
        self.state.exit = exit as u32;
        self.state.info = info;
        self.state.next_rip = self.state.rip + 2;
        self.state.flags = 0;
        Ran::Exit
    }

    /// Accepts the interrupt that waits.
    pub fn accept(&mut self) -> u32 {
        std::mem::take(&mut self.waiting)
    }
}

/// The host that plays turns. Without any left, the guest has a triple fault.
pub struct Script {
    pub guest: Rc<RefCell<Guest>>,
    page: VcpuState,
    slots: Rc<Vec<AtomicU64>>,
    turns: VecDeque<Turn>,
    waits: VecDeque<Ran>,
}

impl Script {
    pub fn new(turns: Vec<Turn>) -> Script {
        let slots: Rc<Vec<AtomicU64>> = Rc::new((0..1024).map(|_| AtomicU64::new(0)).collect());
        let guest = Guest {
            state: VcpuState::default(),
            slots: slots.clone(),
            asked: 0,
            deadline: 0,
            waiting: 0,
            tpr: 0,
            now: 1_000,
            signals: Vec::new(),
        };
        let (guest, turns) = (Rc::new(RefCell::new(guest)), turns.into());
        Script { guest, page: VcpuState::default(), slots, turns, waits: VecDeque::new() }
    }

    /// What `wait` returns, one after the other; then bits for ever.
    pub fn waits(mut self, waits: &[Ran]) -> Script {
        self.waits = waits.iter().copied().collect();
        self
    }

    /// A view of the guest that outlives the run.
    pub fn guest(&self) -> Rc<RefCell<Guest>> {
        self.guest.clone()
    }
}

impl Host for Script {
    fn state(&mut self) -> &mut VcpuState {
        &mut self.page
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }

    fn run(&mut self, deadline: u64) -> Ran {
        let mut guest = self.guest.borrow_mut();
        guest.asked = std::mem::take(&mut self.page.set);
        guest.deadline = deadline;
        if guest.asked & SET_INTERRUPT != 0 {
            guest.waiting = self.page.interrupt;
        }
        if guest.asked & SET_TPR != 0 {
            guest.tpr = self.page.tpr;
        }
        guest.state = self.page;
        let ran = match self.turns.pop_front() {
            Some(mut turn) => turn(&mut guest),
            None => guest.exit(Exit::Shutdown, [0; 3]),
        };
        self.page = guest.state;
        self.page.set = 0;
        self.page.interrupt = guest.waiting;
        self.page.tpr = guest.tpr;
        ran
    }

    fn wait(&mut self, deadline: u64) -> Ran {
        let mut guest = self.guest.borrow_mut();
        guest.deadline = deadline;
        match self.waits.pop_front() {
            Some(Ran::Deadline) => {
                guest.now = deadline;
                Ran::Deadline
            }
            Some(ran) => ran,
            None => panic!("the virtual CPU waits for ever"),
        }
    }

    fn now(&self) -> u64 {
        self.guest.borrow().now
    }

    fn signal(&mut self, signals: u64) {
        self.guest.borrow_mut().signals.push(signals);
    }
}

/// A virtual machine without devices.
pub fn config(vcpus: u32, flags: u32) -> VmConfig {
    let none = VmDevice { name: [0; 32], kind: 0, queues: 0, reserved: 0 };
    VmConfig {
        version: cloister_abi::API_VERSION,
        vcpus,
        memory: 64 << 20,
        flags,
        identity: 0,
        devices: [none; MAX_VM_DEVICES],
    }
}

/// What CPUID tells, on a host that has everything.
pub fn table(config: &VmConfig) -> CpuidTable {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let cpuid = |leaf, sub| match (leaf, sub) {
        (0, _) => [0xd, word(b"Auth"), word(b"cAMD"), word(b"enti")],
        (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
        (0xd, 2) => [256, 576, 0, 0],
        _ => [u32::MAX; 4],
    };
    let host = HostFacts::read(cpuid, 1_000_000);
    CpuidTable::new(config, &host).expect("a host that has everything")
}

/// A machine on which virtual CPU 0 plays a script to its end, with these flags.
pub fn play_with(flags: u32, script: Script) -> Stop {
    let config = config(1, flags);
    let (machine, table) = (Machine::new(), table(&config));
    machine.start(1, flags & cloister_proto::vm::VM_XAPIC == 0, 1_000);
    let mut bus = Bus::new(flags, TSC_HZ, 0, 1_000);
    let bus = Some(&mut bus);
    Cpu::new(script, 0, &machine, &config, &table, TSC_HZ, bus).run()
}

/// The same without flags.
pub fn play(script: Script) -> Stop {
    play_with(0, script)
}

/// A turn.
pub fn turn(act: impl FnMut(&mut Guest) -> Ran + 'static) -> Turn {
    Box::new(act)
}
