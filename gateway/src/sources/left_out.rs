//! What a backup of disks need not have: free blocks, gaps between partitions, swap and the like.
//!
//! What cannot be told with certainty is kept: a map that is too large costs space, one that is too small costs data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use export::BlockExport;
use guestworker::{Leavable, Unneeded, UnneededBytes, Worker, WorkerOptions};
use serde::Serialize;

/// What may be left out of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LeaveOut {
    /// Blocks that a filesystem does not use.
    Free,
    /// What is in no partition.
    Gaps,
    /// Swap of Linux, but for its first page.
    Swap,
    /// Windows' pagefile.sys and swapfile.sys.
    PageFiles,
    /// Windows' hiberfil.sys: the machine starts anew and does not resume.
    Hibernation,
    /// What was thrown away and is still there.
    RecycleBin,
}

impl LeaveOut {
    /// Everything.
    pub fn all() -> BTreeSet<Self> {
        use clap::ValueEnum as _;
        Self::value_variants().iter().copied().collect()
    }

    fn kind(self) -> Unneeded {
        match self {
            Self::Free => Unneeded::Free,
            Self::Gaps => Unneeded::Gaps,
            Self::Swap => Unneeded::Left(Leavable::Swap),
            Self::PageFiles => Unneeded::Left(Leavable::PageFile),
            Self::Hibernation => Unneeded::Left(Leavable::Hibernation),
            Self::RecycleBin => Unneeded::Left(Leavable::RecycleBin),
        }
    }

    fn of(kind: Unneeded) -> Option<Self> {
        Self::all().into_iter().find(|what| what.kind() == kind)
    }
}

impl fmt::Display for LeaveOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free blocks",
            Self::Gaps => "gaps between partitions",
            Self::Swap => "swap",
            Self::PageFiles => "page files",
            Self::Hibernation => "hibernation",
            Self::RecycleBin => "recycle bin",
        })
    }
}

/// What is left out of one disk.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeftOut {
    /// How much.
    pub bytes: u64,
    /// How much of what.
    pub by: BTreeMap<LeaveOut, u64>,
    /// What is backed up whole, and why.
    pub whole: Vec<KeptWhole>,
    /// Stretches of the disk: ascending, not touching, in multiples of 512.
    #[serde(skip)]
    pub ranges: Vec<Range<u64>>,
}

/// A volume of which free blocks could not be told from others.
#[derive(Debug, Clone, Serialize)]
pub struct KeptWhole {
    /// Its name.
    pub volume: String,
    /// What is in the way.
    pub reason: String,
}

impl LeftOut {
    /// Looks at the disks of a machine for what is `wanted` to be left out of each. A process without rights reads them; where it
    /// gives up, all is kept.
    pub fn find(
        disks: &[Arc<dyn BlockExport>],
        wanted: &BTreeSet<LeaveOut>,
        options: &WorkerOptions,
    ) -> Vec<Self> {
        let wanted = wanted.iter().map(|what| what.kind()).collect();
        let worker = Worker::start(disks.to_vec(), options.clone());
        match worker.and_then(|worker| worker.unneeded(&wanted)) {
            Ok(found) => found.into_iter().map(Self::from).collect(),
            Err(refusal) => {
                let kept = |number| Self {
                    whole: vec![KeptWhole {
                        volume: format!("disk-{number}"),
                        reason: refusal.to_string(),
                    }],
                    ..Self::default()
                };
                (0..disks.len()).map(kept).collect()
            }
        }
    }
}

impl From<UnneededBytes> for LeftOut {
    fn from(found: UnneededBytes) -> Self {
        let by: BTreeMap<_, _> = found
            .by
            .into_iter()
            .filter_map(|(kind, bytes)| Some((LeaveOut::of(kind)?, bytes)))
            .collect();
        let whole = found.whole.into_iter();
        Self {
            bytes: by.values().sum(),
            by,
            whole: whole
                .map(|(volume, reason)| KeptWhole { volume, reason })
                .collect(),
            ranges: found.ranges,
        }
    }
}
