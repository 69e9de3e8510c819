//! Which interrupt comes when: classes, task priority, what is in service (Intel SDM volume 3,
//! "Interrupt, Task, and Processor Priority").

use cloister_guest_rt::interrupts::{self, Frame};
use cloister_guest_rt::{apic, cpu};
use guest_common::{Cases, Outcome, ensure, equal, let_in, log, registers};

/// The first vector that is no exception.
const FIRST: u8 = 0x20;
/// The last one that the log takes.
const LAST: u8 = 0xfe;

pub fn run(cases: &mut Cases) {
    for vector in FIRST..=LAST {
        interrupts::set(vector, log::take);
    }
    cases.run("waiting interrupts come by priority", by_priority);
    cases.run("all vectors come once, highest first", all_vectors);
    cases.run("a class waits for the end of its own", own_class_waits);
    cases.run("a higher class interrupts a lower one", higher_class_nests);
    cases.run("CR8 holds interrupts back", held_by_cr8);
    cases.run("the task priority register holds interrupts back", held_by_register);
    cases.run("CR8 and the register are one", one_priority);
    cases.run("MOV CR8 while an interrupt waits and is off", cr8_while_waiting);
    cases.run("requested and in service can be seen", visible);
}

fn expect(vectors: &[u8]) -> Outcome {
    equal("the number of interrupts", log::len() as u64, vectors.len() as u64)?;
    for (index, &vector) in vectors.iter().enumerate() {
        equal("a vector", log::entry(index).0, vector.into())?;
    }
    Ok(())
}

fn set_cr8(class: u64) {
    // SAFETY: a priority changes when interrupts come, no memory.
    unsafe { registers::set_cr8(class) };
}

fn by_priority() -> Outcome {
    cpu::disable_interrupts();
    log::clear();
    for vector in [0x31, 0x71, 0x51, 0x41, 0xe1] {
        apic::send_self(vector);
    }
    expect(&[])?;
    let_in();
    expect(&[0xe1, 0x71, 0x51, 0x41, 0x31])
}

fn all_vectors() -> Outcome {
    log::clear();
    for vector in FIRST..=LAST {
        apic::send_self(vector);
        // The second request for a vector that waits is the same one.
        apic::send_self(vector);
    }
    let_in();
    equal("the number of interrupts", log::len() as u64, u64::from(LAST - FIRST) + 1)?;
    for (index, vector) in (FIRST..=LAST).rev().enumerate() {
        equal("a vector", log::entry(index).0, vector.into())?;
    }
    Ok(())
}

/// Lets others in before its own end.
fn open(frame: &mut Frame) {
    log::note(frame);
    let_in();
    log::note(frame);
    apic::eoi();
}

fn own_class_waits() -> Outcome {
    log::clear();
    interrupts::set(0x75, |frame| {
        apic::send_self(0x72);
        apic::send_self(0x7f);
        apic::send_self(0x61);
        open(frame);
    });
    apic::send_self(0x75);
    let_in();
    interrupts::set(0x75, log::take);
    expect(&[0x75, 0x75, 0x7f, 0x72, 0x61])
}

fn higher_class_nests() -> Outcome {
    log::clear();
    interrupts::set(0x45, |frame| {
        apic::send_self(0x91);
        open(frame);
    });
    apic::send_self(0x45);
    let_in();
    interrupts::set(0x45, log::take);
    expect(&[0x45, 0x91, 0x45])
}

fn held_by_cr8() -> Outcome {
    log::clear();
    set_cr8(5);
    cpu::enable_interrupts();
    apic::send_self(0x4f);
    apic::send_self(0x5f);
    apic::send_self(0x60);
    expect(&[0x60])?;
    set_cr8(4);
    expect(&[0x60, 0x5f])?;
    set_cr8(3);
    expect(&[0x60, 0x5f, 0x4f])?;
    set_cr8(15);
    apic::send_self(0xfe);
    expect(&[0x60, 0x5f, 0x4f])?;
    set_cr8(0);
    cpu::disable_interrupts();
    expect(&[0x60, 0x5f, 0x4f, 0xfe])
}

fn set_register(priority: u32) {
    // SAFETY: a priority changes when interrupts come; all vectors have handlers.
    unsafe { apic::write(apic::TASK_PRIORITY, priority) };
}

fn held_by_register() -> Outcome {
    log::clear();
    cpu::enable_interrupts();
    set_register(0x50);
    apic::send_self(0x5f);
    apic::send_self(0x60);
    expect(&[0x60])?;
    // The lower four bits say nothing about interrupts.
    set_register(0x4f);
    expect(&[0x60, 0x5f])?;
    set_register(0);
    cpu::disable_interrupts();
    expect(&[0x60, 0x5f])
}

fn one_priority() -> Outcome {
    cpu::disable_interrupts();
    for class in [1u32, 7, 15, 0] {
        set_cr8(class.into());
        equal(
            "the register after CR8",
            apic::read(apic::TASK_PRIORITY).into(),
            u64::from(class) << 4,
        )?;
        equal("the processor's", apic::read(apic::PRIORITY).into(), u64::from(class) << 4)?;
        set_register((15 - class) << 4);
        equal("CR8 after the register", registers::cr8(), u64::from(15 - class))?;
    }
    set_cr8(0);
    Ok(())
}

fn cr8_while_waiting() -> Outcome {
    cpu::disable_interrupts();
    log::clear();
    apic::send_self(0x66);
    for round in 0..1000u64 {
        set_cr8(round % 16);
        equal("CR8", registers::cr8(), round % 16)?;
    }
    expect(&[])?;
    set_cr8(6);
    let_in();
    expect(&[])?;
    set_cr8(5);
    expect(&[])?;
    let_in();
    set_cr8(0);
    expect(&[0x66])
}

fn visible() -> Outcome {
    cpu::disable_interrupts();
    log::clear();
    apic::send_self(0x83);
    ensure("0x83 requested", apic::is_set(apic::REQUESTED, 0x83), 0)?;
    ensure("0x83 not in service", !apic::is_set(apic::IN_SERVICE, 0x83), 0)?;
    interrupts::set(0x83, |frame| {
        let requested = apic::is_set(apic::REQUESTED, 0x83);
        let serving = apic::is_set(apic::IN_SERVICE, 0x83);
        frame.vector |= u64::from(requested) << 8 | u64::from(serving) << 9;
        log::take(frame);
    });
    let_in();
    interrupts::set(0x83, log::take);
    equal("in service but not requested, in the handler", log::entry(0).0, 0x83 | 1 << 9)?;
    ensure("0x83 not in service after its end", !apic::is_set(apic::IN_SERVICE, 0x83), 0)
}
