//! Grants and exports: each wire has two ends, and the serving end is the more urgent one.

use cloister_abi::call::CLIENT_BITS;

use crate::report::{Problem, Problems};
use crate::system::{Export, Grant, Role, System, Task};

/// Judges grants and exports.
pub fn judge(system: &System, problems: &mut Problems) {
    for (server, task) in system.tasks.iter().enumerate() {
        for (index, export) in task.exports.iter().enumerate() {
            held_once(system, problems, server, index, export);
        }
        bits(system, problems, task);
    }
    for task in &system.tasks {
        for (place, grant) in task.grants.iter().enumerate() {
            // A second grant of the same server would only say the same again.
            if task.grants.iter().take(place).all(|earlier| earlier.server != grant.server) {
                urgency(system, problems, task, grant);
            }
        }
    }
}

/// Signal bits that a task's first thread needs: one for each task at the other end of a wire.
pub fn bits_needed(system: &System, task: &Task) -> usize {
    let supervised = match task.role {
        Role::Supervisor => system.tasks.iter().filter(|task| task.role == Role::Task).count(),
        _ => 0,
    };
    // The first thread of a task with others, and of every monitor, has a bit for its own task.
    let own = usize::from(task.threads.len() > 1 || task.vm.is_some());
    task.exports.len() + task.grants.len() + own + supervised
}

fn held_once(
    system: &System,
    problems: &mut Problems,
    server: usize,
    index: usize,
    export: &Export,
) {
    let name = system.tasks.get(server).map_or("?", Task::name);
    let full = format!("{name}/{}", export.name.get_ref());
    let all = system.tasks.iter().flat_map(|task| task.grants.iter().map(move |g| (task, g)));
    let mut holders = all.filter(|(_, grant)| (grant.server, grant.export) == (server, index));
    let Some((first, held)) = holders.next() else {
        problems.push(Problem::new(
            &system.source,
            export.name.span(),
            format!("export `{full}` is held by nobody"),
            "idle",
            format!(
                "remove it, or grant it to a {}: grants = {{ local-name = \"{full}\" }}",
                if export.device.is_some() { "VM" } else { "task" }
            ),
        ));
        return;
    };
    for (task, grant) in holders {
        problems.push(
            Problem::new(
                &system.source,
                grant.at.clone(),
                format!(
                    "{}: grant `{}` names `{full}`, which {} holds as `{}`",
                    task.key(),
                    grant.name.get_ref(),
                    first.key(),
                    held.name.get_ref()
                ),
                "held twice",
                format!(
                    "an export has one client: add a second export to task `{name}` for this one"
                ),
            )
            .also(held.at.clone(), "held here"),
        );
    }
}

fn bits(system: &System, problems: &mut Problems, task: &Task) {
    let needed = bits_needed(system, task);
    let most = usize::try_from(CLIENT_BITS).unwrap_or(usize::MAX);
    if needed <= most {
        return;
    }
    let clients = task.exports.len();
    let message = if clients > most {
        format!("{} has {clients} clients, at most {most} are possible", task.key())
    } else {
        format!(
            "{} needs {needed} signal bits ({clients} clients, {} servers), it has {most}",
            task.key(),
            task.grants.len()
        )
    };
    problems.push(Problem::new(
        &system.source,
        task.name.span(),
        message,
        format!("over {most}"),
        "each task at the other end of a wire has its own signal bit: split the task in two",
    ));
}

/// A client is strictly less urgent than its server, also across cores: else a server could be
/// kept from answering by the very task that waits for it.
fn urgency(system: &System, problems: &mut Problems, client: &Task, grant: &Grant) {
    let Some(server) = system.tasks.get(grant.server) else {
        return;
    };
    let (Some(asks), Some(serves)) = (client.threads.first(), server.threads.first()) else {
        return;
    };
    if asks.priority.get_ref() > serves.priority.get_ref() {
        return;
    }
    problems.push(
        Problem::new(
            &system.source,
            asks.priority.span(),
            format!(
                "{} has priority {} and is a client of {}, which has priority {}",
                client.key(),
                asks.priority.get_ref(),
                server.key(),
                serves.priority.get_ref()
            ),
            "the client",
            format!(
                "a client is less urgent than its server (0 is the most urgent): give `{}` a \
                 number above {}",
                client.name(),
                serves.priority.get_ref()
            ),
        )
        .also(serves.priority.span(), "the server")
        .also(grant.at.clone(), "the grant"),
    );
}
