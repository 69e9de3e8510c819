//! Every interleaving of the cross-core protocol, in small systems: nobody sleeps on a pending
//! bit, a task's threads are parked once each, exactly one core learns of the last.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p cloister-core --test loom_signal`.
//! An inter-processor interrupt is a [`Notify`]: a flag that stays set until the core looks. A lost
//! wake-up shows as loom's "deadlock". Data that a signal tells of is written and read with
//! `Relaxed`, so that only the protocol itself can order it.
#![cfg(loom)]

use cloister_abi::fault::TaskState;
use cloister_core::park::{Act, Begun, ParkWord, Step, ThreadPark};
use cloister_core::signal::{CoreWord, OP_PARK, ThreadWord};
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::sync::{Arc, Notify};
use loom::thread;

/// A core as its peers see it, with two threads.
struct Core {
    word: CoreWord,
    ipi: Notify,
    threads: [ThreadWord; 2],
}

impl Core {
    fn new() -> Core {
        let threads = [ThreadWord::new(), ThreadWord::new()];
        Core { word: CoreWord::new(), ipi: Notify::new(), threads }
    }

    fn look(&self, thread: usize) {
        if self.word.mark(thread as u32) {
            self.ipi.notify();
        }
    }

    fn signal(&self, thread: usize, bits: u64) {
        if self.threads[thread].post_bit(bits.trailing_zeros()) {
            self.look(thread);
        }
    }

    fn operate(&self, thread: usize) {
        self.threads[thread].post_op(OP_PARK);
        self.look(thread);
    }

    /// The owner: sleeps until a thread is marked.
    fn idle(&self) -> u64 {
        loop {
            match self.word.drain() {
                0 => self.ipi.wait(),
                marked => return marked,
            }
        }
    }

    /// The owner: a thread that waits for `mask`, with nothing else to do.
    fn wait(&self, thread: usize, mask: u64) -> u64 {
        let mut got = self.threads[thread].begin_wait(mask);
        while got == 0 {
            self.idle();
            got = self.threads[thread].finish_wait();
        }
        got
    }
}

/// Explores with at most `preemptions` forced switches per run.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn a_waiter_gets_the_bits_and_data_of_two_senders() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let mail = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let senders = [0, 1].map(|sender| {
            let (core, mail) = (core.clone(), mail.clone());
            thread::spawn(move || {
                mail[sender].store(1, Relaxed);
                core.signal(0, 1 << sender);
            })
        });
        let mut missing = 0b11;
        while missing != 0 {
            let got = core.wait(0, missing);
            for sender in [0, 1].into_iter().filter(|sender| got >> sender & 1 != 0) {
                assert_eq!(mail[sender].load(Relaxed), 1, "a signal came before its data");
            }
            missing &= !got;
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn bits_outside_the_mask_stay_pending_with_their_data() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let mail = Arc::new(AtomicU32::new(0));
        let sender = {
            let (core, mail) = (core.clone(), mail.clone());
            thread::spawn(move || {
                core.signal(0, 0b01);
                mail.store(1, Relaxed);
                core.signal(0, 0b10);
            })
        };
        assert_eq!(core.wait(0, 0b01), 0b01);
        if core.threads[0].begin_wait(0b10) != 0 {
            assert_eq!(mail.load(Relaxed), 1, "a taken bit came before its data");
        } else {
            assert_eq!(core.wait(0, 0b10), 0b10);
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_second_mark_needs_no_second_ipi() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let asleep = [0, 1].map(|thread: usize| core.threads[thread].begin_wait(1) == 0);
        assert_eq!(asleep, [true, true]);
        let senders = [0, 1].map(|thread| {
            let core = core.clone();
            thread::spawn(move || core.signal(thread, 1))
        });
        let mut awake = 0;
        while awake != 0b11 {
            let marked = core.idle();
            for thread in [0, 1].into_iter().filter(|thread| marked >> thread & 1 != 0) {
                // A mark promises that its bit can be seen.
                assert_eq!(core.threads[thread].finish_wait(), 1);
                awake |= 1 << thread;
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_wait_that_a_deadline_ends_leaves_the_bit_for_the_next() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let sender = {
            let core = core.clone();
            thread::spawn(move || core.signal(0, 1))
        };
        let mut got = core.threads[0].begin_wait(1);
        if got == 0 {
            got = core.threads[0].finish_wait();
            core.threads[0].cancel_wait();
        }
        if got == 0 {
            got = core.wait(0, 1);
        }
        assert_eq!(got, 1);
        sender.join().unwrap();
    });
}

#[test]
fn a_new_instance_that_looks_before_it_waits_misses_nothing() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let mail = Arc::new(AtomicU32::new(0));
        let sender = {
            let (core, mail) = (core.clone(), mail.clone());
            thread::spawn(move || {
                mail.store(1, Relaxed);
                core.signal(0, 1);
            })
        };
        core.threads[0].reset();
        if mail.load(Relaxed) == 0 {
            assert_eq!(core.wait(0, 1), 1);
        }
        sender.join().unwrap();
    });
}

/// A running task whose threads have caught up with its first start.
fn started(threads: usize) -> (Arc<ParkWord>, Vec<ThreadPark>) {
    let task = ParkWord::new();
    assert_eq!(task.restart(), Some(1));
    let mut parks = vec![ThreadPark::default(); threads];
    for park in &mut parks {
        assert_eq!(park.catch_up(&task), Act { reset: true, step: Step::Run });
    }
    (Arc::new(task), parks)
}

#[test]
fn a_stop_that_races_a_signal_loses_neither() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let (task, mut parks) = started(1);
        let sender = {
            let core = core.clone();
            thread::spawn(move || core.signal(0, 1))
        };
        let supervisor = {
            let (core, task) = (core.clone(), task.clone());
            thread::spawn(move || {
                assert_eq!(task.begin(1, false), Begun::First);
                core.operate(0);
            })
        };
        // The owner: waits for the signal, is stopped meanwhile, and resumes itself.
        let (word, park) = (&core.threads[0], &mut parks[0]);
        let mut got = word.begin_wait(1);
        let mut resumed = false;
        while got == 0 || !resumed {
            core.idle();
            if word.take_ops() & OP_PARK != 0 {
                assert_eq!(park.catch_up(&task).step, Step::ParkLast);
                assert_eq!(task.state(), TaskState::Stopped);
                assert!(task.resume());
                assert_eq!(park.catch_up(&task), Act { reset: false, step: Step::Run });
                resumed = true;
            }
            if got == 0 {
                got = word.finish_wait();
            }
        }
        assert_eq!(got, 1);
        sender.join().unwrap();
        supervisor.join().unwrap();
    });
}

/// The owner of a one-thread core: sleeps until the thread's task changes and catches up.
fn next_act(core: &Core, park: &mut ThreadPark, task: &ParkWord) -> Act {
    loop {
        core.idle();
        if core.threads[0].take_ops() & OP_PARK != 0 {
            return park.catch_up(task);
        }
    }
}

#[test]
fn one_core_learns_that_a_stop_and_a_fault_parked_everybody() {
    explore(3, || {
        let cores = Arc::new([Core::new(), Core::new()]);
        let (task, mut parks) = started(2);
        let record = Arc::new(AtomicU32::new(0));
        let last = Arc::new(AtomicU32::new(0));
        let (mut park_1, mut park_0) = (parks.pop().unwrap(), parks.pop().unwrap());
        // Core 1: its thread faults.
        let faulting = {
            let (cores, task, record) = (cores.clone(), task.clone(), record.clone());
            let last = last.clone();
            thread::spawn(move || {
                let begun = task.begin(2, true);
                assert_ne!(begun, Begun::Late);
                record.store(7, Relaxed);
                if begun == Begun::First {
                    cores[0].operate(0);
                }
                if park_1.catch_up(&task).step == Step::ParkLast {
                    assert_eq!(task.state(), TaskState::Faulted);
                    last.fetch_add(1, Relaxed);
                }
                // A late hint finds nothing to do.
                assert_eq!(park_1.catch_up(&task), Act { reset: false, step: Step::Keep });
            })
        };
        let stopping = {
            let (cores, task) = (cores.clone(), task.clone());
            thread::spawn(move || {
                if task.begin(2, false) == Begun::First {
                    cores[0].operate(0);
                    cores[1].operate(0);
                }
            })
        };
        let act = next_act(&cores[0], &mut park_0, &task);
        if act.step == Step::ParkLast {
            assert_eq!(record.load(Relaxed), 7, "the last one cannot read the fault record");
            last.fetch_add(1, Relaxed);
        } else {
            assert_eq!(act.step, Step::Park);
        }
        if task.state() == TaskState::Faulted {
            assert_eq!(record.load(Relaxed), 7, "a faulted task's record cannot be read");
        }
        faulting.join().unwrap();
        stopping.join().unwrap();
        assert_eq!(task.state(), TaskState::Faulted);
        assert_eq!(last.load(Relaxed), 1);
        assert!(!task.resume(), "a faulted task cannot go on");
    });
}

#[test]
fn a_restart_comes_after_everything_that_the_old_threads_did() {
    explore(2, || {
        let cores = Arc::new([Core::new(), Core::new()]);
        let supervisor = Arc::new(Core::new());
        let (task, mut parks) = started(2);
        let memory = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let owner = |me: usize, mut park: ThreadPark| {
            let (cores, task, memory) = (cores.clone(), task.clone(), memory.clone());
            let supervisor = supervisor.clone();
            move || {
                memory[me].store(1, Relaxed);
                let step = if me == 0 {
                    assert_eq!(task.begin(2, true), Begun::First);
                    cores[1].operate(0);
                    park.catch_up(&task).step
                } else {
                    next_act(&cores[1], &mut park, &task).step
                };
                if step == Step::ParkLast {
                    supervisor.signal(0, 1);
                }
                let act = next_act(&cores[me], &mut park, &task);
                assert_eq!(act, Act { reset: true, step: Step::Run });
                let other = memory[1 - me].load(Relaxed);
                assert_eq!(other, 1, "the new instance runs beside the old one");
            }
        };
        let (mut first, second) = (owner(0, parks.remove(0)), owner(1, parks.remove(0)));
        let second = thread::spawn(second);
        let (cores, task) = (cores.clone(), task.clone());
        // Begins last, so that loom tries a restart directly after the last one has parked:
        // whether the supervisor was told or just tries, its restart comes after the parking.
        let restarting = thread::spawn(move || {
            if task.restart().is_none() {
                supervisor.wait(0, 1);
                assert_eq!(task.restart(), Some(2));
            }
            cores.iter().for_each(|core| core.operate(0));
        });
        first();
        second.join().unwrap();
        restarting.join().unwrap();
    });
}

#[test]
fn a_stop_right_after_a_restart_parks_everybody_again() {
    explore(2, || {
        let cores = Arc::new([Core::new(), Core::new()]);
        let (task, mut parks) = started(2);
        assert_eq!(task.begin(2, false), Begun::First);
        assert_eq!(parks[0].catch_up(&task).step, Step::Park);
        assert_eq!(parks[1].catch_up(&task).step, Step::ParkLast);
        let last = Arc::new(AtomicU32::new(0));
        let owners = [0usize, 1].map(|me| {
            let (cores, task, last) = (cores.clone(), task.clone(), last.clone());
            let mut park = parks.pop().unwrap();
            thread::spawn(move || {
                // Restart and stop may arrive as two operations or as one.
                let mut resets = 0;
                loop {
                    let act = next_act(&cores[me], &mut park, &task);
                    resets += u32::from(act.reset);
                    match act.step {
                        Step::Keep | Step::Run => {}
                        Step::Park => break,
                        Step::ParkLast => {
                            last.fetch_add(1, Relaxed);
                            break;
                        }
                    }
                }
                assert_eq!((resets, park.is_parked()), (1, true));
            })
        });
        assert_eq!(task.restart(), Some(2));
        cores.iter().for_each(|core| core.operate(0));
        assert_eq!(task.begin(2, false), Begun::First);
        cores.iter().for_each(|core| core.operate(0));
        for owner in owners {
            owner.join().unwrap();
        }
        assert_eq!(task.state(), TaskState::Stopped);
        assert_eq!(last.load(Relaxed), 1);
    });
}

#[test]
fn an_operation_comes_after_what_its_poster_wrote() {
    explore(3, || {
        let core = Arc::new(Core::new());
        let data = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let posters = [0usize, 1].map(|me| {
            let (core, data) = (core.clone(), data.clone());
            thread::spawn(move || {
                data[me].store(1, Relaxed);
                core.threads[0].post_op(2 << me);
                core.look(0);
            })
        });
        let mut missing = 0b110;
        while missing != 0 {
            core.idle();
            let ops = core.threads[0].take_ops();
            for me in [0usize, 1].into_iter().filter(|me| ops >> me & 2 != 0) {
                assert_eq!(data[me].load(Relaxed), 1);
            }
            missing &= !ops;
        }
        for poster in posters {
            poster.join().unwrap();
        }
    });
}
