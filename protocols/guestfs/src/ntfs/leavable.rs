//! Files that Windows makes again, and what was thrown away.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::allocation::merge;
use super::folder::Listing;
use super::node::{Node, Value};
use super::record::{Form, Record, kind, reference};
use super::reparse::Nature;
use super::{Ntfs, ROOT};
use crate::{GuestError, Leavable, Place, Source};

/// What can be left out of the volume in `source`, ascending.
pub(crate) fn leavable(source: Arc<dyn Source>) -> Result<Vec<(Leavable, Range<u64>)>, GuestError> {
    let ntfs = Ntfs::open(source)?;
    let mut found = Gathered::default();
    let root = ntfs.node(ROOT)?;
    for (name, reason) in FILES {
        let Some(node) = ntfs.find(&root, name)? else {
            continue;
        };
        if reason != Leavable::Hibernation || ntfs.is_spent(&node)? {
            found.add(&node, &root, reason)?;
        }
    }
    ntfs.gather_thrown_away(&root, &mut found)?;
    found.ranges.sort_unstable_by_key(|(_, range)| range.start);
    ntfs.prove_alone(&found)?;
    let touched = ntfs.log()?.touched;
    let cluster = ntfs.boot.cluster_bytes;
    let mut left = Vec::new();
    for (reason, range) in found.ranges {
        for part in without(range, &touched) {
            left.push((reason, part.start * cluster..part.end * cluster));
        }
    }
    Ok(left)
}

/// What is found, in clusters, and of which records.
#[derive(Default)]
struct Gathered {
    ranges: Vec<(Leavable, Range<u64>)>,
    owners: BTreeSet<u64>,
}

impl Gathered {
    /// Adds the content of a file that has no other name.
    fn add(&mut self, node: &Node, folder: &Node, reason: Leavable) -> Result<(), GuestError> {
        if node.is_folder || !matches!(node.nature, Nature::File | Nature::Stub(_)) {
            return Ok(());
        }
        let names = node.names()?;
        let mut long = names.iter().filter(|name| !name.is_short());
        let only = long.next().filter(|_| long.next().is_none());
        let here = (folder.number, folder.sequence);
        if only.is_none_or(|name| reference(name.folder) != here) {
            return Ok(());
        }
        if !self.owners.insert(node.number) {
            return Ok(());
        }
        for attribute in node.attributes.iter().filter(|one| one.kind == kind::DATA) {
            if let Value::Stored(stored) = &attribute.value {
                let runs = stored.runs.on_volume().map(|range| (reason, range));
                self.ranges.extend(runs);
            }
        }
        if self.ranges.len() > RANGES_MAX {
            return Err(GuestError::TooLarge {
                what: "what can be left out",
                limit: RANGES_MAX as u64,
            });
        }
        Ok(())
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        let after = self
            .ranges
            .partition_point(|(_, other)| other.end <= range.start);
        self.ranges
            .get(after)
            .is_some_and(|(_, other)| other.start < range.end)
    }
}

impl Ntfs {
    /// Whether nothing is to be woken from what Windows wrote when it went to sleep.
    fn is_spent(&self, node: &Node) -> Result<bool, GuestError> {
        let Some(data) = node.data() else {
            return Ok(false);
        };
        let head = self.read(node.number, data, 0, 4096)?.to_vec();
        let is_awake = head.starts_with(b"wake") || head.starts_with(b"WAKE");
        Ok(is_awake || head.iter().all(|byte| *byte == 0))
    }

    fn gather_thrown_away(&self, root: &Node, found: &mut Gathered) -> Result<(), GuestError> {
        let Some(bin) = self.find(root, b"$Recycle.Bin")? else {
            return Ok(());
        };
        let mut seen = BTreeSet::new();
        let mut waiting = vec![bin];
        while let Some(folder) = waiting.pop() {
            if folder.nature != Nature::Folder || !seen.insert(folder.number) {
                continue;
            }
            if seen.len() > FOLDERS_MAX {
                return Err(GuestError::TooLarge {
                    what: "the number of folders that were thrown away",
                    limit: FOLDERS_MAX as u64,
                });
            }
            let mut listing = Listing::after(self, &folder, 0)?;
            while let Some(entry) = listing.next()? {
                let node = self.follow(&folder, entry.reference)?;
                if node.is_folder {
                    waiting.push(node);
                } else {
                    found.add(&node, &folder, Leavable::RecycleBin)?;
                }
            }
        }
        Ok(())
    }

    /// Refuses if anything else has one of the clusters.
    fn prove_alone(&self, found: &Gathered) -> Result<(), GuestError> {
        let mut before = 0;
        for (_, range) in &found.ranges {
            if range.start < before {
                return Err(GuestError::corrupt(
                    Place::Record(0),
                    "two files have the same clusters",
                ));
            }
            before = range.end;
        }
        if found.ranges.is_empty() {
            return Ok(());
        }
        self.each_record(|record| self.prove_other(&record, found))
    }

    fn prove_other(&self, record: &Record, found: &Gathered) -> Result<(), GuestError> {
        let owner = match record.base {
            0 => record.number,
            base => reference(base).0,
        };
        let is_owner = found.owners.contains(&owner);
        let is_content = |part: &super::record::Part| is_owner && part.kind == kind::DATA;
        let others = record.parts()?.into_iter().filter(|part| !is_content(part));
        for part in others.filter(|part| matches!(part.form, Form::Mapped(_))) {
            let shared = self.clusters_of_part(record.number, &part)?;
            if shared.iter().any(|range| found.overlaps(range)) {
                return Err(GuestError::corrupt(
                    Place::Record(record.number),
                    "it has clusters of a file that can be left out",
                ));
            }
        }
        Ok(())
    }
}

/// What of `range` is in none of `holes`, which are sorted.
fn without(range: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    let first = holes.partition_point(|hole| hole.end <= range.start);
    for hole in holes
        .iter()
        .skip(first)
        .take_while(|hole| hole.start < range.end)
    {
        if hole.start > at {
            parts.push(at..hole.start);
        }
        at = at.max(hole.end);
    }
    if at < range.end {
        parts.push(at..range.end);
    }
    merge(&mut parts);
    parts
}

const FILES: [(&[u8], Leavable); 3] = [
    (b"pagefile.sys", Leavable::PageFile),
    (b"swapfile.sys", Leavable::PageFile),
    (b"hiberfil.sys", Leavable::Hibernation),
];
const FOLDERS_MAX: usize = 1 << 18;
const RANGES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_touches_is_cut_out() {
        assert_eq!(
            without(10..20, &[0..11, 13..14, 19..30, 40..50]),
            [11..13, 14..19]
        );
        assert_eq!(without(10..20, &[]), vec![10..20]);
        assert!(without(10..20, &[5..15, 15..25]).is_empty());
    }
}
