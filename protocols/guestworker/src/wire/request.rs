//! What the caller asks of the worker, and the worker of the caller.

use std::collections::BTreeSet;

use export::FileId;
use guestfs::Unneeded;

use super::{
    BLOCK_BYTES_MAX, Body, ENTRIES_MAX, Fields, Malformed, NAME_BYTES_MAX, READ_BYTES_MAX, Wire,
};

/// A request about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its place among those that were found on the disks, or from [`ASSEMBLED_FROM`] on among those that were put together; or
    /// one of the numbers for all of them.
    pub(crate) volume: u32,
    pub(crate) ask: Ask,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Which there are.
    Volumes,
    /// The folder at its top.
    Open,
    Statistics,
    Attributes(FileId),
    Lookup(FileId, Vec<u8>),
    Read {
        file: FileId,
        offset: u64,
        length: u32,
    },
    List {
        directory: FileId,
        cookie: u64,
        limit: u32,
    },
    Symlink(FileId),
    ExtendedAttributes(FileId),
    Particulars(FileId),
    /// Which bytes are in use, in parts.
    Allocated,
    /// Which are put together from the disks.
    Assembled,
    /// What nobody needs back of a disk.
    Unneeded {
        disk: u32,
        wanted: BTreeSet<Unneeded>,
    },
}

/// A part of a disk that the worker needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockAsk {
    pub(crate) disk: u32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// Stands for all volumes on the disks.
pub(crate) const NO_VOLUME: u32 = u32::MAX;

/// Stands for all that are put together.
pub(crate) const ALL_ASSEMBLED: u32 = u32::MAX - 1;

/// Stands for the disks themselves.
pub(crate) const ALL_DISKS: u32 = u32::MAX - 2;

/// The number of the first that is put together.
pub(crate) const ASSEMBLED_FROM: u32 = 1 << 16;

impl Request {
    /// The object that it is about.
    pub(crate) fn file(&self) -> Option<FileId> {
        match self.ask {
            Ask::Volumes
            | Ask::Open
            | Ask::Statistics
            | Ask::Allocated
            | Ask::Assembled
            | Ask::Unneeded { .. } => None,
            Ask::Attributes(file)
            | Ask::Lookup(file, _)
            | Ask::Read { file, .. }
            | Ask::List {
                directory: file, ..
            }
            | Ask::Symlink(file)
            | Ask::ExtendedAttributes(file)
            | Ask::Particulars(file) => Some(file),
        }
    }
}

impl Wire for Request {
    fn encode(self, body: &mut Body) {
        body.u32(self.volume);
        let file = self.file();
        let number = match self.ask {
            Ask::Volumes => 1,
            Ask::Open => 2,
            Ask::Statistics => 3,
            Ask::Attributes(_) => 4,
            Ask::Lookup(..) => 5,
            Ask::Read { .. } => 6,
            Ask::List { .. } => 7,
            Ask::Symlink(_) => 8,
            Ask::ExtendedAttributes(_) => 9,
            Ask::Particulars(_) => 10,
            Ask::Allocated => 11,
            Ask::Assembled => 12,
            Ask::Unneeded { .. } => 13,
        };
        body.u8(number);
        if let Some(file) = file {
            body.u64(file.0);
        }
        match self.ask {
            Ask::Lookup(_, name) => body.bytes(&name),
            Ask::Read { offset, length, .. } => {
                body.u64(offset);
                body.u32(length);
            }
            Ask::List { cookie, limit, .. } => {
                body.u64(cookie);
                body.u32(limit);
            }
            Ask::Unneeded { disk, wanted } => {
                body.u32(disk);
                let bits = Unneeded::ALL.iter().enumerate();
                let bits = bits.filter(|(_, kind)| wanted.contains(kind));
                body.u8(bits.fold(0, |bits, (bit, _)| bits | 1 << bit));
            }
            _ => {}
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let volume = fields.u32()?;
        let number = fields.u8()?;
        let ask = match number {
            1 => Ask::Volumes,
            2 => Ask::Open,
            3 => Ask::Statistics,
            11 => Ask::Allocated,
            12 => Ask::Assembled,
            13 => Ask::Unneeded {
                disk: fields.u32()?,
                wanted: wanted(fields.u8()?)?,
            },
            _ => of_file(number, FileId(fields.u64()?), fields)?,
        };
        Ok(Self { volume, ask })
    }
}

fn wanted(bits: u8) -> Result<BTreeSet<Unneeded>, Malformed> {
    if bits >> Unneeded::ALL.len() != 0 {
        return Err(Malformed("bytes that nobody needs for no known reason"));
    }
    let kinds = Unneeded::ALL.into_iter().enumerate();
    let wanted = kinds.filter(|(bit, _)| bits >> bit & 1 == 1);
    Ok(wanted.map(|(_, kind)| kind).collect())
}

fn of_file(number: u8, file: FileId, fields: &mut Fields) -> Result<Ask, Malformed> {
    Ok(match number {
        4 => Ask::Attributes(file),
        5 => Ask::Lookup(file, fields.bytes(NAME_BYTES_MAX)?),
        6 => Ask::Read {
            file,
            offset: fields.u64()?,
            length: at_most(fields.u32()?, READ_BYTES_MAX)?,
        },
        7 => Ask::List {
            directory: file,
            cookie: fields.u64()?,
            limit: at_most(fields.u32()?, ENTRIES_MAX)?,
        },
        8 => Ask::Symlink(file),
        9 => Ask::ExtendedAttributes(file),
        10 => Ask::Particulars(file),
        _ => return Err(Malformed("an unknown request")),
    })
}

fn at_most(value: u32, most: u32) -> Result<u32, Malformed> {
    match value <= most {
        true => Ok(value),
        false => Err(Malformed("more is asked for than there may be")),
    }
}

impl Wire for BlockAsk {
    fn encode(self, body: &mut Body) {
        body.u32(self.disk);
        body.u64(self.offset);
        body.u32(self.length);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            disk: fields.u32()?,
            offset: fields.u64()?,
            length: at_most(fields.u32()?, BLOCK_BYTES_MAX)?,
        })
    }
}
