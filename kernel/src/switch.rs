//! Which thread runs next, and the way to it.

use crate::arch::x86_64::fpu::{self, INITIAL_STATE};
use crate::arch::x86_64::{apic, cpu, descriptors, entry, frame, virt};
use crate::core_state::{Core, NOBODY, Thread, this_core};
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
    core.settle(now);
    match core.sched.pick() {
        Some(next) => {
            let by_syscall = core.run(next, now);
            // SAFETY: `run` has loaded the thread; nothing is referred to any more.
            unsafe { entry::resume(by_syscall) }
        }
        None => {
            core.arm(core.sched.next_event(), now);
            // SAFETY: the state is settled and the core runs on its kernel stack. A mark that
            // another core made meanwhile comes with an interrupt, which ends the halt.
            unsafe { entry::idle() }
        }
    }
}

impl Core {
    /// Books the time of the current thread and what the clock says.
    #[inline]
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
        let act = thread.park.catch_up(&shared().task(task).park);
        if act.reset {
            word.reset();
            (thread.reset, thread.has_result) = (true, false);
            (thread.waits, thread.in_guest) = (false, false);
            // Here and not in the call that restarts: interrupts belong to their owner's core.
            interrupts::forget(self, global);
        }
        let thread = self.thread(rank);
        match act.step {
            Step::Keep => {}
            Step::Run if thread.waits => {
                // Stopped in the middle of a wait: the wait begins anew.
                let (mask, deadline, in_guest) = (thread.mask, thread.deadline, thread.in_guest);
                let bits = word.begin_wait(mask);
                if bits != 0 {
                    thread.set_result(Status::Ok, bits);
                }
                if bits != 0 || in_guest {
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

    /// Sets the timer if it would fire too late. One that fires early does no harm, and one whose
    /// time has come fires as soon as interrupts are on.
    #[inline]
    fn arm(&mut self, when: u64, now: u64) {
        if when < self.armed {
            self.arm_now(when, now);
        }
    }

    #[inline(never)]
    fn arm_now(&mut self, when: u64, now: u64) {
        self.armed = when;
        let ticks = u128::from(when.saturating_sub(now)) * u128::from(self.clock.apic_ratio);
        let count = u32::try_from(ticks >> 32).unwrap_or(u32::MAX);
        apic::arm(count.max(1));
    }

    /// Puts a thread on the CPU; the entry code then restores its registers. Does not return for
    /// one that goes on in its guest.
    #[inline]
    fn run(&mut self, next: u32, now: u64) -> bool {
        let end = self.sched.slice_end(next, now);
        self.arm(end.min(self.sched.next_event()), now);
        self.current = next;
        self.since = now;
        if next != self.loaded {
            self.load(next);
        }
        let index = self.index;
        let thread = self.thread(next);
        flush::used(index, thread.cr3);
        if thread.in_guest {
            Core::go_on_in_guest(thread);
        }
        // SAFETY: the thread's space is loaded, and the entry code holds no reference.
        let regs = unsafe { frame::current() };
        if thread.has_result {
            thread.has_result = false;
            (regs.rax, regs.rdx) = (thread.status as u64, thread.value);
        } else if thread.reset {
            self.reset_frame(next, regs);
        }
        regs.vector == frame::BY_SYSCALL
    }

    /// The thread that was put on the CPU is in its guest: it goes on there, unless a result has
    /// ended the guest's turn.
    #[inline(never)]
    fn go_on_in_guest(thread: &mut Thread) {
        if !thread.has_result {
            // SAFETY: the thread is loaded; nothing is referred to any more.
            unsafe { virt::enter() }
        }
        thread.in_guest = false;
        virt::save();
    }

    #[inline]
    fn load(&mut self, next: u32) {
        let old = self.loaded;
        let (old_fpu, old_domain) = (self.thread(old).fpu, self.thread(old).domain);
        if old_fpu {
            self.put_away(old);
        }
        self.fpu_live = self.thread(next).fpu;
        let thread = self.thread(next);
        let (cr3, caps, fpu, domain) = (thread.cr3, thread.caps, thread.fpu, thread.domain);
        self.caps = caps;
        self.loaded = next;
        if domain != old_domain {
            self.barriers += 1;
            if self.needs_barrier {
                cpu::domain_barrier(&self.features);
            }
        }
        // SAFETY: a thread of this core; its space maps the kernel and this core's window.
        unsafe { cpu::load_space(cr3, self.index) };
        descriptors::clear_selectors();
        if fpu {
            self.take_up(next);
        }
    }

    /// What a thread with extended state has in registers goes into its frame. Its space is still
    /// loaded.
    #[inline(never)]
    fn put_away(&mut self, old: u32) {
        if self.thread(old).vcpu != NONE {
            // SAFETY: the thread's space is loaded, and it has a vCPU.
            virt::leave(&self.features, unsafe { virt::own() });
        }
        if self.fpu_live {
            fpu::leave(self.features.xsave, &INITIAL_STATE);
        }
    }

    /// The opposite, for a thread whose space was loaded.
    #[inline(never)]
    fn take_up(&mut self, next: u32) {
        let has_guest = self.thread(next).vcpu != NONE;
        fpu::enter(self.features.xsave, !has_guest);
        if has_guest {
            // SAFETY: just loaded.
            virt::arrive(self, unsafe { virt::own() });
        }
    }

    /// The start state: entry point, stack, thread index in `rdi`, generation in `rsi`.
    #[inline(never)]
    fn reset_frame(&mut self, rank: u32, regs: &mut frame::Regs) {
        let thread = self.thread(rank);
        thread.reset = false;
        let (global, fpu) = (usize::from(thread.global), thread.fpu);
        let has_guest = thread.vcpu != NONE;
        let record = self.table.threads[global];
        let task = shared().task(usize::from(record.task));
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
        if has_guest {
            // SAFETY: the thread's space is loaded. All of the state can be loaded only with the
            // kernel's own XCR0.
            virt::leave(&self.features, unsafe { virt::own() });
        }
        if fpu {
            self.fpu_live = true;
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

const _: () = assert!(STACK_TOP.is_multiple_of(16));
