//! Virtual machines from the manifest to the system table: what a monitor, a worker and a guest
//! get, that the kernel's own validator accepts it, and that nobody gets more.

mod support;

use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER};
use cloister_abi::layout::{GUEST_RAM, PAGE};
use cloister_abi::name_str;
use cloister_abi::table::{MAP_EXEC, MAP_READ, MAP_WRITE, NONE, RegionKind};
use cloister_guest_abi::platform::{MSIX, SEGMENTS};
use cloister_manifest::compile::{Compiled, compile};
use cloister_manifest::graph::{Graph, Map, VmDevice};
use cloister_manifest::policy::breaches;
use cloister_proto::policy::{FLAG_ESSENTIAL, FLAG_VM};
use cloister_proto::vm::{
    IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL, VM_IOAPIC, VM_LEGACY, VM_V3, VM_XAPIC, VmConfig,
};
use std::collections::BTreeMap;
use support::{
    compiled, compiled_text, grant, images, mapped, program, region, system, task_index, validate,
};
use zerocopy::FromBytes;

const FILE: &str = "tests/manifest/good/vms.toml";
const READ_WRITE: u8 = MAP_READ | MAP_WRITE;

fn text() -> String {
    std::fs::read_to_string(support::root().join(FILE)).expect("a manifest")
}

fn has(compiled: &Compiled, task: &str, name: &str) -> bool {
    let grants = &compiled.grants[task_index(compiled, task)];
    grants.iter().any(|grant| name_str(&grant.name) == name)
}

#[test]
fn the_kernel_accepts_virtual_machines() {
    let compiled = compiled(FILE);
    validate(&compiled);
    let counts: Vec<_> = compiled.vms.iter().map(|vm| (vm.vcpus, vm.maps, vm.doorbells)).collect();
    assert_eq!(counts, [(2, 4, 3), (1, 3, 2), (1, 2, 0)]);
    assert_eq!(compiled.vms[2].counters, NONE);
}

#[test]
fn vcpu_n_is_the_monitors_thread_n_on_the_core_listed_as_number_n() {
    let compiled = compiled(FILE);
    let web = task_index(&compiled, "web");
    for (number, vcpu) in compiled.vcpus.iter().take(2).enumerate() {
        let thread = compiled.threads[usize::from(vcpu.thread)];
        assert_eq!((usize::from(thread.task), usize::from(thread.index)), (web, number));
        assert_eq!((usize::from(thread.core), thread.priority), (2 + number, 8));
        let slot = grant(&compiled, "web", &format!("vcpu{number}"), GRANT_CAP).slot;
        let cap = compiled.caps[(compiled.tasks[web].first_cap + slot) as usize];
        assert_eq!((cap.kind, cap.object), (6, number as u32));
        for (name, wanted, pages) in [("state", vcpu.state, 1), ("slots", vcpu.slots, 2)] {
            let entry = grant(&compiled, "web", &format!("vcpu{number}/{name}"), GRANT_MEMORY);
            assert_eq!(mapped(&compiled, "web", entry.va), (wanted, READ_WRITE));
            assert_eq!(entry.len, pages * PAGE);
        }
        let name = format!("thread/{number}");
        let slot = grant(&compiled, "web", &name, GRANT_CAP).slot;
        let cap = compiled.caps[(compiled.tasks[web].first_cap + slot) as usize];
        assert_eq!(cap.object, vcpu.thread.into());
        assert_eq!(cap.bit, grant(&compiled, "web", &name, GRANT_BIT).bit);
    }
}

#[test]
fn a_monitor_is_told_of_its_devices_in_the_order_of_their_names() {
    let compiled = compiled(FILE);
    let entry = grant(&compiled, "web", "vm", GRANT_MEMORY);
    let (place, rights) = mapped(&compiled, "web", entry.va);
    assert_eq!((rights, entry.len), (MAP_READ, size_of::<VmConfig>() as u64));
    let blob = &compiled.blobs[compiled.regions[usize::from(place)].value as usize];
    let (config, _) = VmConfig::read_from_prefix(blob).expect("a configuration");
    assert_eq!(config, compiled.configs[0]);
    assert_eq!((config.vcpus, config.memory), (2, 64 << 20));
    assert_eq!(config.flags, VM_LEGACY | VM_IOAPIC | VM_V3 | VM_XAPIC);
    assert_eq!(config.identity, IDENTITY_INTEL);
    let devices: Vec<_> =
        config.devices.iter().map(|d| (name_str(&d.name), d.kind, d.queues)).collect();
    assert_eq!(devices[..3], [("rng", 4, 1), ("tty", 3, 2), ("", 0, 0)]);
    let plain = &compiled.configs[1];
    assert_eq!((plain.flags, plain.identity), (0, IDENTITY_AMD));
}

#[test]
fn each_key_of_a_virtual_machine_is_told_by_itself() {
    for (line, flags, identity) in [
        ("legacy = true", VM_LEGACY, IDENTITY_AMD),
        ("ioapic = true", VM_IOAPIC, IDENTITY_AMD),
        ("xapic = true", VM_XAPIC, IDENTITY_AMD),
        ("baseline = \"x86-64-v3\"", VM_V3, IDENTITY_AMD),
        ("baseline = \"x86-64-v2\"", 0, IDENTITY_AMD),
        ("identity = \"neutral\"", 0, IDENTITY_NEUTRAL),
        ("identity = \"amd\"", 0, IDENTITY_AMD),
    ] {
        let text = text().replace("[vms.db]", &format!("[vms.db]\n{line}"));
        let config = compiled_text(&text).configs[1];
        assert_eq!((config.flags, config.identity), (flags, identity), "{line}");
    }
}

#[test]
fn a_guest_sees_its_memory_its_segments_and_its_msix_pages() {
    let compiled = compiled(FILE);
    let [ram, segments, rng, tty] = &compiled.guest_maps[..4] else { panic!("four maps") };
    assert_eq!((ram.gpa, ram.rights), (0, READ_WRITE | MAP_EXEC));
    let ram = region(&compiled, ram.region);
    assert_eq!((ram.kind, ram.pages), (RegionKind::GuestRam as u8, (64 << 20) / 4096));
    assert_eq!((segments.gpa, segments.rights), (SEGMENTS, MAP_READ | MAP_EXEC));
    let blob = &compiled.blobs[region(&compiled, segments.region).value as usize];
    assert_eq!(blob, &images(&system(FILE))["web"]);
    for (map, at, name) in [(rng, MSIX, "rng/msix"), (tty, MSIX + PAGE, "tty/msix")] {
        assert_eq!((map.gpa, map.rights), (at, MAP_READ));
        let va = grant(&compiled, "web", name, GRANT_MEMORY).va;
        assert_eq!(mapped(&compiled, "web", va), (map.region, READ_WRITE));
    }
}

#[test]
fn equal_images_are_in_the_payload_once() {
    let system = system(FILE);
    let programs = system.tasks.iter().map(|t| (t.program.get_ref().clone(), program()));
    let programs: BTreeMap<_, _> = programs.collect();
    let segments = |images: &BTreeMap<String, Vec<u8>>| {
        let compiled = compile(&system, &programs, images).expect("it compiles");
        let maps = compiled.guest_maps.iter().filter(|map| map.gpa == SEGMENTS);
        maps.map(|map| map.region).collect::<Vec<_>>()
    };
    let mut images = images(&system);
    let [web, db, bare] = segments(&images)[..] else { panic!("three guests") };
    assert!(web == db && db == bare);
    assert_eq!(compiled(FILE).guest_pages(), 2);
    images.get_mut("db").expect("an image")[0] ^= 1;
    let [web, db, bare] = segments(&images)[..] else { panic!("three guests") };
    assert!(web != db && web == bare);
}

#[test]
fn images_that_are_missing_or_of_a_wrong_size_are_refused() {
    let system = system(FILE);
    let programs = system.tasks.iter().map(|t| (t.program.get_ref().clone(), program()));
    let programs: BTreeMap<_, _> = programs.collect();
    type Spoil = fn(&mut BTreeMap<String, Vec<u8>>);
    let cases: [(Spoil, &str); 4] = [
        (|images| drop(images.remove("db")), "vms.db: the guest's image is missing"),
        (|images| images.get_mut("db").expect("one").clear(), "vms.db: the guest's image has 0"),
        (|images| images.get_mut("web").expect("one").push(0), "has 8193 bytes"),
        (
            |images| *images.get_mut("web").expect("one") = vec![0; 0x3e00_1000],
            "has 1040191488 bytes",
        ),
    ];
    for (spoil, expected) in cases {
        let mut images = images(&system);
        spoil(&mut images);
        let error = compile(&system, &programs, &images).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_doorbell_wakes_the_worker_with_the_bit_of_the_devices_mailbox() {
    let compiled = compiled(FILE);
    let bells: Vec<_> = compiled.doorbells.iter().map(|b| (b.port, b.counter)).collect();
    let wanted = [(0x10c0, 0), (0x11c0, 8), (0x11c2, 9), (0x10c0, 0), (0x10c2, 1)];
    assert_eq!(bells, wanted);
    let host = task_index(&compiled, "host");
    for (bell, export) in
        compiled.doorbells.iter().zip(["rng/web", "tty/web", "tty/web", "db-tty/db", "db-tty/db"])
    {
        let thread = compiled.threads[usize::from(bell.thread)];
        assert_eq!((usize::from(thread.task), thread.index), (host, 0), "{export}");
        assert_eq!(bell.bit, grant(&compiled, "host", export, GRANT_BIT).bit, "{export}");
    }
}

#[test]
fn a_worker_maps_each_guests_memory_and_counters_once() {
    let compiled = compiled(FILE);
    for (name, va, bell, len) in [
        ("rng/web", GUEST_RAM, 0, 64 << 20),
        ("tty/web", GUEST_RAM, 8, 64 << 20),
        ("db-tty/db", GUEST_RAM + (4 << 30), 0, 2 << 20),
    ] {
        let ram = grant(&compiled, "host", &format!("{name}/ram"), GRANT_MEMORY);
        assert_eq!((ram.va, ram.len, ram.rights), (va, len, READ_WRITE), "{name}");
        let number = grant(&compiled, "host", &format!("{name}/bell"), GRANT_NUMBER);
        assert_eq!(number.va, bell, "{name}");
        let vm = if name == "db-tty/db" { 1 } else { 0 };
        let bells = grant(&compiled, "host", &format!("{name}/bells"), GRANT_MEMORY);
        let counters = compiled.vms[vm].counters;
        assert_eq!(mapped(&compiled, "host", bells.va), (counters, MAP_READ), "{name}");
        let guest_ram = compiled.guest_maps[compiled.vms[vm].first_map as usize].region;
        assert_eq!(mapped(&compiled, "host", ram.va), (guest_ram, READ_WRITE), "{name}");
    }
    let of_kind = |kind: RegionKind| {
        let maps = compiled.maps.iter();
        maps.filter(|map| region(&compiled, map.region).kind == kind as u8).count()
    };
    assert_eq!((of_kind(RegionKind::GuestRam), of_kind(RegionKind::Doorbells)), (2, 2));
}

#[test]
fn the_mailbox_of_a_device_is_one_page_and_a_plain_one_is_no_device() {
    let compiled = compiled(FILE);
    for (task, name) in [("web", "tty"), ("host", "tty/web"), ("web", "console")] {
        assert_eq!(grant(&compiled, task, name, GRANT_MEMORY).len, PAGE, "{task} {name}");
        grant(&compiled, task, name, GRANT_CAP);
        grant(&compiled, task, name, GRANT_BIT);
    }
    assert!(!has(&compiled, "web", "console/msix"));
    assert!(!has(&compiled, "console", "web/web/ram"));
}

#[test]
fn the_supervisor_knows_which_tasks_are_monitors() {
    let compiled = compiled(FILE);
    let policy = |name| compiled.policies.iter().find(|p| name_str(&p.name) == name).expect(name);
    let facts = |name| (policy(name).flags, policy(name).tries, policy(name).delay_ns);
    assert_eq!(facts("web"), (FLAG_VM | FLAG_ESSENTIAL, 9, 1_000_000_000));
    assert_eq!(facts("db"), (FLAG_VM, 4, 1_000_000_000));
    assert_eq!(facts("host"), (0, 8, 10_000_000));
}

#[test]
fn what_nothing_says_about_restarts_of_virtual_machines_is_the_documented_policy() {
    let text: String =
        text().lines().filter(|l| !l.starts_with("vms =")).collect::<Vec<_>>().join("\n");
    let compiled = compiled_text(&text);
    let policy = compiled.policies.iter().find(|p| name_str(&p.name) == "db").expect("a policy");
    let seconds =
        [policy.within_ns, policy.delay_ns, policy.delay_max_ns].map(|ns| ns / 1_000_000_000);
    assert_eq!((policy.tries, seconds, policy.then), (5, [600, 1, 60], 0));
}

#[test]
fn virtual_machines_break_no_policy() {
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

#[test]
fn a_guests_memory_is_its_own_and_its_workers() {
    let by = |task: &'static str| {
        move |graph: &mut Graph| {
            let memory = graph.vms[0].memory;
            let map = graph.regions[memory].maps[0].clone();
            graph.regions[memory].maps.push(Map { task: task.to_owned(), ..map });
        }
    };
    only(by("console"), "task `console` maps the memory of VM `web` and serves none");
    only(by("db"), "task `db` maps the memory of VM `web` and serves none");
    only(by("web"), "monitor `web` maps its guest's memory");
    only(|graph| graph.vms[2].memory = usize::MAX, "VM `bare` has no memory");
    only(|graph| graph.vms[1].maps[1].rights = "rwx".to_owned(), "VM `db` may write payload");
}

#[test]
fn any_number_of_workers_may_share_a_guests_memory() {
    let mut graph = Graph::new(&compiled(FILE));
    let memory = graph.vms[0].memory;
    for task in ["console", "supervisor"] {
        let map = graph.regions[memory].maps[0].clone();
        graph.regions[memory].maps.push(Map { task: task.to_owned(), ..map });
        let device = graph.vms[0].devices[0].clone();
        graph.vms[0].devices.push(VmDevice { worker: task.to_owned(), ..device });
    }
    assert_eq!(breaches(&graph), Vec::<String>::new());
}

#[test]
fn the_printed_graph_tells_of_virtual_machines() {
    let text = Graph::new(&compiled(FILE)).to_string();
    let at = text.find("\nvm web").expect("the virtual machine");
    let vm: Vec<&str> = text[at..].lines().skip(1).take(10).collect();
    let wanted = [
        "vm web",
        "  boots     tests/manifest/guests/sample.toml",
        "  vCPU 0    thread 0 on core 2",
        "  vCPU 1    thread 1 on core 3",
        "  sees      rwx 0x0 64MiB of guest ram",
        "  sees      r-x 0xc0000000 8KiB of payload",
        "  sees      r-- 0xfed00000 4KiB of ram",
        "  sees      r-- 0xfed01000 4KiB of ram",
        "  device 0  rng: virtio entropy, served by host, doorbells 0x10c0 set its bit 2",
        "  device 1  tty: virtio console, served by host, doorbells 0x11c0, 0x11c2 set its bit 0",
    ];
    assert_eq!(vm, wanted, "{text}");
    assert!(text.contains("  memory    is also mapped by host rw-\n"), "{text}");
    assert!(text.contains("  memory    is also mapped by nobody\n"), "{text}");
}
