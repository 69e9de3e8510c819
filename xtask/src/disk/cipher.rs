//! Encrypted volumes on the host: made, opened, and told apart.
//!
//! The header and its slots are `lib/keyslot`'s, the cipher is `lib/cipher`'s, as in the drivers of
//! disks. The data of an encrypted volume begins [`DATA_OFFSET`] behind its own begin, so that much
//! at the end of the plain one is given up; root filesystems leave it free. Invariant: the header
//! is written last, so a volume that has one is encrypted to its end.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cloister_cipher::{BLOCK, Cipher, KEY};
pub use cloister_keyslot::DATA_OFFSET;
use cloister_keyslot::passphrase::{self, Cost, LENGTH_MAX};
use cloister_keyslot::{HEADER, Header, Kind, SLOTS, Slot, Unreadable, VolumeKey, WrappingKey};

use super::extent;

/// What is encrypted at a time: as much as the data is moved by, so that no chunk is written before
/// what lies there was read.
const CHUNK: u64 = DATA_OFFSET;

/// Where the key that wraps a volume's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// 32 bytes, as a manifest seals them.
    Key([u8; WrappingKey::BYTES]),
    /// What somebody types.
    Passphrase(Vec<u8>),
}

impl Secret {
    /// Reads a key's file: 64 hexadecimal digits, as for `sealed-keys` of a manifest.
    pub fn key_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the key {}", path.display()))?;
        let text = text.trim();
        let mut key = [0; WrappingKey::BYTES];
        let digits: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        match digits.filter(|digits| digits.len() == key.len() && text.is_ascii()) {
            Some(digits) => key.copy_from_slice(&digits),
            None => bail!(
                "{} holds no key: it has 64 hexadecimal digits\n  next: openssl rand -hex 32 > {0}",
                path.display()
            ),
        }
        Ok(Self::Key(key))
    }

    /// Reads a passphrase: the first line.
    pub fn passphrase(from: impl Read) -> Result<Self> {
        let mut text = Vec::new();
        from.take(4096).read_to_end(&mut text).context("cannot read the passphrase")?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
        if line.is_empty() || line.len() > LENGTH_MAX {
            bail!("a passphrase of {} bytes: it has 1 to {LENGTH_MAX}", line.len());
        }
        Ok(Self::Passphrase(line))
    }

    /// The kind of a new slot and its wrapping key.
    fn fresh(&self) -> Result<(Kind, WrappingKey)> {
        match self {
            Self::Key(key) => Ok((Kind::Sealed, WrappingKey::new(*key))),
            Self::Passphrase(text) => {
                let salt = random()?;
                let kind = Kind::Passphrase { cost: Cost::USUAL, salt };
                Ok((kind, derived(text, Cost::USUAL, &salt)?))
            }
        }
    }

    /// The volume's key, if this secret opens one of its slots.
    fn open(&self, header: &Header) -> Result<VolumeKey> {
        for slot in header.slots.iter().flatten() {
            let wrapping = match (self, slot.kind) {
                (Self::Key(key), Kind::Sealed) => WrappingKey::new(*key),
                (Self::Passphrase(text), Kind::Passphrase { cost, salt }) => {
                    derived(text, cost, &salt)?
                }
                _ => continue,
            };
            if let Some(key) = slot.unwrap(&wrapping) {
                return Ok(key);
            }
        }
        bail!("the secret opens no slot of the volume")
    }
}

fn derived(text: &[u8], cost: Cost, salt: &[u8; 32]) -> Result<WrappingKey> {
    let mut memory = vec![passphrase::Block::default(); cost.memory_kib() as usize];
    passphrase::derive(text, cost, salt, &mut memory).context("no key follows from the passphrase")
}

/// Bytes from the host's generator.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut source = File::open("/dev/urandom").context("the host has no random numbers")?;
    source.read_exact(&mut bytes).context("the host has no random numbers")?;
    Ok(bytes)
}

/// The header of a volume; none of a plain one.
pub fn header(disk: &File, volume: &Range<u64>) -> Result<Option<Header>> {
    let mut block = [0; HEADER];
    if volume.end - volume.start < 2 * DATA_OFFSET {
        return Ok(None);
    }
    disk.read_exact_at(&mut block, volume.start).context("cannot read a volume's header")?;
    match Header::read(&block) {
        Ok(header) => Ok(Some(header)),
        Err(Unreadable::NoHeader) => Ok(None),
        Err(why) => bail!("the header of the encrypted volume cannot be used: {why:?}"),
    }
}

/// Encrypts a plain volume where it lies. Interrupted, its content is lost.
pub fn encrypt(disk: &File, volume: &Range<u64>, secret: &Secret) -> Result<()> {
    if header(disk, volume)?.is_some() {
        bail!("the volume is encrypted already");
    }
    let len = volume.end - volume.start;
    if len < 2 * DATA_OFFSET {
        bail!("a volume of {len} bytes is too small: an encrypted one has at least 2MiB");
    }
    let tail = volume.end - DATA_OFFSET..volume.end;
    let mut is_free = true;
    extent::read(disk, tail, |bytes| {
        is_free &= bytes.iter().all(|byte| *byte == 0);
        Ok(())
    })?;
    if !is_free {
        bail!(
            "the last MiB of the volume is in use, and an encrypted volume has 1 MiB less\n  next: \
             make its file system smaller (resize2fs), or make a larger volume and copy"
        );
    }
    let volume_key = VolumeKey::new(random()?).context("the host's random numbers are none")?;
    let (kind, wrapping) = secret.fresh()?;
    let mut slots = [None; SLOTS];
    if let Some(first) = slots.first_mut() {
        *first = Some(Slot::wrap(kind, &wrapping, &volume_key));
    }
    let cipher = cipher_of(&volume_key);
    let data = len - DATA_OFFSET;
    let mut buffer = vec![0; CHUNK as usize];
    for chunk in (0..data.div_ceil(CHUNK)).rev() {
        let at = chunk * CHUNK;
        let bytes = &mut buffer[..(data - at).min(CHUNK) as usize];
        disk.read_exact_at(bytes, volume.start + at).context("cannot read the volume")?;
        if cipher.encrypt_blocks(at / BLOCK as u64, bytes).is_err() {
            bail!("the volume is no whole number of blocks");
        }
        disk.write_all_at(bytes, volume.start + DATA_OFFSET + at)
            .context("cannot write the volume")?;
    }
    disk.write_all_at(&vec![0; DATA_OFFSET as usize], volume.start)
        .context("cannot write the volume")?;
    disk.sync_all().context("cannot write the volume")?;
    let header = Header { id: random()?, slots };
    disk.write_all_at(&header.to_block(), volume.start).context("cannot write the header")
}

/// Erases an encrypted volume: overwrites its header with one that has no slots, and has the disk
/// keep that. It takes one write, whatever the volume's size, and nothing brings the data back.
pub fn erase(disk: &File, volume: &Range<u64>) -> Result<()> {
    let mut block = [0; HEADER];
    if volume.end - volume.start >= 2 * DATA_OFFSET {
        disk.read_exact_at(&mut block, volume.start).context("cannot read a volume's header")?;
    }
    let id = match Header::read(&block) {
        Ok(header) => header.id,
        Err(Unreadable::NoHeader) => bail!(
            "the volume is not encrypted, so there is no key to erase\n  next: overwrite all of it"
        ),
        // What is damaged may still be read by somebody else.
        Err(_) => random()?,
    };
    disk.write_all_at(&Header::erased(id), volume.start).context("cannot write the header")?;
    disk.sync_all().context("the disk did not keep the new header")
}

/// Writes what an encrypted volume holds into a file of its own.
pub fn decrypted(disk: &File, volume: &Range<u64>, secret: &Secret, into: &File) -> Result<()> {
    let header = header(disk, volume)?.context("the volume is not encrypted")?;
    let cipher = cipher_of(&secret.open(&header)?);
    let data = volume.start + DATA_OFFSET..volume.end;
    into.set_len(data.end - data.start).context("cannot write the volume's content")?;
    let mut at = 0;
    extent::read(disk, data, |bytes| {
        let mut plain = bytes.to_vec();
        if cipher.decrypt_blocks(at / BLOCK as u64, &mut plain).is_err() {
            bail!("the volume is no whole number of blocks");
        }
        into.write_all_at(&plain, at).context("cannot write the volume's content")?;
        at += plain.len() as u64;
        Ok(())
    })
}

fn cipher_of(key: &VolumeKey) -> Cipher {
    const { assert!(KEY == VolumeKey::BYTES) };
    Cipher::new(key.bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const VOLUME: Range<u64> = 1 << 20..5 << 20;

    fn disk() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(6 << 20).expect("a size");
        file.write_all_at(b"first", VOLUME.start).expect("written");
        file.write_all_at(b"last", VOLUME.end - DATA_OFFSET - 4).expect("written");
        file.write_all_at(b"other", VOLUME.end).expect("written");
        file
    }

    fn plain(disk: &File, secret: &Secret) -> Result<Vec<u8>> {
        let out = tempfile::tempfile().expect("a file");
        decrypted(disk, &VOLUME, secret, &out)?;
        let mut bytes = vec![0; 3 << 20];
        out.read_exact_at(&mut bytes, 0).expect("the whole of it");
        Ok(bytes)
    }

    #[test]
    fn what_was_plain_is_there_for_who_has_the_key() {
        let (disk, key) = (disk(), Secret::Key([7; 32]));
        assert!(header(&disk, &VOLUME).expect("read").is_none());
        encrypt(&disk, &VOLUME, &key).expect("encrypted");
        assert!(header(&disk, &VOLUME).expect("read").is_some());
        let bytes = plain(&disk, &key).expect("opened");
        assert_eq!((&bytes[..5], &bytes[bytes.len() - 4..]), (&b"first"[..], &b"last"[..]));
        assert!(bytes[5..bytes.len() - 4].iter().all(|byte| *byte == 0), "zeros stay zeros");
        let mut raw = vec![0; 6 << 20];
        disk.read_exact_at(&mut raw, 0).expect("read");
        assert!(!raw.windows(5).any(|window| window == b"first"), "nothing plain is left");
        assert_eq!(&raw[5 << 20..][..5], b"other", "the next volume is untouched");
        assert!(plain(&disk, &Secret::Key([8; 32])).is_err(), "another key");
        let error = encrypt(&disk, &VOLUME, &key).expect_err("twice").to_string();
        assert_eq!(error, "the volume is encrypted already");
    }

    #[test]
    fn an_erased_volume_is_opened_by_nobody_and_the_next_one_is_untouched() {
        let (disk, key) = (disk(), Secret::Key([7; 32]));
        let error = erase(&disk, &VOLUME).expect_err("plain").to_string();
        assert!(error.starts_with("the volume is not encrypted"), "{error}");
        encrypt(&disk, &VOLUME, &key).expect("encrypted");
        let raw = || {
            let mut raw = vec![0; 6 << 20];
            disk.read_exact_at(&mut raw, 0).expect("read");
            raw
        };
        let before = raw();
        erase(&disk, &VOLUME).expect("erased");
        let after = raw();
        assert!(plain(&disk, &key).is_err(), "it opens still");
        assert!(header(&disk, &VOLUME).expect("read").expect("a header").is_erased());
        let at = VOLUME.start as usize;
        assert!(before[..at] == after[..at], "something before the volume");
        assert!(before[at + HEADER..] == after[at + HEADER..], "something behind the header");
        erase(&disk, &VOLUME).expect("again");
        disk.write_all_at(b"x", VOLUME.start + 99).expect("damaged");
        erase(&disk, &VOLUME).expect("a damaged one");
    }

    /// A thousand times the size is the same block: nothing else of the file gets room, and the next
    /// volume is opened by its key.
    #[test]
    fn erasing_takes_one_block_whatever_the_size() {
        let key = Secret::Key([7; 32]);
        for mib in [4, 4096] {
            let volume = 1 << 20..(1 + mib) << 20;
            let next = volume.end..volume.end + (4 << 20);
            let disk = tempfile::tempfile().expect("a file");
            disk.set_len(next.end).expect("a size");
            encrypt(&disk, &next, &key).expect("encrypted");
            // As encrypted, but nobody waits for four gigabytes: the data stays a hole.
            let mut header = [0; HEADER];
            disk.read_exact_at(&mut header, next.start).expect("read");
            disk.write_all_at(&header, volume.start).expect("written");
            assert!(Header::read(&header).is_ok_and(|header| !header.is_erased()));
            let room = || disk.metadata().expect("a file").blocks();
            let before = room();
            erase(&disk, &volume).expect("erased");
            assert_eq!(room(), before, "{mib} MiB");
            assert!(super::header(&disk, &volume).expect("read").expect("one").is_erased());
            let out = tempfile::tempfile().expect("a file");
            decrypted(&disk, &next, &key, &out).expect("the next one opens");
        }
    }

    #[test]
    fn a_passphrase_opens_what_it_closed() {
        let disk = disk();
        let secret = Secret::passphrase(&b"correct horse\nrest"[..]).expect("good");
        encrypt(&disk, &VOLUME, &secret).expect("encrypted");
        assert_eq!(&plain(&disk, &secret).expect("opened")[..5], b"first");
        let wrong = Secret::Passphrase(b"wrong horse".to_vec());
        assert!(plain(&disk, &wrong).is_err());
        assert!(Secret::passphrase(&b"\n"[..]).is_err(), "an empty one");
    }

    #[test]
    fn a_full_volume_is_not_cut_off() {
        let disk = disk();
        disk.write_all_at(b"x", VOLUME.end - 1).expect("written");
        let error = encrypt(&disk, &VOLUME, &Secret::Key([7; 32])).expect_err("full").to_string();
        assert!(error.starts_with("the last MiB of the volume is in use"), "{error}");
        let small = 1 << 20..2 << 20;
        assert!(encrypt(&disk, &small, &Secret::Key([7; 32])).is_err(), "too small");
    }

    #[test]
    fn keys_are_files_of_64_digits() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            Secret::key_file(&path)
        };
        assert_eq!(read(&format!("{}\n", "0a".repeat(32))).expect("good"), Secret::Key([10; 32]));
        for wrong in ["", "0a", &"0g".repeat(32), &"ä".repeat(32)] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }
}
