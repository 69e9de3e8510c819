//! Devices: one owner each, nothing shared between two of them, no DMA that nobody confines.

use cloister_abi::call::IRQ_BITS;
use cloister_abi::layout::MAX_IRQS;
use toml::Spanned;

use crate::board::{Device, Place};
use crate::report::{Problem, Problems};
use crate::system::{DeviceKind, Role, System, Task};

/// A device in use: its owner and where the manifest says so.
type Use<'a> = (&'a Task, &'a Spanned<usize>, &'a Device);

/// Judges the devices that tasks own.
pub fn judge(system: &System, problems: &mut Problems) {
    let uses: Vec<Use<'_>> = system
        .tasks
        .iter()
        .flat_map(|task| task.devices.iter().map(move |index| (task, index)))
        .filter_map(|(task, index)| {
            Some((task, index, system.board.devices.get(*index.get_ref())?))
        })
        .collect();
    for (place, used) in uses.iter().enumerate() {
        for other in uses.iter().take(place) {
            if used.1.get_ref() == other.1.get_ref() {
                owned_twice(system, problems, other, used);
            } else if let Some(what) = overlap(other.2, used.2) {
                overlapping(system, problems, other, used, &what);
            }
        }
        interrupts_on_core_0(system, problems, used);
        physical(system, problems, &uses, used);
        dma(system, problems, used);
    }
    for task in &system.tasks {
        interrupt_bits(system, problems, task, &uses);
    }
    let total: usize = uses.iter().map(|(_, _, device)| device.interrupts.numbers().len()).sum();
    if let (Some((_, at, _)), true) = (uses.last(), total > MAX_IRQS) {
        problems.push(Problem::new(
            &system.source,
            at.span(),
            format!(
                "the devices have {total} interrupts together, at most {MAX_IRQS} are possible"
            ),
            "one too many",
            "remove a device",
        ));
    }
}

fn owned_twice(system: &System, problems: &mut Problems, first: &Use<'_>, second: &Use<'_>) {
    let name = first.2.name.get_ref();
    problems.push(
        Problem::new(
            &system.source,
            second.1.span(),
            format!(
                "device `{name}` has two owners, tasks.{} and tasks.{}",
                first.0.name(),
                second.0.name()
            ),
            "the second owner",
            "a device belongs to one task: let the other be its client through a grant",
        )
        .also(first.1.span(), "the first owner"),
    );
}

/// What two different devices have in common, as the end of a sentence.
fn overlap(a: &Device, b: &Device) -> Option<String> {
    let meet = |a: (u64, u64), b: (u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    if let (Some(a), Some(b)) = (a.ports, b.ports) {
        let (wide_a, wide_b) = ((a.0.into(), a.1.into()), (b.0.into(), b.1.into()));
        if meet(wide_a, wide_b) {
            return Some(format!("I/O port {:#x}", a.0.max(b.0)));
        }
    }
    if let (Some(a), Some(b)) = (a.mmio, b.mmio) {
        let bytes = |pages: u32| u64::from(pages) * cloister_abi::layout::PAGE;
        if meet((a.0, bytes(a.1)), (b.0, bytes(b.1))) {
            return Some(format!("the registers at {:#x}", a.0.max(b.0)));
        }
    }
    if let Some(pin) = a.interrupts.pins().iter().find(|pin| b.interrupts.pins().contains(pin)) {
        return Some(format!("interrupt {pin}"));
    }
    (a.place != Place::Platform && (a.place, a.nth) == (b.place, b.nth))
        .then(|| "the PCI function".to_owned())
}

fn overlapping(
    system: &System,
    problems: &mut Problems,
    first: &Use<'_>,
    second: &Use<'_>,
    what: &str,
) {
    problems.push(
        Problem::new(
            &system.source,
            second.1.span(),
            format!(
                "devices `{}` and `{}` of {} share {what}",
                first.2.name.get_ref(),
                second.2.name.get_ref(),
                system.board.source.name()
            ),
            "shares it",
            "what two devices share belongs to nobody: correct the board file, or use one of them",
        )
        .also(first.1.span(), "with this one"),
    );
}

fn interrupts_on_core_0(system: &System, problems: &mut Problems, used: &Use<'_>) {
    let (task, at, device) = used;
    let Some(core) = task.threads.first().map(|thread| &thread.core) else {
        return;
    };
    if device.interrupts.pins().is_empty() || *core.get_ref() == 0 {
        return;
    }
    problems.push(
        Problem::new(
            &system.source,
            at.span(),
            format!(
                "tasks.{}: device `{}` has an IOAPIC pin, its owner is on core {}",
                task.name(),
                device.name.get_ref(),
                core.get_ref()
            ),
            "its interrupts come to core 0",
            "the IOAPIC belongs to core 0: move the task there with cores = [0]",
        )
        .also(core.span(), "the owner's core"),
    );
}

/// A virtual function comes up when the driver of its physical one has said so, and that driver
/// serves nobody: its restart must not cost anybody a request.
fn physical(system: &System, problems: &mut Problems, uses: &[Use<'_>], used: &Use<'_>) {
    let (task, at, device) = used;
    let Place::Virtual(physical) = device.place else { return };
    let owner = uses.iter().find(|(_, index, _)| *index.get_ref() == physical);
    let of = system.board.devices.get(physical).map_or("", |device| device.name.get_ref().as_str());
    let name = device.name.get_ref();
    let Some((owner, _, _)) = owner else {
        problems.push(Problem::new(
            &system.source,
            at.span(),
            format!(
                "tasks.{}: device `{name}` is a virtual function of `{of}`, which no task owns",
                task.name()
            ),
            "nobody sets it up",
            format!("add a task with device = \"{of}\"; its driver does no more than that"),
        ));
        return;
    };
    if let Some(export) =
        owner.exports.iter().find(|export| export.served().is_some_and(DeviceKind::is_block))
    {
        problems.push(
            Problem::new(
                &system.source,
                export.name.span(),
                format!(
                    "tasks.{} exports a disk, and its device `{of}` has virtual functions in use",
                    owner.name()
                ),
                "a disk",
                format!(
                    "the driver of a physical function serves nobody: give the disk a virtual \
                     function of `{of}`, or remove the others"
                ),
            )
            .also(at.span(), "the virtual function"),
        );
    }
}

fn interrupt_bits(system: &System, problems: &mut Problems, task: &Task, uses: &[Use<'_>]) {
    let own = uses.iter().filter(|(owner, _, _)| owner.name() == task.name());
    let count: usize = own.map(|(_, _, device)| device.interrupts.numbers().len()).sum();
    let most = usize::try_from(IRQ_BITS).unwrap_or(usize::MAX);
    if count > most {
        problems.push(Problem::new(
            &system.source,
            task.name.span(),
            format!("tasks.{} owns {count} interrupts, at most {most} are possible", task.name()),
            format!("over {most}"),
            "give some of its devices to another task",
        ));
    }
}

/// Without an IOMMU a bus master can write any memory, the kernel's too.
fn dma(system: &System, problems: &mut Problems, used: &Use<'_>) {
    let (task, at, device) = used;
    if !device.is_bus_master {
        return;
    }
    if task.role != Role::Task {
        let name = task.name();
        problems.push(Problem::new(
            &system.source,
            at.span(),
            format!("tasks.{name}: device `{}` reads and writes memory by itself", device.name.get_ref()),
            "a bus master",
            "`init` is gone after the seal, and the supervisor serves nobody: give the device to an \
             ordinary task",
        ));
    }
    let Some(absent_ok) = &system.iommu_absent_ok else {
        return;
    };
    if device.needs_iommu {
        let name = device.name.get_ref();
        let board = &system.board.source;
        problems.push(
            Problem::new(
                &system.source,
                absent_ok.clone(),
                format!(
                    "iommu = \"absent-ok\" lets device `{name}` of tasks.{} write all memory, and {} \
                     says that it never may",
                    task.name(),
                    board.name()
                ),
                "may be absent",
                "remove the key, or choose a device without iommu = \"required\"",
            )
            .also(at.span(), "the device"),
        );
        return;
    }
    if system.is_lab {
        return;
    }
    problems.push(Problem::new(
        &system.source,
        at.span(),
        format!(
            "tasks.{}: device `{}` writes memory by itself, and no IOMMU has to confine it",
            task.name(),
            device.name.get_ref()
        ),
        "a bus master",
        "remove iommu = \"absent-ok\"; only a laboratory system, with lab = true, may run a bus \
         master without an IOMMU",
    ));
}
