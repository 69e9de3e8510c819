//! The monitor of a virtual machine: the task that runs its virtual CPUs.
//!
//! Thread `n` runs virtual CPU `n`; thread 0 has the devices besides. What a guest sees is decided
//! in `cloister-monitor`; here grants become devices ([`devices`]), the kernel becomes a
//! [`host::Kernel`], and the end of the virtual machine a reason to leave.
//!
//! Invariant: the guest's first instruction runs after every worker has answered a reset, so no
//! page of this life is written by a request of the last.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used)]

mod devices;
mod host;

use cloister_monitor::cpuid::{CpuidError, CpuidTable, HostFacts};
use cloister_monitor::machine::Machine;
use cloister_monitor::num::{index, low8, low32};
use cloister_monitor::run::{Cpu, Stop};
use cloister_rt::abi::API_VERSION;
use cloister_rt::abi::fault::LeaveReason;
use cloister_rt::proto::stopped::{STOPPED_CONFIG, STOPPED_HOST, Stopped};
use cloister_rt::proto::vm::{VM_XAPIC, VmConfig};
use cloister_rt::{Instant, cpuid, grants, leave, system};

cloister_rt::entry!(thread0, further = thread);

/// What the threads share.
static MACHINE: Machine = Machine::new();

/// Thread 0. Inlined into one frame with [`thread`], its devices would be on every thread's stack.
#[inline(never)]
fn thread0() -> u32 {
    let config = config();
    let table = table(config);
    if table.is_mismatched() {
        defmt::warn!("the guest is told of another CPU vendor than this machine's");
    }
    let (mut bus, mut kernel) = (devices::bus(config), host::Kernel::new(0));
    devices::start(&mut bus, &mut kernel, config);
    let now = Instant::now().tsc();
    MACHINE.start(index(config.vcpus.into()), config.flags & VM_XAPIC == 0, now);
    let since = now.wrapping_sub(system().tsc_checked);
    defmt::info!("the guest's time begins {=u64} ticks after the image's check", since);
    let mut cpu = Cpu::new(kernel, 0, &MACHINE, config, &table, system().tsc_hz, Some(&mut bus));
    let stop = cpu.run();
    end(stop)
}

/// A further thread, from 1 on.
#[inline(never)]
fn thread(number: u32) -> u32 {
    let config = config();
    let table = table(config);
    let kernel = host::Kernel::new(index(number.into()));
    let number = low8(number.into());
    let mut cpu = Cpu::new(kernel, number, &MACHINE, config, &table, system().tsc_hz, None);
    let stop = cpu.run();
    end(stop)
}

/// What this virtual machine is.
fn config() -> &'static VmConfig {
    match grants().vm() {
        Ok(config) if config.version == API_VERSION => return config,
        Ok(config) => defmt::error!(
            "the virtual machine is described in version {=u32}, this monitor reads {=u32}; build \
             the image again",
            config.version,
            API_VERSION
        ),
        Err(missing) => {
            defmt::error!("{}: a monitor is started by a [vms] entry of the manifest", missing);
        }
    }
    give_up(STOPPED_CONFIG)
}

/// What CPUID tells its guest.
fn table(config: &VmConfig) -> CpuidTable {
    let facts = HostFacts::read(cpuid, low32(system().tsc_hz / 1000));
    CpuidTable::new(config, &facts).unwrap_or_else(|error| refuse(error))
}

/// This machine, or this description, cannot carry the virtual machine.
fn refuse(error: CpuidError) -> ! {
    let what = match error {
        CpuidError::Lacks(feature) => feature,
        CpuidError::AvxArea(_) => "AVX state where guests expect it",
        CpuidError::TscUnknown => "a TSC of known frequency",
        CpuidError::Identity(_) => "a known `identity`",
        CpuidError::Vcpus(_) => "1 to 8 virtual CPUs",
    };
    defmt::error!("the virtual CPU needs {=str}; choose a lower `baseline` in the manifest", what);
    give_up(STOPPED_HOST)
}

/// Ends before the guest has run.
fn give_up(code: u8) -> ! {
    leave(LeaveReason::Stopped, Stopped { code, byte: 0, rip: 0 }.detail())
}

/// Ends with the guest. The supervisor says why, in one line with what follows.
fn end(stop: Stop) -> ! {
    match stop {
        Stop::PowerOff => leave(LeaveReason::Exit, 0),
        Stop::Reset => leave(LeaveReason::Reset, 0),
        Stop::Stopped(stopped) => leave(LeaveReason::Stopped, stopped.detail()),
    }
}
