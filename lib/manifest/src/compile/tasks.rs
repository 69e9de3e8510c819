//! A task's own pages: image, stacks, log ring, system page, and for `init` the table and the
//! window to the firmware.

use std::collections::BTreeMap;

use cloister_abi::API_VERSION;
use cloister_abi::info::{TASK_INFO_MAGIC, TaskInfo};
use cloister_abi::layout::{
    IMAGE, LOG_RING, PAGE, STACK_TOP, SYSTEM_PAGE, TASK_INFO, TASK_INFO_PAGES, USER_END,
};
use cloister_abi::table::{MAP_EXEC, MAP_READ, MAP_WRITE, RegionKind};
use zerocopy::IntoBytes;

use super::{Builder, CompileError, FIRMWARE_PAGES, index16, name_field, pages_of};
use crate::program::{Program, Segment};
use crate::system::{Role, Task};

/// Regions of a program's constant segments: tasks of one program share them.
type Shared = BTreeMap<(String, usize), u16>;

impl Builder<'_> {
    /// Maps every task's program.
    pub(super) fn images(
        &mut self,
        programs: &BTreeMap<String, Program>,
    ) -> Result<(), CompileError> {
        let mut shared = Shared::new();
        let system = self.system;
        for (index, task) in system.tasks.iter().enumerate() {
            let name = task.program.get_ref();
            let program = programs.get(name).ok_or_else(|| {
                CompileError::new(format!("task `{}`: program `{name}` is missing", task.name()))
            })?;
            check_entry(task, program)?;
            for (place, segment) in program.segments.iter().enumerate() {
                check_segment(task, segment)?;
                let key = (name.clone(), place);
                let known = shared.get(&key).copied();
                if let Some(region) = self.segment(index, segment, known)? {
                    shared.insert(key, region);
                }
            }
            for thread in 0..task.threads.len() {
                let record = usize::from(self.thread_index[index][thread]);
                self.threads[record].entry = program.entry;
            }
        }
        Ok(())
    }

    /// Maps one segment; the region of its constant bytes, if it has any. `known` is the region
    /// that another task of the same program already has for them.
    fn segment(
        &mut self,
        task: usize,
        segment: &Segment,
        known: Option<u16>,
    ) -> Result<Option<u16>, CompileError> {
        let constant_va = if segment.is_writable { segment.pristine_va } else { segment.va };
        let (offset, first) = (constant_va % PAGE, constant_va - constant_va % PAGE);
        let rights = if segment.is_executable { MAP_READ | MAP_EXEC } else { MAP_READ };
        if segment.is_writable {
            let (offset, first) = (segment.va % PAGE, segment.va - segment.va % PAGE);
            let pages = pages_of(offset + segment.len);
            let region = self.region(RegionKind::Ram, 0, 0, pages)?;
            self.part(task).space.fix(first, region, pages, MAP_WRITE, "data")?;
            if segment.bytes.is_empty() {
                return Ok(None);
            }
        }
        let held = if segment.is_writable { segment.bytes.len() as u64 } else { segment.len };
        let pages = pages_of(offset + held);
        let region = match known {
            Some(region) => region,
            None => {
                let mut bytes = vec![0; usize::try_from(offset).unwrap_or(0)];
                bytes.extend_from_slice(&segment.bytes);
                bytes.resize(usize::try_from(pages * PAGE).unwrap_or(usize::MAX), 0);
                self.payload(bytes)?
            }
        };
        let what = match (segment.is_writable, segment.is_executable) {
            (true, _) => "pristine data",
            (false, true) => "text",
            (false, false) => "constants",
        };
        self.part(task).space.fix(first, region, pages, rights, what)?;
        Ok(Some(region))
    }

    /// Log ring, stacks and the system page. Only a first thread's stack has a fixed place.
    pub(super) fn stacks(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        for (index, task) in system.tasks.iter().enumerate() {
            let page = self.system_page;
            self.part(index).space.fix(SYSTEM_PAGE, page, 1, MAP_READ, "system page")?;
            let ring = self.region(RegionKind::Ram, 0, 0, pages_of(task.log_bytes))?;
            self.log_regions.push(ring);
            let space = &mut self.part(index).space;
            space.fix(LOG_RING, ring, pages_of(task.log_bytes), MAP_WRITE, "log ring")?;
            for (place, thread) in task.threads.iter().enumerate() {
                let pages = pages_of(thread.stack_bytes);
                let region = self.region(RegionKind::Ram, 0, 0, pages)?;
                let space = &mut self.part(index).space;
                let bottom = if place == 0 {
                    let bottom = STACK_TOP - pages * PAGE;
                    space.fix(bottom, region, pages, MAP_WRITE, "stack")?;
                    bottom
                } else {
                    space.place(region, pages, MAP_WRITE, "stack")?
                };
                let record = &mut self.threads[usize::from(self.thread_index[index][place])];
                record.stack_bottom = bottom;
                record.stack_top = bottom + pages * PAGE;
            }
        }
        Ok(())
    }

    /// What `init` alone sees: the system table and the firmware's tables.
    pub(super) fn init(&mut self) -> Result<(), CompileError> {
        let place = self.system.tasks.iter().position(|task| task.role == Role::Init);
        let init = place.ok_or_else(|| CompileError::new("no task has the role `init`"))?;
        let window = self.region(RegionKind::FirmwareWindow, 0, 0, FIRMWARE_PAGES.into())?;
        // The table's own length depends on what is still to be added to it; `finish` sets it.
        let table = self.region(RegionKind::Table, 0, 0, 0)?;
        self.share(init, "firmware", window, MAP_READ, None)?;
        self.place_table(init, table)
    }

    /// The read-only page or pages with a task's name and the names of its grants.
    pub(super) fn task_info(&mut self, index: usize) -> Result<(), CompileError> {
        let task = &self.system.tasks[index];
        let grants = &self.parts[index].grants;
        let most = (TASK_INFO_PAGES * PAGE) as usize;
        let len = size_of::<TaskInfo>() + grants.as_bytes().len();
        if len > most {
            return Err(CompileError::new(format!(
                "task `{}` has {} grants, at most {} fit its task information",
                task.name(),
                grants.len(),
                (most - size_of::<TaskInfo>()) / size_of::<cloister_abi::info::Grant>()
            )));
        }
        let core = task.threads.first().map_or(0, |thread| *thread.core.get_ref());
        let info = TaskInfo {
            magic: TASK_INFO_MAGIC,
            version: API_VERSION,
            name: name_field(task.name()),
            task: index16(index, "tasks")?,
            count: index16(grants.len(), "grants")?,
            log_bytes: task.log_bytes as u32,
            core: core as u16,
            reserved: [0; 3],
        };
        let bytes = [info.as_bytes(), grants.as_bytes()].concat();
        let pages = pages_of(bytes.len() as u64);
        let region = self.payload(bytes)?;
        self.part(index).space.fix(TASK_INFO, region, pages, MAP_READ, "task information")
    }
}

fn check_entry(task: &Task, program: &Program) -> Result<(), CompileError> {
    let entry = program.entry;
    let holds = |segment: &&Segment| {
        segment.is_executable
            && (segment.va..segment.va.saturating_add(segment.len)).contains(&entry)
    };
    if program.segments.iter().find(holds).is_none() {
        return Err(CompileError::new(format!(
            "task `{}`: the entry {entry:#x} of program `{}` is in no executable segment",
            task.name(),
            task.program.get_ref()
        )));
    }
    Ok(())
}

fn check_segment(task: &Task, segment: &Segment) -> Result<(), CompileError> {
    let wrong = |text: &str| {
        CompileError::new(format!(
            "task `{}`: the segment at {:#x} of program `{}` {text}",
            task.name(),
            segment.va,
            task.program.get_ref()
        ))
    };
    let end = segment.va.checked_add(segment.len);
    if segment.va < IMAGE || end.is_none_or(|end| end > USER_END) {
        return Err(wrong(&format!("is not within {IMAGE:#x}..{USER_END:#x}")));
    }
    if segment.is_writable && segment.is_executable {
        return Err(wrong("is writable and executable"));
    }
    if segment.bytes.len() as u64 > segment.len {
        return Err(wrong("has more bytes in the file than in memory"));
    }
    if segment.is_writable && !segment.bytes.is_empty() && segment.pristine_va < IMAGE {
        return Err(wrong("does not say where its pristine bytes lie (p_paddr)"));
    }
    Ok(())
}
