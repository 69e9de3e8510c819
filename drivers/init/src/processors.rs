//! The other cores: which ones, asking them to start, waiting for them.

use cloister_init_core::madt;
use cloister_rt::abi::layout::MAX_CORES;
use cloister_rt::boot::Boot;
use cloister_rt::{Duration, Instant, bsp_apic_id, sleep_until};

use crate::failure::Failure;
use crate::firmware::{Tables, with_table};

/// How long a core may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Sleep between two looks; the manual wants 200 microseconds between start-up messages.
const PAUSE: Duration = Duration::from_micros(200);

/// The cores that were asked to start.
pub struct Cores {
    apic_ids: [u32; MAX_CORES],
    count: usize,
    since: Instant,
}

/// Asks as many cores to start as the system table wants, in the order of the firmware's table.
pub fn ask(boot: &mut Boot, tables: &Tables, wanted: u32) -> Result<Cores, Failure> {
    let own = bsp_apic_id();
    let (apic_ids, found) = with_table(boot, tables.madt, b"APIC", |madt| {
        Ok(madt::other_cores::<MAX_CORES>(madt, own)?)
    })?;
    let count = wanted.saturating_sub(1) as usize;
    if count > found {
        return Err(Failure::FewCores(found as u32 + 1));
    }
    let cores = Cores { apic_ids, count, since: Instant::now() };
    for (core, apic_id) in cores.list() {
        boot.start_core(core, apic_id).map_err(|_| Failure::CoreSilent(core))?;
    }
    Ok(cores)
}

impl Cores {
    /// Sleeps until all of them run.
    pub fn wait(&self, boot: &Boot) -> Result<(), Failure> {
        for (core, apic_id) in self.list() {
            while !boot.start_core(core, apic_id).map_err(|_| Failure::CoreSilent(core))? {
                if self.since.elapsed() > PATIENCE {
                    return Err(Failure::CoreSilent(core));
                }
                sleep_until(Instant::now() + PAUSE);
            }
        }
        Ok(())
    }

    /// Core numbers from 1 on, with the APIC id of each.
    fn list(&self) -> impl Iterator<Item = (u32, u32)> {
        (1..).zip(self.apic_ids).take(self.count)
    }
}
