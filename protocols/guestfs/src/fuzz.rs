//! All that a hostile disk can make this crate do, within bounds.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use export::{FileExport, FileId, FileKind, Segments};

use crate::{Assembled, GuestError, Source, Volume, open_sources};

/// Reads `disk` as a disk: its volumes, their files as far as a bound reaches, and what is allocated. Returns how many
/// objects and ranges could be read. Nothing may panic, and everything ends.
pub fn fuzz_disk(disk: &[u8]) -> usize {
    fuzz_disks(&[disk])
}

/// Reads `disks` as those of one machine: what lies on each, and what is put together from them.
pub fn fuzz_disks(disks: &[&[u8]]) -> usize {
    let disks = disks
        .iter()
        .map(|disk| Arc::new(Buffer(Bytes::copy_from_slice(disk))) as Arc<dyn Source>);
    let disks: Vec<_> = disks.collect();
    disks.iter().for_each(|disk| drop(crate::gaps(disk)));
    let set = open_sources(&disks);
    let used = set.used();
    let ranges: usize = used.iter().map(|used| used.ranges.len()).sum();
    let volumes = set.disks.iter().flatten().flatten();
    let assembled = set.assembled.iter();
    let all = volumes.chain(assembled.filter_map(|Assembled { volume, .. }| volume.as_ref().ok()));
    all.map(look_into).sum::<usize>() + ranges
}

fn look_into(volume: &Volume) -> usize {
    let source = volume.source();
    let end = source.length_bytes();
    let step = end.min(u64::from(READ_BYTES) / 4);
    let length = usize::try_from(step).unwrap_or(0);
    let read = [0, (end - step) / 2 + 1, end - step]
        .into_iter()
        .filter(|at| at + step <= end && source.read(*at, length).is_ok());
    drop(volume.leavable());
    read.count() + volume.files().map_or(0, |tree| walk(&*tree))
}

fn walk(tree: &dyn FileExport) -> usize {
    let mut waiting = vec![tree.root()];
    let mut seen = BTreeSet::new();
    while let Some(object) = waiting.pop() {
        if seen.len() >= OBJECTS_MAX || !seen.insert(object) {
            continue;
        }
        look_at(tree, object, &mut waiting);
    }
    seen.len()
}

fn look_at(tree: &dyn FileExport, object: FileId, waiting: &mut Vec<FileId>) {
    let Ok(attributes) = tree.attributes(object) else {
        return;
    };
    drop(tree.extended_attributes(object));
    drop(tree.particulars(object));
    match attributes.kind {
        FileKind::File => {
            let end = attributes.size_bytes.saturating_sub(u64::from(READ_BYTES));
            drop(tree.read(object, 0, READ_BYTES));
            drop(tree.read(object, end, READ_BYTES));
        }
        FileKind::Symlink => drop(tree.read_symlink(object)),
        FileKind::Directory => {
            drop(tree.lookup(object, b".."));
            let mut cookie = 0;
            for _ in 0..LISTINGS_MAX {
                let Ok(entries) = tree.list(object, cookie, 64) else {
                    break;
                };
                let Some(last) = entries.last() else {
                    break;
                };
                assert!(last.cookie > cookie, "a listing goes forward");
                cookie = last.cookie;
                drop(tree.lookup(object, &last.name));
                waiting.extend(entries.iter().map(|entry| entry.file));
            }
        }
    }
}

struct Buffer(Bytes);

impl Source for Buffer {
    fn length_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        range
            .filter(|range| range.end <= self.0.len())
            .map(|range| Segments::from(self.0.slice(range)))
            .ok_or(GuestError::Disk {
                offset,
                length,
                source: export::ExportError::OutOfRange {
                    offset,
                    length: length as u64,
                },
            })
    }
}

const OBJECTS_MAX: usize = 256;
const LISTINGS_MAX: usize = 16;
const READ_BYTES: u32 = 1 << 20;
