//! Instructions and registers that the platform does not have: #UD or #GP, and the guest goes on.

use cloister_guest_rt::probe::{Fault, GP};
use cloister_guest_rt::{cpu, println};
use guest_common::{Cases, Failed, Outcome, attempt, ensure, protected, undefined};

/// An aligned operand for instructions that take memory.
#[repr(align(4096))]
struct Page([u64; 512]);

pub fn run(cases: &mut Cases) {
    cases.run("hypercalls are undefined", hypercalls);
    cases.run("SVM instructions are undefined", svm);
    cases.run("VMX instructions are undefined", vmx);
    cases.run("MONITOR and MWAIT are undefined", monitor);
    cases.run("system management instructions are undefined", management);
    cases.run("RDPMC is refused", performance);
    cases.run("string ports are refused", string_ports);
    cases.run("unlisted MSRs cannot be read", unlisted_reads);
    cases.run("unlisted MSRs cannot be written", unlisted_writes);
    cases.run("reserved bits of MSRs are refused", reserved_bits);
    cases.run("the guest's own exceptions stay in the guest", own_exceptions);
}

fn hypercalls() -> Outcome {
    undefined("VMMCALL", attempt!("vmmcall"; inout("rax") 0u64 => _))?;
    undefined("VMCALL", attempt!("vmcall"; inout("rax") 0u64 => _))
}

fn svm() -> Outcome {
    let page = Page([0; 512]);
    let at = &raw const page as u64;
    undefined("VMRUN", attempt!("vmrun rax"; in("rax") at))?;
    undefined("VMLOAD", attempt!("vmload rax"; in("rax") at))?;
    undefined("VMSAVE", attempt!("vmsave rax"; in("rax") at))?;
    undefined("STGI", attempt!("stgi"))?;
    undefined("CLGI", attempt!("clgi"))?;
    undefined("SKINIT", attempt!("skinit eax"; in("eax") 0))?;
    undefined("INVLPGA", attempt!("invlpga rax, ecx"; in("rax") 0u64, in("ecx") 0))?;
    ensure("the page is untouched", page.0.iter().all(|&word| word == 0), at)
}

/// The instruction is undefined, or does nothing at all: QEMU 10 takes the forms with a memory
/// operand for RDRAND's neighbours and does nothing (7.2 has #UD, as silicon).
fn undefined_or_nothing(what: &'static str, word: u64, page: &Page) -> Outcome {
    if Fault::from_word(word).is_none() {
        println!("{what}: this CPU ignores it");
        return ensure("the page is untouched", page.0.iter().all(|&word| word == 0), 0);
    }
    undefined(what, word)
}

fn vmx() -> Outcome {
    let mut page = Page([0; 512]);
    let at = &raw mut page as u64;
    let on = attempt!("vmxon qword ptr [rax]"; inout("rax") at => _);
    undefined_or_nothing("VMXON", on, &page)?;
    let clear = attempt!("vmclear qword ptr [rax]"; inout("rax") at => _);
    undefined_or_nothing("VMCLEAR", clear, &page)?;
    let load = attempt!("vmptrld qword ptr [rax]"; inout("rax") at => _);
    undefined_or_nothing("VMPTRLD", load, &page)?;
    let store = attempt!("vmptrst qword ptr [rax]"; inout("rax") at => _);
    undefined_or_nothing("VMPTRST", store, &page)?;
    undefined("VMXOFF", attempt!("vmxoff"))?;
    undefined("VMLAUNCH", attempt!("vmlaunch"))?;
    undefined("VMRESUME", attempt!("vmresume"))?;
    undefined("VMREAD", attempt!("vmread rax, rcx"; inout("rax") 0u64 => _, in("rcx") 0))?;
    undefined("VMWRITE", attempt!("vmwrite rcx, rax"; in("rax") 0u64, in("rcx") 0))?;
    undefined("INVEPT", attempt!("invept rcx, [rax]"; in("rax") at, in("rcx") 1u64))?;
    undefined("INVVPID", attempt!("invvpid rcx, [rax]"; in("rax") at, in("rcx") 1u64))
}

fn monitor() -> Outcome {
    let word = 0u64;
    let at = &raw const word as u64;
    undefined("MONITOR", attempt!("monitor"; in("rax") at, in("rcx") 0u64, in("rdx") 0u64))?;
    undefined("MWAIT", attempt!("mwait"; in("rax") 0u64, in("rcx") 0u64))
}

fn management() -> Outcome {
    undefined("RSM", attempt!("rsm"))?;
    undefined("GETSEC", attempt!(".byte 0x0f, 0x37"; inout("rax") 0u64 => _))
}

fn performance() -> Outcome {
    protected("RDPMC", attempt!("rdpmc"; in("rcx") 0u64, out("rax") _, out("rdx") _))
}

fn string_ports() -> Outcome {
    let mut bytes = [0u8; 16];
    let at = bytes.as_mut_ptr() as u64;
    protected("INSB", attempt!("insb"; in("rdx") 0x5000u64, inout("rdi") at => _))?;
    protected("OUTSB", attempt!("outsb"; in("rdx") 0x5000u64, inout("rsi") at => _))?;
    let repeated = attempt!(
        "rep insd";
        in("rdx") 0x5000u64, inout("rdi") at => _, inout("rcx") 4u64 => _
    );
    protected("REP INSD", repeated)
}

/// Numbers that no policy lists: unassigned ones, other vendors' ones, SVM's and VMX's own.
const UNLISTED: [u32; 10] = [
    0x2,
    0x480,
    0x48b,
    0x1234_5678,
    0x4b56_4d00,
    0x4b56_4d01,
    0xc001_0117,
    0xc001_0118,
    0xdead_beef,
    0xffff_ffff,
];

fn unlisted_reads() -> Outcome {
    for number in UNLISTED {
        match cpu::msr(number) {
            Err(Fault { vector: GP, error: 0 }) => {}
            _ => return Err(Failed::Other("RDMSR is answered", number.into())),
        }
    }
    Ok(())
}

fn unlisted_writes() -> Outcome {
    for number in UNLISTED {
        // SAFETY: the register does not exist.
        protected("WRMSR", unsafe { crate::answers::write(number, 0) })?;
    }
    Ok(())
}

fn reserved_bits() -> Outcome {
    let refused: [(&str, u32, u64); 8] = [
        ("EFER with a reserved bit", 0xc000_0080, 0x500 | 1 << 63),
        ("EFER with SVME", 0xc000_0080, 0x500 | 1 << 12),
        ("EFER without long mode while paging", 0xc000_0080, 0),
        ("PAT with type 2", 0x277, 0x0007_0406_0007_0402),
        ("the APIC's address with a reserved bit", 0x1b, 0xfee0_0d00 | 1 << 60),
        ("the APIC's end of interrupt with a value", 0x80b, 1),
        ("the APIC's identifier, read-only", 0x802, 0),
        ("an APIC register that x2APIC lacks", 0x80e, 0),
    ];
    for (what, number, value) in refused {
        // SAFETY: the write is refused; if it is not, the case has failed.
        protected(what, unsafe { crate::answers::write(number, value) })?;
    }
    Ok(())
}

fn own_exceptions() -> Outcome {
    undefined("UD2", attempt!("ud2"))?;
    let divided = attempt!(
        "div ecx";
        inout("eax") 1 => _, inout("edx") 0 => _, in("ecx") 0
    );
    guest_common::faulted("DIV by zero", divided, Fault { vector: 0, error: 0 })?;
    let unmapped = attempt!("mov rax, [rcx]"; in("rcx") 1u64 << 40, out("rax") _);
    guest_common::faulted("an unmapped page", unmapped, Fault { vector: 14, error: 0 })?;
    let strange = attempt!("mov rax, [rcx]"; in("rcx") 1u64 << 63, out("rax") _);
    protected("a non-canonical address", strange)
}
