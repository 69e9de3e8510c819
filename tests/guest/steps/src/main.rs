//! Micro-guest: every way in which an instruction can touch a device page.
//!
//! The monitor decodes no instruction: it lets the one that touched the page run alone, with the
//! registers' values in a page of its own (DESIGN §4). Each case is one way in which that could
//! go wrong. [`single`]: kinds of instructions on the pages of APIC and MSI-X; [`trouble`]: faults,
//! shadows, the guest's own single steps; [`double`]: what needs a second vCPU.
//!
//! The guest wants its APICs in xAPIC mode, an IOAPIC and a virtio device.

#![no_std]
#![no_main]

mod double;
mod page;
mod single;
mod trouble;

use cloister_guest_rt::virtio::{self, Table};
use cloister_guest_rt::{apic, println, smp};
use guest_common::Cases;

cloister_guest_rt::entry!(main);

fn main() {
    apic::start();
    let mut cases = Cases::default();
    if apic::is_x2apic() {
        println!("FAILED: the APIC is in x2APIC mode; the manifest is to say xapic = true");
        cloister_guest_rt::power::panic(2);
    }
    let table = match virtio::devices().next().map(|device| Table::open(device.function)) {
        Some(Ok(table)) => Some(table),
        Some(Err(failure)) => {
            println!("{failure}");
            None
        }
        None => None,
    };
    single::run(&mut cases, table.as_ref());
    trouble::run(&mut cases);
    if smp::vcpus() > 1 {
        double::run(&mut cases, table.as_ref());
    } else {
        println!("one vCPU: no cases that need two");
    }
    cases.finish()
}
