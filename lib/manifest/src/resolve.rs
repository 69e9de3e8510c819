//! From the keys of the file to a [`System`]: units converted, names resolved, defaults filled in.
//!
//! A value that cannot be read drops out with a problem; the rest is resolved on, so that one run
//! shows all mistakes. The rules between parts (budgets, priorities, owners) are in
//! [`crate::rules`] and run only on a system that could be resolved as a whole.

use cloister_abi::layout::{MAX_TASKS, PAGE};
use toml::Spanned;

use crate::board::Board;
use crate::check::Judge;
use crate::names::{did_you_mean, is_identifier, listed};
use crate::quantity;
use crate::raw;
use crate::report::{Problem, Problems, Source, Span};
use crate::resolve_task;
use crate::resolve_vm;
use crate::system::{CoreRole, Grant, Restart, System, Task};

/// Version of the manifest's vocabulary.
const FORMAT: i64 = 1;
/// Longest name of an appliance; it is a name field of table and payload.
const APPLIANCE_NAME_MAX: usize = 31;

/// Turns what serde read into a system.
pub fn system(
    source: &Source,
    raw: &raw::Appliance,
    board: Board,
    problems: &mut Problems,
) -> Option<System> {
    let mut judge = Judge { source, problems };
    format(&mut judge, &raw.format)?;
    let name = appliance_name(&mut judge, &raw.name);
    let core_roles = core_roles(&mut judge, &raw.cores, &board);
    let iommu = match &raw.iommu {
        None => Some(None),
        Some(word) => judge.word("`iommu`", word, &[("absent-ok", ())]).map(|()| Some(word.span())),
    };
    let entropy = entropy(&mut judge, &raw.entropy);
    let defaults = resolve_task::restart_by_role(&mut judge, &raw.restart);
    let tasks = tasks(&mut judge, raw, &board, defaults?);
    let (needs_rdrand, needs_rdseed) = entropy?;
    let core_roles = core_roles?;
    Some(System {
        source: source.clone(),
        name: name?,
        board,
        cores: u32::try_from(core_roles.len()).ok()?,
        core_roles,
        iommu_absent_ok: iommu?,
        is_lab: raw.lab,
        needs_rdrand,
        needs_rdseed,
        tasks: tasks?,
    })
}

fn format(judge: &mut Judge<'_>, format: &Spanned<i64>) -> Option<()> {
    let found = *format.get_ref();
    if found != FORMAT {
        judge.wrong(
            format.span(),
            format!("`format` is {found}, this build reads format {FORMAT}"),
            "unknown format",
            format!("write format = {FORMAT}; docs/manifest.md describes it"),
        );
    }
    (found == FORMAT).then_some(())
}

fn appliance_name(judge: &mut Judge<'_>, name: &Spanned<String>) -> Option<String> {
    let found = name.get_ref();
    if !is_identifier(found, APPLIANCE_NAME_MAX) {
        judge.wrong(
            name.span(),
            format!("the appliance's name `{found}` is no name"),
            "not a name",
            format!(
                "a name has 1 to {APPLIANCE_NAME_MAX} characters: a lower-case letter, then \
                 lower-case letters, digits and dashes"
            ),
        );
        return None;
    }
    Some(found.clone())
}

fn core_roles(
    judge: &mut Judge<'_>,
    raw: &Spanned<raw::CoreRoles>,
    board: &Board,
) -> Option<Vec<Option<CoreRole>>> {
    let span = raw.span();
    let raw = raw.get_ref();
    let lists = [
        (CoreRole::System, &raw.system),
        (CoreRole::Drivers, &raw.drivers),
        (CoreRole::Guests, &raw.guests),
    ];
    let mut roles: Vec<Option<CoreRole>> = Vec::new();
    let last = i64::from(board.cores) - 1;
    for (role, list) in lists {
        for value in list {
            let what = format!("a core of role `{}`", role.name());
            let core = *judge.number::<usize>(&what, value, 0..=last)?.get_ref();
            roles.resize(roles.len().max(core + 1), None);
            let slot = roles.get_mut(core)?;
            if let Some(other) = slot.replace(role) {
                judge.wrong(
                    value.span(),
                    format!("core {core} has the roles `{}` and `{}`", other.name(), role.name()),
                    "listed before",
                    "list each core once",
                );
                return None;
            }
        }
    }
    if roles.first() != Some(&Some(CoreRole::System)) {
        judge.wrong(
            span,
            "core 0 is not a `system` core",
            "`system` does not list 0",
            "`init` starts on core 0: write system = [0] or more",
        );
        return None;
    }
    if let Some(gap) = roles.iter().position(Option::is_none) {
        let last = roles.len() - 1;
        judge.wrong(
            span,
            format!("core {gap} has no role although core {last} has one"),
            format!("core {gap} is missing"),
            "cores are used from 0 upwards without gaps; list it under `system`, `drivers` or \
             `guests`",
        );
        return None;
    }
    Some(roles)
}

fn entropy(judge: &mut Judge<'_>, raw: &raw::Entropy) -> Option<(bool, bool)> {
    let mut needs = (false, false);
    for source in &raw.require {
        let is_seed =
            judge.word("an entropy source", source, &[("rdrand", false), ("rdseed", true)])?;
        if is_seed {
            needs.1 = true;
        } else {
            needs.0 = true;
        }
    }
    Some(needs)
}

fn tasks(
    judge: &mut Judge<'_>,
    raw: &raw::Appliance,
    board: &Board,
    (tasks, vms): (Restart, Restart),
) -> Option<Vec<Task>> {
    let entries = entries(judge, raw)?;
    if entries.len() > MAX_TASKS {
        let (name, _) = entries.get(MAX_TASKS)?;
        judge.wrong(
            name.span(),
            format!("{} tasks and VMs, at most {MAX_TASKS} are possible", entries.len()),
            "one too many",
            "remove tasks, or merge some into one program",
        );
        return None;
    }
    let tasks: Vec<Option<Task>> = entries
        .iter()
        .map(|(name, entry)| match entry {
            Entry::Task(raw) => resolve_task::task(judge, name, raw, board, tasks),
            Entry::Vm(raw) => resolve_vm::vm(judge, name, raw, vms),
        })
        .collect();
    let mut tasks: Vec<Task> = tasks.into_iter().collect::<Option<_>>()?;
    for (index, (_, entry)) in entries.iter().enumerate() {
        let raw = match entry {
            Entry::Task(raw) => &raw.grants,
            Entry::Vm(raw) => &raw.grants,
        };
        let grants = grants(judge, index, raw, &tasks)?;
        tasks.get_mut(index)?.grants = grants;
    }
    Some(tasks)
}

/// A table of the file that becomes a task.
enum Entry<'a> {
    Task(&'a raw::Task),
    Vm(&'a raw::Vm),
}

/// Tasks and virtual machines in the order of the file. They share one space of names.
fn entries<'a>(
    judge: &mut Judge<'_>,
    raw: &'a raw::Appliance,
) -> Option<Vec<(&'a Spanned<String>, Entry<'a>)>> {
    let tasks = raw.tasks.get_ref();
    if let Some((vm, task)) = raw.vms.keys().find_map(|vm| Some((vm, tasks.get_key_value(vm)?.0))) {
        let name = vm.get_ref();
        judge.problems.push(
            Problem::new(
                judge.source,
                vm.span(),
                format!("vms.{name} has the name of a task"),
                "a VM",
                "a VM's monitor is a task of the VM's name: rename one of the two",
            )
            .also(task.span(), "a task"),
        );
        return None;
    }
    let tasks = tasks.iter().map(|(name, raw)| (name, Entry::Task(raw.get_ref())));
    let vms = raw.vms.iter().map(|(name, raw)| (name, Entry::Vm(raw.get_ref())));
    let mut entries: Vec<_> = tasks.chain(vms).collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    Some(entries)
}

fn grants(
    judge: &mut Judge<'_>,
    client: usize,
    raw: &raw::Named<Spanned<String>>,
    tasks: &[Task],
) -> Option<Vec<Grant>> {
    let mut entries: Vec<_> = raw.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let resolved: Vec<Option<Grant>> = entries
        .into_iter()
        .map(|(name, target)| grant(judge, client, name, target, tasks))
        .collect();
    resolved.into_iter().collect()
}

fn grant(
    judge: &mut Judge<'_>,
    client: usize,
    name: &Spanned<String>,
    target: &Spanned<String>,
    tasks: &[Task],
) -> Option<Grant> {
    let named = judge.name("grant", name);
    let task = tasks.get(client)?.key();
    let found = target.get_ref();
    let what = format!("{task}: grant `{}`", name.get_ref());
    let Some((server, export)) = found.split_once('/') else {
        judge.wrong(
            target.span(),
            format!("{what} is \"{found}\", which names no export"),
            "no slash",
            "a grant names \"task/export\"",
        );
        return None;
    };
    let Some(index) = tasks.iter().position(|task| task.name() == server) else {
        let guess = did_you_mean(server, tasks.iter().map(Task::name));
        judge.wrong(
            target.span(),
            format!("{what} names task `{server}`, which does not exist"),
            "no such task",
            format!("{guess}tasks are {}", listed(tasks.iter().map(Task::name))),
        );
        return None;
    };
    let exports = || tasks.get(index).into_iter().flat_map(|task| &task.exports);
    let names = || exports().map(|export| export.name.get_ref().as_str());
    let Some(place) = names().position(|name| name == export) else {
        let guess = crate::names::nearest(export, names())
            .map_or_else(String::new, |name| format!("; did you mean `{server}/{name}`?"));
        judge.wrong(
            target.span(),
            format!("{what} names `{found}`, which nothing exports"),
            "no such export",
            format!("task `{server}` exports {}{guess}", listed(names())),
        );
        return None;
    };
    if index == client {
        judge.wrong(
            target.span(),
            format!("{what} names an export of the task itself"),
            "its own export",
            "for memory of its own a task has `memory`, for its threads `threads`",
        );
        return None;
    }
    named.then(|| Grant { name: name.clone(), server: index, export: place, at: target.span() })
}

/// Pages of a size that must be whole pages between one page and `max` bytes.
pub fn whole_pages(
    judge: &mut Judge<'_>,
    what: &str,
    value: &Spanned<quantity::Written>,
    max: u64,
) -> Option<u64> {
    let bytes = judge.quantity(what, value, quantity::size_bytes)?;
    if bytes == 0 || bytes % PAGE != 0 || bytes > max {
        refuse_size(judge, what, value.span(), bytes, max);
        return None;
    }
    Some(bytes / PAGE)
}

fn refuse_size(judge: &mut Judge<'_>, what: &str, span: Span, bytes: u64, max: u64) {
    let (found, most) = (quantity::shown_bytes(bytes), quantity::shown_bytes(max));
    let label = if bytes > max { "too large" } else { "not whole pages" };
    judge.wrong(
        span,
        format!("{what} is {found}, it must be whole pages up to {most}"),
        label,
        format!("write a multiple of \"4KiB\", at most \"{most}\""),
    );
}
