//! One virtual machine of the file: the task of its monitor, with a thread for each virtual CPU.
//!
//! Where the guest's file is depends on the manifest's place, so [`crate::load`] finds that.

use std::path::PathBuf;

use cloister_guest_abi::platform::{MEMORY_MAX, MEMORY_MIN, MEMORY_STEP};
use cloister_proto::vm::{
    IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL, MAX_VCPUS, VM_IOAPIC, VM_LEGACY, VM_V3,
    VM_XAPIC,
};
use toml::Spanned;

use crate::check::Judge;
use crate::quantity::{shown_bytes, size_bytes};
use crate::raw;
use crate::report::Problem;
use crate::resolve_task::{log_bytes, restart, thread};
use crate::system::{MAIN, Restart, Role, Task, Thread, Vm};

/// The package of the monitor.
const MONITOR: &str = "monitor";

/// Resolves everything of a virtual machine but its grants, which need all tasks.
pub fn vm(
    judge: &mut Judge<'_>,
    name: &Spanned<String>,
    raw: &raw::Vm,
    default: Restart,
) -> Option<Task> {
    let what = format!("vms.{}", name.get_ref());
    let named = judge.name("VM", name);
    let threads = threads(judge, &what, raw.cpu.get_ref());
    let memory = memory(judge, &what, &raw.memory);
    let log_bytes = log_bytes(judge, &what, raw.log.as_ref());
    let restart = restart(judge, &what, raw.restart.as_ref(), default);
    let baselines = [("x86-64-v2", 0), ("x86-64-v3", VM_V3)];
    let baseline = word(judge, &format!("{what}: `baseline`"), raw.baseline.as_ref(), &baselines);
    let identities =
        [("amd", IDENTITY_AMD), ("intel", IDENTITY_INTEL), ("neutral", IDENTITY_NEUTRAL)];
    let identity = word(judge, &format!("{what}: `identity`"), raw.identity.as_ref(), &identities);
    let own_names = own_names(judge, &what, raw);
    if !named {
        return None;
    }
    own_names?;
    let flags = [(raw.legacy, VM_LEGACY), (raw.ioapic, VM_IOAPIC), (raw.xapic, VM_XAPIC)];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum::<u32>();
    Some(Task {
        name: name.clone(),
        program: Spanned::new(name.span(), MONITOR.to_owned()),
        role: Role::Task,
        role_at: name.span(),
        threads: threads?,
        log_bytes: log_bytes?,
        has_fpu: false,
        sealed_keys: Vec::new(),
        devices: Vec::new(),
        reads_logs: false,
        exports: Vec::new(),
        grants: Vec::new(),
        memory: Vec::new(),
        numbers: Vec::new(),
        is_essential: raw.essential.as_ref().is_some_and(|flag| *flag.get_ref()),
        restart: restart?,
        watchdog_ns: None,
        vm: Some(Vm {
            guest: raw.guest.clone(),
            guest_file: PathBuf::new(),
            guest_shown: String::new(),
            memory: memory?,
            flags: flags | baseline?,
            identity: identity?,
        }),
    })
}

/// One of a few words, the first one if nothing is said.
fn word(
    judge: &mut Judge<'_>,
    what: &str,
    value: Option<&Spanned<String>>,
    words: &[(&str, u32)],
) -> Option<u32> {
    match value {
        None => words.first().map(|(_, meaning)| *meaning),
        Some(value) => judge.word(what, value, words),
    }
}

/// A thread for each core that is listed: vCPU `n` runs on thread `n`.
fn threads(judge: &mut Judge<'_>, what: &str, cpu: &raw::Cpu) -> Option<Vec<Thread>> {
    let cores = cpu.cores.get_ref();
    if !(1..=MAX_VCPUS).contains(&cores.len()) {
        judge.wrong(
            cpu.cores.span(),
            format!("{what}: `cores` lists {} cores, allowed is 1 to {MAX_VCPUS}", cores.len()),
            "one virtual CPU each",
            format!("a VM has a virtual CPU on each core that is listed: list 1 to {MAX_VCPUS}"),
        );
        return None;
    }
    for (place, core) in cores.iter().enumerate() {
        let Some(first) = cores.iter().take(place).find(|c| c.get_ref() == core.get_ref()) else {
            continue;
        };
        let message = format!("{what}: core {} is listed twice", core.get_ref());
        let help =
            "two virtual CPUs of a VM on one core would wait for each other: list a core once";
        judge.problems.push(
            Problem::new(judge.source, core.span(), message, "again", help)
                .also(first.span(), "here first"),
        );
        return None;
    }
    let vcpu = |judge: &mut Judge<'_>, (place, core): (usize, &Spanned<i64>)| {
        let name = if place == 0 { MAIN.to_owned() } else { format!("vcpu{place}") };
        let raw = raw::Thread {
            core: core.clone(),
            priority: cpu.priority.clone(),
            budget: cpu.budget.clone(),
            period: cpu.period.clone(),
            stack: None,
            share: cpu.share,
        };
        thread(judge, what, &name, &raw)
    };
    // What is wrong with one thread is wrong with all of them, but for the core.
    let first = vcpu(judge, (0, cores.first()?))?;
    let rest: Option<Vec<Thread>> =
        cores.iter().enumerate().skip(1).map(|core| vcpu(judge, core)).collect();
    Some(std::iter::once(first).chain(rest?).collect())
}

fn memory(
    judge: &mut Judge<'_>,
    what: &str,
    value: &Spanned<crate::quantity::Written>,
) -> Option<Spanned<u64>> {
    let bytes = judge.quantity(&format!("{what}: `memory`"), value, size_bytes)?;
    if (MEMORY_MIN..=MEMORY_MAX).contains(&bytes) && bytes.is_multiple_of(MEMORY_STEP) {
        return Some(Spanned::new(value.span(), bytes));
    }
    let [step, min, max] = [MEMORY_STEP, MEMORY_MIN, MEMORY_MAX].map(shown_bytes);
    let label = match bytes {
        _ if bytes < MEMORY_MIN => "too small",
        _ if bytes > MEMORY_MAX => "too large",
        _ => "between two multiples",
    };
    judge.wrong(
        value.span(),
        format!(
            "{what}: `memory` is {}, it must be a multiple of {step} from {min} to {max}",
            shown_bytes(bytes)
        ),
        label,
        format!("write a multiple of \"{step}\", at least \"{min}\" and at most \"{max}\""),
    );
    None
}

/// Names that the build gives to grants of every monitor.
fn own_names(judge: &mut Judge<'_>, what: &str, raw: &raw::Vm) -> Option<()> {
    let is_own = |name: &str| {
        let vcpu = name.strip_prefix("vcpu").and_then(|number| number.parse::<usize>().ok());
        name == "vm" || vcpu.is_some_and(|number| number < MAX_VCPUS)
    };
    let Some(grant) = raw.grants.keys().find(|name| is_own(name.get_ref())) else {
        return Some(());
    };
    judge.wrong(
        grant.span(),
        format!("{what}: grant `{}` has a name that a monitor uses itself", grant.get_ref()),
        "reserved",
        "choose a name other than `vm` and `vcpu0` to `vcpu7`",
    );
    None
}
