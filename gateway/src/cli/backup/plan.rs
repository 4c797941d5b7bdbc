//! What of a disk is read, and what is left out.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use export::{BlockExport, BlockProperties, Durability, ExportError, Extent, Segments, ZeroMode};
use guestworker::WorkerOptions;
use parking_lot::Mutex;

use super::Disk;
use crate::cli::client::Client;
use crate::framing::{Decoder, Frame};
use crate::sources::image::ImageSource;
use crate::sources::left_out::{LeaveOut, LeftOut};
use crate::sources::ranges::{complement, intersection, union};

/// Finds what is `wanted` to be left out of disks, which are looked at together: a volume may lie on several.
pub(super) fn leave_out(disks: Vec<Disk>, wanted: &BTreeSet<LeaveOut>) -> Result<Vec<Disk>> {
    let (mut looking, mut changed) = (Vec::new(), Vec::new());
    for disk in disks {
        let length_bytes = disk.source.size_bytes();
        looking.push(Arc::new(Looking {
            source: Mutex::new(disk.source),
            length_bytes,
        }));
        changed.push(disk.changed);
    }
    let sources = looking
        .iter()
        .map(|disk| Arc::clone(disk) as Arc<dyn BlockExport>);
    let sources: Vec<_> = sources.collect();
    let found = LeftOut::find(&sources, wanted, &reading());
    drop(sources);
    let disks = looking.into_iter().zip(changed).zip(found);
    let disk = |((looking, changed), left_out): ((Arc<Looking>, _), LeftOut)| {
        let looking = Arc::into_inner(looking).context("a disk that was looked into is in use")?;
        Ok(Disk {
            source: looking.source.into_inner(),
            changed,
            left_out: Some(left_out),
        })
    };
    disks.map(disk).collect()
}

/// What of a disk is sent, and what is left out.
pub(super) struct Plan {
    /// Ascending; none: everything.
    pub(super) read: Option<Vec<Range<u64>>>,
    pub(super) excluded: Vec<Range<u64>>,
    size_bytes: u64,
}

impl Plan {
    /// For a disk whose backup is at `path`; over one of the same size if it `has_base`.
    pub(super) fn new(client: &Client, path: &str, disk: &Disk, has_base: bool) -> Result<Self> {
        let size_bytes = disk.source.size_bytes();
        let excluded = disk
            .left_out
            .as_ref()
            .map_or(Vec::new(), |left_out| left_out.ranges.clone());
        let used = complement(&excluded, size_bytes);
        let read = match &disk.changed {
            Some(changed) if has_base => {
                // What was left out below and is in use now is not there, although it did not change.
                let unknown = excluded_below(client, path)?;
                let wanted = union(changed.ranges(), &unknown);
                Some(intersection(&wanted, &used))
            }
            _ if excluded.is_empty() => None,
            _ => Some(used),
        };
        Ok(Self {
            read,
            excluded,
            size_bytes,
        })
    }

    /// All that is said of the disk, in order: stretches, and whether they are read.
    pub(super) fn steps(&self) -> Vec<(Range<u64>, bool)> {
        let all = 0..self.size_bytes;
        let read = self.read.as_deref().unwrap_or(std::slice::from_ref(&all));
        let read = read.iter().map(|range| (range.clone(), true));
        let excluded = self.excluded.iter().map(|range| (range.clone(), false));
        let mut steps: Vec<_> = read.chain(excluded).collect();
        steps.sort_unstable_by_key(|(range, _)| range.start);
        steps
    }
}

/// What was left out of the disk in the point below.
fn excluded_below(client: &Client, path: &str) -> Result<Vec<Range<u64>>> {
    let mut body = Vec::new();
    let mut reader = client.get_stream(&format!("{path}/excluded"))?;
    reader
        .read_to_end(&mut body)
        .context("the daemon's answer was cut")?;
    let mut decoder = Decoder::new();
    decoder.push(&body);
    let mut ranges = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        if let Frame::Excluded { offset, length } = frame {
            ranges.push(offset..offset + length);
        }
    }
    decoder.finish()?;
    Ok(union(&ranges, &[]))
}

/// How the disks are read: maps of large ones take long, and there are many ranges.
fn reading() -> WorkerOptions {
    WorkerOptions {
        patience: PATIENCE,
        memory_bytes: MEMORY_BYTES,
        lanes: 1,
        ..WorkerOptions::default()
    }
}

/// An image that is looked into before it is read.
struct Looking {
    source: Mutex<ImageSource>,
    length_bytes: u64,
}

impl BlockExport for Looking {
    fn properties(&self) -> BlockProperties {
        BlockProperties {
            size_bytes: self.length_bytes,
            block_size_bytes: 512,
            preferred_size_bytes: 4096,
            read_only: true,
            identity: [0; 16],
        }
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        let length = usize::try_from(length).map_err(|_| ExportError::Invalid)?;
        let read = self.source.lock().read_at(offset, length);
        read.map(Segments::from)
            .map_err(|error| ExportError::Storage {
                detail: error.to_string().into(),
            })
    }

    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
        Err(ExportError::NotSupported)
    }
}

/// Longest time for one disk, without the reading.
const PATIENCE: Duration = Duration::from_secs(600);
const MEMORY_BYTES: u64 = 2 << 30;
