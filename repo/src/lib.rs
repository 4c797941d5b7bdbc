//! The repository engine: chunks, packs, index, images, streams, overlays and the catalog.
//!
//! Synchronous, and without a word about protocols. [`Repository`] is the way in: a [`Backup`] brings a restore
//! point in and ends with one atomic step, an [`Image`] shows a disk of a point, an [`overlay::Overlay`] makes it
//! writable, and sealing that overlay makes the next point. What is on disk is specified in `docs/formats/`.

#![forbid(unsafe_code)]

mod account;
mod adopt;
mod backup;
mod catalog;
mod checksum;
mod chunk;
pub mod clock;
mod collect;
pub mod disk;
mod error;
mod health;
mod image;
mod index;
mod keyless;
mod keys;
mod locks;
mod memory;
pub mod overlay;
mod pack;
mod repository;
mod rescue;
pub mod retention;
mod store;
mod stream;
mod superblock;
mod trusted_clock;
mod uses;
mod verify;

pub use account::SpaceEstimate;
pub use adopt::{AdoptReport, PackProgress};
pub use backup::{Backup, ImageBase, ImageSpec};
pub use catalog::{
    AuthorityAge, ExcludedRecord, ImageRecord, Lock, LockMode, Point, PointKind, PointMarks,
    PointName, StreamRecord, WorkloadName,
};
pub use chunk::{CHUNK_BYTES, ChunkId};
pub use clock::UnixNanoseconds;
pub use collect::{
    AuditReport, CollectOptions, CollectPhase, CollectProgress, CollectReport, ExpiredPoint,
    SpaceStatistics,
};
pub use disk::{ForeignChange, ForeignKind, Noticed, Watch};
pub use error::{Culprit, RepoError};
pub use health::{CareReport, RepairCounters};
pub use image::{
    ChunkSource, Excluded, IMAGE_BYTES_MAX, Image, ImageExtent, ImageTotals, ImageWriter,
};
pub use index::SimulatedIndex;
pub use keyless::{KeylessReport, verify_without_key, verify_without_key_on};
pub use keys::{KdfSettings, KeySlot, KeySlotCounters, KeySlotKind, KeySlots, NewKeySlot, Secret};
pub use locks::LockReport;
pub use overlay::{Overlay, OverlayRecord};
pub use pack::ParityShare;
pub use repository::{CreateOptions, OnPack, OpenOptions, Repository, RepositoryStatistics};
pub use rescue::{MissingExtent, Rescue, RescueProgress, RescueReport, RescueTarget};
pub use store::StoreCounters;
pub use stream::{StreamReader, StreamWriter};
pub use trusted_clock::ClockState;
pub use verify::{
    Damage, Proofs, Repair, VerifyOptions, VerifyProgress, VerifyReport, VerifyScope,
};

/// Decoders as fuzz targets call them: any bytes in, no panic.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::catalog::{fuzz_manifest, fuzz_mark};
    pub use crate::image::{fuzz_excluded, fuzz_image_node};
    pub use crate::keys::fuzz_key_slot;
    pub use crate::overlay::fuzz::{fuzz_overlay_document, fuzz_overlay_formats};
    pub use crate::pack::{fuzz_pack, fuzz_parity};
    pub use crate::stream::fuzz_stream_node;
}
