//! Which thread runs next, and the way to it.

use crate::arch::x86_64::{apic, cpu, descriptors, entry, fpu, frame};
use crate::core_state::{Core, NOBODY, this_core};
use crate::shared::shared;
use cloister_abi::call::NEVER;
use cloister_abi::call::Status;
use cloister_abi::layout::STACK_TOP;
use cloister_core::park::Step;

/// The FPU state of a program that has not begun: all components in their initial state.
#[repr(C, align(64))]
struct InitialState([u8; 832]);

static INITIAL_STATE: InitialState = {
    let mut bytes = [0; 832];
    // x87 control word 0x37f, MXCSR 0x1f80 (Intel SDM, "FXSAVE Area").
    bytes[0] = 0x7f;
    bytes[1] = 0x03;
    bytes[24] = 0x80;
    bytes[25] = 0x1f;
    InitialState(bytes)
};

/// Chooses a thread and loads its address space; idles if there is none. Returns how to go on:
/// 0 by IRET, 1 by SYSRET.
#[unsafe(no_mangle)]
extern "C" fn kernel_reschedule() -> u32 {
    // SAFETY: the entry code calls this once per kernel exit, with nothing left of the entry.
    let core = unsafe { this_core() };
    let now = cpu::rdtsc();
    core.settle(now);
    core.look(now);
    let Some(next) = core.sched.pick() else {
        core.arm(core.sched.next_event(), now);
        // SAFETY: the state is settled and the core runs on its kernel stack.
        unsafe { entry::idle() }
    };
    core.run(next, now)
}

impl Core {
    /// Books the time of the current thread and what the clock says.
    pub fn settle(&mut self, now: u64) {
        if self.current != NOBODY {
            self.sched.charge(self.current, now.saturating_sub(self.since), now);
            self.current = NOBODY;
        }
        let mut expired = self.sched.tick(now);
        while expired != 0 {
            let rank = expired.trailing_zeros();
            expired &= expired - 1;
            let thread = self.thread(rank);
            thread.wait = None;
            // A bit that came together with the deadline wins.
            let bits = shared().threads()[usize::from(thread.global)].finish_wait();
            let status = if bits == 0 { Status::Deadline } else { Status::Ok };
            shared().threads()[usize::from(thread.global)].cancel_wait();
            thread.result = Some((status as u64, bits));
            self.sched.ready(rank, now);
        }
    }

    /// Looks at the threads that other cores have marked.
    pub fn look(&mut self, now: u64) {
        let mut marked = shared().cores[self.index as usize].word.drain();
        while marked != 0 {
            let rank = marked.trailing_zeros();
            marked &= marked - 1;
            if rank < self.count {
                self.wake(rank, now);
            }
        }
        if !self.started && shared().sealed.load(core::sync::atomic::Ordering::Acquire) {
            self.start_threads(now);
        }
    }

    /// Does what is pending for a thread: parking first, then its signals.
    pub fn wake(&mut self, rank: u32, now: u64) {
        let global = usize::from(self.thread(rank).global);
        let word = &shared().threads()[global];
        if word.take_ops() != 0 {
            self.catch_up(rank, now);
        }
        if self.thread(rank).park.is_parked() {
            return;
        }
        let bits = word.finish_wait();
        if bits != 0 {
            let thread = self.thread(rank);
            thread.wait = None;
            thread.result = Some((Status::Ok as u64, bits));
            self.sched.ready(rank, now);
        }
    }

    /// Follows its task's parking word.
    pub fn catch_up(&mut self, rank: u32, now: u64) {
        let thread = self.thread(rank);
        let task = usize::from(thread.task);
        let word = &shared().threads()[usize::from(thread.global)];
        let act = thread.park.catch_up(&shared().tasks()[task].park);
        if act.reset {
            thread.reset = true;
            thread.result = None;
            thread.wait = None;
        }
        let wait = thread.wait;
        match act.step {
            Step::Keep => {}
            Step::Run => match wait {
                Some((mask, deadline)) => {
                    // Stopped in the middle of a wait: the wait begins anew.
                    let bits = word.begin_wait(mask);
                    if bits == 0 {
                        return self.sched.block(rank, deadline);
                    }
                    let thread = self.thread(rank);
                    thread.wait = None;
                    thread.result = Some((Status::Ok as u64, bits));
                    self.sched.ready(rank, now);
                }
                None => self.sched.ready(rank, now),
            },
            Step::Park | Step::ParkLast => {
                word.cancel_wait();
                self.sched.park(rank);
                if act.step == Step::ParkLast {
                    crate::fault::tell_supervisor(self, task, now);
                }
            }
        }
    }

    /// After the seal: every thread of this core becomes runnable.
    fn start_threads(&mut self, now: u64) {
        self.started = true;
        for rank in 0..self.count {
            self.catch_up(rank, now);
        }
    }

    /// Sets the timer if it would fire too late; one that fires early does no harm.
    fn arm(&mut self, when: u64, now: u64) {
        if when >= self.armed && self.armed > now {
            return;
        }
        self.armed = when;
        if when == NEVER {
            return;
        }
        let ticks = u128::from(when.saturating_sub(now)) * u128::from(self.clock.apic_ratio);
        let count = u32::try_from(ticks >> 32).unwrap_or(u32::MAX);
        apic::arm(count.max(1));
    }

    /// The timer fired.
    pub fn disarm(&mut self) {
        self.armed = NEVER;
    }

    /// Puts a thread on the CPU; the entry code then restores its registers.
    fn run(&mut self, next: u32, now: u64) -> u32 {
        let end = self.sched.slice_end(next, now);
        self.arm(end.min(self.sched.next_event()), now);
        self.current = next;
        self.since = now;
        if next != self.loaded {
            self.load(next);
        }
        let thread = self.thread(next);
        let caps = thread.caps;
        // SAFETY: the thread's space is loaded, and the entry code holds no reference.
        let regs = unsafe { frame::current() };
        if thread.reset {
            thread.reset = false;
            let global = usize::from(thread.global);
            self.reset_frame(global, next, regs);
        } else if let Some((status, bits)) = thread.result.take() {
            regs.rax = status;
            regs.rdx = bits;
            (regs.rsi, regs.rdi, regs.r8) = (0, 0, 0);
        }
        self.caps = caps;
        u32::from(regs.vector == frame::BY_SYSCALL)
    }

    fn load(&mut self, next: u32) {
        let (old, xsave) = (self.loaded, self.features.xsave);
        let (old_fpu, old_domain) = {
            let thread = self.thread(old);
            (thread.fpu, thread.domain)
        };
        if old_fpu {
            fpu::leave(xsave, INITIAL_STATE.0.as_ptr());
        }
        let thread = self.thread(next);
        let (cr3, fpu, domain) = (thread.cr3, thread.fpu, thread.domain);
        if domain != old_domain {
            self.barriers += 1;
            cpu::domain_barrier(&self.features);
        }
        // SAFETY: a thread of this core; its space maps the kernel and this core's window.
        unsafe { cpu::load_space(cr3) };
        descriptors::clear_selectors();
        self.loaded = next;
        if fpu {
            fpu::enter(xsave);
        }
    }

    /// The start state: entry point, stack, thread index in `rdi`, generation in `rsi`.
    fn reset_frame(&mut self, global: usize, rank: u32, regs: &mut frame::Regs) {
        let record = self.table.threads[global];
        let task = &shared().tasks()[usize::from(record.task)];
        *regs = frame::Regs {
            rip: record.entry,
            cs: frame::USER_CS,
            rflags: frame::USER_FLAGS,
            rsp: record.stack_top,
            ss: frame::USER_SS,
            rdi: u64::from(record.index),
            rsi: u64::from(task.park.generation()),
            ..Default::default()
        };
        if self.thread(rank).fpu {
            fpu::reset();
            fpu::enter(self.features.xsave);
        }
    }
}

const _: () = assert!(STACK_TOP.is_multiple_of(16));
