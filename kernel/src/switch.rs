//! Which thread runs next, and the way to it.

use crate::arch::x86_64::fpu::{self, INITIAL_STATE};
use crate::arch::x86_64::{apic, cpu, descriptors, entry, frame, virt};
use crate::core_state::{Core, EXTENDED, GUEST, NOBODY, RESET, RESULT, Thread, WAITS, this_core};
use crate::device;
use crate::flush;
use crate::interrupts;
use crate::shared::shared;
use cloister_abi::call::Status;
use cloister_abi::layout::STACK_TOP;
use cloister_abi::table::NONE;
use cloister_core::park::Step;
use cloister_core::signal::ThreadWord;
use core::sync::atomic::Ordering;

/// Chooses a thread and goes on with it; idles if there is none.
#[unsafe(no_mangle)]
extern "C" fn kernel_reschedule() -> ! {
    // SAFETY: the entry code calls this once per kernel exit, with nothing left of the entry.
    let core = unsafe { this_core() };
    let now = cpu::rdtsc();
    if !core.settle_plainly(now) {
        core.settle(now);
        // What is rare ends like this everywhere here, and then the way begins anew: so the
        // frequent way keeps nothing across calls, and needs no registers that it would save.
        // SAFETY: the state is settled, and nothing is referred to any more.
        unsafe { entry::reschedule() }
    }
    match core.sched.pick() {
        Some(next) => core.run(next, now),
        None => {
            if core.sched.next_event() < core.armed {
                core.arm(core.sched.next_event(), now);
            }
            // SAFETY: the state is settled and the core runs on its kernel stack. A mark that
            // another core made meanwhile comes with an interrupt, which ends the halt.
            unsafe { entry::idle() }
        }
    }
}

impl Core {
    /// [`Core::settle`] in the frequent case; `false`: there is more to do.
    #[inline(always)]
    fn settle_plainly(&mut self, now: u64) -> bool {
        if self.current != NOBODY {
            let ran = now.wrapping_sub(self.since);
            if !self.sched.charge_plainly(self.current, ran, now) {
                return false;
            }
            self.current = NOBODY;
        }
        now < self.sched.next_event()
    }

    /// Books the time of the current thread and what the clock says.
    #[inline(never)]
    pub fn settle(&mut self, now: u64) {
        if self.current != NOBODY {
            self.sched.charge(self.current, now.wrapping_sub(self.since), now);
            self.current = NOBODY;
        }
        if now >= self.sched.next_event() {
            self.expire(now);
        }
    }

    /// Wakes the threads whose deadline has passed; a bit that came with the deadline wins.
    #[inline(never)]
    fn expire(&mut self, now: u64) {
        let mut expired = self.sched.tick(now);
        while expired != 0 {
            let rank = expired.trailing_zeros();
            expired &= expired - 1;
            let thread = self.thread(rank);
            let word = shared().thread(usize::from(thread.global));
            let bits = word.finish_wait();
            word.cancel_wait();
            thread.set_result(if bits == 0 { Status::Deadline } else { Status::Ok }, bits);
            self.sched.ready(rank, now);
        }
    }

    /// Whether the kernel must not simply go on with the current thread: another one is more
    /// urgent, or something is due before the timer fires.
    #[inline(always)]
    pub fn must_choose(&self) -> bool {
        self.sched.pick() != Some(self.current) || self.sched.next_event() < self.armed
    }

    /// Looks at the threads that other cores have marked.
    pub fn look(&mut self, now: u64) {
        let mut marked = shared().cores[self.index as usize].word.drain();
        while marked != 0 {
            let rank = marked.trailing_zeros();
            marked &= marked - 1;
            if rank < self.count {
                self.attend(rank, now);
            }
        }
        if !self.started && shared().sealed.load(Ordering::Acquire) {
            self.started = true;
            (0..self.count).for_each(|rank| self.catch_up(rank, now));
        }
    }

    /// Does what is pending for a thread: parking first, then its signals.
    pub fn attend(&mut self, rank: u32, now: u64) {
        let word = shared().thread(usize::from(self.thread(rank).global));
        if word.take_ops() != 0 {
            self.catch_up(rank, now);
        }
        self.wake(rank, word, now);
    }

    /// Wakes a thread that waits for a bit that is set. A parked thread does not wait.
    #[inline]
    pub fn wake(&mut self, rank: u32, word: &ThreadWord, now: u64) {
        let bits = word.finish_wait();
        if bits != 0 {
            self.thread(rank).set_result(Status::Ok, bits);
            self.sched.ready(rank, now);
        }
    }

    /// Follows its task's parking word.
    #[inline(never)]
    pub fn catch_up(&mut self, rank: u32, now: u64) {
        let thread = self.thread(rank);
        let (task, global) = (usize::from(thread.task), usize::from(thread.global));
        let word = shared().thread(global);
        let words = shared().task(task);
        let index = self.index;
        let has_functions = shared().cores[index as usize].functions.load(Ordering::Relaxed) != 0;
        // Its task's first thread on a core that has functions of some task.
        let leads = has_functions && usize::from(words.first.load(Ordering::Relaxed)) == global;
        let thread = self.thread(rank);
        // The functions come before the count: who sees all threads parked sees them quiet.
        let quiet = || {
            if leads {
                device::park(index, task)
            }
        };
        let act = thread.park.catch_up_after(&words.park, quiet);
        if act.reset {
            thread.flags = RESET;
            self.forget(word, global);
        }
        if leads && act.reset {
            device::forget(index, task);
        }
        if leads && act.step == Step::Run {
            device::resume(index, task);
        }
        let thread = self.thread(rank);
        match act.step {
            Step::Keep => {}
            Step::Run if thread.flags & (WAITS | RESULT) == WAITS => {
                // Stopped in the middle of a wait: the wait begins anew.
                let (mask, deadline, flags) = (thread.mask, thread.deadline, thread.flags);
                let bits = word.begin_wait(mask);
                if bits != 0 {
                    thread.set_result(Status::Ok, bits);
                }
                if bits != 0 || flags & GUEST != 0 {
                    self.sched.ready(rank, now);
                }
                if bits == 0 {
                    self.sched.arm(rank, deadline);
                }
            }
            Step::Run => self.sched.ready(rank, now),
            Step::Park | Step::ParkLast => {
                word.cancel_wait();
                self.sched.park(rank);
                if act.step == Step::ParkLast {
                    crate::fault::tell_supervisor(self, task, now);
                }
            }
        }
    }

    /// A thread begins a new life. Here and not in the call that restarts: interrupts belong to
    /// their owner's core.
    #[inline(never)]
    fn forget(&mut self, word: &ThreadWord, global: usize) {
        word.reset();
        interrupts::forget(self, global);
    }

    /// Sets the timer, because it would fire too late. One that fires early does no harm, and one
    /// whose time has come fires as soon as interrupts are on.
    #[inline(never)]
    fn arm(&mut self, when: u64, now: u64) {
        self.armed = when;
        let ticks = u128::from(when.saturating_sub(now)) * u128::from(self.clock.apic_ratio);
        let count = u32::try_from(ticks >> 32).unwrap_or(u32::MAX);
        apic::arm(count.max(1));
    }

    /// Puts a thread on the CPU.
    #[inline(always)]
    fn run(&mut self, next: u32, now: u64) -> ! {
        if self.sched.is_refill_due(next, now) {
            self.sched.refill(next, now);
            // SAFETY: nothing was begun, and nothing is referred to any more.
            unsafe { entry::reschedule() }
        }
        let end = self.sched.budget_end(next, now).min(self.sched.next_event());
        if end < self.armed {
            self.arm(end, now);
            // SAFETY: as above.
            unsafe { entry::reschedule() }
        }
        self.current = next;
        self.since = now;
        if next != self.loaded {
            self.load(next);
        }
        self.go_on(next)
    }

    /// Goes on with a thread that was loaded; the entry code restores its registers.
    #[inline(always)]
    fn go_on(&mut self, next: u32) -> ! {
        let index = self.index;
        let thread = self.thread(next);
        flush::used(index, thread.cr3);
        if thread.flags == WAITS | RESULT {
            thread.give_result();
        } else if thread.flags != 0 {
            self.run_oddly(next);
        }
        // SAFETY: the thread's space is loaded, and nobody holds a reference.
        let by_syscall = unsafe { frame::current() }.vector == frame::BY_SYSCALL;
        // SAFETY: as above; nothing is referred to any more.
        unsafe { entry::resume(by_syscall) }
    }

    /// A thread that was put on the CPU is at its start, or in its guest: there it goes on, unless
    /// a result has ended the guest's turn.
    #[inline(never)]
    fn run_oddly(&mut self, next: u32) {
        let thread = self.thread(next);
        if thread.flags & RESET != 0 {
            return self.reset_frame(next);
        }
        if thread.flags & RESULT == 0 {
            // SAFETY: the thread is loaded; nothing is referred to any more.
            unsafe { virt::enter() }
        }
        virt::save();
        thread.give_result();
    }

    #[inline(always)]
    fn load(&mut self, next: u32) {
        let old = self.loaded;
        let (before, kind) = (self.thread(old).kind, self.thread(next).kind);
        if (before | kind) & EXTENDED != 0 {
            self.run_extended(old, next);
        }
        if before != kind {
            self.cross();
        }
        self.load_plainly(next);
    }

    /// The next thread belongs to another trust domain.
    #[inline(always)]
    fn cross(&mut self) {
        self.barriers += 1;
        cpu::domain_barrier(&self.features);
    }

    #[inline(always)]
    fn load_plainly(&mut self, next: u32) {
        let thread = self.thread(next);
        let (cr3, caps) = (thread.cr3, thread.caps);
        self.caps = caps;
        self.loaded = next;
        // SAFETY: a thread of this core; its space maps the kernel and this core's window.
        unsafe { cpu::load_space(cr3, self.index) };
        descriptors::clear_selectors();
    }

    /// The rest of [`Core::run`] for a switch with extended state.
    #[inline(never)]
    fn run_extended(&mut self, old: u32, next: u32) -> ! {
        let (before, kind) = (self.thread(old).kind, self.thread(next).kind);
        if before & EXTENDED != 0 {
            self.put_away(old);
        }
        if (before ^ kind) & !EXTENDED != 0 {
            self.cross();
        }
        self.load_plainly(next);
        if kind & EXTENDED != 0 {
            self.take_up(next);
        }
        self.go_on(next)
    }

    /// What a thread with extended state has in registers goes into its frame. Its space is still
    /// loaded. (Of one that never ran it is what the boot left there; its start state replaces it.)
    fn put_away(&mut self, old: u32) {
        if self.thread(old).vcpu != NONE {
            // SAFETY: the thread's space is loaded, and it has a vCPU.
            virt::leave(&self.features, unsafe { virt::own() });
        }
        fpu::leave(self.features.xsave, &INITIAL_STATE);
    }

    /// The opposite, for a thread whose space was loaded.
    fn take_up(&mut self, next: u32) {
        let has_guest = self.thread(next).vcpu != NONE;
        fpu::enter(self.features.xsave, !has_guest);
        if has_guest {
            // SAFETY: just loaded.
            virt::arrive(self, unsafe { virt::own() });
        }
    }

    /// The start state: entry point, stack, thread index in `rdi`, generation in `rsi`.
    fn reset_frame(&mut self, rank: u32) {
        let thread = self.thread(rank);
        thread.flags = 0;
        let (global, extended) = (usize::from(thread.global), thread.kind & EXTENDED != 0);
        let has_guest = thread.vcpu != NONE;
        let record = self.table.threads[global];
        let task = shared().task(usize::from(record.task));
        // SAFETY: the thread's space is loaded, and nobody holds a reference.
        *unsafe { frame::current() } = frame::Regs {
            rip: record.entry,
            cs: frame::USER_CS,
            rflags: frame::USER_FLAGS,
            rsp: record.stack_top,
            ss: frame::USER_SS,
            rdi: u64::from(record.index),
            rsi: u64::from(task.park.generation()),
            ..Default::default()
        };
        if has_guest {
            // SAFETY: the thread's space is loaded. All of the state can be loaded only with the
            // kernel's own XCR0.
            virt::leave(&self.features, unsafe { virt::own() });
        }
        if extended {
            fpu::reset();
            fpu::enter(self.features.xsave, !has_guest);
        }
        if has_guest {
            // SAFETY: the thread's space is loaded.
            let own = unsafe { virt::own() };
            virt::reset(own);
            virt::arrive(self, own);
        }
    }
}

impl Thread {
    /// The result of the call in which the loaded thread slept goes into its frame.
    #[inline(always)]
    fn give_result(&mut self) {
        self.flags = 0;
        // SAFETY: the thread's space is loaded, and nobody holds a reference.
        let regs = unsafe { frame::current() };
        (regs.rax, regs.rdx) = (self.status as u64, self.value);
    }
}

const _: () = assert!(STACK_TOP.is_multiple_of(16));
