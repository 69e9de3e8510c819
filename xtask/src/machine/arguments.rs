//! The command line of the reference machine, as `docs` describes it and tests rely on it.
//!
//! Pure: from a [`Machine`] and QEMU's version to arguments.

use std::path::Path;

use super::{Machine, disks};
use crate::emulators::REFERENCE;
use crate::version::Version;

/// QEMU's arguments for a machine that xtask watches; `socket` is for control.
pub fn watched(machine: &Machine, version: Version, socket: &Path) -> Vec<String> {
    let mut list = common(machine, version);
    let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0"]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", value(socket))]);
    list
}

/// QEMU's arguments for a machine that a debugger watches; the serial port goes to a file.
pub fn detached(machine: &Machine, version: Version, serial: &Path) -> Vec<String> {
    let mut list = common(machine, version);
    let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-chardev", &format!("file,id=serial0,path={}", value(serial))]);
    add(&["-serial", "chardev:serial0"]);
    list
}

/// A path as a value of QEMU's option syntax, where a comma is written twice.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn common(machine: &Machine, version: Version) -> Vec<String> {
    let mut list = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-accel", accelerator(machine, version)]);
    add(&["-M", "q35", "-cpu", "max,la57=off", "-nodefaults"]);
    add(&["-display", "none", "-no-reboot", "-S"]);
    add(&["-smp", &machine.cpus.to_string(), "-m", &format!("{}M", machine.memory_mib)]);
    if machine.iommu {
        add(&["-device", iommu(version)]);
    }
    // The chipset's watchdog may reset the machine; QEMU's own default ignores it.
    add(&["-global", "ICH9-LPC.noreboot=false"]);
    add(&["-kernel", &machine.image.display().to_string()]);
    if machine.icount {
        add(&["-icount", "shift=0,sleep=off", "-seed", "1"]);
        add(&["-rtc", "base=2026-01-01,clock=vm"]);
    }
    if let Some(port) = machine.gdb_port {
        add(&["-gdb", &format!("tcp:127.0.0.1:{port}")]);
    }
    list.extend(disks::arguments(&machine.disks));
    list.extend(machine.extra.iter().cloned());
    list
}

/// Counted instructions and x2APIC need care: QEMU's emulation of RDMSR and WRMSR reads the clock
/// for the local APIC's timer in the middle of a translated block, which ends the emulator with
/// "Bad icount read". A block of one instruction has no middle; the counts stay the same.
///
/// A processor of QEMU's may go on with code that another one has changed meanwhile
/// (docs/caveats.md), which they cannot do if they take turns on one thread.
fn accelerator(machine: &Machine, version: Version) -> &'static str {
    match (machine.icount, machine.patches_code) {
        (true, _) if version >= REFERENCE => "tcg,one-insn-per-tb=on",
        (false, true) => "tcg,thread=single",
        _ => "tcg",
    }
}

fn iommu(version: Version) -> &'static str {
    if version >= REFERENCE {
        "intel-iommu,intremap=on,eim=on,caching-mode=on"
    } else {
        "intel-iommu,intremap=on,caching-mode=on"
    }
}

/// What is missing on this QEMU, for people; none on the reference version.
pub fn reduced(version: Version) -> Option<String> {
    (version < REFERENCE).then(|| {
        format!(
            "QEMU {version}: processors use xAPIC and the IOMMU offers no eim (x2APIC), because \
             this QEMU emulates neither; {REFERENCE} or newer has both (cargo xtask setup \
             --emulators, then --qemu 10.0)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Machine, detached, reduced, watched};
    use crate::version::Version;
    use std::path::{Path, PathBuf};

    fn line(machine: &Machine, version: Version) -> String {
        watched(machine, version, Path::new("/tmp/a,b")).join(" ")
    }

    #[test]
    fn the_reference_machine_is_what_the_notes_say() {
        let machine = Machine::new(PathBuf::from("image"));
        let line = line(&machine, Version::new(10, 0));
        assert!(line.starts_with("-accel tcg -M q35 -cpu max,la57=off -nodefaults"));
        assert!(line.contains("-smp 4 -m 2048M"));
        assert!(line.contains("intel-iommu,intremap=on,eim=on,caching-mode=on"));
        assert!(line.contains("unix:/tmp/a,,b,server=on"));
        assert!(!line.contains("-icount") && !line.contains("-gdb"));
    }

    #[test]
    fn code_that_changes_runs_on_one_thread() {
        let mut machine = Machine::new(PathBuf::from("image"));
        machine.patches_code = true;
        assert!(line(&machine, Version::new(10, 0)).starts_with("-accel tcg,thread=single -M"));
        machine.icount = true;
        assert!(line(&machine, Version::new(7, 2)).starts_with("-accel tcg -M"));
    }

    #[test]
    fn an_old_qemu_gets_no_eim_and_says_so() {
        let mut machine = Machine::new(PathBuf::from("image"));
        machine.icount = true;
        let line = line(&machine, Version::new(7, 2));
        assert!(!line.contains("eim"));
        assert!(line.contains("-icount shift=0,sleep=off -seed 1 -rtc base=2026-01-01,clock=vm"));
        assert!(line.starts_with("-accel tcg -M"));
        assert!(reduced(Version::new(7, 2)).is_some_and(|text| text.contains("xAPIC")));
        assert_eq!(reduced(Version::new(10, 0)), None);
    }

    #[test]
    fn a_debugger_gets_its_port_on_this_machine_alone() {
        let mut machine = Machine::new(PathBuf::from("image"));
        machine.gdb_port = Some(1234);
        let line = detached(&machine, Version::new(10, 0), Path::new("log")).join(" ");
        assert!(line.contains("-gdb tcp:127.0.0.1:1234") && line.contains(" -S "));
        assert!(line.contains("file,id=serial0,path=log") && !line.contains("-qmp"));
    }
}
