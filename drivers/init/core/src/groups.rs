//! Isolation groups: functions that an IOMMU cannot keep apart.
//!
//! Two functions are in one group if one can reach the other, or write with its name, without
//! passing the IOMMU:
//! 1. functions of one device, unless both keep peers apart (ACS);
//! 2. a port without ACS and everything on the bus behind it;
//! 3. the downstream ports of one switch that lack ACS, with each other;
//! 4. a bridge to a conventional bus and everything behind it: they share its name.
//!
//! What cannot be read counts as absent, so groups are never too small. Root ports in different
//! slots are apart: a request between them passes the root complex, where the IOMMU is.

use crate::pci::{Address, FUNCTIONS_MAX, Function, Functions, Role};

/// Which group each function is in.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Function and group; a group is named by the lowest position in it.
    of: [(Address, Address); FUNCTIONS_MAX],
    count: usize,
}

impl Groups {
    /// Forms the groups.
    pub fn of(functions: &Functions) -> Groups {
        let mut groups = Groups { of: [(0, 0); FUNCTIONS_MAX], count: 0 };
        for (place, function) in groups.of.iter_mut().zip(functions.iter()) {
            *place = (function.address, function.address);
            groups.count += 1;
        }
        for (nth, one) in functions.iter().enumerate() {
            for other in functions.iter().skip(nth + 1) {
                if touch(one, other) || touch(other, one) {
                    groups.join(one.address, other.address);
                }
            }
        }
        for switch in functions.iter().filter(|f| matches!(f.role, Role::UpstreamPort { .. })) {
            groups.join_weak_ports(functions, switch);
        }
        groups
    }

    /// The group of a function; a function that is not known is a group of its own.
    pub fn group(&self, address: Address) -> Address {
        let known = self.of.iter().take(self.count);
        known.clone().find(|(a, _)| *a == address).map_or(address, |(_, group)| *group)
    }

    /// Whether a function is alone in its group.
    pub fn is_alone(&self, address: Address) -> bool {
        let group = self.group(address);
        self.of.iter().take(self.count).filter(|(_, other)| *other == group).count() <= 1
    }

    fn join_weak_ports(&mut self, functions: &Functions, switch: &Function) {
        let mut weak = functions.iter().filter(|port| {
            let is_below = Some(port.bus()) == switch.role.secondary();
            is_below && !port.has_acs && matches!(port.role, Role::DownstreamPort { .. })
        });
        let Some(first) = weak.next() else { return };
        for port in weak {
            self.join(first.address, port.address);
        }
    }

    fn join(&mut self, one: Address, other: Address) {
        let (a, b) = (self.group(one), self.group(other));
        let (low, high) = (a.min(b), a.max(b));
        for (_, group) in self.of.iter_mut().take(self.count) {
            if *group == high {
                *group = low;
            }
        }
    }
}

/// Whether `other` is in the group of `one` by rule 1, 2 or 4.
fn touch(one: &Function, other: &Function) -> bool {
    if one.slot() == other.slot() {
        return !(one.has_acs && other.has_acs);
    }
    if one.role.secondary() != Some(other.bus()) {
        return false;
    }
    match one.role {
        Role::DownstreamPort { .. } => !one.has_acs,
        // An upstream port forwards only what its downstream ports let pass.
        Role::UpstreamPort { .. } | Role::Endpoint => false,
        Role::ConventionalBridge { .. } => true,
    }
}
