//! A kernel's file, bzImage or vmlinux: its setup header and the ELF inside.
//!
//! A bzImage carries a compressed vmlinux ("The Linux/x86 Boot Protocol", Linux 6.12,
//! Documentation/arch/x86/boot.rst). It is unpacked here, on the host, so that a guest starts
//! in seconds less and the bytes that run are known at build time. Invariant: every number from
//! the file is checked before it is used; a damaged file is an error, never a panic, and never
//! takes more memory than [`UNPACKED_MAX`].

use std::io::Read;

use anyhow::{Context, Result, bail};
use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// Where the setup header begins in a bzImage.
const HEADER_AT: usize = 0x1f1;
/// Bytes of a sector of the setup code.
const SECTOR: usize = 512;
/// `setup_header::boot_flag`.
pub const BOOT_FLAG: u16 = 0xaa55;
/// `setup_header::header`, "HdrS".
pub const HEADER_MAGIC: u32 = 0x5372_6448;
/// The boot protocol that tells size and alignment (2.10) and the 64-bit entry (2.12).
const VERSION_MIN: u16 = 0x020c;
/// `setup_header::xloadflags`: there is a 64-bit kernel inside.
const XLF_KERNEL_64: u16 = 1;
/// Largest vmlinux.
const UNPACKED_MAX: u64 = 512 << 20;
/// Most memory for the window of a decompressor, in KiB.
const WINDOW_MAX_KIB: u32 = 256 << 10;

/// A kernel, unpacked.
#[derive(Clone)]
pub struct Kernel {
    /// Its setup header; none if the file was a vmlinux.
    pub header: Option<setup_header>,
    /// The ELF.
    pub vmlinux: Vec<u8>,
}

/// Reads a kernel's file.
pub fn read(file: Vec<u8>) -> Result<Kernel> {
    if file.starts_with(b"\x7fELF") {
        return Ok(Kernel { header: None, vmlinux: file });
    }
    let header = setup(&file)?;
    let vmlinux = unpack(payload(&file, &header)?)?;
    if !vmlinux.starts_with(b"\x7fELF") {
        bail!("the bzImage's payload is no ELF");
    }
    Ok(Kernel { header: Some(header), vmlinux })
}

/// The setup header, as far as the file's own length of it reaches.
fn setup(file: &[u8]) -> Result<setup_header> {
    // The byte at 0x201 is the distance of a jump that begins behind it, over the header.
    let jump = file.get(0x201).copied().unwrap_or(0);
    let end = 0x202 + usize::from(jump);
    let bytes =
        file.get(HEADER_AT..end).context("it is neither a bzImage nor an ELF: too short")?;
    let mut whole = [0; size_of::<setup_header>()];
    let len = bytes.len().min(whole.len());
    whole[..len].copy_from_slice(&bytes[..len]);
    let header = *setup_header::from_slice(&whole).context("the setup header has no place")?;
    let (flag, magic, version) = (header.boot_flag, header.header, header.version);
    if flag != BOOT_FLAG || magic != HEADER_MAGIC {
        bail!(
            "it is neither a bzImage nor an ELF: `boot_flag` is {flag:#x}, `header` {magic:#x}; \
             a bzImage has {BOOT_FLAG:#x} and {HEADER_MAGIC:#x}"
        );
    }
    if version < VERSION_MIN {
        bail!("its boot protocol `version` is {version:#x}, {VERSION_MIN:#x} or newer is needed");
    }
    let xloadflags = header.xloadflags;
    if xloadflags & XLF_KERNEL_64 == 0 {
        bail!("`xloadflags` is {xloadflags:#x}: it is no 64-bit kernel");
    }
    Ok(header)
}

/// The compressed vmlinux.
fn payload<'a>(file: &'a [u8], header: &setup_header) -> Result<&'a [u8]> {
    // "Details of Header Fields", `setup_sects`: 0 stands for 4.
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let (offset, len) = (header.payload_offset, header.payload_length);
    let start = (sectors + 1) * SECTOR + offset as usize;
    let bytes = file.get(start..).and_then(|rest| rest.get(..len as usize));
    bytes.with_context(|| {
        format!(
            "`payload_offset` {offset:#x} and `payload_length` {len:#x} reach beyond the file's \
             {:#x} bytes",
            file.len()
        )
    })
}

/// Unpacks; the last four bytes of every format are the unpacked size.
fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let (packed, size) =
        payload.split_last_chunk::<4>().context("`payload_length` is less than 4")?;
    let size = u32::from_le_bytes(*size);
    if u64::from(size) > UNPACKED_MAX {
        bail!("its vmlinux would have {size} bytes, at most {UNPACKED_MAX} can be; is it damaged?");
    }
    let (name, unpacked) = match packed {
        [0x1f, 0x8b | 0x9e, ..] => {
            // The size is a part of this format.
            ("gzip", take(flate2::read::GzDecoder::new(payload), size))
        }
        [0xfd, b'7', b'z', ..] => {
            let reader = lzma_rust2::XzReader::new_mem_limit(packed, false, WINDOW_MAX_KIB);
            ("XZ", take(reader, size))
        }
        [0x02, 0x21, ..] => ("LZ4", take(lz4_flex::frame::FrameDecoder::new(packed), size)),
        [0x28, 0xb5, ..] => ("ZSTD", unpack_zstd(packed, size)),
        [0x42, 0x5a, ..] => bail!("its vmlinux is packed with bzip2, which {FORMATS}"),
        [0x5d, 0x00, ..] => bail!("its vmlinux is packed with LZMA, which {FORMATS}"),
        [0x89, b'L', ..] => bail!("its vmlinux is packed with LZO, which {FORMATS}"),
        _ => bail!("its payload begins with {:02x?}, which {FORMATS}", first(packed)),
    };
    let unpacked = unpacked.with_context(|| format!("its {name} payload is damaged"))?;
    if unpacked.len() as u64 != u64::from(size) {
        bail!("its {name} payload has {} bytes, its last four say {size}", unpacked.len());
    }
    Ok(unpacked)
}

/// What can be done about another compression.
const FORMATS: &str = "is not read here: gzip, XZ, LZ4 and ZSTD are; unpack it to a vmlinux";

fn first(bytes: &[u8]) -> &[u8] {
    bytes.get(..4).unwrap_or(bytes)
}

fn unpack_zstd(packed: &[u8], size: u32) -> std::io::Result<Vec<u8>> {
    let window = u64::from(WINDOW_MAX_KIB) << 10;
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, window);
    take(decoder.map_err(std::io::Error::other)?, size)
}

/// All that a decompressor gives, but at most one byte more than it should.
fn take(reader: impl Read, size: u32) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(u64::from(size) + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::guest::sample;
    use std::io::Write;

    /// Sectors of the sample's setup code.
    const SECTORS: usize = 2;

    /// The sample program as a bzImage.
    pub fn sample() -> Vec<u8> {
        let vmlinux = sample::program();
        bzimage(&gzip(&vmlinux), vmlinux.len())
    }

    /// A bzImage around a payload, without the four bytes of its size.
    fn bzimage(payload: &[u8], unpacked: usize) -> Vec<u8> {
        let payload = [payload, &(unpacked as u32).to_le_bytes()].concat();
        let header = setup_header {
            setup_sects: SECTORS as u8,
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: 0x020f,
            xloadflags: XLF_KERNEL_64,
            payload_offset: 16,
            payload_length: payload.len() as u32,
            init_size: 0x8_0000,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            ..setup_header::default()
        };
        let mut file = vec![0; (SECTORS + 1) * SECTOR + 16];
        let bytes = header.as_slice();
        file[HEADER_AT..HEADER_AT + bytes.len()].copy_from_slice(bytes);
        file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        file.extend_from_slice(&payload);
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(bytes).expect("written");
        let mut packed = writer.finish().expect("packed");
        // The size at its end is the one that a bzImage ends with.
        packed.truncate(packed.len() - 4);
        packed
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(0);
        // Kernels are packed with the filter for x86 (scripts/xz_wrap.sh).
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a writer");
        writer.write_all(bytes).expect("written");
        writer.finish().expect("packed")
    }

    /// The legacy frame, which the crate reads but does not write: a magic number, then blocks
    /// behind their lengths.
    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(bytes);
        let len = (block.len() as u32).to_le_bytes();
        [[0x02, 0x21, 0x4c, 0x18].as_slice(), &len, &block].concat()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// The sample vmlinux in all formats.
    fn all() -> [(&'static str, Vec<u8>); 4] {
        let vmlinux = sample::program();
        [
            ("gzip", gzip(&vmlinux)),
            ("XZ", xz(&vmlinux)),
            ("LZ4", lz4(&vmlinux)),
            ("ZSTD", zstd(&vmlinux)),
        ]
        .map(|(name, packed)| (name, bzimage(&packed, vmlinux.len())))
    }

    #[test]
    fn every_format_unpacks_to_the_same_vmlinux() {
        for (name, file) in all() {
            let kernel = read(file).expect(name);
            assert!(kernel.vmlinux == sample::program(), "{name}");
            let header = kernel.header.expect("a bzImage has a header");
            let (version, init_size) = (header.version, header.init_size);
            assert_eq!((version, init_size), (0x020f, 0x8_0000), "{name}");
        }
        let kernel = read(sample::program()).expect("a vmlinux");
        assert!(kernel.header.is_none() && kernel.vmlinux == sample::program());
    }

    #[test]
    fn other_files_and_formats_are_refused_by_name() {
        let vmlinux = sample::program();
        let mut old = bzimage(&gzip(&vmlinux), vmlinux.len());
        old[0x206] = 0x0b;
        let mut narrow = bzimage(&gzip(&vmlinux), vmlinux.len());
        narrow[0x236] = 0;
        let mut long = bzimage(&gzip(&vmlinux), vmlinux.len());
        long[0x24b] = 0x7f;
        let cases = [
            (b"#!/bin/sh".to_vec(), "too short"),
            (vec![0; 4096], "`boot_flag` is 0x0, `header` 0x0"),
            (old, "`version` is 0x20b"),
            (narrow, "`xloadflags` is 0x0"),
            (long, "reach beyond the file's"),
            (bzimage(b"BZh9", 1), "packed with bzip2"),
            (bzimage(&[0x5d, 0, 0, 0], 1), "packed with LZMA"),
            (bzimage(b"\x89LZO", 1), "packed with LZO"),
            (bzimage(b"????", 1), "begins with [3f, 3f, 3f, 3f]"),
            (
                bzimage(&gzip(&vmlinux), vmlinux.len() - 1),
                "its gzip payload has 5048 bytes, its last four say 5047",
            ),
            (bzimage(&lz4(&vmlinux), vmlinux.len() - 1), "its LZ4 payload has"),
            (bzimage(&lz4(&vmlinux), vmlinux.len() + 1), "its LZ4 payload has"),
            (bzimage(&zstd(&vmlinux), 600 << 20), "at most 536870912 can be"),
            (bzimage(&zstd(b"no ELF"), 6), "payload is no ELF"),
        ];
        for (file, expected) in cases {
            let error = format!("{:#}", read(file).err().expect(expected));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn damaged_files_never_panic_and_checksums_notice() {
        for (name, good) in all() {
            let payload = (SECTORS + 1) * SECTOR + 16;
            for at in (HEADER_AT..0x270).chain(payload..good.len()).step_by(11) {
                let mut file = good.clone();
                file[at] ^= 1 << (at % 8);
                let Ok(kernel) = read(file) else { continue };
                let is_checked = name == "gzip" || name == "XZ";
                let is_same = kernel.vmlinux == sample::program();
                assert!(at < good.len() - 4, "{name}: the size at {at}");
                assert!(is_same || !is_checked, "{name}: byte {at} is not noticed");
            }
            for len in (0..good.len()).step_by(83).chain([good.len() - 1]) {
                assert!(read(good[..len].to_vec()).is_err(), "{name} cut to {len}");
            }
        }
    }
}
