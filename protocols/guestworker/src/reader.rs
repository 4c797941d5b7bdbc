//! What finds volumes and their files on the disks of a guest: the same face in the process and out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use export::{BlockExport, ExportError, FileExport};
use guestfs::{
    Assembled, Content, Disk, GuestError, Membership, Partition, Source, Unneeded, UnneededOnDisk,
    Volume,
};

/// Finds what lies on disks.
pub trait Reader: Send + Sync + 'static {
    /// The volumes on the disks of one guest, always in the same order. A disk that cannot be looked at is a volume that
    /// says why.
    ///
    /// # Errors
    /// If nothing can be said of any.
    fn open(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Vec<Box<dyn GuestVolume>>, Refusal>;

    /// The volumes that are put together from the disks, always in the same order. What cannot be read is a volume that says
    /// why; so is a disk that cannot be looked at, as something may lack it.
    ///
    /// # Errors
    /// If nothing can be said of any.
    fn assemble(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Assembly, Refusal> {
        let _ = disks;
        Ok(Assembly::default())
    }

    /// Which bytes of each disk nobody needs back, as far as that is `wanted`.
    ///
    /// # Errors
    /// If nothing can be said of any.
    fn unneeded(
        &self,
        disks: &[Arc<dyn BlockExport>],
        wanted: &BTreeSet<Unneeded>,
    ) -> Result<Vec<UnneededBytes>, Refusal> {
        let _ = (disks, wanted);
        Err(ExportError::NotSupported.into())
    }
}

/// What is not needed of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnneededBytes {
    /// Ascending, not touching, in multiples of 512.
    pub ranges: Vec<Range<u64>>,
    /// How much of what they are.
    pub by: BTreeMap<Unneeded, u64>,
    /// What counts as needed as a whole, and why.
    pub whole: Vec<(String, String)>,
}

/// What is put together from the disks of a guest.
#[derive(Default)]
pub struct Assembly {
    /// Arrays, logical volumes, filesystems over several devices.
    pub volumes: Vec<Box<dyn GuestVolume>>,
    /// What is a member of something: names as in [`Made::members`].
    pub memberships: Vec<Membership>,
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let volumes = self.volumes.iter();
        let descriptions: Vec<_> = volumes.map(|volume| volume.description()).collect();
        f.debug_struct("Assembly")
            .field("volumes", &descriptions)
            .field("memberships", &self.memberships)
            .finish()
    }
}

/// A volume that was found.
pub trait GuestVolume: Send + Sync {
    /// What is known of it.
    fn description(&self) -> &VolumeDescription;

    /// Its files and folders.
    ///
    /// # Errors
    /// If they cannot be read.
    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal>;

    /// Which of its bytes are in use: ranges in order that do not touch. Whoever gets an error takes all for used.
    ///
    /// # Errors
    /// If that cannot be told.
    fn allocated(&self) -> Result<Used, Refusal>;
}

/// Ranges of bytes in use.
pub type Used = Box<dyn Iterator<Item = Result<Range<u64>, Refusal>> + Send>;

/// What is known of a volume before anybody looks into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDescription {
    /// What it lies on.
    pub place: VolumePlace,
    /// `p1` and so on, as Linux counts; `disk` for a whole disk; for what is put together a name that nothing else has.
    pub name: String,
    /// Where it begins there.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What the table of partitions says of it.
    pub partition: Option<Partition>,
    /// What lies in it, by its name for people.
    pub content: String,
    /// The name that was given to what lies in it.
    pub label: Option<String>,
}

/// What a volume lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumePlace {
    /// One of the disks.
    Disk(u32),
    /// Several of them, or something that is put together from them.
    Assembled(Made),
}

/// How something is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it is, for people.
    pub description: String,
    /// Of what it is made: `disk-0` for the first disk, `disk-0/p1` for what lies on it, names of others that are put together.
    pub members: Vec<String>,
    /// What is not there of what it should be made of, for people. It may be readable without.
    pub missing: Vec<String>,
}

/// Why something of a guest's disks is not shown.
#[derive(Debug, Clone)]
pub struct Refusal {
    text: String,
    cause: ExportError,
}

impl Refusal {
    /// With the whole story in `text`, for people, and what a tree answers in such a case.
    pub fn new(text: impl Into<String>, cause: ExportError) -> Self {
        let text = text.into();
        Self { text, cause }
    }

    /// What a tree answers in such a case.
    pub fn cause(&self) -> &ExportError {
        &self.cause
    }

    /// Whether the way to the disk failed, and not what lies on it: another time it may be otherwise.
    pub fn is_of_the_way(&self) -> bool {
        matches!(
            self.cause,
            ExportError::Storage { .. } | ExportError::ShuttingDown
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Refusal {}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::new(text, ExportError::from(error))
    }
}

impl From<ExportError> for Refusal {
    fn from(error: ExportError) -> Self {
        Self::new(error.to_string(), error)
    }
}

/// The readers of the crate `guestfs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuestReader;

/// A volume as that crate has it.
struct Found {
    description: VolumeDescription,
    volume: Volume,
}

/// What cannot be looked at.
struct Closed {
    description: VolumeDescription,
    refusal: Refusal,
}

impl Reader for GuestReader {
    fn open(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Vec<Box<dyn GuestVolume>>, Refusal> {
        let mut found: Vec<Box<dyn GuestVolume>> = Vec::new();
        for (number, disk) in (0..).zip(disks) {
            let place = VolumePlace::Disk(number);
            match guestfs::open(Arc::clone(disk)) {
                Ok(volumes) => {
                    for volume in volumes {
                        let name = volume.name.clone();
                        found.push(Box::new(Found::new(name, place.clone(), volume)));
                    }
                }
                Err(error) => {
                    let length_bytes = disk.properties().size_bytes;
                    let closed = Closed::new("disk".to_owned(), place, length_bytes, error);
                    found.push(Box::new(closed));
                }
            }
        }
        Ok(found)
    }

    fn assemble(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Assembly, Refusal> {
        let set = guestfs::open_disks(disks);
        let mut volumes: Vec<Box<dyn GuestVolume>> = Vec::new();
        for (number, opened) in set.disks.into_iter().enumerate() {
            if let Err(error) = opened {
                let place = VolumePlace::Assembled(Made {
                    description: "a disk".to_owned(),
                    members: Vec::new(),
                    missing: Vec::new(),
                });
                let closed = Closed::new(format!("disk-{number}"), place, 0, error);
                volumes.push(Box::new(closed));
            }
        }
        volumes.extend(set.assembled.into_iter().map(assembled));
        Ok(Assembly {
            volumes,
            memberships: set.memberships,
        })
    }

    fn unneeded(
        &self,
        disks: &[Arc<dyn BlockExport>],
        wanted: &BTreeSet<Unneeded>,
    ) -> Result<Vec<UnneededBytes>, Refusal> {
        let sources = disks
            .iter()
            .map(|disk| Arc::new(Disk::new(Arc::clone(disk))) as Arc<dyn Source>);
        let found = guestfs::unneeded(&sources.collect::<Vec<_>>(), wanted);
        Ok(found.into_iter().map(UnneededBytes::from).collect())
    }
}

impl From<UnneededOnDisk> for UnneededBytes {
    fn from(found: UnneededOnDisk) -> Self {
        let whole = found.whole.into_iter();
        Self {
            ranges: found.ranges,
            by: found.by,
            whole: whole
                .map(|whole| (whole.name, Refusal::from(whole.reason).to_string()))
                .collect(),
        }
    }
}

fn assembled(assembled: Assembled) -> Box<dyn GuestVolume> {
    let place = VolumePlace::Assembled(Made {
        description: assembled.description,
        members: assembled.members,
        missing: assembled.missing,
    });
    match assembled.volume {
        Ok(volume) => Box::new(Found::new(assembled.name, place, volume)),
        Err(error) => Box::new(Closed::new(assembled.name, place, 0, error)),
    }
}

impl Found {
    fn new(name: String, place: VolumePlace, volume: Volume) -> Self {
        let description = VolumeDescription {
            place,
            name,
            offset_bytes: volume.offset_bytes,
            length_bytes: volume.length_bytes,
            partition: volume.partition.clone(),
            content: volume.content.name().to_owned(),
            label: volume.label.clone(),
        };
        Self {
            description,
            volume,
        }
    }
}

impl GuestVolume for Found {
    fn description(&self) -> &VolumeDescription {
        &self.description
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        Ok(self.volume.files()?)
    }

    fn allocated(&self) -> Result<Used, Refusal> {
        let ranges = self.volume.allocated()?;
        Ok(Box::new(ranges.map(|range| Ok(range?))))
    }
}

impl Closed {
    fn new(name: String, place: VolumePlace, length_bytes: u64, error: GuestError) -> Self {
        let description = VolumeDescription {
            place,
            name,
            offset_bytes: 0,
            length_bytes,
            partition: None,
            content: Content::Unreadable.name().to_owned(),
            label: None,
        };
        Self {
            description,
            refusal: error.into(),
        }
    }
}

impl GuestVolume for Closed {
    fn description(&self) -> &VolumeDescription {
        &self.description
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        Err(self.refusal.clone())
    }

    fn allocated(&self) -> Result<Used, Refusal> {
        Err(self.refusal.clone())
    }
}
