//! A private apt: own package lists, own cache, an empty package state, no hooks of the system.
//!
//! apt checks signatures and hashes as always, with the system's keyrings and proxy settings. It
//! installs nothing: it only says which packages belong together and fetches them into a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::lock::Package;

/// A private apt state in a folder of its own.
pub struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Lays the state out; `lines` are those of its `sources.list`.
    pub fn open(folder: &Path, lines: &[String]) -> Result<Self> {
        if crate::paths::program("apt-get").is_none() {
            bail!(
                "apt-get is not on this machine, so Debian's packages cannot be fetched\n  next: \
                 install by your distribution's own means QEMU 7.2 or newer and Rust's sources \
                 (`rustup component add rust-src`)"
            );
        }
        for part in ["lists/partial", "cache/archives/partial", "empty", "log"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("sources.list"), lines.join("\n") + "\n")?;
        fs::write(folder.join("apt.conf"), configuration(folder, &system_acquire_settings()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive").env_remove("LD_LIBRARY_PATH");
        command
    }

    fn run(&self, mut command: Command, purpose: &str) -> Result<String> {
        let output = command.output().with_context(|| format!("cannot start apt for {purpose}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("{purpose} failed: apt says\n{}", complaint(&output));
    }

    /// Reads the mirror's package lists.
    pub fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "update"]);
        self.run(command, "reading the package lists").map(drop).context(
            "the Debian mirror cannot be used: see to the network (a proxy goes into apt's own \
             configuration), then type the command again",
        )
    }

    /// The packages with all that they depend on, as name and version.
    pub fn closure(
        &self,
        packages: &[String],
        prefer: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let mut command = self.command("apt-get");
        command.args(["-y", "--print-uris", "--no-install-recommends", "--allow-downgrades"]);
        if let Some(suite) = prefer {
            command.args(["-t", suite]);
        }
        command.arg("install").args(packages);
        let purpose = format!("finding what {} needs", packages.join(" "));
        let text = self.run(command, &purpose)?;
        Ok(text.lines().filter_map(parse_uri_line).collect())
    }

    /// Those of the named versions that the mirror offers.
    pub fn offered(&self, wanted: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let mut command = self.command("apt-cache");
        command.arg("madison").args(wanted.iter().map(|(name, _)| name));
        let text = self.run(command, "asking for older versions")?;
        let have: BTreeSet<(String, String)> = text
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('|').map(|column| column.trim().to_owned());
                Some((columns.next()?, columns.next()?))
            })
            .collect();
        Ok(wanted.iter().filter(|pair| have.contains(*pair)).cloned().collect())
    }

    /// Sizes and hashes from the signed package lists.
    pub fn describe(&self, packages: &[(String, String)]) -> Result<Vec<Package>> {
        let mut command = self.command("apt-cache");
        command
            .arg("show")
            .args(packages.iter().map(|(name, version)| format!("{name}={version}")));
        let text = self.run(command, "reading package descriptions")?;
        let described: Vec<Package> = text.split("\n\n").filter_map(parse_description).collect();
        let find = |(name, version): &(String, String)| {
            described
                .iter()
                .find(|package| package.name == *name && package.version == *version)
                .cloned()
                .with_context(|| format!("apt's lists describe no {name} {version}"))
        };
        let mut found = packages.iter().map(find).collect::<Result<Vec<_>>>()?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Fetches packages into a folder; apt checks each against the signed lists.
    pub fn download(&self, packages: &[Package], into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.current_dir(into).args(["-qq", "download"]);
        command.args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
        self.run(command, "fetching packages").map(drop)
    }
}

/// The names of the packages that the system has installed.
pub fn installed_packages() -> Result<BTreeSet<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .output()
        .context("cannot start dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = text.lines().filter_map(|line| line.strip_suffix(" installed"));
    Ok(installed.map(str::to_owned).collect())
}

/// The lines of apt's output that say what went wrong.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:")).collect();
    let lines = if lines.is_empty() { text.lines().collect() } else { lines };
    lines.iter().take(8).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// The private configuration. It is read before the system's files and names an empty folder in
/// their place, so that no hook of the system runs.
fn configuration(folder: &Path, acquire: &str) -> String {
    let at = |part: &str| folder.join(part).display().to_string();
    format!(
        "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"{empty}\";\n\
         Dir::Etc::sourcelist \"{sources}\";\nDir::Etc::sourceparts \"{empty}\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"{empty}\";\n\
         Dir::State \"{state}\";\nDir::State::lists \"{lists}\";\nDir::State::status \"{status}\";\n\
         Dir::Cache \"{cache}\";\nDir::Log \"{log}\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\n\
         Acquire::Languages \"none\";\nDebug::NoLocking \"true\";\n{acquire}",
        empty = at("empty"),
        sources = at("sources.list"),
        state = folder.display(),
        lists = at("lists"),
        status = at("status"),
        cache = at("cache"),
        log = at("log"),
    )
}

/// The system's proxies, time-outs and the like, which a private apt needs as well.
fn system_acquire_settings() -> String {
    let Ok(output) = Command::new("apt-config").arg("dump").output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = |line: &&str| {
        line.starts_with("Acquire::")
            && !line.starts_with("Acquire::IndexTargets")
            && !line.starts_with("Acquire::Languages")
            && !line.ends_with(" \"\";")
    };
    text.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// `'http://…/x_1%3a2_amd64.deb' x_1%3a2_amd64.deb 123 MD5Sum:…` as name and version.
fn parse_uri_line(line: &str) -> Option<(String, String)> {
    let file = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace().next()?;
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some((name.to_owned(), version.replace("%3a", ":").replace("%3A", ":")))
}

fn parse_description(stanza: &str) -> Option<Package> {
    let field = |key: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    };
    let number = |key: &str| field(key).and_then(|value| value.parse::<u64>().ok());
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        sha256: field("SHA256")?.to_owned(),
        bytes: number("Size")?,
        unpacked_bytes: number("Installed-Size").unwrap_or(0) * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::{parse_description, parse_uri_line};

    #[test]
    fn uri_lines_give_name_and_version() {
        let line = "'http://m.example/pool/q_1%3a7.2%2bdfsg-7_amd64.deb' \
                    qemu-system-x86_1%3a7.2+dfsg-7_amd64.deb 9281168 MD5Sum:aa";
        let expected = ("qemu-system-x86".to_owned(), "1:7.2+dfsg-7".to_owned());
        assert_eq!(parse_uri_line(line), Some(expected));
        assert_eq!(parse_uri_line("Reading package lists..."), None);
    }

    #[test]
    fn descriptions_need_a_hash() {
        let stanza = "Package: rust-web-src\nVersion: 1.96.0-1\nInstalled-Size: 10\nSize: 7\n";
        assert_eq!(parse_description(stanza), None);
        let package = parse_description(&format!("{stanza}SHA256: 8f\n")).unwrap();
        assert_eq!((package.bytes, package.unpacked_bytes), (7, 10_240));
    }
}
