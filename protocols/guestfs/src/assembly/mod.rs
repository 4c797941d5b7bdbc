//! The disks of one machine, and the volumes that are put together from them.
//!
//! Everything that bytes can be read of is a node: disks, partitions, arrays, logical volumes. Whatever is found to be a
//! member of an array or a physical volume may be a part of further nodes. Each array and each volume is put together
//! once, out of nodes that were there before, so nothing can be a part of itself, and depth is bounded. Filesystems that lie
//! on several nodes come last.

mod assembler;
mod filesystems;
mod names;
mod ranges;
mod used;

use std::collections::BTreeSet;
use std::sync::Arc;

use export::BlockExport;

use assembler::Assembler;
use used::Graph;
pub use used::{UsedDisk, Whole};

use crate::{Disk, GuestError, Leavable, Source, Volume};

/// What lies on the disks of a machine.
#[derive(Debug)]
pub struct DiskSet {
    /// The volumes of each disk, in the order in which the disks were given, or why there are none.
    pub disks: Vec<Result<Vec<Volume>, GuestError>>,
    /// What is put together from them, by name.
    pub assembled: Vec<Assembled>,
    /// What is a member of something, whether that can be read or not.
    pub memberships: Vec<Membership>,
    graph: Graph,
}

/// An array, a logical volume, a partition of one, or a filesystem over several devices.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// `md0` or `md-NAME` for an array, `GROUP-VOLUME` for a logical volume, with `-p1` and so on for partitions of one;
    /// `btrfs-LABEL` for a filesystem. It is a sound name of a file, and no other in the set has it.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Of what it is made: names of those here, and `disk-0` or `disk-0/p1` for what lies on the first disk.
    pub members: Vec<String>,
    /// What is not there of what it should be made of, for people. It may be readable without.
    pub missing: Vec<String>,
    /// The volume, or why it cannot be read.
    pub volume: Result<Volume, GuestError>,
}

/// What something is there for that shows no files itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its name, as in [`Assembled::members`].
    pub member: String,
    /// What it is, and of what, for people.
    pub role: String,
}

/// Finds what lies on the disks of one machine.
pub fn open_disks(disks: &[Arc<dyn BlockExport>]) -> DiskSet {
    let sources = disks
        .iter()
        .map(|disk| Arc::new(Disk::new(Arc::clone(disk))) as Arc<dyn Source>);
    open_sources(&sources.collect::<Vec<_>>())
}

/// Finds what lies on whatever is like the disks of one machine.
pub fn open_sources(disks: &[Arc<dyn Source>]) -> DiskSet {
    Assembler::new(disks).run()
}

impl Assembled {
    /// Something that is not read yet.
    fn unread(
        name: String,
        description: String,
        members: Vec<String>,
        missing: Vec<String>,
    ) -> Self {
        Self {
            name,
            description,
            members,
            missing,
            volume: Err(GuestError::NotFound),
        }
    }
}

impl DiskSet {
    /// Which bytes of each disk are in use, in the order of the disks: by what is put together from them, down to the
    /// filesystems inside. What cannot be looked into is in use as a whole, and is named.
    pub fn used(&self) -> Vec<UsedDisk> {
        self.graph.used(&BTreeSet::new())
    }

    /// The same without those kinds of what is in use and need not be kept. What is left out of a logical volume or an array
    /// is left out of the disks only where nothing else needs it: of arrays with parity whole stripes.
    pub fn used_without(&self, leave: &BTreeSet<Leavable>) -> Vec<UsedDisk> {
        self.graph.used(leave)
    }

    /// The kinds that there are of what need not be kept.
    pub fn leavable(&self) -> BTreeSet<Leavable> {
        self.graph.leavable()
    }
}
