//! The authority graph as text: task by task what it may do and touch, then the devices and the
//! virtual machines.

use std::fmt;

use super::{Device, Graph, Map, Region, Task, Vm, Volume};
use crate::quantity::{shown_bytes, shown_ns};

impl Map {
    /// "rwx" with dashes for what is missing; "+dma" where devices reach it too.
    fn rights(&self) -> String {
        let letter = |is_set: bool, letter: char| if is_set { letter } else { '-' };
        let dma = if self.dma { "+dma" } else { "" };
        format!("r{}{}{dma}", letter(self.writable, 'w'), letter(self.executable, 'x'))
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "appliance {}", self.appliance)?;
        for task in &self.tasks {
            writeln!(out)?;
            task.print(out)?;
            for region in &self.regions {
                for map in region.maps.iter().filter(|map| map.task == task.name) {
                    region.print(map, out)?;
                }
            }
        }
        writeln!(out, "\ndevices")?;
        for device in &self.devices {
            device.print(out)?;
        }
        for window in &self.windows {
            let dma = if window.dma { ", and by the devices of that task" } else { "" };
            writeln!(
                out,
                "  window {} of {}: {} of task {} are read and written by task {}{dma}",
                window.name,
                window.server,
                shown_bytes(window.bytes),
                window.client,
                window.server
            )?;
        }
        for vm in &self.vms {
            writeln!(out)?;
            vm.print(&self.regions, out)?;
        }
        Ok(())
    }
}

impl Vm {
    fn print(&self, regions: &[Region], out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "vm {}", self.monitor)?;
        writeln!(out, "  boots     {}", self.guest)?;
        for (number, vcpu) in self.vcpus.iter().enumerate() {
            writeln!(out, "  vCPU {number}    thread {} on core {}", vcpu.thread, vcpu.core)?;
        }
        for map in &self.maps {
            let size = shown_bytes(map.bytes);
            writeln!(out, "  sees      {} {:#x} {size} of {}", map.rights, map.at, map.kind)?;
        }
        for (number, device) in self.devices.iter().enumerate() {
            let ports: Vec<String> =
                device.doorbells.iter().map(|port| format!("{port:#x}")).collect();
            writeln!(
                out,
                "  device {number}  {}: virtio {}, served by {}, doorbells {} set its bit {}",
                device.name,
                device.kind,
                device.worker,
                ports.join(", "),
                device.bit
            )?;
        }
        let maps = regions.get(self.memory).map(|region| region.maps.as_slice());
        let users: Vec<String> = maps
            .unwrap_or_default()
            .iter()
            .map(|map| format!("{} {}", map.task, map.rights()))
            .collect();
        let users = if users.is_empty() { "nobody".to_owned() } else { users.join(", ") };
        writeln!(out, "  memory    is also mapped by {users}")
    }
}

impl Task {
    fn print(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} {}", self.role, self.name)?;
        for (index, thread) in self.threads.iter().enumerate() {
            let (budget, period) = (shown_ns(thread.budget_ns), shown_ns(thread.period_ns));
            writeln!(
                out,
                "  runs      thread {index} on core {}, priority {}, {budget} of {period}",
                thread.core, thread.priority
            )?;
        }
        for signal in &self.signals {
            writeln!(
                out,
                "  signals   {} thread {}, bit {}",
                signal.task, signal.thread, signal.bit
            )?;
        }
        for control in &self.controls {
            writeln!(out, "  controls  {}: {}", control.task, control.rights.join(", "))?;
        }
        if !self.power.is_empty() {
            writeln!(out, "  power     {}", self.power.join(", "))?;
        }
        for (first, last) in &self.ports {
            writeln!(out, "  ports     {first:#x} to {last:#x}")?;
        }
        for volume in &self.volumes {
            volume.print(out)?;
        }
        if let Some(restart) = &self.restart {
            let essential = if restart.essential { ", essential" } else { "" };
            writeln!(out, "  restarts  {} times, then {}{essential}", restart.tries, restart.then)?;
        }
        Ok(())
    }
}

impl Volume {
    fn print(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.writable { "read and written" } else { "read" };
        let limits: String = self.limits.iter().map(|limit| format!(", {limit}")).collect();
        let cipher = self.key.as_ref().map_or_else(
            || ", not encrypted".to_owned(),
            |key| format!(", encrypted with a key from `{key}`"),
        );
        writeln!(out, "  offers    {}: {}, {access}{limits}{cipher}", self.name, self.extent)
    }
}

impl Region {
    fn print(&self, map: &Map, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: Vec<String> = self
            .maps
            .iter()
            .filter(|other| other.task != map.task)
            .map(|other| format!("{} {}", other.task, other.rights()))
            .collect();
        // Pages that every task sees need no list of all tasks behind each of them.
        let with = match (self.kind.as_str(), others.len()) {
            (_, 0) => String::new(),
            ("system page", _) => ", with every task".to_owned(),
            _ => format!(", with {}", others.join(", ")),
        };
        let address = self.address.map_or_else(String::new, |a| format!(" at physical {a:#x}"));
        let size = shown_bytes(self.bytes);
        writeln!(
            out,
            "  maps      {} {:#x} {} {size} of {}{address}{with}",
            map.rights(),
            map.va,
            map.name,
            self.kind
        )
    }
}

impl Device {
    fn print(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = if self.optional { ", optional" } else { "" };
        writeln!(out, "  {} ({}{optional}) belongs to {}", self.name, self.place, self.owner)?;
        for (number, rate) in &self.interrupts {
            let how = match self.interrupts_by.as_str() {
                "pin" => "interrupt".to_owned(),
                messages => format!("{messages} message"),
            };
            writeln!(out, "    {how} {number}, at most {rate} in a second")?;
        }
        let reaches = match (self.bus_master, self.reaches.is_empty()) {
            (true, true) => "nothing, behind the IOMMU".to_owned(),
            (true, false) => format!("behind the IOMMU {}", self.reaches.join(", ")),
            (false, _) => "none".to_owned(),
        };
        writeln!(out, "    memory by itself: {reaches}")
    }
}
