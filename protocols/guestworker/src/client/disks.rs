//! The disks that a worker may ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use export::{BlockExport, BlockProperties, ExportError, Segments};
use parking_lot::Mutex;

use crate::wire::BlockAsk;

use super::connection::Clock;

/// Disks, and how long they took so far.
pub(crate) struct Disks {
    all: Vec<Arc<dyn BlockExport>>,
    reading: Mutex<Reading>,
}

/// Time in which at least one read was under way.
#[derive(Default)]
struct Reading {
    under_way: usize,
    since: Option<Instant>,
    before: Duration,
}

impl Disks {
    pub(crate) fn new(all: Vec<Arc<dyn BlockExport>>) -> Self {
        let reading = Mutex::default();
        Self { all, reading }
    }

    pub(crate) fn properties(&self) -> Vec<BlockProperties> {
        self.all.iter().map(|disk| disk.properties()).collect()
    }

    pub(super) fn clock(&self) -> Clock<'_> {
        Clock::new(self)
    }

    /// Time that reads took so far, those at once counted once: while somebody waits for a disk, somebody else may wait
    /// for him.
    pub(super) fn time_read(&self) -> Duration {
        let reading = self.reading.lock();
        let now = reading.since.map(|since| since.elapsed());
        reading.before + now.unwrap_or_default()
    }

    /// Reads what a worker asks for, who may ask for anything.
    pub(crate) fn read(&self, ask: BlockAsk) -> Result<Segments, ExportError> {
        let BlockAsk {
            disk,
            offset,
            length,
        } = ask;
        let disk = usize::try_from(disk).ok();
        let disk = disk.and_then(|disk| self.all.get(disk));
        let disk = disk.ok_or(ExportError::NotFound)?;
        disk.properties().check(offset, length.into())?;
        self.begin();
        let read = disk.read(offset, length);
        self.finish();
        read.and_then(|data| match data.len() == length as usize {
            true => Ok(data),
            false => Err(ExportError::OutOfRange {
                offset,
                length: length.into(),
            }),
        })
    }

    fn begin(&self) {
        let mut reading = self.reading.lock();
        reading.under_way += 1;
        reading.since.get_or_insert_with(Instant::now);
    }

    fn finish(&self) {
        let mut reading = self.reading.lock();
        reading.under_way -= 1;
        if reading.under_way == 0
            && let Some(since) = reading.since.take()
        {
            reading.before += since.elapsed();
        }
    }
}
