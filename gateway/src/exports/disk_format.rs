//! The formats in which a session shows its disks as files.

use std::fmt;
use std::sync::Arc;

use diskimage::{FaceError, Format};
use export::BlockExport;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A format of a disk's file in a session's folder. No format is a copy: all are the same disk.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk's own bytes: `disk-N.raw`.
    #[default]
    Raw,
    /// QEMU's format: `disk-N.qcow2`.
    Qcow2,
    /// As ESXi wants it, a descriptor and the disk: `disk-N.vmdk` and `disk-N-flat.vmdk`.
    Vmdk,
    /// VMware's format in one file: `disk-N-sparse.vmdk`.
    VmdkSparse,
    /// Microsoft's older format: `disk-N.vhd`.
    Vhd,
    /// Hyper-V's format: `disk-N.vhdx`.
    Vhdx,
}

impl DiskFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vmdk,
        Self::VmdkSparse,
        Self::Vhd,
        Self::Vhdx,
    ];

    /// Whether it is the disk itself.
    pub fn is_raw(&self) -> bool {
        *self == Self::Raw
    }

    /// What the file is called that a program opens.
    pub fn file_name(self, disk: usize) -> String {
        match self {
            Self::Raw => format!("disk-{disk}.raw"),
            Self::Qcow2 => format!("disk-{disk}.qcow2"),
            Self::Vmdk => format!("disk-{disk}.vmdk"),
            Self::VmdkSparse => format!("disk-{disk}-sparse.vmdk"),
            Self::Vhd => format!("disk-{disk}.vhd"),
            Self::Vhdx => format!("disk-{disk}.vhdx"),
        }
    }

    /// What the file is called that has the disk's bytes.
    pub fn data_name(self, disk: usize) -> String {
        match self {
            Self::Vmdk => format!("disk-{disk}-flat.vmdk"),
            other => other.file_name(disk),
        }
    }

    /// The file with the disk's bytes, as a disk of its own.
    ///
    /// # Errors
    /// If the format cannot hold the disk.
    pub fn show(
        self,
        disk: Arc<dyn BlockExport>,
        number: usize,
    ) -> Result<Arc<dyn BlockExport>, FaceError> {
        let format = match self {
            Self::Raw => return Ok(disk),
            // Its bytes are the disk's; only the limits of the format count.
            Self::Vmdk => return Format::Vmdk.show(Arc::clone(&disk), "").map(|_| disk),
            Self::Qcow2 => Format::Qcow2,
            Self::VmdkSparse => Format::Vmdk,
            Self::Vhd => Format::Vhd,
            Self::Vhdx => Format::Vhdx,
        };
        Ok(Arc::new(format.show(disk, &self.file_name(number))?))
    }

    /// The text of the small file beside the disk, where the format has one.
    pub fn descriptor(self, disk: &dyn BlockExport, number: usize) -> Option<String> {
        let properties = disk.properties();
        (self == Self::Vmdk).then(|| {
            diskimage::flat_descriptor(
                &self.data_name(number),
                properties.size_bytes,
                &properties.identity,
            )
        })
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::VmdkSparse => "vmdk-sparse",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        })
    }
}
