//! Kinds of instructions: plain, same value, read-modify-write, memory to memory, across pages.

use cloister_guest_rt::abi::platform::{self, MSIX};
use cloister_guest_rt::virtio::Table;
use cloister_guest_rt::{cpu, interrupts, println};
use guest_common::{Cases, Outcome, attempt, ensure, equal, let_in, log, ran};

use crate::page::{COMMAND, DATA, EOI, INDEX, PRIORITY, VERSION, read, write};

/// A vector that the guest sends itself.
const VECTOR: u8 = 0x61;
/// [`COMMAND`]: to the vCPU itself.
const TO_SELF: u32 = 1 << 18 | 1 << 14;
/// Of a redirection entry: masked.
const MASKED: u32 = 1 << 16;

pub fn run(cases: &mut Cases, table: Option<&Table>) {
    interrupts::set(VECTOR, log::take);
    cases.run("registers keep what is written", plain);
    cases.run("the IOAPIC's window keeps what is written", window);
    cases.run("writing the value that is there has its effect", same_value);
    cases.run("instructions that read, change and write", read_modify_write);
    cases.run("a read has no effect of a write", reads_are_reads);
    cases.run("every width of access goes on", widths);
    cases.run("moves between memory and registers", moves);
    cases.run("a move from one device to another", between_devices);
    cases.run("PUSH and POP with a register", push_pop);
    cases.run("an access across two pages", across_pages);
    let Some(table) = table else {
        println!("no virtio device: no cases of MSI-X");
        return;
    };
    cases.run("MSI-X entries keep what is written", || entries(table));
    cases.run("MSI-X stores of eight bytes", || eight_bytes(table));
    cases.run("a move from MSI-X to the APIC and back", || to_msix(table));
    cases.run("a move inside of MSI-X", || inside_msix(table));
    cases.run("an access across MSI-X and its neighbour", || beside_msix(table));
}

fn plain() -> Outcome {
    for priority in (0..=0xf0).step_by(0x10) {
        write(PRIORITY, priority);
        equal("the task priority", read(PRIORITY).into(), priority.into())?;
        equal("CR8", guest_common::registers::cr8(), u64::from(priority) >> 4)?;
    }
    write(PRIORITY, 0);
    let version = read(VERSION);
    write(VERSION, !version);
    equal("the version", read(VERSION).into(), version.into())
}

fn window() -> Outcome {
    for pin in 0..24u32 {
        write(INDEX, 0x10 + 2 * pin);
        equal("the index", read(INDEX).into(), (0x10 + 2 * pin).into())?;
        for vector in [0x30, 0xef] {
            write(DATA, MASKED | vector);
            equal("a redirection entry", (read(DATA) & 0x100ff).into(), (MASKED | vector).into())?;
        }
    }
    Ok(())
}

/// Sends the vector to the vCPU itself, by `send`, and counts how many came.
fn sent(send: impl Fn()) -> u64 {
    cpu::disable_interrupts();
    log::clear();
    send();
    let_in();
    log::len() as u64
}

fn same_value() -> Outcome {
    for _ in 0..100 {
        equal("interrupts", sent(|| write(COMMAND, TO_SELF | u32::from(VECTOR))), 1)?;
    }
    // Two in service, each ended by the same zero.
    log::clear();
    interrupts::set(0x41, |frame| {
        log::note(frame);
        write(COMMAND, TO_SELF | 0x91);
        let_in();
        write(EOI, 0);
    });
    interrupts::set(0x91, |frame| {
        log::note(frame);
        write(EOI, 0);
    });
    equal("interrupts", sent(|| write(COMMAND, TO_SELF | 0x41)), 2)?;
    equal("interrupts, once more", sent(|| write(COMMAND, TO_SELF | 0x41)), 2)
}

fn read_modify_write() -> Outcome {
    write(PRIORITY, 0x20);
    ran("ADD", attempt!("add dword ptr [rcx], 0x10"; in("rcx") PRIORITY))?;
    equal("after ADD", read(PRIORITY).into(), 0x30)?;
    ran("OR", attempt!("or dword ptr [rcx], 0x40"; in("rcx") PRIORITY))?;
    equal("after OR", read(PRIORITY).into(), 0x70)?;
    ran("AND", attempt!("and dword ptr [rcx], 0x50"; in("rcx") PRIORITY))?;
    equal("after AND", read(PRIORITY).into(), 0x50)?;
    let mut eax = 0xa0u32;
    ran("XCHG", attempt!("xchg [rcx], eax"; inout("eax") eax, in("rcx") PRIORITY))?;
    equal("what XCHG read", eax.into(), 0x50)?;
    equal("after XCHG", read(PRIORITY).into(), 0xa0)?;
    let mut eax = 0x10u32;
    ran("XADD", attempt!("lock xadd [rcx], eax"; inout("eax") eax, in("rcx") PRIORITY))?;
    equal("what XADD read", eax.into(), 0xa0)?;
    equal("after XADD", read(PRIORITY).into(), 0xb0)?;
    let mut eax = 0xb0u32;
    let exchanged =
        attempt!("lock cmpxchg [rcx], edx"; inout("eax") eax, in("edx") 0x60, in("rcx") PRIORITY);
    ran("CMPXCHG", exchanged)?;
    equal("what CMPXCHG read", eax.into(), 0xb0)?;
    equal("after CMPXCHG", read(PRIORITY).into(), 0x60)?;
    write(PRIORITY, 0);
    // On the command register each of them sends once.
    write(COMMAND, TO_SELF | u32::from(VECTOR));
    equal("the first", sent(|| ()), 1)?;
    let or = sent(|| {
        attempt!("or dword ptr [rcx], 0"; in("rcx") COMMAND);
    });
    equal("interrupts of OR with 0", or, 1)?;
    let add = sent(|| {
        attempt!("add dword ptr [rcx], 0"; in("rcx") COMMAND);
    });
    equal("interrupts of ADD with 0", add, 1)
}

fn reads_are_reads() -> Outcome {
    write(COMMAND, TO_SELF | u32::from(VECTOR));
    sent(|| ());
    let reads = sent(|| {
        read(COMMAND);
        attempt!("test dword ptr [rcx], 1"; in("rcx") COMMAND);
        attempt!("cmp dword ptr [rcx], 1"; in("rcx") COMMAND);
    });
    equal("interrupts of reads", reads, 0)
}

fn widths() -> Outcome {
    write(PRIORITY, 0x40);
    let mut rax = 0u64;
    ran("one byte", attempt!("mov al, [rcx]"; inout("rax") rax, in("rcx") PRIORITY))?;
    ran("two bytes", attempt!("mov ax, [rcx]"; inout("rax") rax, in("rcx") PRIORITY))?;
    ran("eight bytes", attempt!("mov rax, [rcx]"; inout("rax") rax, in("rcx") PRIORITY))?;
    ran("an odd address", attempt!("mov eax, [rcx]"; inout("rax") rax, in("rcx") PRIORITY + 1))?;
    guest_common::registers::enable_sse();
    ran("sixteen bytes", attempt!("movups xmm0, [rcx]"; in("rcx") PRIORITY))?;
    ran("one byte written", attempt!("mov [rcx], al"; in("rax") 0x40, in("rcx") PRIORITY))?;
    ran("eight bytes written", attempt!("mov [rcx], rax"; in("rax") 0x40, in("rcx") PRIORITY))?;
    core::hint::black_box(rax);
    write(PRIORITY, 0);
    equal("the task priority", read(PRIORITY).into(), 0)
}

fn moves() -> Outcome {
    let mut word = 0x55u32;
    let at = &raw mut word as u64;
    let version = read(VERSION);
    let to = attempt!("movsd"; inout("rsi") VERSION => _, inout("rdi") at => _);
    ran("MOVSD to memory", to)?;
    // SAFETY: the variable is there.
    equal("the word", unsafe { (at as *const u32).read_volatile() }.into(), version.into())?;
    // SAFETY: the variable is there.
    unsafe { (at as *mut u32).write_volatile(0x30) };
    let (mut rsi, mut rdi) = (at, PRIORITY);
    ran("MOVSD from memory", attempt!("movsd"; inout("rsi") rsi, inout("rdi") rdi))?;
    equal("the task priority", read(PRIORITY).into(), 0x30)?;
    equal("RSI", rsi, at + 4)?;
    equal("RDI", rdi, PRIORITY + 4)?;
    let mut words = [0u32; 8];
    let at = words.as_mut_ptr() as u64;
    let many = attempt!(
        "rep movsd";
        inout("rsi") VERSION => _, inout("rdi") at => _, inout("rcx") 8u64 => _
    );
    ran("REP MOVSD", many)?;
    // SAFETY: the array is there.
    equal("the first", unsafe { (at as *const u32).read_volatile() }.into(), version.into())?;
    let mut rcx = 4u64;
    ran(
        "REP STOSD",
        attempt!(
            "rep stosd";
            in("eax") 0x20, inout("rdi") PRIORITY => _, inout("rcx") rcx
        ),
    )?;
    equal("RCX after REP STOSD", rcx, 0)?;
    equal("the task priority", read(PRIORITY).into(), 0x20)?;
    write(PRIORITY, 0);
    Ok(())
}

fn between_devices() -> Outcome {
    write(PRIORITY, 0x10);
    write(INDEX, 0);
    let moved = attempt!("movsd"; inout("rsi") PRIORITY => _, inout("rdi") INDEX => _);
    ran("MOVSD from the APIC to the IOAPIC", moved)?;
    equal("the index", read(INDEX).into(), 0x10)?;
    write(INDEX, 0x20);
    let moved = attempt!("movsd"; inout("rsi") INDEX => _, inout("rdi") PRIORITY => _);
    ran("MOVSD from the IOAPIC to the APIC", moved)?;
    equal("the task priority", read(PRIORITY).into(), 0x20)?;
    let within = attempt!("movsd"; inout("rsi") VERSION => _, inout("rdi") PRIORITY => _);
    ran("MOVSD within a page", within)?;
    equal("the task priority", read(PRIORITY).into(), u64::from(read(VERSION)) & 0xff)?;
    write(PRIORITY, 0);
    Ok(())
}

fn push_pop() -> Outcome {
    write(PRIORITY, 0x60);
    let mut rax = 0u64;
    ran("PUSH", attempt!("push qword ptr [rcx]", "pop rax"; inout("rax") rax, in("rcx") PRIORITY))?;
    equal("what PUSH read", rax & 0xff, 0x60)?;
    // `attempt!` covers the first instruction alone, so the value is pushed before.
    let fault: u64;
    // SAFETY: the stack is where it was.
    unsafe {
        core::arch::asm!(
            "push 0x50", cloister_guest_rt::probe::code!("pop qword ptr [rcx]"),
            in("rcx") PRIORITY, out("r11") fault,
        );
    }
    ran("POP", fault)?;
    equal("what POP wrote", read(PRIORITY).into(), 0x50)?;
    write(PRIORITY, 0);
    Ok(())
}

fn across_pages() -> Outcome {
    write(PRIORITY, 0x30);
    let mut rax = 0u64;
    let end = platform::APIC + 0xffc;
    ran("reading across the end", attempt!("mov rax, [rcx]"; inout("rax") rax, in("rcx") end))?;
    ran("writing across the end", attempt!("mov [rcx], rax"; in("rax") rax, in("rcx") end))?;
    let start = platform::APIC - 4;
    ran("reading across the start", attempt!("mov rax, [rcx]"; inout("rax") rax, in("rcx") start))?;
    equal("the task priority", read(PRIORITY).into(), 0x30)?;
    core::hint::black_box(rax);
    write(PRIORITY, 0);
    Ok(())
}

fn entries(table: &Table) -> Outcome {
    ensure("entries", table.entries() > 0, table.entries().into())?;
    for entry in 0..table.entries() {
        let at = |word| table.word(entry, word) as u64;
        // Masked, so that nothing is sent.
        write(at(3), 1);
        for value in [0xfee0_0000u32, 0xfee0_1000, 0xfee0_f00c] {
            write(at(0), value);
            write(at(1), 0);
            write(at(2), 0x40 + u32::from(entry));
            equal("the address", read(at(0)).into(), value.into())?;
            equal("its upper half", read(at(1)).into(), 0)?;
            equal("the data", read(at(2)).into(), 0x40 + u64::from(entry))?;
            equal("the control word", (read(at(3)) & 1).into(), 1)?;
        }
    }
    Ok(())
}

fn eight_bytes(table: &Table) -> Outcome {
    let at = table.word(0, 0) as u64;
    let address = 0xfee0_3000u64;
    ran("the address", attempt!("mov [rcx], rax"; in("rax") address, in("rcx") at))?;
    let rest = 1 << 32 | 0x77u64;
    ran("data and control", attempt!("mov [rcx], rax"; in("rax") rest, in("rcx") at + 8))?;
    equal("the address", read(at).into(), address)?;
    equal("its upper half", read(at + 4).into(), 0)?;
    equal("the data", read(at + 8).into(), 0x77)?;
    equal("the control word", read(at + 12).into(), 1)?;
    let mut rax = 0u64;
    ran("reading both", attempt!("mov rax, [rcx]"; inout("rax") rax, in("rcx") at + 8))?;
    equal("both", rax, rest)
}

fn to_msix(table: &Table) -> Outcome {
    let data = table.word(0, 2) as u64;
    write(table.word(0, 3) as u64, 1);
    write(PRIORITY, 0x70);
    let to = attempt!("movsd"; inout("rsi") PRIORITY => _, inout("rdi") data => _);
    ran("MOVSD from the APIC", to)?;
    equal("the data", read(data).into(), 0x70)?;
    write(data, 0x50);
    let back = attempt!("movsd"; inout("rsi") data => _, inout("rdi") PRIORITY => _);
    ran("MOVSD to the APIC", back)?;
    equal("the task priority", read(PRIORITY).into(), 0x50)?;
    write(PRIORITY, 0);
    Ok(())
}

/// The load is from the page that the store has put a slot in the place of.
fn inside_msix(table: &Table) -> Outcome {
    ensure("entries", table.entries() > 1, table.entries().into())?;
    let at = |entry, word| table.word(entry, word) as u64;
    for (from, to) in [(0, 1), (1, 0)] {
        write(at(from, 3), 1);
        write(at(to, 3), 1);
        write(at(from, 2), 0x5a);
        write(at(to, 2), 0x66);
        // Leaves other bytes where a slot has the entries: there is no register.
        read(platform::APIC + at(from, 0) % 0x1000);
        let moved = attempt!("movsd"; inout("rsi") at(from, 2) => _, inout("rdi") at(to, 2) => _);
        ran("MOVSD", moved)?;
        equal("the data", read(at(to, 2)).into(), 0x5a)?;
        equal("the data it is from", read(at(from, 2)).into(), 0x5a)?;
    }
    Ok(())
}

/// Half of the access is to a page without an owner, half to the first entry.
fn beside_msix(table: &Table) -> Outcome {
    let first = table.word(0, 0) as u64;
    if first != MSIX {
        println!("the table is not where the platform has it");
        return Ok(());
    }
    write(table.word(0, 3) as u64, 1);
    write(first, 0xfee0_1000);
    let mut rax = 0u64;
    ran("a read", attempt!("mov rax, [rcx]"; inout("rax") rax, in("rcx") first - 4))?;
    equal("both halves", rax, 0xfee0_1000 << 32 | 0xffff_ffff)?;
    let value = 0xfee0_2000u64 << 32 | 0x1234_5678;
    ran("a write", attempt!("mov [rcx], rax"; in("rax") value, in("rcx") first - 4))?;
    equal("the address", read(first).into(), 0xfee0_2000)
}
