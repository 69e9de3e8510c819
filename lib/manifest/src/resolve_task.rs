//! One task of the file: its threads, devices, exports, memory and restart policy.

use std::collections::BTreeMap;

use cloister_abi::layout::{LOG_RING_MAX, PAGE, STACK_MAX};
use toml::Spanned;

use crate::board::Board;
use crate::check::Judge;
use crate::names::{did_you_mean, is_identifier, listed};
use crate::quantity::{Written, duration_ns, shown_ns};
use crate::raw;
use crate::report::Span;
use crate::resolve::whole_pages;
use crate::resolve_export::exports;
use crate::system::{MAIN, Memory, Restart, Role, SealedKey, Task, Then, Thread};

/// Size of a stack if the manifest does not say.
const STACK_DEFAULT: u64 = 16 << 10;
/// Size of a log ring if the manifest does not say.
const LOG_DEFAULT: u64 = 4 << 10;
/// Largest private memory region.
const MEMORY_MAX: u64 = 256 << 20;
/// Shortest and longest period.
const PERIOD_NS: (u64, u64) = (100_000, 1_000_000_000);
/// Smallest budget: below it a thread would spend its time on being switched to.
const BUDGET_NS_MIN: u64 = 10_000;
/// Periods of a task's first thread that its watchdog time has at least.
const WATCHDOG_PERIODS: u64 = 10;
/// Longest watchdog time.
const WATCHDOG_NS_MAX: u64 = 60_000_000_000;
/// Longest name of a package.
const PROGRAM_NAME_MAX: usize = 64;

/// Resolves everything of a task but its grants, which need all tasks.
pub fn task(
    judge: &mut Judge<'_>,
    name: &Spanned<String>,
    raw: &raw::Task,
    board: &Board,
    default: Restart,
) -> Option<Task> {
    let named = judge.name("task", name);
    let roles = [("init", Role::Init), ("supervisor", Role::Supervisor)];
    let role = match &raw.role {
        None => Some(Role::Task),
        Some(word) => judge.word(&format!("tasks.{}: `role`", name.get_ref()), word, &roles),
    };
    let program = program(judge, name, raw);
    let threads = threads(judge, name.get_ref(), raw);
    let log_bytes = log_bytes(judge, &format!("tasks.{}", name.get_ref()), raw.log.as_ref());
    let devices = devices(judge, name.get_ref(), raw, board);
    let exports = exports(judge, name.get_ref(), raw);
    let memory = memory(judge, name.get_ref(), raw);
    let numbers = numbers(judge, name.get_ref(), raw);
    let sealed_keys = sealed_keys(judge, name.get_ref(), raw);
    let distinct = distinct_names(judge, name.get_ref(), raw);
    let inherited = if role == Some(Role::Task) { default } else { Restart::SUPERVISOR };
    let restart =
        restart(judge, &format!("tasks.{}", name.get_ref()), raw.restart.as_ref(), inherited);
    let watchdog = watchdog(judge, name.get_ref(), raw, role);
    if !named {
        return None;
    }
    distinct?;
    Some(Task {
        name: name.clone(),
        program: program?,
        role: role?,
        role_at: raw.role.as_ref().map_or_else(|| name.span(), Spanned::span),
        threads: threads?,
        log_bytes: log_bytes?,
        has_fpu: raw.fpu,
        devices: devices?,
        reads_logs: raw.reads_logs.as_ref().is_some_and(|flag| *flag.get_ref()),
        exports: exports?,
        grants: Vec::new(),
        memory: memory?,
        numbers: numbers?,
        sealed_keys: sealed_keys?,
        is_essential: raw.essential.as_ref().is_some_and(|flag| *flag.get_ref()),
        restart: restart?,
        watchdog_ns: watchdog?,
        vm: None,
    })
}

/// How long a task may be silent. Budgets alone must not make it late.
fn watchdog(
    judge: &mut Judge<'_>,
    name: &str,
    raw: &raw::Task,
    role: Option<Role>,
) -> Option<Option<u64>> {
    let Some(written) = &raw.watchdog else {
        return Some(None);
    };
    let what = format!("tasks.{name}: `watchdog`");
    let time = judge.quantity(&what, written, duration_ns)?;
    if role != Some(Role::Task) {
        judge.wrong(
            written.span(),
            format!("{what} is for tasks that the supervisor looks after"),
            "the supervisor does not watch this task",
            "remove `watchdog`: `init` is gone after the seal, and the chipset watches the supervisor",
        );
        return None;
    }
    let period = duration_ns(raw.cpu.get_ref().period.get_ref()).unwrap_or(PERIOD_NS.1);
    let least = period.saturating_mul(WATCHDOG_PERIODS);
    if !(least..=WATCHDOG_NS_MAX).contains(&time) {
        judge.wrong(
            written.span(),
            format!("{what} is {}, which is not between ten periods and a minute", shown_ns(time)),
            "too short, or too long",
            format!("write {} to {}", shown_ns(least), shown_ns(WATCHDOG_NS_MAX)),
        );
        return None;
    }
    Some(Some(time))
}

fn program(
    judge: &mut Judge<'_>,
    name: &Spanned<String>,
    raw: &raw::Task,
) -> Option<Spanned<String>> {
    let program = raw.program.as_ref().unwrap_or(name);
    let found = program.get_ref();
    if !is_identifier(found, PROGRAM_NAME_MAX) {
        judge.wrong(
            program.span(),
            format!("tasks.{}: `program` is `{found}`, which is no package name", name.get_ref()),
            "not a package name",
            "write the name of a package of this workspace, like \"console\"",
        );
        return None;
    }
    Some(program.clone())
}

/// The entries of a table in the order of the file.
pub fn in_order<T>(named: &BTreeMap<Spanned<String>, T>) -> Vec<(&Spanned<String>, &T)> {
    let mut entries: Vec<_> = named.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn threads(judge: &mut Judge<'_>, task: &str, raw: &raw::Task) -> Option<Vec<Thread>> {
    let what = format!("tasks.{task}");
    let cpu = raw.cpu.get_ref();
    let [core] = cpu.cores.get_ref().as_slice() else {
        let found = cpu.cores.get_ref().len();
        judge.wrong(
            cpu.cores.span(),
            format!("{what}: `cores` lists {found} cores, a task's first thread runs on one"),
            "not one core",
            "write one core; further threads have their own in [tasks.NAME.threads.THREAD]",
        );
        return None;
    };
    let first = thread(
        judge,
        &what,
        MAIN,
        &raw::Thread {
            core: core.clone(),
            priority: cpu.priority.clone(),
            budget: cpu.budget.clone(),
            period: cpu.period.clone(),
            stack: raw.stack.clone(),
            share: cpu.share,
        },
    );
    let mut threads = vec![first];
    for (name, raw) in in_order(&raw.threads) {
        let named = judge.name(&format!("{what}: thread"), name);
        let what = format!("{what}.threads.{}", name.get_ref());
        let further = thread(judge, &what, name.get_ref(), raw.get_ref());
        threads.push(further.filter(|_| named));
    }
    threads.into_iter().collect()
}

/// One thread.
pub fn thread(judge: &mut Judge<'_>, what: &str, name: &str, raw: &raw::Thread) -> Option<Thread> {
    // Whether the core exists is a rule between parts; here it only has to be a number.
    let core = judge.number::<u32>(&format!("{what}: a core"), &raw.core, 0..=255);
    let priority = judge.number::<u8>(&format!("{what}: `priority`"), &raw.priority, 0..=255);
    let budget = judge.quantity(&format!("{what}: `budget`"), &raw.budget, duration_ns);
    let period = judge.quantity(&format!("{what}: `period`"), &raw.period, duration_ns);
    let stack = match &raw.stack {
        None => Some(STACK_DEFAULT),
        Some(size) => {
            whole_pages(judge, &format!("{what}: `stack`"), size, STACK_MAX).map(|n| n * PAGE)
        }
    };
    let (budget, period) = (budget?, period?);
    if !(PERIOD_NS.0..=PERIOD_NS.1).contains(&period) {
        let (low, high) = (shown_ns(PERIOD_NS.0), shown_ns(PERIOD_NS.1));
        judge.wrong(
            raw.period.span(),
            format!("{what}: `period` is {}, allowed is {low} to {high}", shown_ns(period)),
            format!("not in {low} to {high}"),
            "periods of a few milliseconds suit most tasks: write period = \"10ms\"",
        );
        return None;
    }
    if !(BUDGET_NS_MIN..=period).contains(&budget) {
        let (low, high) = (shown_ns(BUDGET_NS_MIN), shown_ns(period));
        judge.wrong(
            raw.budget.span(),
            format!(
                "{what}: `budget` is {}, allowed is {low} to the period of {high}",
                shown_ns(budget)
            ),
            format!("not in {low} to {high}"),
            "the budget is CPU time in each period: write less than the period",
        );
        return None;
    }
    Some(Thread {
        name: name.to_owned(),
        core: core?,
        priority: priority?,
        budget_ns: Spanned::new(raw.budget.span(), budget),
        period_ns: Spanned::new(raw.period.span(), period),
        stack_bytes: stack?,
        shares: raw.share,
    })
}

/// Bytes of a log ring.
pub fn log_bytes(judge: &mut Judge<'_>, what: &str, raw: Option<&Spanned<Written>>) -> Option<u64> {
    let Some(size) = raw else {
        return Some(LOG_DEFAULT);
    };
    let pages = whole_pages(judge, &format!("{what}: `log`"), size, LOG_RING_MAX)?;
    Some(pages * PAGE)
}

fn devices(
    judge: &mut Judge<'_>,
    task: &str,
    raw: &raw::Task,
    board: &Board,
) -> Option<Vec<Spanned<usize>>> {
    if let (Some(_), Some(list)) = (&raw.device, &raw.devices) {
        judge.wrong(
            list.span(),
            format!("tasks.{task} has both `device` and `devices`"),
            "a second list",
            "write all of them as devices = [\"uart0\", \"rtc0\"]",
        );
        return None;
    }
    let list = raw.device.iter().chain(raw.devices.iter().flat_map(|list| list.get_ref()));
    let names = || board.devices.iter().map(|device| device.name.get_ref().as_str());
    let found: Vec<Option<Spanned<usize>>> = list
        .map(|name| {
            let index = names().position(|known| known == name.get_ref());
            if index.is_none() {
                let guess = did_you_mean(name.get_ref(), names());
                judge.wrong(
                    name.span(),
                    format!(
                        "tasks.{task}: device `{}` does not exist on {}",
                        name.get_ref(),
                        board.source.name()
                    ),
                    "no such device",
                    format!("{guess}the board has {}", listed(names())),
                );
            }
            index.map(|index| Spanned::new(name.span(), index))
        })
        .collect();
    found.into_iter().collect()
}

fn memory(judge: &mut Judge<'_>, task: &str, raw: &raw::Task) -> Option<Vec<Memory>> {
    let regions: Vec<Option<Memory>> = in_order(&raw.memory)
        .into_iter()
        .map(|(name, raw)| {
            let named = judge.name(&format!("tasks.{task}: memory"), name);
            let what = format!("tasks.{task}: memory `{}`", name.get_ref());
            let pages = u32::try_from(whole_pages(judge, &what, &raw.size, MEMORY_MAX)?).ok()?;
            named.then(|| Memory { name: name.clone(), pages, is_dma: raw.dma })
        })
        .collect();
    regions.into_iter().collect()
}

fn numbers(
    judge: &mut Judge<'_>,
    task: &str,
    raw: &raw::Task,
) -> Option<Vec<(Spanned<String>, u64)>> {
    let numbers: Vec<Option<(Spanned<String>, u64)>> = in_order(&raw.numbers)
        .into_iter()
        .map(|(name, value)| {
            let named = judge.name(&format!("tasks.{task}: number"), name);
            let what = format!("tasks.{task}: number `{}`", name.get_ref());
            let number = judge.number::<u64>(&what, value, 0..=i64::MAX)?;
            named.then(|| (name.clone(), *number.get_ref()))
        })
        .collect();
    numbers.into_iter().collect()
}

/// Keys that lie in the image; each is for the export of its name.
fn sealed_keys(judge: &mut Judge<'_>, task: &str, raw: &raw::Task) -> Option<Vec<SealedKey>> {
    let exports = || raw.exports.keys().map(|name| name.get_ref().as_str());
    let keys: Vec<Option<SealedKey>> = in_order(&raw.sealed_keys)
        .into_iter()
        .map(|(name, file)| {
            let found = name.get_ref();
            if exports().any(|export| export == found) {
                return Some(SealedKey { name: name.clone(), file: file.clone(), bytes: [0; 32] });
            }
            judge.wrong(
                name.span(),
                format!("tasks.{task}: sealed key `{found}` has no export of its name"),
                "nobody would ever get it",
                format!("{}the task exports {}", did_you_mean(found, exports()), listed(exports())),
            );
            None
        })
        .collect();
    keys.into_iter().collect()
}

/// A program finds its grants by name, so no two of them may have the same.
fn distinct_names(judge: &mut Judge<'_>, task: &str, raw: &raw::Task) -> Option<()> {
    let mut seen: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
    let listed = raw.devices.iter().flat_map(|list| list.get_ref());
    let devices = raw.device.iter().chain(listed).map(|name| ("device", name));
    let grants = raw.grants.keys().map(|name| ("grant", name));
    let memory = raw.memory.keys().map(|name| ("memory", name));
    let numbers = raw.numbers.keys().map(|name| ("number", name));
    for (kind, name) in devices.chain(grants).chain(memory).chain(numbers) {
        let Some((other, span)) = seen.insert(name.get_ref(), (kind, name.span())) else {
            continue;
        };
        let message = format!("tasks.{task}: the name `{}` is used twice", name.get_ref());
        judge.problems.push(
            crate::report::Problem::new(
                judge.source,
                name.span(),
                message,
                format!("a {kind}"),
                "a program finds what it holds by name; rename one of the two",
            )
            .also(span, format!("a {other}")),
        );
        return None;
    }
    Some(())
}

/// The policies by role: checks all three, returns those for tasks and for virtual machines.
pub fn restart_by_role(
    judge: &mut Judge<'_>,
    raw: &raw::RestartRoles,
) -> Option<(Restart, Restart)> {
    if let Some(policy) = &raw.supervisor {
        let read = restart(judge, "restart.supervisor", Some(policy), Restart::SUPERVISOR)?;
        if read.tries != 0 || read.then != Then::Reboot {
            judge.wrong(
                policy.span(),
                "restart.supervisor asks for more than a reboot",
                "tries and then are fixed",
                "nobody is left to restart the supervisor: write { tries = 0, then = \"reboot\" }",
            );
            return None;
        }
    }
    let vms = restart(judge, "restart.vms", raw.vms.as_ref(), Restart::VMS);
    let tasks = restart(judge, "restart.tasks", raw.tasks.as_ref(), Restart::TASKS);
    Some((tasks?, vms?))
}

/// A policy; what it does not say is inherited.
pub fn restart(
    judge: &mut Judge<'_>,
    what: &str,
    raw: Option<&Spanned<raw::Restart>>,
    inherited: Restart,
) -> Option<Restart> {
    let Some(spanned) = raw else {
        return Some(inherited);
    };
    let raw = spanned.get_ref();
    let mut policy = inherited;
    if let Some(tries) = &raw.tries {
        policy.tries = *judge.number(&format!("{what}: `tries`"), tries, 0..=1_000_000)?.get_ref();
    }
    let fields = [
        ("within", &raw.within, &mut policy.within_ns),
        ("delay", &raw.delay, &mut policy.delay_ns),
        ("delay-max", &raw.delay_max, &mut policy.delay_max_ns),
    ];
    for (key, value, field) in fields {
        if let Some(value) = value {
            *field = judge.quantity(&format!("{what}: `{key}`"), value, duration_ns)?;
        }
    }
    if let Some(then) = &raw.then {
        let words = Then::ALL.map(|then| (then.name(), then));
        policy.then = judge.word(&format!("{what}: `then`"), then, &words)?;
    }
    if policy.tries > 0 && policy.within_ns == 0 {
        judge.wrong(
            spanned.span(),
            format!("{what}: {} tries within no time", policy.tries),
            "`within` is zero",
            "say in which time the tries count: within = \"60s\"",
        );
        return None;
    }
    if policy.delay_ns > policy.delay_max_ns {
        let (delay, most) = (shown_ns(policy.delay_ns), shown_ns(policy.delay_max_ns));
        judge.wrong(
            spanned.span(),
            format!("{what}: `delay` is {delay}, more than `delay-max`, which is {most}"),
            "delays shrink",
            "the delay doubles with each try up to `delay-max`: write a larger `delay-max`",
        );
        return None;
    }
    Some(policy)
}
