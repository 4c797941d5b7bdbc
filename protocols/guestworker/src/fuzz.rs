//! All that a worker which a guest's disk broke can say to its caller.

use std::io::{self, Cursor, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use export::{
    Attributes, DirectoryEntry, ExtendedAttribute, FileId, FileRead, MemoryDisk, Particulars,
    Statistics,
};

use crate::client::{Disks, check_list, check_read, converse};
use crate::lane::{Frame, Lane, LaneFault};
use crate::wire::{Fields, Found, Hello, Kind, Malformed, Put, Ranges, Request, Settings, Wire};
use crate::{UnneededBytes, VolumeDescription};

/// Takes `bytes` as what came over a lane: the first says what was asked, the rest is the answer. Returns whether it would
/// be believed.
pub fn fuzz_worker(bytes: &[u8]) -> bool {
    let Some((asked, answer)) = bytes.split_first() else {
        return false;
    };
    let disks = Disks::new(vec![Arc::new(MemoryDisk::new(1 << 20))]);
    let mut lane = Lane::new(OneWay(Cursor::new(answer)));
    let Ok(frame) = converse(&mut lane, &disks, &mut || false) else {
        return false;
    };
    believed(*asked, frame).is_ok()
}

fn believed(asked: u8, frame: Frame) -> Result<(), LaneFault> {
    if frame.kind == Kind::Failed {
        take::<crate::Refusal>(frame)?;
        return Ok(());
    }
    match asked % 15 {
        0 => drop(take::<Vec<VolumeDescription>>(frame)?),
        1 => drop(take::<FileId>(frame)),
        2 => drop(take::<Statistics>(frame)?),
        3 => drop(take::<Attributes>(frame)?),
        4 => check_read(&take::<FileRead>(frame)?, 4096)?,
        5 => check_list(&take::<Vec<DirectoryEntry>>(frame)?, 0, 100)?,
        6 => drop(take::<Vec<u8>>(frame)?),
        7 => drop(take::<Vec<ExtendedAttribute>>(frame)?),
        8 => drop(take::<Particulars>(frame)?),
        9 => {
            let Ranges(ranges) = take(frame)?;
            assert!(!ranges.iter().any(Range::is_empty));
        }
        10 => drop(take::<Hello>(frame)?),
        11 => drop(take::<Found>(frame)?),
        12 => drop(take::<Put>(frame)?),
        13 => drop(take::<UnneededBytes>(frame)?),
        // The worker's own side.
        _ => drop((
            Fields::only::<Settings>(frame.body.clone()),
            Fields::only::<Request>(frame.body),
        )),
    }
    Ok(())
}

fn take<T: Wire>(frame: Frame) -> Result<T, Malformed> {
    Fields::only(frame.body)
}

/// What is read is there already, what is written is forgotten.
struct OneWay<'a>(Cursor<&'a [u8]>);

impl Read for OneWay<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for OneWay<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
