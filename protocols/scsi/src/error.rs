//! Why the host of this crate could not set a target up.

/// What went wrong with a target or its units; never the fault of an initiator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScsiError {
    /// The number is in use.
    #[error("logical unit {lun} is there already")]
    LunTaken {
        /// Which.
        lun: u16,
    },
    /// No such unit.
    #[error("there is no logical unit {lun}")]
    NoSuchLun {
        /// Which.
        lun: u16,
    },
    /// The number cannot be written in a LUN field.
    #[error("logical unit number {lun} is larger than 16383")]
    LunTooLarge {
        /// Which.
        lun: u16,
    },
    /// The logical block size does not fit the disk.
    #[error(
        "logical blocks of {logical_bytes} bytes do not fit a disk of {size_bytes} bytes in blocks of {export_bytes}"
    )]
    BlockSize {
        /// What was asked for.
        logical_bytes: u32,
        /// Unit of the disk below.
        export_bytes: u32,
        /// Its size.
        size_bytes: u64,
    },
    /// What was kept of the persistent reservations cannot be read.
    #[error("cannot read the reservations kept for logical unit {lun}: {what}")]
    Reservations {
        /// Which unit.
        lun: u16,
        /// What is wrong.
        what: String,
    },
}
