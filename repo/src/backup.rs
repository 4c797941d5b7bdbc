//! A restore point in the making.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::catalog::{
    ExcludedRecord, ImageRecord, Point, PointKind, PointName, StreamRecord, WorkloadName,
};
use crate::error::RepoError;
use crate::image::{Base, Excluded, ImageTotals, ImageWriter};
use crate::overlay::{Overlay, TouchedRange};
use crate::repository::Repository;
use crate::stream::StreamWriter;
use crate::uses::{BackupUse, PointUse};

/// Brings one restore point in. Nothing of it is visible before [`commit`](Backup::commit); dropping it leaves
/// nothing but chunks that nobody uses.
pub struct Backup {
    repository: Repository,
    workload: WorkloadName,
    kind: PointKind,
    parent: Option<Arc<Point>>,
    /// Some image was made over the parent's, so nothing may come between.
    builds_on_parent: bool,
    names: HashSet<String>,
    images: Vec<ImageRecord>,
    streams: Vec<StreamRecord>,
    configuration: serde_json::Value,
    /// Packs that had lost records when this began.
    losses_before: u64,
    /// Keeps what this may have found stored.
    _use: BackupUse,
    /// Keeps the parent, from which this takes over.
    parent_use: Option<Arc<PointUse>>,
}

/// A disk to be backed up.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Its name within the point, like `disk-0`: 1 to 128 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// Capacity, a multiple of 512.
    pub size_bytes: u64,
    /// What lies below what is written.
    pub base: ImageBase,
}

/// What lies below what is written to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageBase {
    /// Zeroes.
    Nothing,
    /// The parent's disk of that name; zeroes if there is none.
    Parent,
}

impl Backup {
    pub(crate) fn new(
        repository: Repository,
        workload: WorkloadName,
        kind: PointKind,
        parent: Option<Arc<Point>>,
        parent_use: Option<Arc<PointUse>>,
    ) -> Self {
        let floor = repository.store().packs().lowest_open();
        let backup_use = repository.uses().back_up(floor);
        let losses_before = repository.store().packs().losses();
        Self {
            repository,
            workload,
            kind,
            parent,
            builds_on_parent: false,
            names: HashSet::new(),
            images: Vec::new(),
            streams: Vec::new(),
            configuration: serde_json::Value::Null,
            losses_before,
            _use: backup_use,
            parent_use,
        }
    }

    /// The workload.
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// The workload's newest point when this backup began.
    pub fn parent(&self) -> Option<&Arc<Point>> {
        self.parent.as_ref()
    }

    /// Starts a disk. Several may be written at once.
    ///
    /// # Errors
    /// If the name is taken or not allowed, or the size makes no sense.
    pub fn image(&mut self, spec: &ImageSpec) -> Result<ImageWriter, RepoError> {
        self.take_name(&spec.name)?;
        let base = match spec.base {
            ImageBase::Nothing => Base::default(),
            ImageBase::Parent => self.parent_image(&spec.name)?,
        };
        self.builds_on_parent |= base.image.is_some();
        let workers = self.repository.workers();
        ImageWriter::start(
            self.repository.store(),
            spec.name.clone(),
            spec.size_bytes,
            base,
            workers,
        )
    }

    /// Ends a disk: it becomes the next one of the point.
    ///
    /// # Errors
    /// If storing failed.
    pub fn finish_image(&mut self, writer: ImageWriter) -> Result<(), RepoError> {
        let name = writer.name().to_owned();
        let size_bytes = writer.size_bytes();
        let totals = writer.finish()?;
        let excluded = self.store_excluded(&name, &totals.excluded)?;
        let record = image_record(name, size_bytes, &totals, excluded);
        self.images.push(record);
        Ok(())
    }

    /// Keeps what was left out of a disk as a stream of the point.
    fn store_excluded(
        &mut self,
        image: &str,
        excluded: &Excluded,
    ) -> Result<Option<ExcludedRecord>, RepoError> {
        if excluded.is_empty() {
            return Ok(None);
        }
        let stored = excluded.encode().ok_or(RepoError::Refused(
            "more separate stretches of a disk are left out than can be kept; leave out fewer and longer ones",
        ))?;
        let stream = format!("{image}{EXCLUDED_SUFFIX}");
        let mut writer = self.stream(&stream)?;
        writer.append(&stored)?;
        self.finish_stream(writer)?;
        Ok(Some(ExcludedRecord {
            total_bytes: excluded.total_bytes(),
            stream,
        }))
    }

    /// Makes a disk of the point from an overlay and the image below it. What the overlay does not hold is taken over
    /// without reading it. The overlay takes no more writes.
    ///
    /// # Errors
    /// If the overlay's point is gone, something is hurt, or storing failed.
    pub fn seal_overlay(&mut self, overlay: &Overlay, name: &str) -> Result<(), RepoError> {
        self.take_name(name)?;
        overlay.freeze()?;
        let record = overlay.record();
        let point = self.repository.point(&record.point)?;
        let below = self.repository.image(&point, record.disk)?;
        let size_bytes = below.size_bytes();
        let base = Base {
            image: Some(below),
            excluded: self.repository.excluded(&point, record.disk)?,
        };
        let workers = self.repository.workers();
        let mut writer = ImageWriter::start(
            self.repository.store(),
            name.to_owned(),
            size_bytes,
            base,
            workers,
        )?;
        for touched in overlay.touched() {
            match touched? {
                TouchedRange::Zeroes { first, count } => {
                    let range = chunk_range(first, count, size_bytes);
                    writer.write_zeroes(range.start, range.end - range.start)?;
                }
                TouchedRange::PointFrom {
                    first,
                    source,
                    count,
                } => writer.copy_chunks(first, source, count)?,
                TouchedRange::Chunk { index, content } => {
                    let range = chunk_range(index, 1, size_bytes);
                    let length = usize::try_from(range.end - range.start).unwrap_or(content.len());
                    writer.write(range.start, content.slice(..length))?;
                }
            }
        }
        self.finish_image(writer)
    }

    /// Takes a disk over from the parent as it is.
    ///
    /// # Errors
    /// If the parent has no disk of that name.
    pub fn keep_image(&mut self, name: &str) -> Result<(), RepoError> {
        self.take_name(name)?;
        let parent = self
            .parent
            .as_ref()
            .and_then(|parent| parent.images.iter().find(|image| image.name == name));
        let parent = parent.ok_or(RepoError::Refused(
            "the point before has no disk of that name to keep",
        ))?;
        let unchanged = ImageRecord {
            sent_bytes: 0,
            stored_bytes: 0,
            new_chunks: 0,
            changed_chunks: 0,
            ..parent.clone()
        };
        if let Some(excluded) = &unchanged.excluded {
            self.take_name(&excluded.stream)?;
            let streams = self.parent.iter().flat_map(|parent| &parent.streams);
            let stream = streams.filter(|stream| stream.name == excluded.stream);
            self.streams.extend(stream.cloned());
        }
        self.builds_on_parent = true;
        self.images.push(unchanged);
        Ok(())
    }

    /// Starts a stream.
    ///
    /// # Errors
    /// If the name is taken or not allowed.
    pub fn stream(&mut self, name: &str) -> Result<StreamWriter, RepoError> {
        self.take_name(name)?;
        StreamWriter::new(self.repository.store(), name.to_owned())
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// If storing failed.
    pub fn finish_stream(&mut self, writer: StreamWriter) -> Result<(), RepoError> {
        let name = writer.name().to_owned();
        let totals = writer.finish()?;
        self.streams.push(StreamRecord {
            name,
            size_bytes: totals.size_bytes,
            stored_bytes: totals.stored_bytes,
            depth: totals.depth,
            root: totals.root,
        });
        Ok(())
    }

    /// Numbers the finished disks in the order of `names`, whatever the order in which they were finished.
    pub fn order_images(&mut self, names: &[&str]) {
        self.images
            .sort_by_key(|image| names.iter().position(|name| *name == image.name));
    }

    /// Keeps what the source says of the machine.
    pub fn set_configuration(&mut self, configuration: serde_json::Value) {
        self.configuration = configuration;
    }

    /// Makes the point visible, in one step that is durable when this returns. Before, everything that it refers to
    /// is made durable.
    ///
    /// # Errors
    /// If there is nothing in it, another backup of the workload came between, or storing failed. The point is not
    /// visible then; after a failed sync it may turn out to be when the repository is opened again.
    pub fn commit(self) -> Result<Arc<Point>, RepoError> {
        if self.images.is_empty() && self.streams.is_empty() {
            return Err(RepoError::Refused(
                "a restore point has at least one disk or stream",
            ));
        }
        let must_follow = self
            .parent
            .as_ref()
            .filter(|_| self.builds_on_parent)
            .map(|parent| parent.name.clone());
        let draft = Point {
            name: PointName {
                workload: self.workload,
                sequence: 0,
            },
            kind: self.kind,
            created: self.repository.clock().now(),
            parent: self.parent.map(|parent| parent.name.clone()),
            images: self.images,
            streams: self.streams,
            configuration: self.configuration,
        };
        let packs = self.repository.store().packs();
        packs.sync_all()?;
        if packs.losses() != self.losses_before {
            // Another backup may have met the failed write first, which took some of this one's records.
            return Err(RepoError::LostRecords);
        }
        let committed = self
            .repository
            .catalog()
            .commit(draft, must_follow.as_ref());
        if matches!(&committed, Err(RepoError::Disk(error)) if !error.is_full()) {
            // Nobody knows whether the manifest is on the disk.
            self.repository.store().packs().poison();
        }
        committed
    }

    fn parent_image(&self, name: &str) -> Result<Base, RepoError> {
        let Some(parent) = &self.parent else {
            return Ok(Base::default());
        };
        match parent.images.iter().position(|image| image.name == name) {
            // The parent may have been expired meanwhile; its space stays as long as this backup.
            Some(disk) => {
                let image = self.repository.image_of(parent, disk)?;
                let excluded = self.repository.excluded_of(parent, disk)?;
                let image = match &self.parent_use {
                    Some(parent_use) => image.of_point(Arc::clone(parent_use)),
                    None => image,
                };
                Ok(Base {
                    image: Some(image),
                    excluded,
                })
            }
            None => Ok(Base::default()),
        }
    }

    fn take_name(&mut self, name: &str) -> Result<(), RepoError> {
        // The rule is the one for workloads.
        WorkloadName::parse(name)?;
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        Err(RepoError::BadName {
            name: name.to_owned(),
            what: "disk or stream",
            rule: "each has its own name in a point",
        })
    }
}

/// The bytes of `count` chunks from `first` on, as far as the disk goes.
fn chunk_range(first: u64, count: u64, size_bytes: u64) -> Range<u64> {
    let chunk = crate::CHUNK_BYTES as u64;
    (first * chunk)..(first + count).saturating_mul(chunk).min(size_bytes)
}

fn image_record(
    name: String,
    size_bytes: u64,
    totals: &ImageTotals,
    excluded: Option<ExcludedRecord>,
) -> ImageRecord {
    ImageRecord {
        name,
        size_bytes,
        sent_bytes: totals.sent_bytes,
        stored_bytes: totals.stored_bytes,
        new_chunks: totals.new_chunks,
        changed_chunks: totals.changed_chunks,
        root_id: totals.root.id.to_string(),
        excluded,
        root: totals.root,
    }
}

/// What the stream that says what was left out of a disk has behind the disk's name.
const EXCLUDED_SUFFIX: &str = ".excluded";

impl fmt::Debug for Backup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Backup")
            .field("workload", &self.workload)
            .field("kind", &self.kind)
            .field("images", &self.images.len())
            .finish_non_exhaustive()
    }
}
