//! An `init` for the reference machine, QEMU's q35, that knows where everything is.
//!
//! It parses nothing, so that the tests of the kernel do not depend on the real `init`. Before it
//! hands the machine's parts over it tries every boot-only call with wrong arguments; a call that
//! is not refused as it should be ends the boot with the number of the line that found it.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use boot_common::raw::{Reply, known};
use cloister_rt::abi::call::{Call, Part, Status};
use cloister_rt::abi::layout::PAGE;
use cloister_rt::system;

cloister_rt::entry!(main);

/// The power management registers of the ICH9: PM1a_CNT.
const PM1A_CONTROL: u64 = 0x604;
/// The reset register and what resets.
const RESET: (u64, u64) = (0xcf9, 6);
/// The IOAPIC.
const IOAPIC: u64 = 0xfec0_0000;
/// The pin of the console's serial port, which every appliance with this `init` has.
const PIN: u64 = 4;
/// How often a core that starts is asked for.
const PATIENCE: u32 = 10_000_000;

/// Leaves with the line of a check that does not hold; the kernel prints it.
macro_rules! expect {
    ($what:expr, $status:expr) => {
        let reply: Reply = $what;
        assert!(
            reply.is($status),
            "found status {} and broken registers {:#x}, expected {:?}",
            reply.status,
            reply.broken,
            $status
        );
    };
}

fn main() -> u32 {
    nothing_to_hold();
    refused_parts();
    refused_cores();
    refused_firmware();
    expect!(known(Call::Bind, 0xffff, 0, 0), Status::BadArgument);
    expect!(known(Call::Bind, u64::MAX, 0, 0), Status::BadArgument);
    expect!(known(Call::Bind, 0, u64::MAX, 0), Status::BadArgument);
    // A platform device has no function; without any device there is no record.
    expect!(known(Call::Bind, 0, 0, 0), Status::BadArgument);

    if system().cores > 1 {
        // Nothing is sealed before every core runs.
        expect!(known(Call::Seal, 0, 0, 0), Status::WrongState);
    }
    let power = (PM1A_CONTROL, 0);
    expect!(part(Part::PowerOff as u64, power), Status::Ok);
    expect!(part(Part::Reset as u64, RESET), Status::Ok);
    expect!(part(Part::IoApic as u64, (IOAPIC, 0)), Status::Ok);
    start_cores();
    // A pin that no IOAPIC has cannot be sealed; the route can be put right afterwards.
    expect!(part(Part::PinRoute as u64, (PIN, 9999)), Status::Ok);
    expect!(known(Call::Seal, 0, 0, 0), Status::BadArgument);
    expect!(part(Part::PinRoute as u64, (PIN, PIN)), Status::Ok);
    defmt::info!("{=u32} cores run, all refusals came; sealing", system().cores);
    known(Call::Seal, 0, 0, 0);
    1
}

fn part(kind: u64, (a, b): (u64, u64)) -> Reply {
    known(Call::HandOver, kind, a, b)
}

/// `init` holds no capability, so every call that needs one is refused. Waiting works.
fn nothing_to_hold() {
    for call in [
        Call::Signal,
        Call::VcpuRun,
        Call::IrqAck,
        Call::DeviceReset,
        Call::Restart,
        Call::Stop,
        Call::Resume,
        Call::FaultInfo,
        Call::Power,
    ] {
        expect!(known(call, 0, 0, 0), Status::NoCap);
    }
    expect!(known(Call::Wait, 0, 1, 0), Status::Deadline);
    expect!(known(Call::Wait, u64::MAX, 1, 0), Status::Deadline);
}

fn refused_parts() {
    let wrong = [
        (7, (0, 0)),
        (u64::MAX, (0, 0)),
        // Configuration space at nothing, in memory, off its alignment, of no bus, of too many.
        (Part::Ecam as u64, (0, 0xff << 8)),
        (Part::Ecam as u64, (0x10_0000, 0)),
        (Part::Ecam as u64, (0xb000_1000, 0xff << 8)),
        (Part::Ecam as u64, (0xb000_0000, 1)),
        (Part::Ecam as u64, (0xb000_0000, 0x100 << 8)),
        (Part::Ecam as u64, (1 << 51, 0xff << 8)),
        // An IOMMU at nothing, in memory, off a page, out of reach, with an argument too many.
        (Part::VtdUnit as u64, (0, 0)),
        (Part::VtdUnit as u64, (0x10_0000, 0)),
        (Part::VtdUnit as u64, (0xfed9_0001, 0)),
        (Part::VtdUnit as u64, (1 << 52, 0)),
        (Part::VtdUnit as u64, (0xfed9_0000, 1)),
        (Part::Reserved as u64, (0x1_0000, 0)),
        (Part::Reserved as u64, (0, 1)),
        // An IOAPIC in memory, off a page, out of reach,
        (Part::IoApic as u64, (0x10_0000, 0)),
        (Part::IoApic as u64, (IOAPIC + 1, 0)),
        (Part::IoApic as u64, (1 << 52, 0)),
        // … one with a source id that is none, and with more than there is.
        (Part::IoApic as u64, (IOAPIC, 1 << 32)),
        (Part::IoApic as u64, (IOAPIC, 1 << 49)),
        (Part::PowerOff as u64, (0x1_0000, 0)),
        (Part::PowerOff as u64, (0, 0x1_0000)),
        (Part::Reset as u64, (0x1_0000, 0)),
        (Part::Reset as u64, (0, 0x100)),
    ];
    for (kind, arguments) in wrong {
        expect!(part(kind, arguments), Status::BadArgument);
    }
}

fn refused_cores() {
    let cores = u64::from(system().cores);
    for (core, apic_id) in [(0, 1), (cores, 1), (u64::MAX, 1), (1, 0xff), (1, u64::MAX)] {
        expect!(known(Call::StartCore, core, apic_id, 0), Status::BadArgument);
    }
}

fn refused_firmware() {
    let wrong = [
        // The image itself, ordinary memory, nothing, too much, and ranges that wrap.
        (0x10_0000, 64),
        (0x8000, 64),
        (0xf_0000, 0),
        (0xe_0000, 0x2_0001),
        (0xd_ffff, 64),
        (u64::MAX, 2),
        (1, u64::MAX),
        (1 << 52, PAGE),
    ];
    for (phys, len) in wrong {
        expect!(known(Call::MapFirmware, phys, len, 0), Status::BadArgument);
    }
    expect!(known(Call::MapFirmware, 0xf_0000, 0x1_0000, 0), Status::Ok);
}

/// The reference machine numbers its cores without gaps.
fn start_cores() {
    for core in 1..u64::from(system().cores) {
        let mut tries = 0;
        loop {
            let reply = known(Call::StartCore, core, core, 0);
            assert!(reply.is(Status::Ok), "core {core} cannot be started: {}", reply.status);
            if reply.values[0] == 1 {
                break;
            }
            tries += 1;
            assert!(tries < PATIENCE, "core {core} does not start");
            known(Call::Wait, 0, cloister_rt::Instant::now().tsc() + 100_000, 0);
        }
    }
}
