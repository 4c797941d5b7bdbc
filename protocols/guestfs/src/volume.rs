//! What lies on a disk, and the way into it.

use std::fmt;
use std::sync::Arc;

use export::{BlockExport, FileExport};

use crate::btrfs::{Btrfs, BtrfsTree, UsedExtents};
use crate::entry_tree::EntryTree;
use crate::exfat::{self, ExFat};
use crate::ext::{Ext, ExtTree, UsedGroups};
use crate::fat::{self, Fat};
use crate::iso9660::Iso;
use crate::md::Superblock;
use crate::ntfs::{self, Ntfs, NtfsTree};
use crate::partitions::{Entry, SECTOR_SIZES, Table, claims_gpt, find_gpt, is_blank, read_mbr};
use crate::recognition::recognize;
use crate::xfs::{UsedSpace, Xfs, XfsTree};
use crate::{Allocation, Content, Disk, GuestError, Place, Section, Source};

/// A partition, or a whole disk without a table.
#[derive(Clone)]
pub struct Volume {
    /// `p1` and so on, as Linux counts; `disk` for a whole disk.
    pub name: String,
    /// Where it begins on the disk.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What the table says of it.
    pub partition: Option<Partition>,
    /// What lies in it.
    pub content: Content,
    /// The name that was given to what lies in it.
    pub label: Option<String>,
    source: Arc<dyn Source>,
    /// The others that its filesystem lies on, as far as they are known.
    pub(crate) others: Vec<Arc<dyn Source>>,
    /// Whether it may go on elsewhere, as the disk with its table is a member of an array.
    pub(crate) is_striped: bool,
}

/// What a table of partitions says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for; may be wrong, as nobody checks it.
    pub kind: String,
    /// Its name in the table.
    pub label: Option<String>,
}

/// Finds the volumes of a disk.
pub fn open(disk: Arc<dyn BlockExport>) -> Result<Vec<Volume>, GuestError> {
    open_source(Arc::new(Disk::new(disk)))
}

/// Finds the volumes of whatever is like a disk.
pub fn open_source(disk: Arc<dyn Source>) -> Result<Vec<Volume>, GuestError> {
    if disk.length_bytes() < 512 {
        return Ok(vec![Volume::whole(disk)?]);
    }
    let first = disk.read(0, 512)?.to_vec();
    if claims_gpt(&first) {
        let table = find_gpt(&*disk)?.ok_or(GuestError::corrupt(
            Place::PartitionTable { offset_bytes: 512 },
            "neither the primary nor the backup is there",
        ))?;
        return volumes(&disk, table.entries);
    }
    let whole = Volume::whole(Arc::clone(&disk))?;
    if whole.content.has_boot_sector() {
        return Ok(vec![whole]);
    }
    if let Some(best) = mbr_readings(&disk)?.into_iter().next() {
        return Ok(best.volumes);
    }
    if matches!(whole.content, Content::Unknown | Content::Unreadable)
        && is_blank(&first)
        && let Ok(Some(table)) = find_gpt(&*disk)
    {
        return volumes(&disk, table.entries);
    }
    Ok(vec![whole])
}

/// An MBR, read in one of the units in which it may count.
pub(crate) struct MbrReading {
    pub table: Table,
    pub volumes: Vec<Volume>,
    /// How many of them hold something that is known.
    pub known: usize,
}

/// Each way to read an MBR that makes sense; it does not say in which unit it counts. The best is the first.
pub(crate) fn mbr_readings(disk: &Arc<dyn Source>) -> Result<Vec<MbrReading>, GuestError> {
    let mut readings = Vec::new();
    for sector_bytes in SECTOR_SIZES {
        let Some(table) = read_mbr(&**disk, sector_bytes)? else {
            continue;
        };
        let volumes = volumes(disk, table.entries.clone())?;
        let known = volumes
            .iter()
            .filter(|volume| !matches!(volume.content, Content::Unknown | Content::Unreadable))
            .count();
        readings.push(MbrReading {
            table,
            volumes,
            known,
        });
    }
    readings.sort_by_key(|reading| std::cmp::Reverse(reading.known));
    Ok(readings)
}

fn volumes(disk: &Arc<dyn Source>, entries: Vec<Entry>) -> Result<Vec<Volume>, GuestError> {
    let volume = |entry: Entry| {
        let section = Section::new(Arc::clone(disk), entry.offset_bytes, entry.length_bytes);
        let mut volume = Volume::whole(Arc::new(section))?;
        volume.name = format!("p{}", entry.number);
        volume.offset_bytes = entry.offset_bytes;
        volume.partition = Some(Partition {
            kind: entry.kind,
            label: entry.label,
        });
        Ok(volume)
    };
    let mut volumes: Vec<Volume> = entries.into_iter().map(volume).collect::<Result<_, _>>()?;
    if is_striped(&**disk, &volumes)? {
        volumes
            .iter_mut()
            .for_each(|volume| volume.is_striped = true);
    }
    Ok(volumes)
}

/// Whether a disk with partitions says that it is a member of an array that is more than a mirror: then the table is the
/// array's, and what follows it is not in order. The mark may be an old one, so that they are shown nevertheless.
fn is_striped(disk: &dyn Source, partitions: &[Volume]) -> Result<bool, GuestError> {
    let found = match Superblock::find(disk) {
        Err(error) if error.is_of_one_place() => return Ok(true),
        found => found?,
    };
    Ok(found.is_some_and(|found| found.level != 1 && !found.is_of_partition(partitions)))
}

impl Volume {
    fn whole(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let (content, mut label) = match recognize(&*source) {
            Err(error) if error.is_of_one_place() => {
                tracing::warn!(%error, "the beginning of a volume cannot be read");
                (Content::Unreadable, None)
            }
            other => other?,
        };
        // In these the label is that of the folder at the top.
        let in_folder = match content {
            Content::Fat => Fat::open(Arc::clone(&source)).and_then(|fat| fat.label()),
            Content::ExFat => ExFat::open(Arc::clone(&source)).map(|exfat| exfat.label()),
            Content::Ntfs => Ok(ntfs::label(&source)),
            _ => Ok(None),
        };
        match in_folder {
            Err(error) if !error.is_of_one_place() => return Err(error),
            found => label = found.unwrap_or_default().or(label),
        }
        Ok(Self {
            name: "disk".to_owned(),
            offset_bytes: 0,
            length_bytes: source.length_bytes(),
            partition: None,
            content,
            label,
            source,
            others: Vec::new(),
            is_striped: false,
        })
    }

    /// The bytes of the volume.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source)
    }

    /// Its files and folders, as a crash at the moment of the backup would have left them, with the journal replayed. A volume
    /// that is put together from devices of one filesystem knows them all.
    pub fn files(&self) -> Result<Arc<dyn FileExport>, GuestError> {
        self.files_with(&[])
    }

    /// The same for a filesystem that lies on this volume and others. Where one is missing, what has a copy on those that
    /// are here can be read.
    pub fn files_with(&self, others: &[Self]) -> Result<Arc<dyn FileExport>, GuestError> {
        match self.content {
            Content::Ext2 | Content::Ext3 | Content::Ext4 => {
                Ok(Arc::new(ExtTree::new(Ext::open(self.source())?)))
            }
            Content::Fat => Ok(Arc::new(EntryTree::new(Fat::open(self.source())?))),
            Content::ExFat => Ok(Arc::new(EntryTree::new(ExFat::open(self.source())?))),
            Content::Iso9660 => Ok(Arc::new(EntryTree::new(Iso::open(self.source())?))),
            Content::Xfs => Ok(Arc::new(XfsTree::new(Xfs::open(self.source())?))),
            Content::Ntfs => Ok(Arc::new(NtfsTree::new(Ntfs::open(self.source())?))),
            Content::Btrfs => {
                let btrfs = Btrfs::open(self.sources_with(others))?;
                Ok(Arc::new(BtrfsTree::new(btrfs)?))
            }
            other => Err(GuestError::NoReader {
                content: other.name(),
            }),
        }
    }

    /// Which of its bytes are in use. Whoever gets an error here, or from it, takes the whole volume for used.
    pub fn allocated(&self) -> Result<Allocation, GuestError> {
        self.allocated_with(&[])
    }

    /// The same, of this volume alone, for a filesystem that lies on this volume and others.
    pub fn allocated_with(&self, others: &[Self]) -> Result<Allocation, GuestError> {
        let volume = self.source.length_bytes();
        if self.is_striped {
            return Err(GuestError::unsupported(
                "a map of a partition on a disk that is a member of an array",
            ));
        }
        match self.content {
            Content::Ext2 | Content::Ext3 | Content::Ext4 => {
                let used = UsedGroups::of(Ext::open(self.source())?)?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            Content::Fat => {
                let used = fat::UsedClusters::of(self.source())?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            Content::ExFat => {
                let used = exfat::UsedClusters::of(self.source())?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            // Nobody writes to it again, so that it is as long as what is in it.
            Content::Iso9660 => Ok(Allocation::new(std::iter::empty(), 0, volume)),
            Content::Ntfs => {
                let used = ntfs::UsedClusters::of(Ntfs::open(self.source())?)?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            Content::Xfs => {
                let used = UsedSpace::of(Xfs::open(self.source())?)?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            Content::Btrfs => {
                let used = UsedExtents::of(Btrfs::open(self.sources_with(others))?)?;
                let end = used.end_bytes();
                Ok(Allocation::new(used, end, volume))
            }
            other => Err(GuestError::NoReader {
                content: other.name(),
            }),
        }
    }

    /// What the volumes of a filesystem on several have in common; `None` for what never lies on several.
    pub fn filesystem(&self) -> Result<Option<[u8; 16]>, GuestError> {
        match self.content {
            Content::Btrfs => Ok(Some(Btrfs::identify(&*self.source)?.filesystem)),
            _ => Ok(None),
        }
    }

    fn sources_with(&self, others: &[Self]) -> Vec<Arc<dyn Source>> {
        let own = [&self.source].into_iter().chain(&self.others);
        let others = others.iter().map(|other| &other.source);
        own.chain(others).cloned().collect()
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("name", &self.name)
            .field("offset_bytes", &self.offset_bytes)
            .field("length_bytes", &self.length_bytes)
            .field("partition", &self.partition)
            .field("content", &self.content)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}
