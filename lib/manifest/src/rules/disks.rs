//! Disks: who may be a client of which export, what stands behind it, and memory that devices reach.

use cloister_proto::volume::{BLOCK_BYTES, SEALED_DATA_OFFSET};

use crate::names::{did_you_mean, listed};
use crate::quantity::shown_bytes;
use crate::report::{Problem, Problems};
use crate::system::{Export, Extent, Grant, System, Task};

/// Judges volumes, windows and memory for DMA.
pub fn judge(system: &System, problems: &mut Problems) {
    for task in &system.tasks {
        dma_needs_a_device(system, problems, task);
        for (place, export) in task.exports.iter().enumerate() {
            has_a_volume(system, problems, task, export);
            has_its_key(system, problems, task, export);
            has_room_for_a_header(system, problems, task, export);
            for other in task.exports.iter().take(place) {
                written_by_one(system, problems, task, other, export);
                has_a_key_of_its_own(system, problems, task, other, export);
            }
        }
        computes_with_registers(system, problems, task);
        for grant in &task.grants {
            windows_are_for_tasks(system, problems, task, grant);
        }
    }
}

/// Memory that devices reach is of use to a task whose devices read or write memory.
fn dma_needs_a_device(system: &System, problems: &mut Problems, task: &Task) {
    let memory = task.memory.iter().find(|memory| memory.is_dma);
    let Some(memory) = memory.filter(|_| !system.has_bus_master(task)) else {
        return;
    };
    problems.push(Problem::new(
        &system.source,
        memory.name.span(),
        format!(
            "{}: memory `{}` has dma = true, and the task owns no device that would use it",
            task.key(),
            memory.name.get_ref()
        ),
        "for no device",
        "remove `dma`, or give the task a device that is a bus master",
    ));
}

/// A disk's driver has to know which part of the disk an export is; a task without a disk of its
/// own (a broker) has a disk behind it as its client.
fn has_a_volume(system: &System, problems: &mut Problems, task: &Task, export: &Export) {
    let is_disk = export.window.is_some() || system.has_bus_master(task);
    let is_block = export.served().is_some_and(|kind| kind.is_block());
    if !is_block || !is_disk || export.volume.is_some() {
        return;
    }
    problems.push(Problem::new(
        &system.source,
        export.name.span(),
        format!("{}: export `{}` is a disk without a volume", task.key(), export.name.get_ref()),
        "which part of the disk?",
        "write volume = \"web\", the name of a GPT partition, or `first-block` and `blocks`",
    ));
}

/// A key comes through a mailbox that the driver is a client of.
fn has_its_key(system: &System, problems: &mut Problems, task: &Task, export: &Export) {
    let Some(key) = export.volume.as_ref().and_then(|volume| volume.key.as_ref()) else {
        return;
    };
    let grant = task.grants.iter().find(|grant| grant.name.get_ref() == key.get_ref());
    let is_mailbox =
        |grant: &Grant| system.export(grant).is_some_and(|export| export.served().is_none());
    if grant.is_some_and(is_mailbox) {
        return;
    }
    let names = task.grants.iter().map(|grant| grant.name.get_ref().as_str());
    let (label, guess) = match grant {
        Some(_) => ("no mailbox", String::new()),
        None => ("no such grant", did_you_mean(key.get_ref(), names.clone())),
    };
    problems.push(Problem::new(
        &system.source,
        key.span(),
        format!(
            "{}: `key` of export `{}` is \"{}\", which is no mailbox that the task was granted",
            task.key(),
            export.name.get_ref(),
            key.get_ref()
        ),
        label,
        format!(
            "{guess}the task is granted {}; a key comes from a task that holds it: grants = {{ web-key \
             = \"vault/web-key\" }}",
            listed(names)
        ),
    ));
}

/// The vault hands out a key once in a driver's life, so a second volume would never have it.
fn has_a_key_of_its_own(
    system: &System,
    problems: &mut Problems,
    task: &Task,
    first: &Export,
    second: &Export,
) {
    let key = |export: &Export| export.volume.as_ref().and_then(|volume| volume.key.clone());
    let (Some(one), Some(two)) = (key(first), key(second)) else { return };
    if one.get_ref() != two.get_ref() {
        return;
    }
    let (names, key) = ([first.name.get_ref(), second.name.get_ref()], two.get_ref());
    problems.push(
        Problem::new(
            &system.source,
            two.span(),
            format!(
                "{}: exports `{}` and `{}` both have the key `{key}`",
                task.key(),
                names[0],
                names[1]
            ),
            "the second one",
            "a key is handed out once in each life of a driver: have the vault export one for each \
             volume, and grant both",
        )
        .also(one.span(), "the first one"),
    );
}

/// The data of an encrypted volume begin behind its header.
fn has_room_for_a_header(system: &System, problems: &mut Problems, task: &Task, export: &Export) {
    let volume = export.volume.as_ref().filter(|volume| volume.key.is_some());
    let Some(Extent::Blocks { blocks, .. }) = volume.map(|volume| &volume.extent) else { return };
    let bytes = blocks.saturating_mul(BLOCK_BYTES);
    if bytes > SEALED_DATA_OFFSET {
        return;
    }
    problems.push(Problem::new(
        &system.source,
        export.name.span(),
        format!(
            "{}: export `{}` is an encrypted volume of {}, all of which is its header's",
            task.key(),
            export.name.get_ref(),
            shown_bytes(bytes)
        ),
        "too small",
        format!(
            "the data of an encrypted volume begin {} behind its own begin: give it more `blocks`",
            shown_bytes(SEALED_DATA_OFFSET)
        ),
    ));
}

/// A cipher computes with vector registers, which a task has if it asks for them.
fn computes_with_registers(system: &System, problems: &mut Problems, task: &Task) {
    let mut exports = task.exports.iter();
    let sealed =
        exports.find(|export| export.volume.as_ref().is_some_and(|volume| volume.key.is_some()));
    let Some(export) = sealed.filter(|_| !task.has_fpu) else { return };
    problems.push(Problem::new(
        &system.source,
        export.name.span(),
        format!(
            "{}: export `{}` has `cipher`, and the task has no vector registers to compute it with",
            task.key(),
            export.name.get_ref()
        ),
        "encrypted",
        format!(
            "write `fpu = true` in [{}], and name a program that can, like program = \
             \"nvme-sealed\"",
            task.key()
        ),
    ));
}

/// Two exports of one disk may show the same blocks only if nobody writes them.
fn written_by_one(
    system: &System,
    problems: &mut Problems,
    task: &Task,
    first: &Export,
    second: &Export,
) {
    let (Some(one), Some(two)) = (&first.volume, &second.volume) else {
        return;
    };
    let Some(what) = common(&one.extent, &two.extent) else {
        return;
    };
    if !one.is_writable && !two.is_writable {
        return;
    }
    let (one, two) = (first.name.get_ref(), second.name.get_ref());
    problems.push(
        Problem::new(
            &system.source,
            second.name.span(),
            format!("{}: exports `{one}` and `{two}` both show {what}", task.key()),
            "the second one",
            "what one client writes must not change under another: only if both have access = \
             \"ro\" may two exports show the same blocks",
        )
        .also(first.name.span(), "the first one"),
    );
}

/// What two extents have in common, as the end of a sentence.
fn common(one: &Extent, two: &Extent) -> Option<String> {
    match (one, two) {
        (Extent::Partition(one), Extent::Partition(two)) => {
            (one == two).then(|| format!("partition \"{one}\""))
        }
        (Extent::Blocks { first, blocks }, Extent::Blocks { first: other, blocks: others }) => {
            let start = first.max(other);
            let end = first.saturating_add(*blocks).min(other.saturating_add(*others));
            (*start < end).then(|| format!("block {start}"))
        }
        // Where a partition lies is known when the disk is read; the driver refuses it then.
        _ => None,
    }
}

/// A window is for a task that copies through it: it is not what a guest would find as its disk.
fn windows_are_for_tasks(system: &System, problems: &mut Problems, task: &Task, grant: &Grant) {
    let Some(pages) = system.export(grant).and_then(|export| export.window) else {
        return;
    };
    if task.vm.is_none() {
        return;
    }
    let size = shown_bytes(u64::from(pages) * cloister_abi::layout::PAGE);
    problems.push(Problem::new(
        &system.source,
        grant.at.clone(),
        format!(
            "{}: grant `{}` names a window of {size}, which only a task can have",
            task.key(),
            grant.name.get_ref()
        ),
        "a window",
        "grant it to a broker, whose own export with device = \"block\" goes to the VM; or write \
         device = \"block\" in place of `window`",
    ));
}
