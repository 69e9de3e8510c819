//! Disks from the manifest to the system table: what a driver, its devices, a broker and a guest
//! get, that the kernel's own validator accepts it, and what policy finds.

mod support;

use cloister_abi::call::{IRQ_BIT_FIRST, RIGHT_RESET};
use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER};
use cloister_abi::layout::{GUEST_RAM, PAGE, USER_END};
use cloister_abi::name_str;
use cloister_abi::table::{
    BAR_CONFIG, CapKind, DEVICE_BUS_MASTER, DEVICE_MSI, DEVICE_MSIX, DEVICE_PCI_VIRTUAL,
    DEVICE_PHYSICAL, MAP_DMA, MAP_READ, MAP_WRITE, RegionKind,
};
use cloister_manifest::compile::Compiled;
use cloister_manifest::graph::{Graph, Map};
use cloister_manifest::policy::breaches;
use cloister_proto::policy::FLAG_DMA;
use cloister_proto::volume::{
    ACCESS_WRITE, CIPHER_AES_XTS_256, CIPHER_NONE, INFLIGHT_BYTES, Volume, WINDOW_BELL,
};
use support::{compiled, compiled_text, grant, mapped, region, task_index, validate};
use zerocopy::FromBytes;

const FILE: &str = "tests/manifest/good/disks.toml";
const READ_WRITE: u8 = MAP_READ | MAP_WRITE;
const WITH_DMA: u8 = READ_WRITE | MAP_DMA;

fn text() -> String {
    std::fs::read_to_string(support::root().join(FILE)).expect("a manifest")
}

fn has(compiled: &Compiled, task: &str, name: &str) -> bool {
    let grants = &compiled.grants[task_index(compiled, task)];
    grants.iter().any(|grant| name_str(&grant.name) == name)
}

#[test]
fn the_kernel_accepts_disks() {
    validate(&compiled(FILE));
}

#[test]
fn virtual_functions_name_their_physical_one_whose_driver_is_told_how_many() {
    let compiled = compiled("tests/manifest/good/functions.toml");
    validate(&compiled);
    let device = |name: &str| {
        let mut devices = compiled.devices.iter().enumerate();
        devices.find(|(_, device)| name_str(&device.name) == name).expect("a device")
    };
    let (physical, record) = device("nvme1");
    assert_eq!(record.flags, DEVICE_BUS_MASTER | DEVICE_MSIX | DEVICE_PHYSICAL);
    for (name, number) in [("nvme1-vf1", 1), ("nvme1-vf3", 3)] {
        let (_, record) = device(name);
        assert_eq!((record.kind, record.nth), (DEVICE_PCI_VIRTUAL, number));
        assert_eq!(record.select as usize, physical);
        assert_eq!(record.flags, DEVICE_BUS_MASTER | DEVICE_MSIX);
    }
    assert_eq!(grant(&compiled, "physical", "nvme1.functions", GRANT_NUMBER).va, 3);
    assert!(!has(&compiled, "nvme", "nvme1-vf3.functions"));
}

#[test]
fn a_function_is_a_bus_master_with_messages_and_a_right_to_reset_it() {
    let compiled = compiled(FILE);
    for (task, name, how, messages, rate) in
        [("nvme", "nvme1", DEVICE_MSIX, 5, 50_000), ("sata", "ahci0", DEVICE_MSI, 1, 10_000)]
    {
        let mut devices = compiled.devices.iter();
        let index = devices.position(|device| name_str(&device.name) == name).expect("a device");
        assert_eq!(compiled.devices[index].flags, DEVICE_BUS_MASTER | how, "{name}");
        let irqs: Vec<_> =
            compiled.irqs.iter().filter(|irq| usize::from(irq.device) == index).collect();
        assert_eq!(irqs.len(), messages, "{name}");
        for (nth, irq) in irqs.iter().enumerate() {
            assert_eq!((usize::from(irq.pin), irq.rate_max), (nth, rate), "{name}");
            assert_eq!(usize::from(irq.bit), IRQ_BIT_FIRST as usize + nth, "{name}");
            let thread = compiled.threads[usize::from(irq.thread)];
            assert_eq!((usize::from(thread.task), thread.core), (task_index(&compiled, task), 1));
            let name = if nth == 0 { name.to_owned() } else { format!("{name}.{nth}") };
            assert_eq!(grant(&compiled, task, &name, GRANT_BIT).bit, irq.bit);
        }
        let mut caps = compiled.grants[task_index(&compiled, task)].iter();
        let held = caps.find(|g| g.kind == GRANT_CAP && g.cap_kind == CapKind::Device as u8);
        let held = held.expect("a right to reset");
        assert_eq!((name_str(&held.name), held.rights), (name, RIGHT_RESET));
        let first = compiled.tasks[task_index(&compiled, task)].first_cap;
        assert_eq!(compiled.caps[(first + held.slot) as usize].object as usize, index);
    }
    // Platform devices are nobody's to reset.
    let serial = compiled_text(&support::plain());
    let caps = serial.caps.iter().filter(|cap| cap.kind == CapKind::Device as u8);
    assert_eq!(caps.count(), 0);
}

#[test]
fn configuration_space_is_one_page_that_its_driver_reads() {
    let compiled = compiled(FILE);
    let entry = grant(&compiled, "sata", "ahci0.config", GRANT_MEMORY);
    assert_eq!((entry.rights, entry.len), (MAP_READ, PAGE));
    let (index, rights) = mapped(&compiled, "sata", entry.va);
    assert_eq!(rights, MAP_READ);
    let mut devices = compiled.devices.iter();
    let device = devices.position(|device| name_str(&device.name) == "ahci0").expect("a device");
    let page = region(&compiled, index);
    assert_eq!((page.kind, page.pages, page.value2), (RegionKind::Mmio as u8, 1, 0));
    assert_eq!(page.value, device as u64 | BAR_CONFIG << 32);
    assert!(!has(&compiled, "nvme", "nvme1.config"), "the board does not show it");
}

#[test]
fn devices_reach_what_the_manifest_says_and_nothing_else() {
    let compiled = compiled(FILE);
    for (task, name, rights) in [
        ("nvme", "queues", WITH_DMA),
        ("nvme", "tables", READ_WRITE),
        ("nvme", "heap", READ_WRITE),
        // The volume `web` is encrypted, but `web-logs` of the same guest is not.
        ("nvme", "web/web/ram", WITH_DMA),
        ("nvme", "web-logs/web/ram", WITH_DMA),
        ("nvme", "db/broker/ram", WITH_DMA),
        ("sata", "install/web/ram", WITH_DMA),
        ("broker", "disk/ram", READ_WRITE),
        ("broker", "disk/db/ram", READ_WRITE),
        ("nvme", "web/web/inflight", READ_WRITE),
        ("nvme", "web/web", READ_WRITE),
    ] {
        let entry = grant(&compiled, task, name, GRANT_MEMORY);
        assert_eq!(entry.rights, rights, "{task} {name}");
        assert_eq!(mapped(&compiled, task, entry.va).1, rights, "{task} {name}");
    }
    let dma = compiled.maps.iter().filter(|map| map.rights & MAP_DMA != 0);
    assert_eq!(dma.count(), 5, "queues, web, the window; both guests at sata");
}

#[test]
fn a_windows_server_has_nothing_of_the_guest_behind_it() {
    let compiled = compiled(FILE);
    let guest = grant(&compiled, "broker", "disk/db/ram", GRANT_MEMORY);
    let (guest, _) = mapped(&compiled, "broker", guest.va);
    let window = grant(&compiled, "broker", "disk/ram", GRANT_MEMORY);
    let (window, _) = mapped(&compiled, "broker", window.va);
    let maps = |task: &str| {
        let record = &compiled.tasks[task_index(&compiled, task)];
        let first = record.first_map as usize;
        compiled.maps[first..first + usize::from(record.maps)].to_vec()
    };
    // Neither the driver's spaces nor its devices' domain, which is its maps with DMA.
    assert!(maps("nvme").iter().all(|map| map.region != guest));
    let shared = maps("nvme").into_iter().filter(|map| map.region == window);
    assert_eq!(shared.map(|map| map.rights).collect::<Vec<_>>(), [WITH_DMA]);
    // What broker and driver have in common is the window and its page.
    let broker: Vec<u16> = maps("broker").iter().map(|map| map.region).collect();
    let common = maps("nvme").into_iter().filter(|map| {
        let kind = region(&compiled, map.region).kind;
        kind == RegionKind::Ram as u8 && broker.contains(&map.region)
    });
    assert_eq!(common.count(), 2);
    // The whole memory of the guest is one region, and the window is no part of it.
    let all = compiled.guest_maps.iter().filter(|map| map.region == guest);
    assert!(all.count() > 0 && compiled.guest_maps.iter().all(|map| map.region != window));
}

#[test]
fn a_cipher_keeps_devices_away_from_the_clients_memory() {
    let without_logs = |text: String| {
        text.replace("[tasks.nvme.exports.web-logs]\ndevice = \"block\"\nvolume = \"logs ä\"\n", "")
            .replace(", logs = \"nvme/web-logs\"", "")
    };
    let secret = compiled_text(&without_logs(text()));
    assert_eq!(grant(&secret, "nvme", "web/web/ram", GRANT_MEMORY).rights, READ_WRITE);
    validate(&secret);
    let without_cipher =
        |text: String| text.replace("cipher    = \"aes-xts-256\"\nkey       = \"key\"", "");
    let plain = compiled_text(&without_cipher(without_logs(text())));
    assert_eq!(grant(&plain, "nvme", "web/web/ram", GRANT_MEMORY).rights, WITH_DMA);
    let cipher = "cipher = \"aes-xts-256\"\nkey = \"key\"\nblocks      = 262144";
    // A key opens one volume.
    let window = without_cipher(text()).replace("blocks      = 262144", cipher);
    let window = compiled_text(&window);
    assert_eq!(grant(&window, "nvme", "db/broker/ram", GRANT_MEMORY).rights, READ_WRITE);
}

#[test]
fn a_disks_client_has_inflight_records_at_the_driver_alone() {
    let compiled = compiled(FILE);
    for (task, name) in [
        ("nvme", "web/web"),
        ("nvme", "web-logs/web"),
        ("nvme", "db/broker"),
        ("broker", "disk/db"),
        ("sata", "install/web"),
        ("sata", "install-two/db"),
    ] {
        let entry = grant(&compiled, task, &format!("{name}/inflight"), GRANT_MEMORY);
        assert_eq!(entry.len, INFLIGHT_BYTES, "{name}");
        let (place, _) = mapped(&compiled, task, entry.va);
        assert_eq!(region(&compiled, place).kind, RegionKind::Ram as u8);
        assert_eq!(compiled.maps.iter().filter(|map| map.region == place).count(), 1, "{name}");
    }
}

#[test]
fn a_guest_sees_a_disk_with_four_queues() {
    let compiled = compiled(FILE);
    let devices: Vec<_> =
        compiled.configs[0].devices.iter().map(|d| (name_str(&d.name), d.kind, d.queues)).collect();
    assert_eq!(devices[..4], [("disk", 2, 4), ("install", 2, 4), ("logs", 2, 4), ("", 0, 0)]);
    let nvme = task_index(&compiled, "nvme");
    let bells = compiled
        .doorbells
        .iter()
        .filter(|bell| usize::from(compiled.threads[usize::from(bell.thread)].task) == nvme);
    assert_eq!(bells.count(), 8, "a window has no doorbells");
}

#[test]
fn a_window_is_one_region_at_both_ends_with_counters_that_nobody_writes() {
    let compiled = compiled(FILE);
    let here = grant(&compiled, "broker", "disk/ram", GRANT_MEMORY);
    let there = grant(&compiled, "nvme", "db/broker/ram", GRANT_MEMORY);
    assert_eq!((here.len, there.len), (256 << 10, 256 << 10));
    assert!(here.va < USER_END && there.va < USER_END && there.va < GUEST_RAM);
    let (place, _) = mapped(&compiled, "broker", here.va);
    assert_eq!(mapped(&compiled, "nvme", there.va).0, place);
    assert_eq!(compiled.maps.iter().filter(|map| map.region == place).count(), 2);
    let mailbox = grant(&compiled, "nvme", "db/broker", GRANT_MEMORY);
    let bells = grant(&compiled, "nvme", "db/broker/bells", GRANT_MEMORY);
    assert_eq!((bells.va, bells.len, mailbox.len), (mailbox.va, PAGE, PAGE));
    let first = grant(&compiled, "nvme", "db/broker/bell", GRANT_NUMBER).va;
    assert_eq!(first, WINDOW_BELL);
    // 32-bit counters of eight queues within the page, behind the words of the wire.
    let words = cloister_virtio::wire::WORDS as u64;
    assert!(first / 2 >= words && (first + 8) * 4 <= PAGE);
    for (task, name) in [("broker", "disk"), ("nvme", "db/broker")] {
        grant(&compiled, task, name, GRANT_CAP);
        grant(&compiled, task, name, GRANT_BIT);
    }
    assert!(!has(&compiled, "broker", "disk/bells"));
}

#[test]
fn a_driver_is_told_of_its_volumes_in_the_order_of_the_manifest() {
    let compiled = compiled(FILE);
    let entry = grant(&compiled, "nvme", "volumes", GRANT_MEMORY);
    let (place, rights) = mapped(&compiled, "nvme", entry.va);
    assert_eq!(rights, MAP_READ);
    let blob = &compiled.blobs[region(&compiled, place).value as usize][..entry.len as usize];
    let volumes = <[Volume]>::ref_from_bytes(blob).expect("whole records");
    let [web, logs, db] = volumes else { panic!("{volumes:?}") };
    assert_eq!((web.export_name(), web.partition_name()), ("web", Some("web")));
    assert_eq!((web.access, web.cipher, web.key_name()), (ACCESS_WRITE, 1, Some("key")));
    assert_eq!(web.cipher, CIPHER_AES_XTS_256);
    assert_eq!((web.blocks_min, web.iops, web.bytes_per_second), (4 << 20, 5000, 100 << 20));
    assert_eq!((logs.partition_name(), logs.is_writable()), (Some("logs ä"), true));
    assert_eq!((logs.blocks_min, logs.iops, logs.cipher), (0, 0, CIPHER_NONE));
    assert_eq!((db.partition_name(), db.key_name()), (None, None));
    assert_eq!((db.first_block, db.blocks), (1_048_576, 262_144));
    let sata = grant(&compiled, "sata", "volumes", GRANT_MEMORY);
    assert_eq!(sata.len as usize, 2 * size_of::<Volume>());
    let read_only = compiled.volumes.iter().filter(|(_, volume)| !volume.is_writable());
    assert_eq!(read_only.count(), 2);
    assert!(!has(&compiled, "broker", "volumes"));
}

#[test]
fn the_supervisor_knows_whose_devices_may_be_refused_memory() {
    let compiled = compiled(FILE);
    let names = compiled.policies.iter().filter(|policy| policy.flags & FLAG_DMA != 0);
    assert_eq!(names.map(|p| name_str(&p.name)).collect::<Vec<_>>(), ["nvme", "sata"]);
}

#[test]
fn disks_break_no_policy() {
    let found = breaches(&Graph::new(&compiled(FILE)));
    assert!(found.is_empty(), "{found:#?}");
}

#[track_caller]
fn only(change: impl FnOnce(&mut Graph), expected: &str) {
    let mut graph = Graph::new(&compiled(FILE));
    change(&mut graph);
    let found = breaches(&graph);
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert!(one.contains(expected), "{one}");
}

fn map_of<'a>(graph: &'a mut Graph, task: &str, name: &str) -> &'a mut Map {
    let mut maps = graph.regions.iter_mut().flat_map(|region| &mut region.maps);
    maps.find(|map| map.task == task && map.name == name).expect("a map")
}

#[test]
fn devices_reach_nothing_that_their_owner_has_no_use_for() {
    let none = |graph: &mut Graph| map_of(graph, "broker", "disk").dma = true;
    only(none, "task `broker` maps `disk` for devices and owns none");
    let inflight = |graph: &mut Graph| map_of(graph, "nvme", "web/web/inflight").dma = true;
    only(inflight, "in-flight records `web/web/inflight` of task `nvme` are reached by others");
    let other = |graph: &mut Graph| {
        let serves = graph.vms[0].devices.iter_mut().filter(|device| device.worker == "nvme");
        serves.for_each(|device| device.kind = "console".to_owned());
    };
    only(other, "devices of task `nvme` reach a guest's memory");
    let owner = |graph: &mut Graph| {
        let mut tasks = graph.tasks.iter_mut();
        tasks.find(|task| task.name == "sata").expect("a task").role = "init".to_owned();
    };
    only(owner, "device `ahci0` of `sata` reads and writes memory by itself");
}

#[test]
fn a_monitor_has_no_window() {
    let window = |graph: &mut Graph| {
        graph.windows[0].client = "monitor web".to_owned();
    };
    only(window, "monitor `web` has window `db/broker` of task `nvme`");
}

#[test]
fn a_windows_server_has_no_other_way_to_the_guest() {
    // One that serves the same guest another disk straight from its memory.
    let server = |graph: &mut Graph| graph.windows[0].server = "sata".to_owned();
    only(server, "task `sata` maps the memory of a guest from which window `db/broker`");
}

#[test]
fn without_an_iommu_a_bus_master_is_for_laboratories() {
    let absent = support::plain()
        .replace("program = \"ping\"", "program = \"ping\"\ndevice = \"nvme0\"")
        .replace("cores  = {", "iommu = \"absent-ok\"\nlab = true\ncores  = {");
    let mut graph = Graph::new(&compiled_text(&absent));
    assert_eq!(breaches(&graph), Vec::<String>::new());
    assert_eq!(graph.devices.last().expect("one").reaches, ["all memory where there is no IOMMU"]);
    graph.lab = false;
    let found = breaches(&graph);
    assert!(found.iter().any(|line| line.contains("device `nvme0` of task `client`")), "{found:?}");
}

#[test]
fn the_printed_graph_tells_who_reads_whom() {
    let text = Graph::new(&compiled(FILE)).to_string();
    for line in [
        "  nvme1 (PCI 00:05.0) belongs to nvme",
        "    MSI-X message 4, at most 50000 in a second",
        "    MSI message 0, at most 10000 in a second",
        "  offers    web: partition \"web\", read and written, at least 16GiB, 5000 requests in a \
         second, 100MiB in a second, encrypted with a key from `key`",
        "  offers    db: blocks 1048576 to 1310719, read and written, not encrypted",
        "  offers    install: partition \"install\", read, not encrypted",
        "  window db/broker of nvme: 256KiB of task broker are read and written by task nvme, and by \
         the devices of that task",
        "  memory    is also mapped by nvme rw-+dma, sata rw-+dma",
        "  memory    is also mapped by broker rw-, sata rw-+dma",
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
    let reaches = text.lines().find(|line| line.contains("memory by itself: behind")).expect("one");
    for what in ["queues (rw, 64KiB of ram)", "web/web/ram (rw, 64MiB of guest ram)"] {
        assert!(reaches.contains(what), "{reaches}");
    }
    assert!(!reaches.contains("inflight") && !reaches.contains("heap"), "{reaches}");
}
