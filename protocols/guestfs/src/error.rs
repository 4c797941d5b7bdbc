//! Why something of a guest's disk cannot be read.

use std::fmt;
use std::sync::Arc;

use export::ExportError;

/// The reason for not giving what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The disk below failed.
    #[error("cannot read {length} bytes at {offset} of the disk")]
    Disk {
        /// First byte.
        offset: u64,
        /// How many.
        length: usize,
        /// What the disk said.
        source: ExportError,
    },
    /// What lies there cannot be right.
    #[error("damaged {place}: {detail}")]
    Corrupt {
        /// Which structure.
        place: Place,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A feature that changes how bytes are to be read, and that this reader does not know.
    #[error("not supported: {feature}")]
    Unsupported {
        /// Its name.
        feature: Arc<str>,
    },
    /// There is no reader for this content.
    #[error("{content} has no reader here")]
    NoReader {
        /// What it is.
        content: &'static str,
    },
    /// The guest encrypted this file or folder and the key is not here.
    #[error("inode {inode} is encrypted by the guest")]
    Encrypted {
        /// Which.
        inode: u64,
    },
    /// More than is worth the memory that it would take.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// What would be read.
        limit: u64,
    },
    /// A disk or a part of one that is needed is not there, or what is there of it is stale.
    #[error("{what} is missing")]
    Missing {
        /// What it is.
        what: Arc<str>,
    },
    /// No such file or folder.
    #[error("no such file or folder")]
    NotFound,
    /// A folder was needed.
    #[error("not a folder")]
    NotDirectory,
    /// A file was needed.
    #[error("is a folder")]
    IsDirectory,
    /// This object has nothing of the kind.
    #[error("invalid for this object")]
    Invalid,
}

/// A structure on a disk, as an error names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A table of partitions.
    PartitionTable {
        /// Where it begins.
        offset_bytes: u64,
    },
    /// The first sectors of a volume.
    Head,
    /// The superblock.
    Superblock,
    /// The descriptor of a block group.
    Group(u64),
    /// The bitmap of a block group.
    Bitmap(u64),
    /// An inode.
    Inode(u64),
    /// A node of an inode's tree of extents, in this block.
    ExtentNode {
        /// Whose.
        inode: u64,
        /// Where; 0 is in the inode.
        block: u64,
    },
    /// A block of block numbers.
    BlockMap {
        /// Whose.
        inode: u64,
        /// Where.
        block: u64,
    },
    /// A block of a folder.
    Folder {
        /// Which folder.
        inode: u64,
        /// Which of its blocks.
        block: u64,
    },
    /// Extended attributes of an inode.
    Attributes {
        /// Whose.
        inode: u64,
    },
    /// The superblock of a member of a software array.
    ArraySuperblock,
    /// The label of a physical volume.
    PhysicalVolume,
    /// An area of metadata of a volume group.
    GroupMetadata,
    /// A line of the text of a volume group.
    GroupText {
        /// Which.
        line: u32,
    },
    /// The superblock of a member of a RAID logical volume.
    RaidMetadata,
    /// The store of a snapshot.
    SnapshotStore,
    /// A block of the metadata of a thin pool.
    ThinMetadata {
        /// Which.
        block: u64,
    },
    /// A record of a table of files.
    Record(u64),
    /// Where the content of a file of this record lies, or what is packed there.
    Stream(u64),
    /// A security descriptor.
    Descriptor(u32),
    /// A block of the journal.
    Journal {
        /// Which of the journal's blocks.
        block: u64,
    },
    /// An entry of a folder that says all there is to say of a file.
    Entry {
        /// Where it lies in the volume.
        offset_bytes: u64,
    },
    /// A chain of clusters.
    Chain {
        /// With which it begins.
        cluster: u32,
    },
    /// The bitmap of all clusters.
    AllocationBitmap,
    /// The table of letters in upper case.
    UpCase,
    /// A descriptor of a disc.
    VolumeDescriptor {
        /// Where it lies.
        sector: u64,
    },
    /// The headers of an allocation group.
    AllocationGroup(u32),
    /// A node of an allocation group's tree of free space.
    FreeSpace {
        /// Which group.
        group: u32,
        /// Where in it.
        block: u64,
    },
    /// The place of logical bytes on devices.
    Chunk(u64),
    /// A device of several.
    Device(u64),
    /// A node of a tree, by its logical place.
    Node(u64),
    /// What is said of a tree of the filesystem.
    Tree(u64),
    /// Content of files, by its logical place.
    Data(u64),
    /// What was synced and is not yet in the trees.
    Log {
        /// Of which file or folder.
        inode: u64,
    },
}

impl GuestError {
    /// Something wrong at `place`.
    pub(crate) fn corrupt(place: Place, detail: &'static str) -> Self {
        Self::Corrupt { place, detail }
    }

    /// Something by name that is not there.
    pub(crate) fn missing(what: impl Into<Arc<str>>) -> Self {
        Self::Missing { what: what.into() }
    }

    /// A feature by name.
    pub(crate) fn unsupported(feature: impl Into<Arc<str>>) -> Self {
        Self::Unsupported {
            feature: feature.into(),
        }
    }

    /// Whether other places of the disk may be well: the guest's bytes are at fault, or those that were kept of them.
    pub(crate) fn is_of_one_place(&self) -> bool {
        match self {
            Self::Disk { source, .. } => matches!(source, ExportError::Corrupt { .. }),
            _ => true,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartitionTable { offset_bytes } => {
                write!(f, "partition table at byte {offset_bytes}")
            }
            Self::Head => write!(f, "head of the volume"),
            Self::Superblock => write!(f, "superblock"),
            Self::Group(group) => write!(f, "descriptor of block group {group}"),
            Self::Bitmap(group) => write!(f, "bitmap of block group {group}"),
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::ExtentNode { inode, block: 0 } => write!(f, "extents in inode {inode}"),
            Self::ExtentNode { inode, block } => {
                write!(f, "extents of inode {inode} in block {block}")
            }
            Self::BlockMap { inode, block } => {
                write!(f, "block map of inode {inode} in block {block}")
            }
            Self::Folder { inode, block } => write!(f, "block {block} of folder {inode}"),
            Self::Attributes { inode } => write!(f, "extended attributes of inode {inode}"),
            Self::ArraySuperblock => write!(f, "superblock of an array's member"),
            Self::PhysicalVolume => write!(f, "label of a physical volume"),
            Self::GroupMetadata => write!(f, "metadata area of a volume group"),
            Self::GroupText { line } => write!(f, "line {line} of a volume group's metadata"),
            Self::RaidMetadata => write!(f, "superblock of a RAID volume's member"),
            Self::SnapshotStore => write!(f, "store of a snapshot"),
            Self::ThinMetadata { block } => write!(f, "block {block} of a thin pool's metadata"),
            Self::Record(record) => write!(f, "file record {record}"),
            Self::Stream(record) => write!(f, "content of file record {record}"),
            Self::Descriptor(id) => write!(f, "security descriptor {id}"),
            Self::Journal { block } => write!(f, "block {block} of the journal"),
            Self::AllocationGroup(group) => write!(f, "allocation group {group}"),
            Self::FreeSpace { group, block } => {
                write!(
                    f,
                    "block {block} of the free space of allocation group {group}"
                )
            }
            Self::Entry { offset_bytes } => write!(f, "directory entry at byte {offset_bytes}"),
            Self::Chain { cluster } => write!(f, "chain of clusters from {cluster}"),
            Self::AllocationBitmap => write!(f, "allocation bitmap"),
            Self::UpCase => write!(f, "up-case table"),
            Self::VolumeDescriptor { sector } => {
                write!(f, "volume descriptor in sector {sector}")
            }
            Self::Chunk(logical) => write!(f, "chunk at logical byte {logical}"),
            Self::Device(number) => write!(f, "device {number}"),
            Self::Node(logical) => write!(f, "tree node at logical byte {logical}"),
            Self::Tree(number) => write!(f, "root of tree {number}"),
            Self::Log { inode } => write!(f, "log of inode {inode}"),
            Self::Data(logical) => write!(f, "content at logical byte {logical}"),
        }
    }
}

impl From<GuestError> for ExportError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Disk { source, .. } => source,
            GuestError::Corrupt { .. }
            | GuestError::TooLarge { .. }
            | GuestError::Missing { .. } => Self::Corrupt {
                detail: error.to_string().into(),
            },
            GuestError::Encrypted { .. } => Self::Encrypted,
            GuestError::Unsupported { .. } | GuestError::NoReader { .. } => Self::NotSupported,
            GuestError::NotFound => Self::NotFound,
            GuestError::NotDirectory => Self::NotDirectory,
            GuestError::IsDirectory => Self::IsDirectory,
            GuestError::Invalid => Self::Invalid,
        }
    }
}
