//! PCI: every function's configuration, 64 words of it.

use cloister_guest_rt::pci::{self, DeviceFunction};

use crate::report::Report;

/// Reports every function.
pub fn run(report: &mut Report) {
    for device in 0..32 {
        for function in 0..8 {
            let at = DeviceFunction { bus: 0, device, function };
            if pci::read(at, 0) & 0xffff != 0xffff {
                configuration(report, at);
            }
        }
    }
}

fn configuration(report: &mut Report, at: DeviceFunction) {
    for line in (0..=0xf0u8).step_by(16) {
        let words = [0, 4, 8, 12].map(|offset| pci::read(at, line + offset));
        if words != [0; 4] {
            let [a, b, c, d] = words;
            report.line(format_args!("pci {at} {line:02x} {a:08x} {b:08x} {c:08x} {d:08x}"));
        }
    }
}
