//! Small ELFs and a small appliance for the tests of this folder.

use std::collections::BTreeMap;
use std::path::Path;

use cloister_abi::layout::{IMAGE, KERNEL_BASE, PAGE};
use cloister_abi::payload::STUB_BASE;
use cloister_manifest::compile::{Compiled, compile};
use cloister_manifest::program::{Program, Segment};
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, ProgramHeader, Writer};

use crate::image::elf::{Elf, Loaded};
use crate::image::payload::{self, Payload};

/// Entry of the sample stub.
pub const STUB_ENTRY: u64 = STUB_BASE + 0x40;
/// Where its PVH note lies.
pub const STUB_NOTE: u64 = STUB_BASE + 0x100;
/// Bytes of the stub's file up to the end of its segment.
pub const STUB_FILE_END: usize = 0x1000 + 0x200;

/// A boot stub: one segment of 512 bytes with a note in it, and some zeroed memory.
pub fn stub() -> Vec<u8> {
    let mut content = vec![0xcc; 0x200];
    let words = [4u32, 8, 18].map(u32::to_le_bytes).concat();
    content[0x100..0x10c].copy_from_slice(&words);
    content[0x10c..0x110].copy_from_slice(b"Xen\0");
    content[0x110..0x118].copy_from_slice(&STUB_ENTRY.to_le_bytes());
    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut file);
    writer.reserve_file_header();
    writer.reserve_program_headers(2);
    let at = writer.reserve(content.len() as u64, PAGE);
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: STUB_ENTRY,
        e_flags: elf::FileFlags(0),
    };
    writer.write_file_header(&header).expect("a header");
    writer.write_align_program_headers();
    for (p_type, offset, len, p_memsz) in
        [(elf::PT_LOAD, 0, 0x200, 0x3000), (elf::PT_NOTE, 0x100, 24, 24)]
    {
        writer.write_program_header(&ProgramHeader {
            p_type,
            p_flags: elf::PF_R | elf::PF_W | elf::PF_X,
            p_offset: at + offset,
            p_vaddr: STUB_BASE + offset,
            p_paddr: STUB_BASE + offset,
            p_filesz: len,
            p_memsz,
            p_align: 4,
        });
    }
    writer.pad_until(at);
    writer.write(&content);
    file
}

/// The sample kernel's instructions.
pub fn kernel_text() -> Vec<u8> {
    (0..5000u32).map(|n| n as u8 | 1).collect()
}

/// A kernel of text and of data with bss behind it.
pub fn kernel() -> Elf {
    let text = Loaded {
        va: KERNEL_BASE,
        pa: KERNEL_BASE,
        bytes: kernel_text(),
        len: 5000,
        is_executable: true,
        is_writable: false,
    };
    let data = Loaded {
        va: KERNEL_BASE + 2 * PAGE,
        pa: KERNEL_BASE + 2 * PAGE,
        bytes: vec![7; 100],
        len: 2 * PAGE + 1,
        is_executable: false,
        is_writable: true,
    };
    Elf {
        name: "kernel.elf".into(),
        file: Vec::new(),
        entry: KERNEL_BASE + 16,
        segments: vec![text, data],
        build_id: Some([0xab; 20]),
        pvh_note: None,
    }
}

/// A task program of one page.
pub fn program() -> Program {
    let text = Segment {
        va: IMAGE,
        pristine_va: IMAGE,
        bytes: vec![0x90; 64],
        len: 64,
        is_executable: true,
        is_writable: false,
    };
    Program { entry: IMAGE, segments: vec![text], build_id: [0; 20] }
}

/// The default appliance with sample programs.
pub fn compiled() -> Compiled {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let file = root.join("images/default/appliance.toml");
    let system = cloister_manifest::load(&file, root).expect("the default manifest is right");
    let programs: BTreeMap<String, Program> =
        system.tasks.iter().map(|task| (task.program.get_ref().clone(), program())).collect();
    let image = vec![0x5e; PAGE as usize];
    let guests = system.vms().map(|(_, task, _)| (task.name().to_owned(), image.clone()));
    compile(&system, &programs, &guests.collect()).expect("the default manifest compiles")
}

/// The default appliance's payload with the sample kernel.
pub fn payload() -> Payload {
    payload::build("sample", &kernel(), &compiled()).expect("a payload")
}
