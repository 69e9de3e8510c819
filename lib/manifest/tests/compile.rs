//! From a manifest to the system table: what comes out is what the manifest says, the kernel's own
//! validator accepts it, and policy finds what must not ship.

mod support;

use std::collections::BTreeMap;

use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, GRANT_PORTS};
use cloister_abi::layout::{IMAGE, PAGE, STACK_TOP};
use cloister_abi::table::{MAP_EXEC, MAP_READ, MAP_WRITE, RegionKind};
use cloister_manifest::compile::compile;
use cloister_manifest::graph::Graph;
use cloister_manifest::policy::breaches;
use cloister_manifest::program::Program;
use support::{
    compiled, compiled_text, grant, mapped, plain, program, system, system_text, task_index,
    validate, with_program,
};
use zerocopy::IntoBytes;

#[test]
fn the_kernel_accepts_what_good_manifests_compile_to() {
    for file in [
        "tests/manifest/good/plain.toml",
        "tests/manifest/good/full.toml",
        "images/default/appliance.toml",
    ] {
        validate(&compiled(file));
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let once = compiled("tests/manifest/good/full.toml");
    let again = compiled("tests/manifest/good/full.toml");
    assert_eq!((once.encode(0), once.blobs), (again.encode(0), again.blobs));
}

#[test]
fn a_grant_is_one_region_and_a_signal_each_way() {
    let compiled = compiled("tests/manifest/good/plain.toml");
    let (here, there) = ("net", "web/client");
    let client = grant(&compiled, "client", here, GRANT_MEMORY);
    let server = grant(&compiled, "server", there, GRANT_MEMORY);
    assert_eq!((client.len, server.len), (4 * PAGE, 4 * PAGE));
    let (region, rights) = mapped(&compiled, "client", client.va);
    assert_eq!(mapped(&compiled, "server", server.va), (region, rights));
    assert_eq!(rights, MAP_READ | MAP_WRITE);
    for (task, name, peer, peer_name) in
        [("client", here, "server", there), ("server", there, "client", here)]
    {
        let slot = grant(&compiled, task, name, GRANT_CAP).slot;
        let record = &compiled.tasks[task_index(&compiled, task)];
        let cap = compiled.caps[(record.first_cap + slot) as usize];
        let thread = compiled.threads[cap.object as usize];
        assert_eq!(usize::from(thread.task), task_index(&compiled, peer));
        // The bit that the one sets is the bit that the other is told of.
        assert_eq!(cap.bit, grant(&compiled, peer, peer_name, GRANT_BIT).bit);
    }
}

#[test]
fn the_bit_that_one_side_sets_is_the_bit_that_the_other_is_told_of() {
    // The server has three clients' bits, the last client only one: the numbers differ.
    let late = "\n[tasks.late]\nprogram = \"ping\"\ngrants = { line = \"server/third\" }\n\
        cpu = { cores = [2], priority = 5, budget = \"1ms\", period = \"10ms\" }\n";
    let text = plain().replace("web = {", "third = {}, web = {") + late;
    let compiled = compiled_text(&text);
    let bit = |task, name| grant(&compiled, task, name, GRANT_BIT).bit;
    assert_eq!((bit("late", "line"), bit("server", "third/late")), (0, 2));
    for (task, name, told) in [("late", "line", 2), ("server", "third/late", 0)] {
        let slot = grant(&compiled, task, name, GRANT_CAP).slot;
        let first = compiled.tasks[task_index(&compiled, task)].first_cap;
        assert_eq!(compiled.caps[(first + slot) as usize].bit, told, "{task}");
    }
}

#[test]
fn payload_regions_name_the_place_of_their_own_pages() {
    let compiled = compiled("tests/manifest/good/full.toml");
    let bytes = compiled.encode(7 * PAGE);
    let content = compiled.blobs.concat();
    let mut words = vec![0u64; bytes.len() / 8];
    words.as_mut_bytes().copy_from_slice(&bytes);
    let pages = u32::try_from(7 + compiled.blob_pages()).expect("a small payload");
    let table = cloister_core::table::Table::new(words.as_bytes(), pages).expect("a valid table");
    let mut seen = 0;
    for (encoded, made) in table.regions.iter().zip(&compiled.regions) {
        if made.kind == RegionKind::Payload as u8 {
            let at = (encoded.value - 7 * PAGE) as usize;
            let blob = &compiled.blobs[made.value as usize];
            assert_eq!(&content[at..at + blob.len()], blob);
            seen += 1;
        }
    }
    assert_eq!(seen, compiled.blobs.len());
}

#[test]
fn two_grants_of_one_server_have_bits_of_their_own() {
    let compiled = compiled("tests/manifest/good/plain.toml");
    for (task, one, two) in [("client", "mail", "net"), ("server", "box/client", "web/client")] {
        let bit = |name| grant(&compiled, task, name, GRANT_BIT).bit;
        assert_ne!(bit(one), bit(two), "{task}");
    }
}

#[test]
fn devices_memory_and_numbers_are_told_by_name() {
    let compiled = compiled("tests/manifest/good/plain.toml");
    let ports = grant(&compiled, "server", "uart0", GRANT_PORTS);
    assert_eq!((ports.va, ports.len), (0x3f8, 8));
    assert!(grant(&compiled, "server", "uart0", GRANT_BIT).bit >= 48);
    assert_eq!(grant(&compiled, "client", "rounds", GRANT_NUMBER).va, 1000);
    assert_eq!(grant(&compiled, "client", "heap", GRANT_MEMORY).len, 64 << 10);
    assert_eq!(grant(&compiled, "supervisor", "task/client", GRANT_CAP).rights, 15);
    assert_eq!(compiled.policies.len(), 2);
}

#[test]
fn a_tasks_pages_are_writable_or_executable_and_lie_apart() {
    let compiled = compiled("tests/manifest/good/full.toml");
    for task in &compiled.tasks {
        let first = task.first_map as usize;
        let maps = &compiled.maps[first..first + usize::from(task.maps)];
        for (map, next) in maps.iter().zip(maps.iter().skip(1)) {
            let pages = u64::from(compiled.regions[usize::from(map.region)].pages);
            assert!(map.va + pages * PAGE <= next.va);
            assert_ne!(map.rights & (MAP_WRITE | MAP_EXEC), MAP_WRITE | MAP_EXEC);
        }
    }
    let (data, rights) = mapped(&compiled, "disk", IMAGE + 5 * PAGE);
    assert_eq!(rights, MAP_READ | MAP_WRITE);
    assert_eq!(compiled.regions[usize::from(data)].kind, RegionKind::Ram as u8);
    assert_eq!(compiled.regions[usize::from(data)].pages, 2);
    let (pristine, rights) = mapped(&compiled, "disk", IMAGE + 3 * PAGE);
    assert_eq!(rights, MAP_READ);
    let blob = compiled.regions[usize::from(pristine)].value as usize;
    assert_eq!(compiled.blobs[blob][..9], [0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0]);
}

#[test]
fn tasks_of_one_program_share_its_constant_pages_only() {
    let text = plain().replace("program = \"pong\"", "program = \"ping\"");
    let compiled = compiled_text(&text);
    let region = |task, va| mapped(&compiled, task, va).0;
    assert_eq!(region("client", IMAGE), region("server", IMAGE));
    assert_ne!(region("client", IMAGE + 5 * PAGE), region("server", IMAGE + 5 * PAGE));
}

#[test]
fn threads_are_sorted_by_core_and_urgency_and_have_guarded_stacks() {
    let compiled = compiled("tests/manifest/good/full.toml");
    let order: Vec<(u16, u8)> = compiled.threads.iter().map(|t| (t.core, t.priority)).collect();
    assert!(order.is_sorted(), "{order:?}");
    let disk = task_index(&compiled, "disk");
    let own: Vec<_> = compiled.threads.iter().filter(|t| usize::from(t.task) == disk).collect();
    assert_eq!(own.len(), 3);
    let first = own.iter().find(|thread| thread.index == 0).expect("a first thread");
    assert_eq!((first.stack_top, first.stack_bottom), (STACK_TOP, STACK_TOP - (32 << 10)));
    for thread in own {
        mapped(&compiled, "disk", thread.stack_bottom);
    }
    assert_eq!(grant(&compiled, "disk", "thread/scrub", GRANT_NUMBER).va, 2);
}

#[test]
fn log_readers_see_every_ring_and_cannot_write_one() {
    let compiled = compiled("tests/manifest/good/full.toml");
    for ring in ["log/init", "log/disk", "log/view", "log/kernel0", "log/kernel3"] {
        let entry = grant(&compiled, "view", ring, GRANT_MEMORY);
        assert_eq!((entry.rights, mapped(&compiled, "view", entry.va).1), (MAP_READ, MAP_READ));
    }
    assert_eq!(grant(&compiled, "view", "log/disk", GRANT_MEMORY).len, 12 << 10);
}

#[test]
fn programs_that_do_not_fit_are_refused() {
    let system = system("tests/manifest/good/plain.toml");
    type Spoil = fn(&mut Program);
    let cases: [(Spoil, &str); 7] = [
        (|p| p.entry = 0, "the entry 0x0"),
        (|p| p.segments[0].is_writable = true, "writable and executable"),
        (|p| p.segments[1].va = IMAGE, "meets"),
        (|p| p.segments[1].va = 0x1000, "is not within"),
        (|p| p.segments[2].len = 1 << 40, "is not within"),
        (|p| p.segments[2].pristine_va = IMAGE, "meets"),
        (|p| p.segments[2].len = 4, "more bytes in the file"),
    ];
    for (spoil, expected) in cases {
        let mut wrong = program();
        spoil(&mut wrong);
        let error = with_program(&system, &wrong).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error =
        compile(&system, &BTreeMap::new(), &BTreeMap::new()).expect_err("no programs").to_string();
    assert!(error.contains("is missing"), "{error}");
}

#[test]
fn programs_that_are_no_packages_are_told_with_their_place() {
    let packages = ["init", "supervisor", "pong", "ring"].map(String::from);
    let system = system("tests/manifest/good/plain.toml");
    let problems = cloister_manifest::check_programs(&system, &packages).expect_err("no `ping`");
    let text = problems.render();
    assert!(text.contains("tasks.client: program `ping` does not exist"), "{text}");
    assert!(text.contains("did you mean `pong`?"), "{text}");
    assert!(text.contains("tests/manifest/good/plain.toml:23"), "{text}");
    let packages = ["init", "supervisor", "pong", "ping"].map(String::from);
    assert!(cloister_manifest::check_programs(&system, &packages).is_ok());
}

#[test]
fn a_program_with_vector_instructions_needs_the_registers() {
    let vector = ["ping"].map(String::from);
    let problems =
        cloister_manifest::check_registers(&system_text(&plain()), &vector).expect_err("no FPU");
    let text = problems.render();
    assert!(text.contains("tasks.client: program `ping` is compiled for SSE and AES"), "{text}");
    assert!(text.contains("write `fpu = true` in [tasks.client]"), "{text}");
    let with = plain().replace("[tasks.client]\n", "[tasks.client]\nfpu = true\n");
    assert_ne!(with, plain());
    assert!(cloister_manifest::check_registers(&system_text(&with), &vector).is_ok());
    assert!(cloister_manifest::check_registers(&system_text(&plain()), &[]).is_ok());
}

#[test]
fn too_many_names_for_the_task_information_are_refused() {
    let numbers: String = (0..220).map(|n| format!("n{n} = {n}, ")).collect();
    let text = plain().replace("rounds = 1000", &numbers);
    let result = with_program(&system_text(&text), &program());
    let error = result.expect_err("220 numbers and the rest do not fit three pages").to_string();
    assert!(error.contains("has 227 grants, at most 218 fit"), "{error}");
}

#[test]
fn a_key_in_the_image_is_for_laboratories() {
    let mut graph = Graph::new(&compiled("images/test-vault/appliance.toml"));
    assert!(breaches(&graph).is_empty(), "{:#?}", breaches(&graph));
    graph.lab = false;
    only(&breaches(&graph), "`sealed/one` of task `vault` is a key that everybody");
}

#[test]
fn good_systems_break_no_policy() {
    for file in ["tests/manifest/good/plain.toml", "images/default/appliance.toml"] {
        let found = breaches(&Graph::new(&compiled(file)));
        assert!(found.is_empty(), "{file}: {found:#?}");
    }
}

/// The breaches of the plain system after its graph was changed.
fn after(change: impl FnOnce(&mut Graph)) -> Vec<String> {
    let mut graph = Graph::new(&compiled_text(&plain()));
    change(&mut graph);
    breaches(&graph)
}

#[track_caller]
fn only(found: &[String], expected: &str) {
    let [one] = found else { panic!("{found:#?}") };
    assert!(one.contains(expected), "{one}");
}

#[test]
fn an_absent_iommu_is_for_laboratories() {
    let absent = plain().replace("cores  = {", "iommu = \"absent-ok\"\ncores  = {");
    only(&breaches(&Graph::new(&compiled_text(&absent))), "only a laboratory system may");
    let lab = absent.replace("iommu =", "lab = true\niommu =");
    assert!(breaches(&Graph::new(&compiled_text(&lab))).is_empty());
    only(&after(|graph| graph.devices[0].bus_master = true), "only the devices of ordinary tasks");
}

#[test]
fn an_essential_task_must_not_stay_stopped() {
    let essential = plain().replace("program = \"ping\"", "program = \"ping\"\nessential = true");
    only(&breaches(&Graph::new(&compiled_text(&essential))), "task `client` is essential");
}

#[test]
fn writable_memory_has_two_sides_at_most() {
    let share = |graph: &mut Graph| {
        let mut regions = graph.regions.iter_mut();
        let region = regions.find(|r| r.maps.iter().any(|m| m.name == "net")).expect("a region");
        let mut third = region.maps[0].clone();
        (third.task, third.writable) = ("supervisor".to_owned(), false);
        region.maps.push(third);
    };
    only(&after(share), "shared by 3 tasks (client, server, supervisor)");
}

#[test]
fn nothing_is_writable_and_executable() {
    let text = |graph: &mut Graph| {
        let mut maps = graph.regions.iter_mut().flat_map(|region| &mut region.maps);
        maps.find(|map| map.executable).expect("text").writable = true;
    };
    only(&after(text), "may write and execute (text)");
}

#[test]
fn ports_and_registers_have_one_owner() {
    let ports = |graph: &mut Graph| graph.tasks[1].ports.push((0x3ff, 0x400));
    only(&after(ports), "share I/O ports 0x3ff to 0x3ff");
    let text = plain().replace("program = \"ping\"", "program = \"ping\"\ndevice = \"tpm0\"");
    let mut graph = Graph::new(&compiled_text(&text));
    assert!(breaches(&graph).is_empty());
    let place = graph.regions.iter().position(|r| r.kind == "registers").expect("registers");
    let mut other = graph.regions[place].clone();
    other.maps[0].task = "server".to_owned();
    graph.regions.push(other);
    only(&breaches(&graph), "share device registers at 0xfed40000");
    let mut same = graph.regions[place].maps[0].clone();
    same.task = "supervisor".to_owned();
    graph.regions.pop();
    graph.regions[place].maps.push(same);
    only(&breaches(&graph), "share the same device registers");
}

#[test]
fn only_the_supervisor_controls_tasks_and_power() {
    let control = |graph: &mut Graph| {
        let rights = graph.tasks[1].controls.clone();
        graph.tasks[2].controls = rights;
    };
    only(&after(control), "task `server` controls server, client");
    let power = |graph: &mut Graph| graph.tasks[2].power = vec!["reboot".to_owned()];
    only(&after(power), "task `server` may reboot");
}

#[test]
fn the_printed_graph_names_both_sides_of_a_wire() {
    let text = Graph::new(&compiled_text(&plain())).to_string();
    for line in [
        "signals   server thread 0, bit 1",
        "controls  client: restart, stop, resume, read faults",
        "power     power-off, reboot",
        "ports     0x3f8 to 0x3ff",
        "uart0 (platform) belongs to server",
        "memory by itself: none",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let wire = text.lines().find(|line| line.contains(" net ")).expect("the wire");
    assert!(wire.ends_with("16KiB of ram, with server rw-"), "{wire}");
}
