//! Several virtual CPUs on threads of their own: start-up, interrupts between them, and devices
//! that belong to thread 0. Guests are small programs that the host runs turn by turn.
#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use cloister_abi::vcpu::{
    Exit, MEMORY_WRITE, PORT_IN, RAX, RCX, RDX, RESET, SET_EVENT, SET_INTERRUPT, STEP, VcpuState,
};
use cloister_monitor::bus::Bus;
use cloister_monitor::machine::Machine;
use cloister_monitor::posted::{INIT, STARTUP};
use cloister_monitor::run::{Cpu, Host, NEVER, Ran, Stop};
use cloister_proto::vm::{VM_IOAPIC, VM_XAPIC};
use support::{TSC_HZ, config, table};

/// The signal words of all threads, and whether the test is over.
struct Words {
    words: [Mutex<u64>; 8],
    changed: [Condvar; 8],
    over: AtomicBool,
}

impl Words {
    fn new() -> Arc<Words> {
        let (words, changed) = (Default::default(), Default::default());
        Arc::new(Words { words, changed, over: AtomicBool::new(false) })
    }

    fn signal(&self, thread: usize) {
        *self.words[thread].lock().unwrap() |= 1;
        self.changed[thread].notify_one();
    }

    /// As the kernel's `wait`, without a deadline.
    fn wait(&self, thread: usize) -> u64 {
        let mut word = self.words[thread].lock().unwrap();
        while *word == 0 {
            word = self.changed[thread].wait(word).unwrap();
        }
        std::mem::take(&mut word)
    }

    fn take(&self, thread: usize) -> u64 {
        std::mem::take(&mut self.words[thread].lock().unwrap())
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        (0..8).for_each(|thread| self.signal(thread));
    }
}

/// One instruction of a guest program, or its retirement.
type Program = Box<dyn FnMut(&mut VcpuState, &[AtomicU64], u32) -> Ran + Send>;

struct Thread {
    number: usize,
    words: Arc<Words>,
    page: VcpuState,
    slots: Vec<AtomicU64>,
    program: Program,
    waiting: u32,
    /// Waits after the test is over.
    late: u32,
}

impl Host for Thread {
    fn state(&mut self) -> &mut VcpuState {
        &mut self.page
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }

    fn run(&mut self, _deadline: u64) -> Ran {
        let bits = self.words.take(self.number);
        if bits != 0 {
            return Ran::Bits(bits);
        }
        let asked = std::mem::take(&mut self.page.set);
        if asked & SET_INTERRUPT != 0 {
            self.waiting = self.page.interrupt;
        }
        self.page.interrupt = self.waiting;
        let ran = (self.program)(&mut self.page, &self.slots, asked);
        self.waiting = self.page.interrupt;
        ran
    }

    fn wait(&mut self, deadline: u64) -> Ran {
        assert_eq!(deadline, NEVER);
        if self.words.over.load(Ordering::SeqCst) {
            self.late += 1;
            assert!(self.late < 100, "virtual CPU {} waits for an answer", self.number);
            return Ran::Bits(1);
        }
        Ran::Bits(self.words.wait(self.number))
    }

    fn now(&self) -> u64 {
        1
    }

    fn signal(&mut self, signals: u64) {
        (0..8).filter(|thread| signals >> thread & 1 != 0).for_each(|n| self.words.signal(n));
    }
}

fn exit(state: &mut VcpuState, exit: Exit, info: [u64; 3]) -> Ran {
    (state.exit, state.info) = (exit as u32, info);
    state.next_rip = state.rip + 1;
    Ran::Exit
}

fn wrmsr(state: &mut VcpuState, msr: u64, value: u64) -> Ran {
    state.registers[RCX] = msr;
    (state.registers[RAX], state.registers[RDX]) = (value & 0xffff_ffff, value >> 32);
    exit(state, Exit::MsrWrite, [0; 3])
}

fn out(state: &mut VcpuState, port: u64, width: u64, value: u64) -> Ran {
    state.registers[RAX] = value;
    exit(state, Exit::Port, [port | width << 16, 0, 0])
}

fn input(state: &mut VcpuState, port: u64, width: u64) -> Ran {
    state.registers[RAX] = 0;
    exit(state, Exit::Port, [port | width << 16 | PORT_IN, 0, 0])
}

/// Runs the programs until one ends the machine; fails if that takes half a minute.
fn run(flags: u32, programs: Vec<Program>) -> Stop {
    let vcpus = programs.len();
    let config = config(vcpus as u32, flags);
    let (machine, table, words) = (Machine::new(), table(&config), Words::new());
    machine.start(vcpus, flags & VM_XAPIC == 0, 1);
    let stop = Mutex::new(None);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (number, program) in programs.into_iter().enumerate() {
            let (machine, config, table, words) = (&machine, &config, &table, words.clone());
            let stop = &stop;
            scope.spawn(move || {
                let page = VcpuState::default();
                let slots = (0..1024).map(|_| AtomicU64::new(0)).collect();
                let signals = words.clone();
                let host =
                    Thread { number, words: signals, page, slots, program, waiting: 0, late: 0 };
                let mut bus = Bus::new(flags, TSC_HZ, 0, 1);
                let bus = (number == 0).then_some(&mut bus);
                let mut cpu = Cpu::new(host, number as u8, machine, config, table, TSC_HZ, bus);
                while !words.over.load(Ordering::SeqCst) {
                    if let Some(end) = cpu.turn() {
                        *stop.lock().unwrap() = Some(end);
                        words.end();
                    }
                    if begun.elapsed() > Duration::from_secs(30) {
                        words.end();
                    }
                }
            });
        }
    });
    stop.into_inner().unwrap().expect("no virtual CPU has ended the machine in 30 s")
}

/// The boot CPU: starts the others at page 0x90, then halts and ends interrupts.
fn boot(others: u64) -> Program {
    let mut at = 0;
    Box::new(move |state, _, _| {
        state.rflags = 0x200;
        if state.interrupt != 0 {
            state.interrupt = 0;
            return wrmsr(state, 0x80b, 0);
        }
        at += 1;
        match at {
            1 => wrmsr(state, 0x80f, 0x1ff),
            n if n <= 1 + others => wrmsr(state, 0x830, (n - 1) << 32 | 0x4500),
            n if n <= 1 + 2 * others => wrmsr(state, 0x830, (n - 1 - others) << 32 | 0x690),
            // The second start-up message that every kernel sends.
            n if n <= 1 + 3 * others => wrmsr(state, 0x830, (n - 1 - 2 * others) << 32 | 0x690),
            _ => exit(state, Exit::Halt, [0; 3]),
        }
    })
}

/// Writes a register at thread 0 and reads it back, so often; between, interrupts the boot CPU.
/// Calls `end` afterwards. What is read is compared if nobody else writes the register.
fn hammer(
    compares: bool,
    write: fn(&mut VcpuState, u64) -> Ran,
    read: fn(&mut VcpuState) -> Ran,
    mut end: impl FnMut(&mut VcpuState) -> Ran + Send + 'static,
) -> Program {
    let mut at = 0u64;
    Box::new(move |state, _, asked| {
        if at == 0 {
            assert_ne!(asked & RESET, 0);
            assert_eq!((state.segments[1].base, state.rip, state.cr0), (0x9_0000, 0, 0x10));
        } else {
            // The second start-up message means nothing.
            assert_eq!(asked & RESET, 0);
        }
        let (round, part) = (at / 3, at % 3);
        at += 1;
        if compares && round > 0 && part == 0 {
            assert_eq!(state.registers[RAX], (round - 1) % 251, "in round {round}");
        }
        match part {
            _ if round == 3_000 => end(state),
            0 => wrmsr(state, 0x830, 0x51),
            1 => write(state, round % 251),
            _ => read(state),
        }
    })
}

fn off(state: &mut VcpuState) -> Ran {
    out(state, 0x501, 1, 0x34)
}

#[test]
fn devices_of_thread_0_answer_every_virtual_cpu() {
    // The last one to finish switches off.
    let left = Arc::new(AtomicU64::new(3));
    let end = || {
        let left = left.clone();
        let mut counted = false;
        move |state: &mut VcpuState| {
            if !std::mem::replace(&mut counted, true) && left.fetch_sub(1, Ordering::SeqCst) == 1 {
                return off(state);
            }
            state.rflags = 0;
            exit(state, Exit::Halt, [0; 3])
        }
    };
    let programs = vec![
        boot(3),
        hammer(true, |s, v| out(s, 0x3ff, 1, v), |s| input(s, 0x3ff, 1), end()),
        hammer(false, |s, v| out(s, 0xcf8, 4, v << 8), |s| input(s, 0xcfc, 4), end()),
        hammer(false, |s, v| out(s, 0x70, 1, v & 0x7f), |s| input(s, 0x71, 1), end()),
    ];
    assert_eq!(run(0, programs), Stop::PowerOff);
}

#[test]
fn a_device_page_of_thread_0_is_stepped_on_any_virtual_cpu() {
    let mut at = 0;
    let stepper: Program = Box::new(move |state, slots, asked| {
        at += 1;
        match at {
            1 => exit(state, Exit::Memory, [0xfec0_0000, MEMORY_WRITE, 0]),
            2 => {
                assert_ne!(asked & STEP, 0);
                slots[0].store(1, Ordering::Relaxed);
                exit(state, Exit::Stepped, [0; 3])
            }
            3 => exit(state, Exit::Memory, [0xfec0_0010, 0, 0]),
            4 => {
                assert_ne!(asked & STEP, 0);
                assert_eq!(slots[2].load(Ordering::Relaxed), 0x0017_0011);
                exit(state, Exit::Stepped, [0; 3])
            }
            _ => off(state),
        }
    });
    assert_eq!(run(VM_IOAPIC, vec![boot(1), stepper]), Stop::PowerOff);
}

#[test]
fn init_stops_a_virtual_cpu_and_a_start_up_message_starts_it_again() {
    let (mut at, mut started) = (0, 0);
    let lives = Arc::new(AtomicU64::new(0));
    let seen = lives.clone();
    let restarter: Program = Box::new(move |state, _, _| {
        at += 1;
        match at {
            1 => wrmsr(state, 0x830, 1 << 32 | 0x4500),
            2 => wrmsr(state, 0x830, 1 << 32 | 0x690),
            _ if lives.load(Ordering::SeqCst) == 3 => off(state),
            _ if lives.load(Ordering::SeqCst) > started => {
                started += 1;
                at = 0;
                exit(state, Exit::Cache, [0; 3])
            }
            _ => exit(state, Exit::Cache, [0; 3]),
        }
    });
    let counter: Program = Box::new(move |state, _, asked| {
        if asked & RESET != 0 {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        exit(state, Exit::Cache, [0; 3])
    });
    assert_eq!(run(0, vec![restarter, counter]), Stop::PowerOff);
}

#[test]
fn an_nmi_ends_a_hlt_with_interrupts_off() {
    let mut at = 0;
    let sender: Program = {
        let mut starts = boot(1);
        let mut turns = 0;
        Box::new(move |state, slots, asked| {
            turns += 1;
            if turns < 5 {
                return starts(state, slots, asked);
            }
            wrmsr(state, 0x830, 1 << 32 | 0x400)
        })
    };
    let sleeper: Program = Box::new(move |state, _, asked| {
        at += 1;
        state.rflags = 0;
        // The first one may come before the HLT.
        if at == 1 && asked & SET_EVENT == 0 { exit(state, Exit::Halt, [0; 3]) } else { off(state) }
    });
    assert_eq!(run(0, vec![sender, sleeper]), Stop::PowerOff);
}

/// Virtual CPU 1 alone: whoever it waits for answers at once, and interrupts it with the same
/// signal.
struct Asker<'a> {
    machine: &'a Machine,
    page: VcpuState,
    at: u64,
}

impl Host for Asker<'_> {
    fn state(&mut self) -> &mut VcpuState {
        &mut self.page
    }

    fn slots(&self) -> &[AtomicU64] {
        &[]
    }

    fn run(&mut self, _deadline: u64) -> Ran {
        let asked = std::mem::take(&mut self.page.set);
        self.at += 1;
        match self.at {
            1 => wrmsr(&mut self.page, 0x80f, 0x1ff),
            2 => input(&mut self.page, 0x3ff, 1),
            _ => {
                assert_eq!(self.page.registers[RAX], 0x5a);
                assert_eq!((asked & SET_INTERRUPT, self.page.interrupt), (SET_INTERRUPT, 0x61));
                off(&mut self.page)
            }
        }
    }

    fn wait(&mut self, _deadline: u64) -> Ran {
        let (vcpu, _) = self.machine.requests.next().expect("a request");
        self.machine.requests.reply(vcpu, [0x5a, 0]);
        assert!(self.machine.posted[1].vector(0x61, false));
        Ran::Bits(1)
    }

    fn now(&self) -> u64 {
        1
    }

    fn signal(&mut self, signals: u64) {
        assert_eq!(signals, 1);
    }
}

#[test]
fn an_interrupt_whose_signal_comes_with_an_answer_is_not_lost() {
    let config = config(2, 0);
    let (machine, table) = (Machine::new(), table(&config));
    machine.start(2, true, 1);
    assert!(machine.posted[1].event(INIT));
    assert!(!machine.posted[1].event(STARTUP | 0x9000));
    let host = Asker { machine: &machine, page: VcpuState::default(), at: 0 };
    let stop = Cpu::new(host, 1, &machine, &config, &table, TSC_HZ, None).run();
    assert_eq!(stop, Stop::PowerOff);
}
