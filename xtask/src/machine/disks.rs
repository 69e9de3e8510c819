//! The disks of an emulated machine as QEMU's arguments.
//!
//! Each controller is behind a PCI Express root port of its own, so that each is alone in its
//! IOMMU group: the first disk of `machine.toml` is function 01:00.0, the second 02:00.0, and so
//! on (firmware numbers buses in the order of the ports). virtio devices get the two options
//! without which they bypass the IOMMU. Pure: from [`Made`] to arguments.

use serde_json::{Value, json};

use crate::disk::file::{Disk, Fault, FaultOn, Model};
use crate::disk::make::Made;

/// The slot of the first root port on the root bus, away from what others name.
const FIRST_SLOT: usize = 0x10;
/// Resources of each SR-IOV virtual function, queues and vectors alike.
const PER_FUNCTION: u32 = 2;

/// The arguments for all disks.
pub fn arguments(disks: &[Made]) -> Vec<String> {
    let mut list = Vec::new();
    let mut ports = 0;
    let mut namespaces = 1;
    for made in disks {
        list.extend(file(made));
        let disk = &made.disk;
        let id = &disk.name;
        let mut device = |text: String| list.extend(["-device".to_owned(), text]);
        if !matches!(disk.model, Model::Namespace { .. }) {
            ports += 1;
            device(format!(
                "pcie-root-port,id=port-{id},chassis={ports},slot={ports},addr={:#x}",
                FIRST_SLOT + ports - 1
            ));
        }
        let (sector, options) = (disk.sector, options(disk));
        let sizes = format!("logical_block_size={sector},physical_block_size={sector}{options}");
        match &disk.model {
            Model::Nvme { functions, detached } => {
                namespaces = 1;
                if *functions == 0 && !detached && !has_namespaces(disk, disks) {
                    device(format!("nvme,id={id},serial={id},bus=port-{id},drive={id},{sizes}"));
                    continue;
                }
                device(format!("nvme-subsys,id=subsystem-{id},nqn={id}"));
                device(format!(
                    "nvme,id={id},serial={id},subsys=subsystem-{id},bus=port-{id}{}{options}",
                    virtual_functions(*functions)
                ));
                device(namespace(disk, id, namespaces, *detached));
            }
            Model::Namespace { controller, detached } => {
                namespaces += 1;
                device(namespace(disk, controller, namespaces, *detached));
            }
            Model::Ahci => {
                device(format!("ich9-ahci,id={id},bus=port-{id}"));
                device(format!("ide-hd,drive={id},serial={id},bus={id}.0{options}"));
            }
            Model::Virtio => device(format!(
                "virtio-blk-pci,id={id},serial={id},bus=port-{id},drive={id},disable-legacy=on,\
                 iommu_platform=on,{sizes}"
            )),
        }
    }
    list
}

/// The disk shares its controller with further namespaces.
fn has_namespaces(disk: &Disk, disks: &[Made]) -> bool {
    disks.iter().any(|other| match &other.disk.model {
        Model::Namespace { controller, .. } => *controller == disk.name,
        _ => false,
    })
}

/// SR-IOV, with resources that the physical function hands out.
fn virtual_functions(many: u32) -> String {
    if many == 0 {
        return String::new();
    }
    let flexible = many * PER_FUNCTION;
    format!(
        ",max_ioqpairs={},msix_qsize={},sriov_max_vfs={many},sriov_vq_flexible={flexible},\
         sriov_vi_flexible={flexible},sriov_max_vq_per_vf={PER_FUNCTION},\
         sriov_max_vi_per_vf={PER_FUNCTION}",
        flexible + 8,
        flexible + 9,
    )
}

fn namespace(disk: &Disk, controller: &str, number: u32, detached: bool) -> String {
    let (id, sector) = (&disk.name, disk.sector);
    let detached = if detached { ",detached=on" } else { "" };
    format!(
        "nvme-ns,drive={id},bus={controller},nsid={number},shared=on{detached},\
         logical_block_size={sector},physical_block_size={sector}"
    )
}

fn options(disk: &Disk) -> String {
    disk.options.iter().map(|option| format!(",{option}")).collect()
}

/// The file behind a disk, with what makes it fail or slow.
fn file(made: &Made) -> Vec<String> {
    let disk = &made.disk;
    let mut list = Vec::new();
    let mut node = json!({
        "driver": "file", "filename": made.image.display().to_string(), "discard": "unmap",
    });
    if !disk.faults.is_empty() {
        let faults: Vec<Value> = disk.faults.iter().map(fault).collect();
        node = json!({ "driver": "blkdebug", "image": node, "inject-error": faults });
    }
    node = json!({ "driver": "raw", "file": node, "discard": "unmap" });
    let limits = [("iops-total", disk.throttle.iops), ("bps-total", disk.throttle.bandwidth)];
    let limits: serde_json::Map<String, Value> = limits
        .into_iter()
        .filter_map(|(key, limit)| Some((key.to_owned(), json!(limit?))))
        .collect();
    if !limits.is_empty() {
        let group = format!("throttle-{}", disk.name);
        let object = json!({ "qom-type": "throttle-group", "id": group, "limits": limits });
        list.extend(["-object".to_owned(), object.to_string()]);
        node = json!({ "driver": "throttle", "throttle-group": group, "file": node });
    }
    node["node-name"] = json!(disk.name);
    list.extend(["-blockdev".to_owned(), node.to_string()]);
    list
}

fn fault(fault: &Fault) -> Value {
    let kind = match fault.on {
        FaultOn::Read => "read",
        FaultOn::Write => "write",
        FaultOn::Flush => "flush",
        FaultOn::Discard => "discard",
        FaultOn::WriteZeroes => "write-zeroes",
    };
    let mut value = json!({
        "event": "none", "iotype": kind, "errno": fault.errno, "once": fault.once,
    });
    if let Some(sector) = fault.sector {
        value["sector"] = json!(sector);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::file::Throttle;
    use std::path::PathBuf;

    fn made(name: &str, model: Model) -> Made {
        let disk = Disk {
            name: name.to_owned(),
            model,
            bytes: 1 << 20,
            sector: 512,
            volumes: None,
            faults: Vec::new(),
            throttle: Throttle::default(),
            options: Vec::new(),
        };
        Made { disk, image: PathBuf::from(format!("{name}.img")) }
    }

    fn nvme(name: &str) -> Made {
        made(name, Model::Nvme { functions: 0, detached: false })
    }

    #[test]
    fn each_disk_is_behind_a_port_of_its_own() {
        let disks = [nvme("n"), made("a", Model::Ahci), made("v", Model::Virtio)];
        let line = arguments(&disks).join(" ");
        for expected in [
            "pcie-root-port,id=port-n,chassis=1,slot=1,addr=0x10",
            "nvme,id=n,serial=n,bus=port-n,drive=n,logical_block_size=512",
            "pcie-root-port,id=port-a,chassis=2,slot=2,addr=0x11",
            "ich9-ahci,id=a,bus=port-a -device ide-hd,drive=a,serial=a,bus=a.0",
            "pcie-root-port,id=port-v,chassis=3,slot=3,addr=0x12",
            "drive=v,disable-legacy=on,iommu_platform=on",
            "\"filename\":\"n.img\"",
        ] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
        assert!(arguments(&[]).is_empty());
    }

    #[test]
    fn namespaces_share_a_controller_and_its_functions() {
        let controller = || "n".to_owned();
        let disks = [
            made("n", Model::Nvme { functions: 4, detached: false }),
            made("x", Model::Namespace { controller: controller(), detached: true }),
            made("y", Model::Namespace { controller: controller(), detached: false }),
        ];
        let line = arguments(&disks).join(" ");
        assert_eq!(line.matches("pcie-root-port").count(), 1);
        for expected in [
            "nvme-subsys,id=subsystem-n,nqn=n",
            "subsys=subsystem-n,bus=port-n,max_ioqpairs=16,msix_qsize=17,sriov_max_vfs=4,\
             sriov_vq_flexible=8,sriov_vi_flexible=8,sriov_max_vq_per_vf=2,sriov_max_vi_per_vf=2",
            "nvme-ns,drive=n,bus=n,nsid=1,shared=on,logical",
            "nvme-ns,drive=x,bus=n,nsid=2,shared=on,detached=on",
            "nvme-ns,drive=y,bus=n,nsid=3,shared=on,logical",
        ] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
    }

    #[test]
    fn faults_and_limits_stand_between_device_and_file() {
        let mut one = nvme("n");
        one.disk.faults = vec![Fault { on: FaultOn::Read, sector: Some(8), errno: 5, once: true }];
        one.disk.throttle = Throttle { iops: Some(10), bandwidth: None };
        let list = arguments(&[one]);
        let after = |word: &str| -> Value {
            let at = list.iter().position(|argument| argument == word).expect(word);
            serde_json::from_str(&list[at + 1]).expect("JSON")
        };
        let node = after("-blockdev");
        assert_eq!((&node["driver"], &node["node-name"]), (&json!("throttle"), &json!("n")));
        let debug = &node["file"]["file"];
        let wanted =
            json!([{ "event": "none", "iotype": "read", "errno": 5, "once": true, "sector": 8 }]);
        assert_eq!((&debug["driver"], &debug["inject-error"]), (&json!("blkdebug"), &wanted));
        assert_eq!(after("-object")["limits"], json!({ "iops-total": 10 }));
    }
}
