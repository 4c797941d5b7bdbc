//! Files of a simulated disk.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Change, FileContent};
use super::world::{Act, World, failure};
use super::{Access, Caching, Operation};
use crate::disk::{DIRECT_ALIGNMENT, DiskError, DiskFile};

/// An open file.
pub(super) struct SimulatedFile {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) access: Access,
    pub(super) caching: Caching,
}

impl SimulatedFile {
    fn with<R>(
        &self,
        action: &'static str,
        run: impl FnOnce(&mut FileContent) -> R,
    ) -> Result<R, DiskError> {
        let mut world = self.world.lock();
        world.check_alive(action, &self.path)?;
        self.in_world(&mut world, action, run)
    }

    fn in_world<R>(
        &self,
        world: &mut World,
        action: &'static str,
        run: impl FnOnce(&mut FileContent) -> R,
    ) -> Result<R, DiskError> {
        match world.files.get_mut(&self.number) {
            Some(file) => Ok(run(file)),
            None => Err(DiskError::new(action, &self.path, io::ErrorKind::NotFound)),
        }
    }

    fn check_writable(&self, action: &'static str) -> Result<(), DiskError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(DiskError::new(
                action,
                &self.path,
                io::ErrorKind::PermissionDenied,
            )),
        }
    }

    fn check_aligned(
        &self,
        action: &'static str,
        offset: u64,
        slice: &[u8],
    ) -> Result<(), DiskError> {
        let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
            && slice.len().is_multiple_of(DIRECT_ALIGNMENT)
            && (slice.is_empty() || slice.as_ptr().align_offset(DIRECT_ALIGNMENT) == 0);
        if self.caching == Caching::Cached || aligned {
            return Ok(());
        }
        Err(DiskError::new(
            action,
            &self.path,
            io::ErrorKind::InvalidInput,
        ))
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.check_aligned("read", offset, buffer)?;
        let mut world = self.world.lock();
        world.look(Operation::Read, "read", &self.path)?;
        self.in_world(&mut world, "read", |file| {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(file.current.len());
            let there = file.current.get(start..).unwrap_or_default();
            let count = there.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..count), there.get(..count)) {
                to.copy_from_slice(from);
            }
            count
        })
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        const ACTION: &str = "write";
        self.check_writable(ACTION)?;
        let mut at = offset;
        for slice in slices {
            self.check_aligned(ACTION, at, slice)?;
            at += slice.len() as u64;
        }
        let mut world = self.world.lock();
        let act = world.begin(Operation::Write, ACTION, &self.path)?;
        let mut bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let wanted = bytes.len();
        match act {
            Act::Skip => bytes.clear(),
            Act::Half => bytes.truncate(wanted / 2),
            Act::Fail { .. } => bytes.truncate(world.chance.below(wanted + 1)),
            Act::Do | Act::DoUnanswered => {}
        }
        let end = self.in_world(&mut world, ACTION, |file| file.current.len() as u64)?;
        // A gap between the old end and the new bytes is a hole.
        let growth = (offset + bytes.len() as u64).saturating_sub(end.max(offset));
        let missing = growth - world.take_space(growth);
        bytes.truncate(bytes.len() - usize::try_from(missing).unwrap_or(0));
        let written = bytes.len();
        if written > 0 {
            self.in_world(&mut world, ACTION, |file| {
                file.change(Change::Write { offset, bytes })
            })?;
        }
        act.answer(ACTION, &self.path)?;
        if written < wanted {
            return Err(failure(ACTION, &self.path, true));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        const ACTION: &str = "sync";
        let mut world = self.world.lock();
        let act = world.begin(Operation::Sync, ACTION, &self.path)?;
        match act {
            Act::Do | Act::DoUnanswered => {
                self.in_world(&mut world, ACTION, FileContent::sync)?;
            }
            Act::Fail { .. } => {
                world.drop_unsynced(self.number, self.caching == Caching::Cached);
            }
            Act::Half | Act::Skip => {}
        }
        act.answer(ACTION, &self.path)
    }

    fn start_writeback(&self, _offset: u64, _length: u64) {}

    fn forget_cached(&self) {
        drop(self.with("forget", FileContent::forget_clean));
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.with("measure", |file| file.current.len() as u64)
    }

    fn set_length(&self, length: u64) -> Result<(), DiskError> {
        const ACTION: &str = "set the length of";
        self.check_writable(ACTION)?;
        let mut world = self.world.lock();
        let act = world.begin(Operation::Resize, ACTION, &self.path)?;
        if act.is_done() {
            let length = usize::try_from(length)
                .map_err(|_| DiskError::new(ACTION, &self.path, io::ErrorKind::FileTooLarge))?;
            self.in_world(&mut world, ACTION, |file| {
                file.change(Change::Length(length))
            })?;
        }
        act.answer(ACTION, &self.path)
    }

    fn punch(&self, offset: u64, length: u64) {
        let mut world = self.world.lock();
        let Ok(Act::Do | Act::DoUnanswered) = world.begin(Operation::Resize, "punch", &self.path)
        else {
            return;
        };
        drop(self.in_world(&mut world, "punch", |file| {
            let end = offset.saturating_add(length).min(file.current.len() as u64);
            let zeroes = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
            file.change(Change::Write {
                offset,
                bytes: vec![0; zeroes],
            });
        }));
    }
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
