//! What a task offers: mailboxes, virtio devices, windows, and the volumes behind the last two.

use cloister_proto::volume::{BLOCK_BYTES, PARTITION_UNITS_MAX};
use toml::Spanned;

use crate::check::Judge;
use crate::quantity::{bytes_per_second, rate_per_second, shown_bytes, size_bytes};
use crate::raw;
use crate::report::Span;
use crate::resolve::whole_pages;
use crate::resolve_task::in_order;
use crate::system::{DeviceKind, Export, Extent, Volume};

/// Most pages of an export's shared memory.
const PAGES_MAX: i64 = 256;
/// Largest window.
const WINDOW_MAX: u64 = 16 << 20;
/// Largest number of a block.
const BLOCKS_MAX: i64 = 1 << 52;

/// The exports of a task.
pub fn exports(judge: &mut Judge<'_>, task: &str, raw: &raw::Task) -> Option<Vec<Export>> {
    let exports: Vec<Option<Export>> = in_order(&raw.exports)
        .into_iter()
        .map(|(name, raw)| {
            let named = judge.name(&format!("tasks.{task}: export"), name);
            let export = export(judge, task, name, raw)?;
            named.then_some(export)
        })
        .collect();
    exports.into_iter().collect()
}

fn export(
    judge: &mut Judge<'_>,
    task: &str,
    name: &Spanned<String>,
    raw: &raw::Export,
) -> Option<Export> {
    let what = format!("tasks.{task}: export `{}`", name.get_ref());
    let device = match &raw.device {
        None => None,
        Some(word) => {
            let kinds = DeviceKind::ALL.map(|kind| (kind.name, kind));
            let key = format!("tasks.{task}: `device` of export `{}`", name.get_ref());
            Some(judge.word(&key, word, &kinds)?)
        }
    };
    one_kind(judge, &what, raw)?;
    let pages = match &raw.pages {
        None => 1,
        Some(pages) => {
            let key = format!("tasks.{task}: `pages` of export `{}`", name.get_ref());
            *judge.number(&key, pages, 1..=PAGES_MAX)?.get_ref()
        }
    };
    let window = match &raw.window {
        None => None,
        Some(size) => {
            let key = format!("tasks.{task}: `window` of export `{}`", name.get_ref());
            u32::try_from(whole_pages(judge, &key, size, WINDOW_MAX)?).ok()
        }
    };
    let has_volume = device.is_some_and(DeviceKind::is_block) || window.is_some();
    if !has_volume {
        no_volume(judge, &what, raw)?;
    }
    let volume = volume(judge, &what, name, raw)?;
    Some(Export { name: name.clone(), pages, device, window, volume })
}

/// An export is a mailbox, a device or a window. The page of the latter two has a fixed size.
fn one_kind(judge: &mut Judge<'_>, what: &str, raw: &raw::Export) -> Option<()> {
    let (pages, window) = (raw.pages.as_ref(), raw.window.as_ref());
    let (span, one, two) = match (&raw.device, window, pages) {
        (Some(_), Some(window), _) => (window.span(), "device", "window"),
        (Some(_), None, Some(pages)) => {
            judge.wrong(
                pages.span(),
                format!("{what} has `pages` and `device`"),
                "of a device",
                "the page of a virtio device has a fixed size: remove `pages`",
            );
            return None;
        }
        (None, Some(_), Some(pages)) => (pages.span(), "window", "pages"),
        _ => return Some(()),
    };
    judge.wrong(
        span,
        format!("{what} has `{one}` and `{two}`"),
        "a second kind",
        "an export is one thing: a mailbox with `pages`, a `device` of a VM, or a `window` of a \
         broker",
    );
    None
}

/// The keys of a volume, with the place of each that is there.
fn volume_keys(raw: &raw::Export) -> impl Iterator<Item = (&'static str, Span)> {
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(Spanned::span);
    let number = |value: &Option<Spanned<i64>>| value.as_ref().map(Spanned::span);
    let size =
        |value: &Option<Spanned<crate::quantity::Written>>| value.as_ref().map(Spanned::span);
    [
        ("volume", text(&raw.volume)),
        ("first-block", number(&raw.first_block)),
        ("blocks", number(&raw.blocks)),
        ("size", size(&raw.size)),
        ("access", text(&raw.access)),
        ("iops", size(&raw.iops)),
        ("bandwidth", size(&raw.bandwidth)),
        ("cipher", text(&raw.cipher)),
        ("key", text(&raw.key)),
    ]
    .into_iter()
    .filter_map(|(key, span)| Some((key, span?)))
}

fn no_volume(judge: &mut Judge<'_>, what: &str, raw: &raw::Export) -> Option<()> {
    let Some((key, span)) = volume_keys(raw).next() else {
        return Some(());
    };
    judge.wrong(
        span,
        format!("{what} has `{key}` and is no disk"),
        "of a volume",
        "volumes belong to exports with device = \"block\" or with `window`; add one of them, or \
         remove the key",
    );
    None
}

/// The volume of an export; `Some(None)` if no key of one is there.
fn volume(
    judge: &mut Judge<'_>,
    what: &str,
    name: &Spanned<String>,
    raw: &raw::Export,
) -> Option<Option<Volume>> {
    if volume_keys(raw).next().is_none() {
        return Some(None);
    }
    let extent = extent(judge, what, name, raw);
    let is_writable = match &raw.access {
        None => Some(true),
        Some(word) => {
            judge.word(&format!("{what}: `access`"), word, &[("rw", true), ("ro", false)])
        }
    };
    let blocks_min = match &raw.size {
        None => Some(0),
        Some(size) => blocks_min(judge, &format!("{what}: `size`"), size),
    };
    let iops = match &raw.iops {
        None => Some(0),
        Some(rate) => judge.quantity(&format!("{what}: `iops`"), rate, rate_per_second),
    };
    let bandwidth = match &raw.bandwidth {
        None => Some(0),
        Some(rate) => judge.quantity(&format!("{what}: `bandwidth`"), rate, bytes_per_second),
    };
    let key = key(judge, what, raw);
    Some(Some(Volume {
        extent: extent?,
        is_writable: is_writable?,
        blocks_min: blocks_min?,
        iops: iops?.into(),
        bytes_per_second: bandwidth?,
        key: key?,
    }))
}

/// Where on the disk the volume is: a partition by name, or blocks.
fn extent(
    judge: &mut Judge<'_>,
    what: &str,
    name: &Spanned<String>,
    raw: &raw::Export,
) -> Option<Extent> {
    let (first, blocks) = (raw.first_block.as_ref(), raw.blocks.as_ref());
    match (&raw.volume, first, blocks) {
        (Some(partition), None, None) => {
            let units = partition.get_ref().encode_utf16().count();
            let is_plain = !partition.get_ref().contains(char::is_control);
            if (1..=PARTITION_UNITS_MAX).contains(&units) && is_plain {
                return Some(Extent::Partition(partition.get_ref().clone()));
            }
            judge.wrong(
                partition.span(),
                format!("{what}: `volume` names no partition: it has {units} characters"),
                "no partition's name",
                format!(
                    "a name in a GPT has 1 to {PARTITION_UNITS_MAX} characters (UTF-16), none of \
                     them a control character"
                ),
            );
            None
        }
        (None, Some(first), Some(blocks)) => {
            let first =
                judge.number::<u64>(&format!("{what}: `first-block`"), first, 0..=BLOCKS_MAX);
            let blocks = judge.number::<u64>(&format!("{what}: `blocks`"), blocks, 1..=BLOCKS_MAX);
            let (first, blocks) = (*first?.get_ref(), *blocks?.get_ref());
            Some(Extent::Blocks { first, blocks })
        }
        (partition, first, blocks) => {
            let spans = [first, blocks].into_iter().flatten().map(Spanned::span);
            let (message, label) = match partition {
                Some(_) => ("has both a partition and blocks", "of a fixed extent"),
                None => ("does not say where on the disk its volume is", "here"),
            };
            judge.wrong(
                spans.into_iter().next().unwrap_or_else(|| name.span()),
                format!("{what} {message}"),
                label,
                format!(
                    "write volume = \"web\", the name of a GPT partition, or both `first-block` and \
                     `blocks`, which count blocks of {}",
                    shown_bytes(BLOCK_BYTES)
                ),
            );
            None
        }
    }
}

fn blocks_min(
    judge: &mut Judge<'_>,
    what: &str,
    size: &Spanned<crate::quantity::Written>,
) -> Option<u64> {
    let bytes = judge.quantity(what, size, size_bytes)?;
    if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) {
        let block = shown_bytes(BLOCK_BYTES);
        judge.wrong(
            size.span(),
            format!("{what} is {}, which is not whole blocks", shown_bytes(bytes)),
            "not whole blocks",
            format!("write a multiple of \"{block}\""),
        );
        return None;
    }
    Some(bytes / BLOCK_BYTES)
}

/// The grant that the key comes from. There is one cipher, and it needs a key.
fn key(judge: &mut Judge<'_>, what: &str, raw: &raw::Export) -> Option<Option<Spanned<String>>> {
    match (&raw.cipher, &raw.key) {
        (None, None) => Some(None),
        (Some(cipher), Some(key)) => {
            judge.word(&format!("{what}: `cipher`"), cipher, &[("aes-xts-256", ())])?;
            Some(Some(key.clone()))
        }
        (Some(cipher), None) => {
            judge.wrong(
                cipher.span(),
                format!("{what} has `cipher` and no `key`"),
                "no key",
                "name the grant that the key comes from: key = \"web-key\"",
            );
            None
        }
        (None, Some(key)) => {
            judge.wrong(
                key.span(),
                format!("{what} has `key` and no `cipher`"),
                "for what?",
                "write cipher = \"aes-xts-256\", or remove `key`",
            );
            None
        }
    }
}
