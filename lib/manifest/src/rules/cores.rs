//! Who runs where: roles of cores, ranks, and promises of CPU time that can be kept.

use cloister_abi::layout::{MAX_THREADS, MAX_THREADS_PER_CORE};

use crate::quantity::shown_ns;
use crate::report::{Problem, Problems};
use crate::system::{CoreRole, MAIN, Role, System, Task, Thread};

/// How much of a core may be promised, in thousandths: the rest pays for interrupts and switches.
const PROMISE_MAX: u64 = 900;

/// Judges cores and threads.
pub fn judge(system: &System, problems: &mut Problems) {
    for (task, thread) in threads(system) {
        placed(system, problems, task, thread);
    }
    for core in 0..system.cores {
        let on_core: Vec<_> =
            threads(system).filter(|(_, thread)| *thread.core.get_ref() == core).collect();
        alone(system, problems, core, &on_core);
        ranks(system, problems, core, &on_core);
        promises(system, problems, core, &on_core);
        counted(system, problems, core, &on_core);
    }
    if let Some((task, thread)) = threads(system).nth(MAX_THREADS) {
        problems.push(Problem::new(
            &system.source,
            thread.core.span(),
            format!(
                "{} is one thread more than the {MAX_THREADS} of a system",
                shown(task, thread)
            ),
            "one too many",
            "remove threads",
        ));
    }
}

fn threads(system: &System) -> impl Iterator<Item = (&Task, &Thread)> {
    system.tasks.iter().flat_map(|task| task.threads.iter().map(move |thread| (task, thread)))
}

/// A thread's name for messages.
fn shown(task: &Task, thread: &Thread) -> String {
    if thread.name == MAIN || task.vm.is_some() {
        task.key()
    } else {
        format!("tasks.{}.threads.{}", task.name(), thread.name)
    }
}

fn placed(system: &System, problems: &mut Problems, task: &Task, thread: &Thread) {
    let core = *thread.core.get_ref();
    let what = shown(task, thread);
    let mut refuse = |message: String, label: &str, help: String| {
        problems.push(Problem::new(&system.source, thread.core.span(), message, label, help));
    };
    let role = usize::try_from(core).ok().and_then(|core| *system.core_roles.get(core)?);
    let Some(role) = role else {
        let last = system.cores.saturating_sub(1);
        let help = if core < system.board.cores {
            format!("list core {core} in the appliance's `cores`, or choose one of 0 to {last}")
        } else {
            format!("the board has {} cores; choose one of 0 to {last}", system.board.cores)
        };
        return refuse(format!("{what}: core {core} has no role"), "unknown core", help);
    };
    if task.role == Role::Init && core != 0 {
        let help = "the machine starts with core 0 alone: write cores = [0]".to_owned();
        return refuse(format!("{what}: `init` is on core {core}"), "not core 0", help);
    }
    let fits = match (task.role, role) {
        _ if task.vm.is_some() => role == CoreRole::Guests,
        (_, CoreRole::System) | (Role::Task, CoreRole::Drivers) => true,
        _ => false,
    };
    if !fits && !thread.shares {
        let label = format!("core {core} is for {}", role.name());
        let wanted = match task.role {
            _ if task.vm.is_some() => "a `guests`",
            Role::Task => "a `system` or `drivers`",
            _ => "a `system`",
        };
        let help = format!("choose {wanted} core, or write share = true if this is meant");
        refuse(format!("{what}: core {core} has the role `{}`", role.name()), &label, help);
    }
}

/// On a core for guests a virtual CPU is alone, unless both it and whoever else is there say
/// `share`. On cores of other roles its own word is enough: there tasks share as they always do.
fn alone(system: &System, problems: &mut Problems, core: u32, on_core: &[(&Task, &Thread)]) {
    let role = usize::try_from(core).ok().and_then(|core| *system.core_roles.get(core)?);
    let alone = |(task, thread): &&(&Task, &Thread)| {
        role == Some(CoreRole::Guests) && task.vm.is_some() && !thread.shares
    };
    let Some((vm, thread)) = on_core.iter().find(alone) else {
        return;
    };
    let Some((other, there)) = on_core.iter().find(|(task, _)| task.name() != vm.name()) else {
        return;
    };
    problems.push(
        Problem::new(
            &system.source,
            thread.core.span(),
            format!("{} has core {core} for itself, and {} runs there too", vm.key(), other.key()),
            "not shared",
            format!(
                "choose another core for one of them, or write share = true in the `cpu` of {}",
                if there.shares { vm.key() } else { format!("{} and {}", vm.key(), other.key()) }
            ),
        )
        .also(there.core.span(), "on the same core"),
    );
}

/// A rank belongs to one thread, so that "who runs first" has one answer.
fn ranks(system: &System, problems: &mut Problems, core: u32, on_core: &[(&Task, &Thread)]) {
    for (place, (task, thread)) in on_core.iter().enumerate() {
        let same =
            |other: &&(&Task, &Thread)| other.1.priority.get_ref() == thread.priority.get_ref();
        let Some((first, other)) = on_core.iter().take(place).find(same) else {
            continue;
        };
        let free = (0..=u8::MAX)
            .find(|free| on_core.iter().all(|(_, thread)| thread.priority.get_ref() != free));
        problems.push(
            Problem::new(
                &system.source,
                thread.priority.span(),
                format!(
                    "{}: priority {} on core {core} belongs to {}",
                    shown(task, thread),
                    thread.priority.get_ref(),
                    shown(first, other)
                ),
                "the same priority",
                format!(
                    "each thread of a core has its own priority; {} is free",
                    free.map_or_else(|| "none".to_owned(), |free| free.to_string())
                ),
            )
            .also(other.priority.span(), "here first"),
        );
    }
}

/// The sum of budget / period of a core stays below [`PROMISE_MAX`]. `init` does not count: it is
/// gone when the others start.
fn promises(system: &System, problems: &mut Problems, core: u32, on_core: &[(&Task, &Thread)]) {
    let mut promised = 0;
    for (task, thread) in on_core.iter().filter(|(task, _)| task.role != Role::Init) {
        let (budget, period) = (*thread.budget_ns.get_ref(), *thread.period_ns.get_ref());
        // Rounded up, so that many small threads cannot hide behind rounding.
        promised += (budget * 1000).div_ceil(period);
        if promised <= PROMISE_MAX {
            continue;
        }
        problems.push(Problem::new(
            &system.source,
            thread.budget_ns.span(),
            format!(
                "core {core} is promised to {}.{} %, at most {} % are possible",
                promised / 10,
                promised % 10,
                PROMISE_MAX / 10
            ),
            format!("{} of {} breaks it", shown_ns(budget), shown_ns(period)),
            format!(
                "the sum of budget / period of all threads of a core is at most {} %: lower a \
                 budget or move {} to another core",
                PROMISE_MAX / 10,
                shown(task, thread)
            ),
        ));
        return;
    }
}

fn counted(system: &System, problems: &mut Problems, core: u32, on_core: &[(&Task, &Thread)]) {
    if let Some((_, thread)) = on_core.get(MAX_THREADS_PER_CORE) {
        problems.push(Problem::new(
            &system.source,
            thread.core.span(),
            format!(
                "core {core} has {} threads, at most {MAX_THREADS_PER_CORE} fit",
                on_core.len()
            ),
            "one too many",
            "move threads to another core",
        ));
    }
}
