//! Backups under way: begun by a client, filled by it, and committed or dropped.

use std::collections::HashMap;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use repo::{
    Backup, Excluded, ImageBase, ImageSpec, ImageWriter, Point, PointKind, RepoError, Repository,
    WorkloadName,
};
use uuid::Uuid;

use crate::config::BackupConfig;
use crate::telemetry::Metrics;

/// All backups under way.
pub struct Backups {
    repository: Repository,
    config: BackupConfig,
    metrics: Arc<Metrics>,
    open: Mutex<HashMap<Uuid, Arc<OpenBackup>>>,
}

/// One backup under way.
pub struct OpenBackup {
    /// Its name in the API.
    pub id: Uuid,
    /// The workload.
    pub workload: WorkloadName,
    /// The point below, if what is not sent is taken over from it.
    pub parent: Option<Arc<Point>>,
    /// Its disks.
    pub images: Vec<OpenImage>,
    state: Mutex<Option<Backup>>,
    last_seen: Mutex<Instant>,
    calls: AtomicU64,
}

/// One disk of a backup under way.
#[derive(Debug)]
pub struct OpenImage {
    /// Its name.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    progress_bytes: AtomicU64,
    state: Mutex<ImageState>,
}

/// How far a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing was sent.
    Waiting,
    /// It is being sent.
    Running,
    /// It is whole.
    Done,
    /// It failed, and the backup with it.
    Failed,
}

/// What a client asks for.
#[derive(Debug)]
pub struct BeginRequest {
    /// The workload.
    pub workload: WorkloadName,
    /// Name and capacity of each disk.
    pub images: Vec<(String, u64)>,
    /// What is sent.
    pub base: BackupBase,
    /// What the source says of the machine.
    pub configuration: serde_json::Value,
}

/// What lies below what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupBase {
    /// Nothing: everything is sent.
    Nothing,
    /// The workload's newest point, if there is one.
    Newest,
    /// This point, which must be the newest: the list of what changed counts from it.
    Exactly(u64),
}

/// A backup could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// No such backup.
    #[error(
        "there is no backup {0} under way: it was committed, dropped, or its client was silent for too long"
    )]
    NoSuchBackup(Uuid),
    /// No such disk.
    #[error("the backup has no disk {disk}: it was begun with {count}, numbered from 0")]
    NoSuchImage {
        /// What was asked for.
        disk: usize,
        /// How many there are.
        count: usize,
    },
    /// The disk is not waiting to be sent.
    #[error("disk {0} was sent already or is being sent; drop the backup and begin again")]
    NotWaiting(usize),
    /// Something is missing for a commit.
    #[error("disk {0} is not whole; send it before the commit")]
    Incomplete(usize),
    /// Too many at once.
    #[error("{0} backups are under way already (backup.at_once); try again when one has ended")]
    TooMany(usize),
    /// No disks.
    #[error("a backup has at least one disk")]
    NoImages,
    /// The base is not what the list of changes counts from.
    #[error(
        "the changes count from {wanted}, but the newest restore point is {newest}; send the whole disk, or changes since that point"
    )]
    WrongBase {
        /// What the client has.
        wanted: String,
        /// What there is.
        newest: String,
    },
    /// The backup is being committed or dropped.
    #[error("the backup is being committed or dropped")]
    Ending,
}

impl Backups {
    /// None is under way.
    pub fn new(repository: Repository, config: BackupConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        let backups = Arc::new(Self {
            repository,
            config,
            metrics,
            open: Mutex::default(),
        });
        let weak = Arc::downgrade(&backups);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REAP_INTERVAL).await;
                let Some(backups) = weak.upgrade() else { break };
                backups.reap(Instant::now());
            }
        });
        backups
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// If it makes no sense, or there are too many.
    pub fn begin(&self, request: BeginRequest) -> Result<Arc<OpenBackup>, BackupError> {
        if request.images.is_empty() {
            return Err(BackupError::NoImages);
        }
        let kind = match request.base {
            BackupBase::Nothing => PointKind::Full,
            BackupBase::Newest | BackupBase::Exactly(_)
                if self.repository.latest(&request.workload).is_none() =>
            {
                PointKind::Full
            }
            BackupBase::Newest | BackupBase::Exactly(_) => PointKind::Incremental,
        };
        let mut backup = self.repository.begin(&request.workload, kind)?;
        let parent = backup
            .parent()
            .filter(|_| request.base != BackupBase::Nothing)
            .cloned();
        if let BackupBase::Exactly(wanted) = request.base {
            check_base(&request.workload, wanted, parent.as_deref())?;
        }
        backup.set_configuration(request.configuration);
        let images = request
            .images
            .into_iter()
            .map(|(name, size_bytes)| OpenImage {
                name,
                size_bytes,
                progress_bytes: AtomicU64::new(0),
                state: Mutex::new(ImageState::Waiting),
            });
        let backup = Arc::new(OpenBackup {
            id: Uuid::new_v4(),
            workload: request.workload,
            parent,
            images: images.collect(),
            state: Mutex::new(Some(backup)),
            last_seen: Mutex::new(Instant::now()),
            calls: AtomicU64::new(0),
        });
        let mut open = self.open.lock();
        if open.len() >= self.config.at_once {
            return Err(BackupError::TooMany(open.len()));
        }
        open.insert(backup.id, Arc::clone(&backup));
        self.metrics
            .backups_open
            .set(i64::try_from(open.len()).unwrap_or(i64::MAX));
        Ok(backup)
    }

    /// One backup under way; its client is alive.
    ///
    /// # Errors
    /// [`BackupError::NoSuchBackup`].
    pub fn find(&self, id: Uuid) -> Result<Arc<OpenBackup>, BackupError> {
        let backup = self
            .open
            .lock()
            .get(&id)
            .cloned()
            .ok_or(BackupError::NoSuchBackup(id))?;
        backup.touch();
        Ok(backup)
    }

    /// All backups under way.
    pub fn list(&self) -> Vec<Arc<OpenBackup>> {
        self.open.lock().values().cloned().collect()
    }

    /// What was left out of a disk in the point below.
    ///
    /// # Errors
    /// If there is no such disk, or what is stored is hurt.
    pub fn excluded_below(
        &self,
        open: &OpenBackup,
        number: usize,
    ) -> Result<Excluded, BackupError> {
        let image = open.image(number)?;
        let Some(parent) = &open.parent else {
            return Ok(Excluded::default());
        };
        match parent
            .images
            .iter()
            .position(|below| below.name == image.name)
        {
            Some(disk) => Ok(self.repository.excluded(parent, disk)?),
            None => Ok(Excluded::default()),
        }
    }

    /// Makes a backup a restore point. It is durable when this returns.
    ///
    /// # Errors
    /// If a disk is missing, or the commit fails; the backup is then dropped.
    pub fn commit(&self, id: Uuid) -> Result<Arc<Point>, BackupError> {
        let open = self.find(id)?;
        for (number, image) in open.images.iter().enumerate() {
            if *image.state.lock() != ImageState::Done {
                return Err(BackupError::Incomplete(number));
            }
        }
        let mut backup = open.state.lock().take().ok_or(BackupError::Ending)?;
        // Disks may have arrived in any order; their numbers are those of the beginning.
        let names: Vec<&str> = open
            .images
            .iter()
            .map(|image| image.name.as_str())
            .collect();
        backup.order_images(&names);
        let committed = backup.commit();
        self.forget(id);
        match &committed {
            Ok(_) => self.metrics.backups_committed.inc(),
            Err(_) => self.metrics.backups_dropped.inc(),
        };
        Ok(committed?)
    }

    /// Drops a backup. Nothing of it was ever visible.
    ///
    /// # Errors
    /// [`BackupError::NoSuchBackup`]; [`BackupError::Ending`] if it is being committed.
    pub fn abort(&self, id: Uuid) -> Result<(), BackupError> {
        let open = self.find(id)?;
        // Without one, it is being committed right now and may become visible.
        let backup = open.state.lock().take().ok_or(BackupError::Ending)?;
        drop(backup);
        self.forget(id);
        self.metrics.backups_dropped.inc();
        Ok(())
    }

    /// Drops all: the daemon stops.
    pub fn abort_all(&self) {
        for backup in self.list() {
            drop(self.abort(backup.id));
        }
    }

    /// Drops backups whose clients are silent.
    fn reap(&self, now: Instant) {
        for backup in self.list() {
            let silent = now.saturating_duration_since(*backup.last_seen.lock());
            if backup.calls.load(Ordering::Relaxed) == 0
                && silent > self.config.idle_timeout.duration()
            {
                tracing::warn!(backup = %backup.id, workload = %backup.workload, "dropped a backup whose client is silent");
                drop(self.abort(backup.id));
            }
        }
    }

    fn forget(&self, id: Uuid) {
        let mut open = self.open.lock();
        open.remove(&id);
        self.metrics
            .backups_open
            .set(i64::try_from(open.len()).unwrap_or(i64::MAX));
    }
}

impl OpenBackup {
    /// Starts to take disk `number` in.
    ///
    /// # Errors
    /// If there is no such disk or it is not waiting.
    pub fn receive(self: &Arc<Self>, number: usize) -> Result<Receiver, BackupError> {
        let image = self.image(number)?;
        let mut state = image.state.lock();
        if *state != ImageState::Waiting {
            return Err(BackupError::NotWaiting(number));
        }
        let base = if self.parent.is_some() {
            ImageBase::Parent
        } else {
            ImageBase::Nothing
        };
        let spec = ImageSpec {
            name: image.name.clone(),
            size_bytes: image.size_bytes,
            base,
        };
        let writer = self
            .state
            .lock()
            .as_mut()
            .ok_or(BackupError::Ending)?
            .image(&spec)?;
        *state = ImageState::Running;
        drop(state);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Receiver {
            backup: Arc::clone(self),
            number,
            writer: Some(writer),
        })
    }

    fn image(&self, number: usize) -> Result<&OpenImage, BackupError> {
        let count = self.images.len();
        self.images.get(number).ok_or(BackupError::NoSuchImage {
            disk: number,
            count,
        })
    }

    fn touch(&self) {
        *self.last_seen.lock() = Instant::now();
    }
}

impl OpenImage {
    /// How far it is.
    pub fn state(&self) -> ImageState {
        *self.state.lock()
    }

    /// Up to which byte.
    pub fn progress_bytes(&self) -> u64 {
        self.progress_bytes.load(Ordering::Relaxed)
    }
}

/// Takes one disk in. Dropped before [`finish`](Receiver::finish), the disk has failed.
pub struct Receiver {
    backup: Arc<OpenBackup>,
    number: usize,
    writer: Option<ImageWriter>,
}

impl Receiver {
    /// Writes bytes, in ascending order.
    ///
    /// # Errors
    /// If the range makes no sense or storing fails.
    pub fn write(&mut self, offset: u64, data: bytes::Bytes) -> Result<(), BackupError> {
        let end = offset.saturating_add(data.len() as u64);
        self.writer()?.write(offset, data)?;
        self.reached(end);
        Ok(())
    }

    /// Makes a range zeroes, in ascending order.
    ///
    /// # Errors
    /// If the range makes no sense or storing fails.
    pub fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), BackupError> {
        self.writer()?.write_zeroes(offset, length)?;
        self.reached(offset.saturating_add(length));
        Ok(())
    }

    /// Leaves a range out, in ascending order with what is written.
    ///
    /// # Errors
    /// If the range makes no sense or storing fails.
    pub fn exclude(&mut self, offset: u64, length: u64) -> Result<(), BackupError> {
        self.writer()?.exclude(offset, length)?;
        self.reached(offset.saturating_add(length));
        Ok(())
    }

    /// Reads ranges of `file` and leaves out those that are `excluded`, showing how far it is.
    ///
    /// # Errors
    /// If reading or storing fails, or the backup was dropped meanwhile.
    pub fn copy_file(
        &mut self,
        file: &std::fs::File,
        ranges: &[Range<u64>],
        excluded: &[Range<u64>],
    ) -> Result<(), BackupError> {
        let mut writer = self.writer.take().ok_or(BackupError::Ending)?;
        let copied = writer.copy_file(file, ranges, excluded, &mut |position| {
            self.reached(position);
            match *self.backup.state.lock() {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            }
        });
        self.writer = Some(writer);
        match copied {
            Err(RepoError::Stopped) if self.backup.state.lock().is_none() => {
                Err(BackupError::Ending)
            }
            copied => Ok(copied?),
        }
    }

    /// The disk is whole.
    ///
    /// # Errors
    /// If storing fails.
    pub fn finish(mut self) -> Result<(), BackupError> {
        let writer = self.writer.take().ok_or(BackupError::Ending)?;
        // The rest of the pipeline drains with the backup locked; nobody else has anything to do there meanwhile.
        self.backup
            .state
            .lock()
            .as_mut()
            .ok_or(BackupError::Ending)?
            .finish_image(writer)?;
        let size_bytes = self.image().size_bytes;
        self.reached(size_bytes);
        *self.image().state.lock() = ImageState::Done;
        Ok(())
    }

    /// Capacity of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.image().size_bytes
    }

    fn image(&self) -> &OpenImage {
        self.backup
            .images
            .get(self.number)
            .expect("a receiver is made for a disk that there is")
    }

    fn writer(&mut self) -> Result<&mut ImageWriter, BackupError> {
        self.writer.as_mut().ok_or(BackupError::Ending)
    }

    fn reached(&self, end: u64) {
        self.image().progress_bytes.store(end, Ordering::Relaxed);
        self.backup.touch();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.image().state.lock();
        if *state == ImageState::Running {
            *state = ImageState::Failed;
        }
        drop(state);
        self.backup.touch();
        self.backup.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_base(
    workload: &WorkloadName,
    wanted: u64,
    newest: Option<&Point>,
) -> Result<(), BackupError> {
    match newest {
        Some(point) if point.name.sequence == wanted => Ok(()),
        newest => Err(BackupError::WrongBase {
            wanted: format!("{workload}@{wanted}"),
            newest: newest.map_or_else(|| "none".to_owned(), |point| point.name.to_string()),
        }),
    }
}

impl fmt::Debug for Backups {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Backups")
            .field("open", &self.open.lock().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenBackup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenBackup")
            .field("id", &self.id)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Receiver")
            .field("image", self.image())
            .finish_non_exhaustive()
    }
}

const REAP_INTERVAL: Duration = Duration::from_secs(1);
