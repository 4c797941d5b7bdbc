//! What goes between a transport and the device.

use bytes::Bytes;
use export::{ExportError, Segments};

use crate::cdb::Cdb;
use crate::sense::{Sense, SenseKey, code};

/// A command with all that the initiator sent for it.
#[derive(Debug, Clone)]
pub struct Command {
    /// The LUN field as it was sent.
    pub lun: [u8; 8],
    /// The command itself.
    pub cdb: Cdb,
    /// The bytes that came, in order: what [`Plan`] asks for, or less if the initiator expected to send less.
    pub data_out: Vec<Bytes>,
    /// How many bytes of Data-Out the initiator said that it has, where the transport knows. Some commands are refused
    /// if that is not exactly what they need (COMPARE AND WRITE, WRITE SAME).
    pub expected_bytes: Option<u32>,
}

/// What a command asks of the transport before it is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Bytes have to go in `direction`: exactly `length_bytes` from the initiator, at most so many to it.
    Transfer {
        /// Which way.
        direction: Direction,
        /// How many.
        length_bytes: u32,
    },
    /// The command is over; no data is wanted.
    Refuse(Response),
}

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// Data-In.
    ToInitiator,
    /// Data-Out.
    FromInitiator,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// Why, with [`Status::CheckCondition`].
    pub sense: Option<Sense>,
    /// Data for the initiator. It may be more than that expects: the transport sends what fits and tells the residual.
    pub data_in: Segments,
}

/// Status codes (SAM-5, 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Not done, or something is to be known: the sense data says what.
    CheckCondition = 0x02,
    /// Done; what was asked for is in the cache.
    ConditionMet = 0x04,
    /// To be tried again.
    Busy = 0x08,
    /// Somebody else holds the unit.
    ReservationConflict = 0x18,
    /// Too many commands at once; for transports.
    TaskSetFull = 0x28,
    /// Somebody else aborted the command; for transports.
    TaskAborted = 0x40,
}

/// Why a command did not end in GOOD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// CHECK CONDITION.
    Check(Sense),
    /// A status without sense data.
    Status(Status),
    /// It would have to wait for a disk, and must not; nothing was done.
    WouldWait,
}

/// What the function of a command gives: its data, or how else it ended.
pub(crate) type Outcome = Result<Segments, Ending>;

impl Command {
    /// Bytes that came from the initiator.
    pub(crate) fn data_bytes(&self) -> usize {
        self.data_out.iter().map(Bytes::len).sum()
    }
}

impl Response {
    /// GOOD with `data_in`.
    pub(crate) fn good(data_in: Segments) -> Self {
        Self {
            status: Status::Good,
            sense: None,
            data_in,
        }
    }

    /// CHECK CONDITION.
    pub(crate) fn check(sense: Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            data_in: Segments::new(),
        }
    }

    /// A status alone.
    pub fn status(status: Status) -> Self {
        Self {
            status,
            sense: None,
            data_in: Segments::new(),
        }
    }
}

impl From<Sense> for Ending {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

impl Ending {
    /// NOT READY while a SANITIZE is under way.
    pub(crate) fn sanitizing() -> Self {
        Sense::new(SenseKey::NotReady, code::SANITIZE_IN_PROGRESS).into()
    }

    /// The sense data for what an export said. `lba` is where the command began, for faults of the medium.
    pub(crate) fn of_export(error: &ExportError, lba: u64) -> Self {
        let sense = match error {
            ExportError::ShuttingDown => return Self::Status(Status::Busy),
            ExportError::OutOfRange { .. } => Sense::illegal(code::LBA_OUT_OF_RANGE),
            ExportError::ReadOnly => Sense::new(SenseKey::DataProtect, code::WRITE_PROTECTED),
            ExportError::NoSpace { .. } => Sense::new(
                SenseKey::DataProtect,
                code::SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
            ),
            ExportError::Corrupt { .. } => {
                Sense::new(SenseKey::MediumError, code::UNRECOVERED_READ_ERROR).at(lba)
            }
            _ => Sense::new(SenseKey::HardwareError, code::INTERNAL_TARGET_FAILURE),
        };
        Self::Check(sense)
    }
}
