//! One `init`, one supervisor, and what those two may not have.

use crate::names::nearest;
use crate::report::{Problem, Problems};
use crate::system::{Restart, Role, System, Task};

/// Judges the roles of the tasks.
pub fn judge(system: &System, problems: &mut Problems) {
    for (role, name) in [(Role::Init, "init"), (Role::Supervisor, "supervisor")] {
        exactly_one(system, problems, role, name);
    }
    if !problems.is_empty() {
        return;
    }
    for task in &system.tasks {
        match task.role {
            Role::Task => {}
            Role::Init => init(system, problems, task),
            Role::Supervisor => managed(system, problems, task, "supervisor"),
        }
    }
}

fn exactly_one(system: &System, problems: &mut Problems, role: Role, name: &str) {
    let mut holders = system.tasks.iter().filter(|task| task.role == role);
    let Some(first) = holders.next() else {
        let tasks = system.tasks.iter().filter(|task| task.role == Role::Task && task.vm.is_none());
        let guess = nearest(name, tasks.map(Task::name)).map_or_else(
            || format!("write role = \"{name}\" in one task"),
            |task| format!("if it is task `{task}`, write role = \"{name}\" there"),
        );
        let text = system.source.text();
        let start = text.find("[tasks").unwrap_or(0);
        let end =
            text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |n| start + n);
        problems.push(Problem::new(
            &system.source,
            start..end,
            format!("no task has the role `{name}`"),
            "among these tasks",
            format!("{guess}; a name implies no role"),
        ));
        return;
    };
    for second in holders {
        problems.push(
            Problem::new(
                &system.source,
                second.role_at.clone(),
                format!(
                    "tasks `{}` and `{}` both have the role `{name}`",
                    first.name(),
                    second.name()
                ),
                "the second one",
                format!("a system has exactly one {name}: remove one of the roles"),
            )
            .also(first.role_at.clone(), "the first one"),
        );
    }
}

/// `init` is gone once the system runs: whoever depends on it would wait for ever.
fn init(system: &System, problems: &mut Problems, task: &Task) {
    managed(system, problems, task, "init");
    let mut refuse = |span, what: &str| {
        problems.push(Problem::new(
            &system.source,
            span,
            format!("tasks.{} is `init` and has {what}", task.name()),
            "not for init",
            "`init` leaves at the seal, before any other task runs: give this to another task",
        ));
    };
    if let Some(export) = task.exports.first() {
        refuse(export.name.span(), "an export");
    }
    if let Some(grant) = task.grants.first() {
        refuse(grant.at.clone(), "a grant");
    }
    if task.threads.len() > 1 {
        refuse(task.name.span(), "further threads");
    }
    if task.reads_logs {
        refuse(task.name.span(), "`reads-logs`");
    }
}

/// The two system tasks are not restarted and not waited for.
fn managed(system: &System, problems: &mut Problems, task: &Task, name: &str) {
    let found = if task.is_essential {
        "`essential`"
    } else if task.restart != Restart::SUPERVISOR {
        "a `restart` policy of its own"
    } else {
        return;
    };
    problems.push(Problem::new(
        &system.source,
        task.name.span(),
        format!("tasks.{} is `{name}` and has {found}", task.name()),
        "a system task",
        "a fault of `init` or of the supervisor reboots the machine: remove the key",
    ));
}
