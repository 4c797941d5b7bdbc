//! The formats, and which disks fit them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use export::BlockExport;

use crate::codec::derived_uuid;
use crate::layout::Layout;
use crate::{Face, qcow2, vhd, vhdx, vmdk};

/// A disk-image format of one file.
///
/// VMDK as ESXi wants it is two files, the raw disk and [a descriptor](crate::flat_descriptor).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// The disk's own bytes.
    Raw,
    /// QEMU's copy-on-write format, version 2.
    Qcow2,
    /// VMware's hosted sparse extent (`monolithicSparse`).
    Vmdk,
    /// Microsoft's virtual hard disk, fixed.
    Vhd,
    /// Microsoft's virtual hard disk v2, fixed.
    Vhdx,
}

/// Why a disk cannot be shown in a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaceError {
    /// It is longer than the format can say.
    #[error(
        "a disk of {size_bytes} bytes is too large for {format}, which takes {limit_bytes} bytes at most; raw, qcow2 and vhdx take it"
    )]
    TooLarge {
        /// The format.
        format: Format,
        /// What the disk has.
        size_bytes: u64,
        /// What the format takes.
        limit_bytes: u64,
    },
    /// The formats count in sectors of 512 bytes.
    #[error(
        "a disk with blocks of {block_size_bytes} bytes cannot be shown as {format}: only disks with blocks of 512 bytes can"
    )]
    BlockSize {
        /// The format.
        format: Format,
        /// What the disk has.
        block_size_bytes: u32,
    },
}

/// The text is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk format; there are raw, qcow2, vmdk, vhd and vhdx")]
pub struct UnknownFormat(String);

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd, Self::Vhdx];

    /// Its name, which also ends the names of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }

    /// The largest disk that it takes, in bytes.
    pub fn limit_bytes(self) -> u64 {
        match self {
            Self::Raw => i64::MAX.cast_unsigned(),
            Self::Qcow2 => qcow2::LIMIT_BYTES,
            Self::Vmdk => vmdk::LIMIT_BYTES,
            Self::Vhd => vhd::LIMIT_BYTES,
            Self::Vhdx => vhdx::LIMIT_BYTES,
        }
    }

    /// Shows `disk` in this format, in a file called `file_name`.
    ///
    /// # Errors
    /// If the format cannot hold the disk.
    pub fn show(self, disk: Arc<dyn BlockExport>, file_name: &str) -> Result<Face, FaceError> {
        let properties = disk.properties();
        if properties.block_size_bytes != 512 && self != Self::Raw {
            return Err(FaceError::BlockSize {
                format: self,
                block_size_bytes: properties.block_size_bytes,
            });
        }
        if properties.size_bytes > self.limit_bytes() {
            return Err(FaceError::TooLarge {
                format: self,
                size_bytes: properties.size_bytes,
                limit_bytes: self.limit_bytes(),
            });
        }
        let (size, identity) = (properties.size_bytes, &properties.identity);
        let layout = match self {
            Self::Raw => Layout::of_disk(size),
            Self::Qcow2 => qcow2::lay_out(size),
            Self::Vmdk => vmdk::lay_out(size, identity, file_name),
            Self::Vhd => vhd::lay_out(size, identity),
            Self::Vhdx => vhdx::lay_out(size, identity),
        };
        // Two exports of one identity would be taken for two ways to one disk.
        let own = match self {
            Self::Raw => properties.identity,
            Self::Qcow2 => derived_uuid(identity, 0x61),
            Self::Vmdk => derived_uuid(identity, 0x62),
            Self::Vhd => derived_uuid(identity, 0x63),
            Self::Vhdx => derived_uuid(identity, 0x64),
        };
        Ok(Face::new(disk, layout, own))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}
