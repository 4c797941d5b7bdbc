//! What a file or folder really is: reparse points, which tell drivers of Windows to do something else with it, and the
//! older ways of its Unix subsystems.

use export::SpecialFile;

use super::Ntfs;
use super::extended::of_linux;
use super::name::to_bytes;
use super::node::{Attribute, Node};
use super::packed::PackedFormat;
use super::record::{bounded, kind, units};
use crate::GuestError;
use crate::bytes::View;

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nature {
    Folder,
    File,
    Link(Vec<u8>),
    Special(SpecialFile),
    /// A file whose content is not simply that of its data.
    Stub(Stub),
}

/// Why a file's content is not to be taken from its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stub {
    /// Compressed by Windows' overlay filter.
    Packed(PackedFormat),
    /// It lies where it cannot be read from.
    Elsewhere(&'static str),
    /// Some driver knows.
    Unknown(u32),
}

/// Tells what an object is.
pub(super) fn nature(ntfs: &Ntfs, node: &Node) -> Result<Nature, GuestError> {
    let plain = if node.is_folder {
        Nature::Folder
    } else {
        Nature::File
    };
    if let Some(point) = node.find(kind::REPARSE, &[]) {
        let bytes = point_bytes(ntfs, node, point)?;
        return of_point(node, View::new(&bytes, node.place()), plain);
    }
    if plain == Nature::File && node.number >= super::FIRST_USER && node.flags()? & SYSTEM != 0 {
        return of_interix(ntfs, node);
    }
    Ok(plain)
}

/// All of a reparse point, with its head.
pub(super) fn point_bytes(
    ntfs: &Ntfs,
    node: &Node,
    point: &Attribute,
) -> Result<Vec<u8>, GuestError> {
    let length = bounded(
        point.size_bytes(),
        POINT_MAX,
        "the length of a reparse point",
    )?;
    Ok(ntfs.read(node.number, point, 0, length as u64)?.to_vec())
}

fn of_point(node: &Node, view: View<'_>, plain: Nature) -> Result<Nature, GuestError> {
    let tag = view.u32(0)?;
    let data = View::new(view.slice(8, usize::from(view.u16(4)?))?, node.place());
    let elsewhere = |what| Ok(Nature::Stub(Stub::Elsewhere(what)));
    match tag {
        tag::SYMLINK => {
            let is_relative = data.u32(8)? & 1 != 0;
            Ok(Nature::Link(windows_target(data, 12, is_relative)?))
        }
        tag::MOUNT_POINT => Ok(Nature::Link(windows_target(data, 8, false)?)),
        tag::LX_SYMLINK => target(data, data.slice(4, data.len().saturating_sub(4))?.to_vec()),
        tag::LX_SOCKET => Ok(Nature::Special(SpecialFile::Socket)),
        tag::LX_FIFO => Ok(Nature::Special(SpecialFile::Fifo)),
        tag::LX_CHARACTER | tag::LX_BLOCK => {
            let linux = of_linux(node)?;
            let device = linux.device;
            let (major, minor) = device.ok_or_else(|| node.corrupt("a device has no number"))?;
            Ok(device_of(tag == tag::LX_BLOCK, major, minor))
        }
        tag::NFS => of_nfs(data),
        // Folders stay folders, whatever a driver makes of them; only their own entries are here.
        _ if plain == Nature::Folder => Ok(plain),
        tag::WOF => of_overlay(data),
        tag::DEDUP => elsewhere("content that Windows' deduplication keeps elsewhere"),
        tag::SIS => elsewhere("content that Windows' single instance store keeps elsewhere"),
        tag::HSM | tag::HSM2 => elsewhere("content that was moved to other storage"),
        tag::APPLICATION => Ok(plain),
        _ if tag & tag::CLOUD_MASK == tag::CLOUD => {
            if node.flags()? & (OFFLINE | RECALL_ON_OPEN | RECALL_ON_READ) == 0 {
                Ok(plain)
            } else {
                elsewhere("content that is only in the cloud")
            }
        }
        other => Ok(Nature::Stub(Stub::Unknown(other))),
    }
}

/// Links of Windows have the path that it goes, and the one that it shows.
fn windows_target(data: View<'_>, names: usize, is_relative: bool) -> Result<Vec<u8>, GuestError> {
    let name = |field: usize| {
        let (at, length) = (
            usize::from(data.u16(field)?),
            usize::from(data.u16(field + 2)?),
        );
        Ok::<_, GuestError>(units(data.slice(names + at, length)?))
    };
    let mut path = name(4)?;
    if path.is_empty() || is_relative {
        path = name(0)?;
    }
    if is_relative {
        for unit in &mut path {
            if *unit == u16::from(b'\\') {
                *unit = u16::from(b'/');
            }
        }
    }
    match target(data, to_bytes(&path))? {
        Nature::Link(target) => Ok(target),
        _ => Err(data.corrupt("a link leads nowhere")),
    }
}

fn target(view: View<'_>, target: Vec<u8>) -> Result<Nature, GuestError> {
    if target.is_empty() || target.contains(&0) {
        return Err(view.corrupt("a link leads nowhere"));
    }
    if target.len() > TARGET_MAX {
        return Err(GuestError::TooLarge {
            what: "the length of a link",
            limit: TARGET_MAX as u64,
        });
    }
    Ok(Nature::Link(target))
}

fn device_of(is_block: bool, major: u32, minor: u32) -> Nature {
    Nature::Special(if is_block {
        SpecialFile::BlockDevice { major, minor }
    } else {
        SpecialFile::CharacterDevice { major, minor }
    })
}

fn of_nfs(data: View<'_>) -> Result<Nature, GuestError> {
    let kind = data.slice(0, 8)?;
    match kind {
        b"LNK\x01\0\0\0\0" => {
            let path = units(data.slice(8, data.len() - 8)?);
            target(data, to_bytes(&path))
        }
        b"CHR\0\0\0\0\0" | b"BLK\0\0\0\0\0" => {
            let is_block = kind.starts_with(b"B");
            Ok(device_of(is_block, data.u32(8)?, data.u32(12)?))
        }
        b"FIFO\0\0\0\0" => Ok(Nature::Special(SpecialFile::Fifo)),
        b"SOCK\0\0\0\0" => Ok(Nature::Special(SpecialFile::Socket)),
        _ => Err(data.corrupt("a file of Windows' NFS server is of no known kind")),
    }
}

fn of_overlay(data: View<'_>) -> Result<Nature, GuestError> {
    let stub = match (data.u32(0)?, data.u32(4)?) {
        (1, 2) => match (data.u32(8)?, data.u32(12)?) {
            (1, 0) => Stub::Packed(PackedFormat::Xpress { chunk_bytes: 4096 }),
            (1, 1) => Stub::Packed(PackedFormat::Lzx),
            (1, 2) => Stub::Packed(PackedFormat::Xpress { chunk_bytes: 8192 }),
            (1, 3) => Stub::Packed(PackedFormat::Xpress { chunk_bytes: 16384 }),
            _ => Stub::Elsewhere("an unknown compression of Windows' overlay filter"),
        },
        (1, 1) => Stub::Elsewhere("content that lies in an image of Windows' overlay filter"),
        _ => Stub::Elsewhere("an unknown kind of Windows' overlay filter"),
    };
    Ok(Nature::Stub(stub))
}

/// Interix, and ntfs-3g after it, keep what Unix knows and Windows does not in files with the flag for the system.
fn of_interix(ntfs: &Ntfs, node: &Node) -> Result<Nature, GuestError> {
    let Some(data) = node.data() else {
        return Ok(Nature::File);
    };
    if data.is_encrypted() {
        return Ok(Nature::File);
    }
    let size = data.size_bytes();
    match size {
        0 | 1 if node.flags()? & HIDDEN == 0 => {
            return Ok(Nature::Special(if size == 0 {
                SpecialFile::Fifo
            } else {
                SpecialFile::Socket
            }));
        }
        9..=INTERIX_MAX => {}
        _ => return Ok(Nature::File),
    }
    let bytes = ntfs.read(node.number, data, 0, INTERIX_MAX)?.to_vec();
    let view = View::new(&bytes, node.place());
    match view.slice(0, 8)? {
        b"IntxLNK\x01" => {
            let path = units(view.slice(8, bytes.len() - 8)?);
            target(view, to_bytes(&path))
        }
        magic @ (b"IntxCHR\0" | b"IntxBLK\0") if size == 24 => {
            let number = |at| {
                view.u64(at)
                    .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
            };
            let is_block = magic == b"IntxBLK\0";
            Ok(device_of(is_block, number(8)?, number(16)?))
        }
        _ => Ok(Nature::File),
    }
}

mod tag {
    pub(super) const SYMLINK: u32 = 0xA000_000C;
    pub(super) const MOUNT_POINT: u32 = 0xA000_0003;
    pub(super) const LX_SYMLINK: u32 = 0xA000_001D;
    pub(super) const LX_SOCKET: u32 = 0x8000_0023;
    pub(super) const LX_FIFO: u32 = 0x8000_0024;
    pub(super) const LX_CHARACTER: u32 = 0x8000_0025;
    pub(super) const LX_BLOCK: u32 = 0x8000_0026;
    pub(super) const NFS: u32 = 0x8000_0014;
    pub(super) const WOF: u32 = 0x8000_0017;
    pub(super) const DEDUP: u32 = 0x8000_0013;
    pub(super) const SIS: u32 = 0x8000_0007;
    pub(super) const HSM: u32 = 0xC000_0004;
    pub(super) const HSM2: u32 = 0x8000_0006;
    /// Links to applications, which have no content.
    pub(super) const APPLICATION: u32 = 0x8000_001B;
    pub(super) const CLOUD: u32 = 0x9000_001A;
    pub(super) const CLOUD_MASK: u32 = 0xFFFF_0FFF;
}

const HIDDEN: u32 = 0x2;
const SYSTEM: u32 = 0x4;
const OFFLINE: u32 = 0x1000;
const RECALL_ON_OPEN: u32 = 0x4_0000;
const RECALL_ON_READ: u32 = 0x40_0000;
const POINT_MAX: u64 = 64 << 10;
const TARGET_MAX: usize = 4096;
/// A path of 4096 units and what stands before it.
const INTERIX_MAX: u64 = 8 + 2 * 4096;
