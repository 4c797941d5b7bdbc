//! The bytes between worker and caller: `docs/protocols/guestworker.md`.
//!
//! Whatever is decoded here may come from a process that a guest's disk broke. Nothing is longer than the frame it
//! came in, and a frame is never longer than [`FRAME_BYTES_MAX`].

mod answer;
mod error;
mod fields;
mod request;
mod settings;

pub(crate) use answer::{Found, Put, Ranges};
pub(crate) use fields::{Body, Fields, Malformed, Wire};
pub(crate) use request::{
    ALL_ASSEMBLED, ALL_DISKS, ASSEMBLED_FROM, Ask, BlockAsk, NO_VOLUME, Request,
};
pub(crate) use settings::{Hello, Settings};
pub use settings::{Layer, Layers};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// To the worker: what is wanted.
    Request = 1,
    /// To the worker: more of what is given in parts.
    Next = 2,
    /// To the worker: no more of it.
    Stop = 3,
    /// From the worker: what was wanted.
    Done = 4,
    /// From the worker: a part, after which there may be more.
    Part = 5,
    /// From the worker: why not.
    Failed = 6,
    /// From the worker: a part of a disk is needed for that.
    Block = 7,
    /// To the worker: the part.
    BlockGiven = 8,
    /// To the worker: why not.
    BlockFailed = 9,
    /// To the worker: how it is to run.
    Settings = 10,
    /// From the worker: it is ready.
    Hello = 11,
}

impl Kind {
    pub(crate) fn of(number: u8) -> Result<Self, Malformed> {
        Ok(match number {
            1 => Self::Request,
            2 => Self::Next,
            3 => Self::Stop,
            4 => Self::Done,
            5 => Self::Part,
            6 => Self::Failed,
            7 => Self::Block,
            8 => Self::BlockGiven,
            9 => Self::BlockFailed,
            10 => Self::Settings,
            11 => Self::Hello,
            _ => return Err(Malformed("a frame of no known kind")),
        })
    }
}

/// Which words both sides speak.
pub(crate) const VERSION: u16 = 2;

/// Before every body: its length, the kind, three zeroes.
pub(crate) const HEAD_BYTES: usize = 8;

/// Longest body.
pub(crate) const FRAME_BYTES_MAX: usize = 8 << 20;

/// Longest read of a file in one request.
pub(crate) const READ_BYTES_MAX: u32 = 1 << 20;

/// Longest read of a disk in one frame.
pub(crate) const BLOCK_BYTES_MAX: u32 = 1 << 20;

/// Entries of a folder in one answer.
pub(crate) const ENTRIES_MAX: u32 = 1024;

/// Ranges in one part.
pub(crate) const RANGES_MAX: usize = 8192;

/// Volumes of one set of disks.
pub(crate) const VOLUMES_MAX: usize = 4096;

/// Members that are named of one volume that is put together.
pub(crate) const MEMBERS_MAX: usize = 16;

/// Ranges of a disk that are not needed, in one answer.
pub(crate) const UNNEEDED_MAX: usize = 50_000;

/// What is named of a disk that is needed as a whole.
pub(crate) const WHOLE_MAX: usize = 1024;

/// Disks of one worker.
pub(crate) const DISKS_MAX: usize = 64;

/// Longest name in a folder.
pub(crate) const NAME_BYTES_MAX: usize = 4096;

/// Longest text for people.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;

/// Longest target of a link.
pub(crate) const TARGET_BYTES_MAX: usize = 64 << 10;
