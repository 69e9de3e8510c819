//! Which Debian mirror this machine uses, read from apt's own sources in either of their forms.
//!
//! Only the mirror's address and its keyring are taken from the system; the suites are ours.
//! Nothing of the system's configuration is written.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::Set;

/// The keyring that signs Debian's archive when the system's sources name none.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One line of `sources.list`, of either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The mirror's address, without a slash at its end.
    pub uri: String,
    /// The suites taken from it.
    pub suites: Vec<String>,
    /// The keyring file, if one is named.
    pub signed_by: Option<String>,
}

/// The lines of a private `sources.list` that offers the set.
pub fn suites_for(set: &Set) -> Result<Vec<String>> {
    let system = system_sources(Path::new("/etc/apt"));
    let Some(archive) = system.iter().find(|source| is_archive(source)) else {
        bail!(
            "apt's sources name no mirror of the Debian archive, from which {} would come\n  \
             next: install it by your distribution's own means (Rust: `rustup component add \
             rust-src`; QEMU: version 7.2 or newer), then type the command again",
            set.title
        );
    };
    let mut lines = vec![line(archive, &archive.uri, &set.release)];
    if let Some(suite) = &set.prefer {
        lines.push(line(archive, &archive.uri, suite));
    }
    let security = system
        .iter()
        .find(|source| is_security(source))
        .map_or_else(|| format!("{}-security", archive.uri), |source| source.uri.clone());
    lines.push(line(archive, &security, &format!("{}-security", set.release)));
    Ok(lines)
}

/// The release that this machine runs, like `bookworm`; none when it is not Debian.
pub fn system_release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let field = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches('"').to_owned())
    };
    if field("ID=")? == "debian" { field("VERSION_CODENAME=") } else { None }
}

fn line(archive: &Source, uri: &str, suite: &str) -> String {
    let keyring = archive.signed_by.as_deref().unwrap_or(DEBIAN_KEYRING);
    format!("deb [arch=amd64 signed-by={keyring}] {uri} {suite} main")
}

fn is_security(source: &Source) -> bool {
    source.uri.ends_with("debian-security")
        || source.suites.iter().any(|suite| suite.ends_with("-security"))
}

fn is_archive(source: &Source) -> bool {
    let release = system_release();
    let serves_release = release.is_some_and(|release| source.suites.contains(&release));
    !is_security(source) && (source.uri.ends_with("/debian") || serves_release)
}

/// Every enabled source below apt's folder.
fn system_sources(folder: &Path) -> Vec<Source> {
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = fs::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&text)),
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            _ => {}
        }
    }
    sources.retain(|source| !source.uri.starts_with("cdrom:"));
    sources
}

/// One line of the classic form: `deb [options] uri suite component…`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim();
    let mut signed_by = None;
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (options, after) = bracketed.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after.trim();
    }
    let mut words = rest.split_whitespace();
    let uri = words.next()?.trim_end_matches('/').to_owned();
    let suite = words.next()?.to_owned();
    Some(Source { uri, suites: vec![suite], signed_by })
}

/// The stanzas of a deb822 file.
fn parse_deb822(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect();
    without_comments.split(|line| line.is_empty()).flat_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Vec<Source> {
    let field = |wanted: &str| -> Option<String> {
        let start = lines.iter().position(|line| {
            line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(wanted))
        })?;
        let mut value = lines[start].split_once(':')?.1.trim().to_owned();
        for more in lines[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t'])) {
            value.push(' ');
            value.push_str(more.trim());
        }
        Some(value)
    };
    let words = |value: Option<String>| -> Vec<String> {
        value.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let disabled = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if disabled || !words(field("Types")).contains(&"deb".to_owned()) {
        return Vec::new();
    }
    let suites = words(field("Suites"));
    // A key written into the field itself is no file name; Debian's own keyring serves then.
    let signed_by = field("Signed-By").filter(|value| value.starts_with('/'));
    words(field("URIs"))
        .into_iter()
        .map(|uri| Source {
            uri: uri.trim_end_matches('/').to_owned(),
            suites: suites.clone(),
            signed_by: signed_by.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Source, is_archive, is_security, parse_deb822, parse_line};

    #[test]
    fn classic_lines_are_read_with_and_without_options() {
        let plain = parse_line("deb http://mirror.example/debian/ bookworm main contrib");
        let expected = Source {
            uri: "http://mirror.example/debian".into(),
            suites: vec!["bookworm".into()],
            signed_by: None,
        };
        assert_eq!(plain, Some(expected));
        let signed =
            parse_line("deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian sid main");
        assert_eq!(signed.and_then(|source| source.signed_by), Some("/k.gpg".into()));
        assert_eq!(parse_line("deb-src http://m.example/debian sid main"), None);
        assert_eq!(parse_line("# deb http://m.example/debian sid main"), None);
    }

    #[test]
    fn stanzas_are_read_with_comments_and_continuations() {
        let text = "# top\nTypes: deb\n# snapshot\nURIs: http://m.example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n\
                    Types: deb\nURIs: http://m.example/debian-security\n\
                    Suites: bookworm-security\nComponents: main\n\n\
                    Types: deb\nEnabled: no\nURIs: http://other.example/x\nSuites: x\n";
        let sources = parse_deb822(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/k.gpg"));
        assert!(is_archive(&sources[0]) && !is_security(&sources[0]));
        assert!(is_security(&sources[1]) && !is_archive(&sources[1]));
    }

    #[test]
    fn a_key_inside_the_stanza_is_not_taken_for_a_file() {
        let text =
            "Types: deb\nURIs: http://m.example/debian\nSuites: sid\nSigned-By:\n -----BEGIN";
        assert_eq!(parse_deb822(text)[0].signed_by, None);
    }
}
