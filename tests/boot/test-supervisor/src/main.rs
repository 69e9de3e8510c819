//! A supervisor that walks a table of cases and powers the machine off if every one holds.
//!
//! The manifest's number `suite` says which table. A case that does not hold says so in one line,
//! `case NAME FAILED: WHAT: found …, expected …`; the last line counts. After a failure the
//! supervisor leaves, which reboots the machine, so that no run that failed ends in order.

#![no_std]
#![no_main]

mod budget;
mod calls;
mod dying;
mod faults;
mod flush;
mod fpu;
mod fuzz;
mod irq;
mod report;
mod restart;
mod sweep;
mod ward;

use cloister_rt::abi::call::{Call, PowerOp};
use cloister_rt::abi::table::CapKind;
use cloister_rt::grants;

use report::Report;

cloister_rt::entry!(main);

fn main() -> u32 {
    let Ok(suite) = grants().number("suite") else {
        defmt::error!("the manifest gives the supervisor no number `suite`");
        return 2;
    };
    let mut report = Report::default();
    match suite {
        1 => calls::run(&mut report),
        2 => faults::run(&mut report),
        3 => restart::run(&mut report),
        4 => budget::run(&mut report),
        5 => fpu::run(&mut report),
        6 => irq::run(&mut report),
        7 => fuzz::run(&mut report),
        8 => sweep::run(&mut report),
        10.. => return dying::run(suite),
        _ => {}
    }
    report.end();
    flush::flush();
    if !report.is_good() {
        return 1;
    }
    let power = boot_common::raw::slot("power", CapKind::Power).unwrap_or(0);
    boot_common::raw::known(Call::Power, power, PowerOp::Off as u64, 0);
    3
}
