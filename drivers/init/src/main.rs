//! The first task: reads the firmware's tables, binds devices, starts the cores, seals.
//!
//! Order: the other cores are asked to start as soon as the table that lists them is read; while
//! they start, PCI is walked, machine parts are handed over (IOAPICs, then IOMMUs), devices bound,
//! clock and entropy read. The seal ends
//! this task. What goes wrong ends it earlier, with one line in the log and a code ([`Failure`])
//! that the kernel prints, because no console runs yet.
//!
//! All parsing is in `cloister-init-core`; it treats firmware as a source of untrusted bytes.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod clock;
mod config;
mod devices;
mod failure;
mod firmware;
mod iommu;
mod processors;
mod table;

use cloister_rt::abi::info::{ENTROPY_RDRAND, ENTROPY_RDSEED};
use cloister_rt::abi::table::{FLAG_NEED_RDRAND, FLAG_NEED_RDSEED};
use cloister_rt::boot::Boot;
use cloister_rt::{Duration, Entropy, Grants, Instant, grants, sleep_until};

use cloister_init_core::entropy::{self, Health, RDRAND_TRIES, RDSEED_TRIES};
use cloister_init_core::pci::Functions;
use config::ConfigSpace;
use failure::Failure;
use iommu::Iommu;
use table::SystemTable;

cloister_rt::entry!(main);

/// How long RDSEED is left alone after it had no number.
const PAUSE: Duration = Duration::from_micros(20);

fn main() -> u32 {
    match bring_up(grants()) {
        Ok(never) => match never {},
        Err(failure) => failure.leave(),
    }
}

/// Everything up to the seal, which does not return.
fn bring_up(grants: Grants) -> Result<core::convert::Infallible, Failure> {
    let mut boot = Boot::begin();
    let table = SystemTable::read(grants)?;
    let tables = firmware::find(&mut boot)?;
    let ecam = iommu::ecam(&mut boot, &tables)?;
    let mut config = ConfigSpace::open(grants, &table, ecam);
    let functions = config.as_mut().map(Functions::enumerate);
    let mut iommu = match (&functions, &mut config) {
        (Some(functions), Some(config)) => Iommu::read(&mut boot, &tables, functions, config)?,
        _ => Iommu::default(),
    };
    let century = firmware::hand_over(&mut boot, &tables, &iommu)?;
    iommu.hand_over(&boot, ecam)?;
    devices::bind(&boot, &table, functions.as_ref().zip(config.as_mut()), &iommu)?;
    // Not before devices are confined. The clock and the entropy below take the time that they take.
    let cores = processors::ask(&mut boot, &tables, table.cores)?;
    let unix_seconds = clock::read(grants, century);
    let entropy = entropy(table.flags)?;
    cores.wait(&boot)?;
    Err(Failure::Seal(boot.seal(unix_seconds, entropy)))
}

/// Which sources of entropy work; fails if the manifest needs another one.
fn entropy(flags: u32) -> Result<u32, Failure> {
    let sources = [
        (Entropy::Rdrand, RDRAND_TRIES, ENTROPY_RDRAND, FLAG_NEED_RDRAND),
        (Entropy::Rdseed, RDSEED_TRIES, ENTROPY_RDSEED, FLAG_NEED_RDSEED),
    ];
    let mut working = 0;
    for (source, tries, bit, needed) in sources {
        let health = if source.is_offered() {
            entropy::test(tries, || source.sample(), || sleep_until(Instant::now() + PAUSE))
        } else {
            Health::Silent
        };
        match health {
            Health::Works => working |= bit,
            Health::Silent => defmt::info!("{}: the CPU gives no numbers", source),
            Health::Stuck => defmt::error!("{}: the CPU repeats its numbers; not used", source),
        }
        if flags & needed != 0 && working & bit == 0 {
            return Err(Failure::Entropy(source));
        }
    }
    if working == 0 {
        defmt::warn!("no source of entropy works; tasks that need keys will not start");
    }
    Ok(working)
}
