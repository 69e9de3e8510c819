//! `cargo xtask build-image`: from an appliance's manifest to one bootable file and its archive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cloister_manifest::compile::{Compiled, compile};
use cloister_manifest::program::Program;
use cloister_manifest::system::{self as manifest, System};
use cloister_proto::vm::{VM_IOAPIC, VM_LEGACY, VM_XAPIC};

use crate::bare_target::Target;
use crate::cargo_build::{self, ElfPath};
use crate::disk::file::MachineFile;
use crate::guest;
use crate::image::archive::{self, Archive, Size, Task};
use crate::image::elf::Elf;
use crate::image::{pack, payload};
use crate::install::Install;
use crate::paths;

/// The kernel's package.
const KERNEL: &str = "cloister-kernel";
/// The boot stub's package.
const STUB: &str = "cloister-boot";

/// Build an appliance's image
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder below images/, or a path to an appliance.toml
    appliance: String,
    /// Write the image here instead of to build/NAME/NAME.elf
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Features of bare-metal packages, like cloister-kernel/flush-checker
    #[arg(long, value_name = "PACKAGE/FEATURE")]
    features: Vec<String>,
    /// Install nothing; say what is missing and how to get it
    #[arg(long)]
    no_install: bool,
}

/// A sealed image and what was built on the way.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The image for `-kernel`.
    pub image: PathBuf,
    /// The folder with every ELF.
    pub archive: PathBuf,
    /// Cores that the manifest asks for.
    pub cores: u32,
    /// Memory that the manifest asks for.
    pub memory_mib: u32,
    /// A guest changes its own code while another of its virtual CPUs runs it.
    pub patches_code: bool,
    /// What `machine.toml` beside the manifest says.
    pub machine_file: MachineFile,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let install = Install::unless(args.no_install);
    let features: Vec<&str> = args.features.iter().map(String::as_str).collect();
    let sealed = seal(&args.appliance, &features, install)?;
    let built = store(&sealed, args.output.as_deref())?;
    for size in &sealed.archive.sizes {
        println!("{:>10}  {}", size.bytes, size.part);
    }
    println!("{:>10}  {}", sealed.image.len(), paths::shown(&built.image));
    Ok(())
}

/// Builds an appliance into `build/NAME/`.
pub fn build(appliance: &str, install: Install) -> Result<BuiltImage> {
    build_with(appliance, &[], install)
}

/// Builds an appliance with features of bare-metal packages, like `cloister-kernel/flush-checker`.
pub fn build_with(appliance: &str, features: &[&str], install: Install) -> Result<BuiltImage> {
    // Read first: a mistake in it is told before anything is built.
    let machine_file = MachineFile::beside(&manifest(appliance)?)?;
    let built = store(&seal(appliance, features, install)?, None)?;
    Ok(BuiltImage { machine_file, ..built })
}

/// The manifest that an argument names: a folder below `images/`, a folder, or a file.
pub fn manifest(appliance: &str) -> Result<PathBuf> {
    let root = paths::root();
    let given = Path::new(appliance);
    let places = [
        root.join("images").join(given).join("appliance.toml"),
        given.join("appliance.toml"),
        given.to_path_buf(),
    ];
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| {
        let folders = std::fs::read_dir(root.join("images")).into_iter().flatten().flatten();
        let mut names: Vec<String> = folders
            .filter(|entry| entry.path().join("appliance.toml").is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        let known = cloister_manifest::names::listed(names.iter().map(String::as_str));
        let guess =
            cloister_manifest::names::did_you_mean(appliance, names.iter().map(String::as_str));
        format!("there is no appliance `{appliance}`: {guess}images/ has {known}")
    })
}

/// Reads and judges a manifest. The error is the report for people.
pub fn load(appliance: &str) -> Result<System> {
    let file = manifest(appliance)?;
    let file = std::path::absolute(&file)
        .with_context(|| format!("cannot find the place of {}", file.display()))?;
    cloister_manifest::load(&file, &paths::root())
        .map_err(|problems| anyhow!("the manifest cannot be used\n{}", problems.render()))
}

/// Everything of an image, in memory.
struct Sealed {
    system: System,
    elves: BTreeMap<String, Elf>,
    image: Vec<u8>,
    archive: Archive,
}

/// A package of the workspace.
struct Package {
    name: String,
    /// It is compiled for SSE and AES instructions.
    needs_fpu: bool,
}

/// The packages of the workspace.
fn packages() -> Result<Vec<Package>> {
    let output = cargo_build::cargo()
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("cargo cannot read the workspace: {}", text.trim());
    }
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    let packages = json.get("packages").and_then(|list| list.as_array()).into_iter().flatten();
    let read = |package: &serde_json::Value| {
        let said = package.pointer("/metadata/cloister/fpu");
        Some(Package {
            name: package.get("name")?.as_str()?.to_owned(),
            needs_fpu: said.and_then(serde_json::Value::as_bool).unwrap_or(false),
        })
    };
    Ok(packages.filter_map(read).collect())
}

/// Judges that every program exists and has the registers that it is compiled for; the names of
/// the packages that are compiled for SSE and AES.
fn checked(system: &System) -> Result<Vec<String>> {
    let (mut all, mut vector) = (Vec::new(), Vec::new());
    for package in packages()? {
        if package.needs_fpu {
            vector.push(package.name.clone());
        }
        all.push(package.name);
    }
    cloister_manifest::check_programs(system, &all)
        .and_then(|()| cloister_manifest::check_registers(system, &vector))
        .map_err(|problems| anyhow!("the manifest cannot be used\n{}", problems.render()))?;
    Ok(vector)
}

/// Builds packages, each for its target. A feature goes to the target of its package.
fn build_all(
    packages: &[&str],
    vector: &[String],
    features: &[&str],
    install: Install,
) -> Result<Vec<ElfPath>> {
    let is_vector = |name: &str| vector.iter().any(|package| package == name);
    let mut built = Vec::new();
    for (target, wanted) in [(Target::Plain, false), (Target::Vector, true)] {
        let mine = |package: &&str| is_vector(package) == wanted;
        let own: Vec<&str> = packages.iter().copied().filter(mine).collect();
        let package_of = |feature: &&str| mine(&feature.split('/').next().unwrap_or(""));
        let features: Vec<&str> = features.iter().copied().filter(package_of).collect();
        if !own.is_empty() {
            built.extend(cargo_build::build_bare(target, &own, &features, install)?);
        }
    }
    Ok(built)
}

/// Builds the programs of a system, and these packages too. The result is by package.
pub fn programs(
    system: &System,
    also: &[&str],
    features: &[&str],
    install: Install,
) -> Result<BTreeMap<String, Elf>> {
    let vector = checked(system)?;
    let names: BTreeSet<&str> =
        system.tasks.iter().map(|task| task.program.get_ref().as_str()).collect();
    let packages: Vec<&str> = also.iter().copied().chain(names).collect();
    let built = build_all(&packages, &vector, features, install)?;
    let mut elves = BTreeMap::new();
    for package in packages {
        let mut programs = built.iter().filter(|elf| elf.package == package);
        let Some(program) = programs.next() else {
            bail!("package `{package}` built no program: it needs one [[bin]]");
        };
        if let Some(second) = programs.next() {
            bail!(
                "package `{package}` built two programs, `{}` and `{}`; a task needs one to run",
                program.name,
                second.name
            );
        }
        elves.insert(package.to_owned(), Elf::read(&program.path)?);
    }
    Ok(elves)
}

/// Lays out the guests of a system. The result is by virtual machine.
pub fn guests(system: &System, install: Install) -> Result<BTreeMap<String, Vec<u8>>> {
    let image = |(_, task, vm): (usize, &manifest::Task, &manifest::Vm)| {
        let has = |flag: u32| vm.flags & flag != 0;
        let request = guest::Request {
            vm: task.name(),
            guest_file: &vm.guest_file,
            memory: *vm.memory.get_ref(),
            vcpus: u32::try_from(task.threads.len())?,
            legacy: has(VM_LEGACY),
            ioapic: has(VM_IOAPIC),
            xapic: has(VM_XAPIC),
            devices: u32::try_from(system.vm_devices(task).len())?,
            install,
        };
        Ok((task.name().to_owned(), guest::build(&request)?))
    };
    system.vms().map(image).collect()
}

/// Whether a guest is a Linux with several virtual CPUs: it changes its code while it runs.
fn patches_code(system: &System) -> Result<bool> {
    for (_, task, vm) in system.vms() {
        if task.threads.len() > 1 && guest::is_linux(&vm.guest_file)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compiles the manifest with the programs that were built and the guests that were laid out.
pub fn compiled(
    system: &System,
    elves: &BTreeMap<String, Elf>,
    guests: &BTreeMap<String, Vec<u8>>,
) -> Result<Compiled> {
    let programs: BTreeMap<String, Program> =
        elves.iter().map(|(name, elf)| (name.clone(), elf.program())).collect();
    compile(system, &programs, guests).with_context(|| format!("appliance `{}`", system.name))
}

fn seal(appliance: &str, features: &[&str], install: Install) -> Result<Sealed> {
    let system = load(appliance)?;
    let elves = programs(&system, &[KERNEL, STUB], features, install)?;
    let compiled = compiled(&system, &elves, &guests(&system, install)?)?;
    let get = |package: &str| elves.get(package).with_context(|| format!("no `{package}`"));
    let (kernel, stub) = (get(KERNEL)?, get(STUB)?);
    let payload = payload::build(&system.name, kernel, &compiled)?;
    payload::validate(&payload)?;
    let image = pack::image(stub, &payload.bytes)?;
    let stub_bytes = (image.len() - payload.bytes.len()) as u64;
    let archive = describe(&system, &elves, kernel, stub_bytes, &payload);
    Ok(Sealed { system, image, archive, elves })
}

fn describe(
    system: &System,
    elves: &BTreeMap<String, Elf>,
    kernel: &Elf,
    stub_bytes: u64,
    payload: &payload::Payload,
) -> Archive {
    let task = |(index, task): (usize, &cloister_manifest::system::Task)| Task {
        index,
        name: task.name().to_owned(),
        program: task.program.get_ref().clone(),
        elf: format!("task-{}.elf", task.name()),
        build_id: elves.get(task.program.get_ref()).map(Elf::build_id_text).unwrap_or_default(),
    };
    let size = |(part, bytes): (&str, u64)| Size { part: part.to_owned(), bytes };
    let sizes = std::iter::once(("file head and boot stub", stub_bytes));
    Archive {
        appliance: system.name.clone(),
        image: format!("{}.elf", system.name),
        kernel: "kernel.elf".to_owned(),
        stub: "stub.elf".to_owned(),
        kernel_build_id: kernel.build_id_text(),
        tasks: system.tasks.iter().enumerate().map(task).collect(),
        sizes: sizes.chain(payload.parts.iter().copied()).map(size).collect(),
    }
}

/// Writes archive and image.
fn store(sealed: &Sealed, output: Option<&Path>) -> Result<BuiltImage> {
    let folder = paths::root().join("build").join(&sealed.system.name);
    let name = &sealed.archive.image;
    let mut files: Vec<(String, &[u8])> = vec![(name.clone(), &sealed.image)];
    let named = [(KERNEL, &sealed.archive.kernel), (STUB, &sealed.archive.stub)];
    let tasks = sealed.archive.tasks.iter().map(|task| (task.program.as_str(), &task.elf));
    for (package, file) in named.into_iter().chain(tasks) {
        if let Some(elf) = sealed.elves.get(package) {
            files.push((file.clone(), &elf.file));
        }
    }
    archive::write(&folder, &sealed.archive, &files)?;
    let image = match output {
        Some(file) => {
            archive::write_file(file, &sealed.image)?;
            file.to_path_buf()
        }
        None => folder.join(name),
    };
    Ok(BuiltImage {
        image,
        archive: folder,
        cores: sealed.system.cores,
        memory_mib: sealed.system.board.memory_mib,
        patches_code: patches_code(&sealed.system)?,
        machine_file: MachineFile::default(),
    })
}
