//! What of a disk is read, and what is left out.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use export::{ExportError, Segments};
use guestfs::GuestError;
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
        .map(|disk| Arc::clone(disk) as Arc<dyn guestfs::Source>);
    let sources: Vec<_> = sources.collect();
    let found = LeftOut::find(&sources, wanted);
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

/// An image that is looked into before it is read.
struct Looking {
    source: Mutex<ImageSource>,
    length_bytes: u64,
}

impl guestfs::Source for Looking {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let read = self.source.lock().read_at(offset, length);
        read.map(Segments::from).map_err(|error| GuestError::Disk {
            offset,
            length,
            source: ExportError::Storage {
                detail: error.to_string().into(),
            },
        })
    }
}
