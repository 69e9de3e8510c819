//! The guest file, `images/guests/NAME.toml`: what a virtual machine runs.
//!
//! [`GuestFile::read`] judges keys and words; what the keys name is judged by the modules that
//! read it, which point at the key with [`GuestFile::refuse`]. The format is described in
//! docs/guests.md. Invariant: every message names the file, the line and the key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cloister_manifest::names::{did_you_mean, listed};
use cloister_manifest::report::{Problem, Problems, Source, Span};
use serde::Deserialize;
use toml::Spanned;

use crate::paths;

/// Version of the guest file's format.
const FORMAT: i64 = 1;

/// The file as serde reads it: the keys of all kinds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    format: Spanned<i64>,
    kind: Spanned<String>,
    program: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    entry: Option<Spanned<String>>,
    kernel: Option<Spanned<String>>,
    release: Option<Spanned<String>>,
    initramfs: Option<Spanned<String>>,
    modules: Option<Spanned<Vec<String>>>,
    cmdline: Option<Spanned<String>>,
}

/// A guest file that was read.
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Its text, for messages.
    source: Source,
    /// Where it is.
    folder: PathBuf,
    /// What it says.
    pub kind: Kind,
}

/// What the guest is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A package of the workspace.
    Program {
        /// Its name.
        package: Spanned<String>,
        /// What it is told.
        cmdline: Spanned<String>,
    },
    /// An ELF somewhere.
    Elf {
        /// Its file.
        path: Spanned<String>,
        /// It is entered by its PVH note.
        is_pvh: bool,
    },
    /// A Linux kernel.
    Linux(Linux),
}

/// The keys of `kind = "linux"`.
#[derive(Clone, Debug)]
pub struct Linux {
    /// `package:NAME` or `path:FILE`.
    pub kernel: Spanned<String>,
    /// The Debian release that packages come from.
    pub release: Option<Spanned<String>>,
    /// `shell`, `disk` or `path:FILE`.
    pub initramfs: Option<Spanned<String>>,
    /// Modules of the kernel's package that this initramfs loads.
    pub modules: Spanned<Vec<String>>,
    /// Words behind the platform's own.
    pub cmdline: Spanned<String>,
}

/// The kinds and the keys that each may have; the first is needed.
const KINDS: &[(&str, &[&str])] = &[
    ("program", &["program", "cmdline"]),
    ("elf", &["path", "entry"]),
    ("linux", &["kernel", "release", "initramfs", "modules", "cmdline"]),
];

impl GuestFile {
    /// Reads and judges a file.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = paths::shown(path);
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the guest file {shown}; `guest` names one of images/guests or a path"
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        Self::parse(&shown, folder, text)
    }

    fn parse(shown: &str, folder: PathBuf, text: String) -> Result<Self> {
        let source = Source::new(shown, text);
        let raw: Raw = cloister_manifest::parse(&source).map_err(|p| report(&source, p))?;
        let wrong = |span: Span, message: String, help: String| {
            report(&source, Problem::new(&source, span, message, "here", help))
        };
        let format = *raw.format.get_ref();
        if format != FORMAT {
            let message = format!("the guest file has format {format}, this xtask reads {FORMAT}");
            return Err(wrong(raw.format.span(), message, "write: format = 1".into()));
        }
        let word = raw.kind.get_ref().as_str();
        let Some((_, allowed)) = KINDS.iter().find(|(kind, _)| *kind == word) else {
            let kinds = || KINDS.iter().map(|(kind, _)| *kind);
            let help = format!("{}kinds are {}", did_you_mean(word, kinds()), listed(kinds()));
            return Err(wrong(
                raw.kind.span(),
                format!("`kind` is `{word}`, which is unknown"),
                help,
            ));
        };
        for (key, span) in raw.present() {
            if !allowed.contains(&key) {
                let message = format!("`{key}` does not belong to a guest of kind `{word}`");
                let help = format!("keys of this kind are {}", listed(allowed.iter().copied()));
                return Err(wrong(span, message, help));
            }
        }
        if let Some(entry) = raw.entry.as_ref().filter(|entry| entry.get_ref() != "pvh") {
            let message = format!("`entry` is `{}`, which is unknown", entry.get_ref());
            let help = "write entry = \"pvh\" for the 32-bit entry of an ELF's PVH note; without \
                        the key e_entry is entered in 64-bit mode";
            return Err(wrong(entry.span(), message, help.into()));
        }
        let span = raw.kind.span();
        let kind = raw.kind().map_err(|key| {
            let message = format!("key `{key}` is missing in a guest of kind `{word}`");
            wrong(span, message, example(key).into())
        })?;
        Ok(Self { source, folder, kind })
    }

    /// An error about what a key names.
    pub fn refuse<T>(&self, key: &Spanned<T>, error: &anyhow::Error) -> anyhow::Error {
        let problem = Problem::new(&self.source, key.span(), format!("{error:#}"), "this one", "");
        report(&self.source, problem)
    }

    /// A file that a key names, relative to the guest file.
    pub fn file(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// Reads a file that a key names.
    pub fn bytes(&self, text: &str) -> Result<Vec<u8>> {
        let path = self.file(text);
        let metadata = std::fs::metadata(&path)
            .with_context(|| format!("cannot read the file {}", path.display()))?;
        if !metadata.is_file() {
            bail!("{} is no file", path.display());
        }
        std::fs::read(&path).with_context(|| format!("cannot read the file {}", path.display()))
    }
}

impl Raw {
    /// The optional keys that the file has, and where.
    fn present(&self) -> Vec<(&'static str, Span)> {
        let text = |key, value: &Option<Spanned<String>>| value.as_ref().map(|v| (key, v.span()));
        [
            text("program", &self.program),
            text("path", &self.path),
            text("entry", &self.entry),
            text("kernel", &self.kernel),
            text("release", &self.release),
            text("initramfs", &self.initramfs),
            self.modules.as_ref().map(|value| ("modules", value.span())),
            text("cmdline", &self.cmdline),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn cmdline(&self) -> Spanned<String> {
        self.cmdline.clone().unwrap_or_else(|| Spanned::new(0..0, String::new()))
    }

    /// What the keys say, or the key that is missing.
    fn kind(&self) -> Result<Kind, &'static str> {
        match self.kind.get_ref().as_str() {
            "program" => {
                let package = self.program.clone().ok_or("program")?;
                Ok(Kind::Program { package, cmdline: self.cmdline() })
            }
            "elf" => {
                let path = self.path.clone().ok_or("path")?;
                Ok(Kind::Elf { path, is_pvh: self.entry.is_some() })
            }
            _ => Ok(Kind::Linux(Linux {
                kernel: self.kernel.clone().ok_or("kernel")?,
                release: self.release.clone(),
                initramfs: self.initramfs.clone(),
                modules: self.modules.clone().unwrap_or_else(|| Spanned::new(0..0, Vec::new())),
                cmdline: self.cmdline(),
            })),
        }
    }
}

/// How a missing key is written.
fn example(key: &str) -> &'static str {
    match key {
        "program" => "write: program = \"talker\", a package of this workspace",
        "path" => "write: path = \"unikernel.elf\"",
        _ => "write: kernel = \"package:linux-image-cloud-amd64\" or \"path:/boot/vmlinuz\"",
    }
}

/// A problem as an error with the place and what would be right.
fn report(source: &Source, problem: Problem) -> anyhow::Error {
    let mut problems = Problems::new(source.name());
    problems.push(problem);
    let text = problems.render();
    // The last line names the command for manifests.
    let report = text.trim_end().rsplit_once('\n').map_or(text.as_str(), |(report, _)| report);
    anyhow!("the guest file cannot be used\n{report}\nnext: correct the guest file and build again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GuestFile> {
        GuestFile::parse("images/guests/x.toml", PathBuf::from("images/guests"), text.to_owned())
    }

    #[test]
    fn each_kind_is_read() {
        let program = parse("format = 1\nkind = \"program\"\nprogram = \"hello\"").expect("good");
        let Kind::Program { package, cmdline } = program.kind else { panic!("no program") };
        assert_eq!((package.get_ref().as_str(), cmdline.get_ref().as_str()), ("hello", ""));
        let told = "format = 1\nkind = \"program\"\nprogram = \"hello\"\ncmdline = \"a=1\"";
        let Kind::Program { cmdline, .. } = parse(told).expect("good").kind else {
            panic!("no program")
        };
        assert_eq!(cmdline.get_ref(), "a=1");
        let elf = "format = 1\nkind = \"elf\"\npath = \"a.elf\"\n";
        let read = parse(elf).expect("good");
        assert!(matches!(read.kind, Kind::Elf { is_pvh: false, .. }));
        assert_eq!(read.file("a.elf"), Path::new("images/guests/a.elf"));
        let pvh = parse(&format!("{elf}entry = \"pvh\"")).expect("good");
        assert!(matches!(pvh.kind, Kind::Elf { is_pvh: true, .. }));
        let linux = "format = 1\nkind = \"linux\"\nkernel = \"path:x\"\nmodules = [\"a\", \"b\"]";
        let Kind::Linux(linux) = parse(linux).expect("good").kind else { panic!("no Linux") };
        assert_eq!(linux.modules.get_ref(), &["a", "b"]);
        assert!(linux.initramfs.is_none() && linux.cmdline.get_ref().is_empty());
    }

    #[test]
    fn wrong_files_are_refused_with_file_line_and_key() {
        let cases = [
            ("kind = \"elf\"", 1, "key `format` is missing"),
            ("format = 2\nkind = \"elf\"", 1, "the guest file has format 2, this xtask reads 1"),
            ("format = 1\nkind = \"linus\"", 2, "`kind` is `linus`, which is unknown"),
            ("format = 1\nkind = \"linux\"", 2, "key `kernel` is missing in a guest of kind"),
            ("format = 1\nkind = \"elf\"\nkernl = \"x\"", 3, "unknown key `kernl`"),
            ("format = 1\nkind = \"program\"", 2, "key `program` is missing"),
            ("format = 1\nkind = \"program\"\nkernel = \"x\"", 3, "`kernel` does not belong"),
            ("format = 1\nkind = \"elf\"\npath = 3", 3, "found integer `3` where text in quotes"),
            ("format = 1\nkind = \"elf\"\npath = \"x\"\nentry = \"32\"", 4, "`entry` is `32`"),
            ("format = 1\nformat = 1", 2, "key `format` is written twice"),
            ("format = ", 1, "not valid TOML"),
        ];
        for (text, line, expected) in cases {
            let error = parse(text).expect_err(expected).to_string();
            assert!(error.starts_with("the guest file cannot be used\n"), "{error}");
            assert!(error.contains(&format!("[images/guests/x.toml:{line}:")), "{error}");
            let joined = error.replace("\n  │ ", " ");
            assert!(joined.contains(expected), "{error}");
            assert!(error.ends_with("next: correct the guest file and build again"), "{error}");
        }
    }

    #[test]
    fn a_refusal_points_at_its_key() {
        let text = "format = 1\nkind = \"elf\"\npath = \"absent.elf\"";
        let file = parse(text).expect("good");
        let Kind::Elf { path, .. } = &file.kind else { panic!("no ELF") };
        let error = file.bytes(path.get_ref()).expect_err("absent");
        let text = file.refuse(path, &error).to_string();
        assert!(text.contains("[images/guests/x.toml:3:8]"), "{text}");
        assert!(text.contains("cannot read the file images/guests/absent.elf"), "{text}");
    }
}
