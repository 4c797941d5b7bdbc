//! Taking over a repository whose folder was copied from another machine: everything that can be made again is.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::catalog::Point;
use crate::disk::{Disk as _, SystemDisk};
use crate::error::RepoError;
use crate::image::depth_for;
use crate::repository::{OpenOptions, Repository};
use crate::stream::StreamReader;
use crate::superblock::Superblock;

/// Is told of packs that are done, and of all.
pub type PackProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// What was found in a repository that was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptReport {
    /// Its name.
    pub repository: Uuid,
    /// Workloads with a point.
    pub workloads: u64,
    /// Restore points whose manifest is sound.
    pub points: u64,
    /// Packs, and their bytes.
    pub packs: u64,
    /// Bytes of these.
    pub pack_bytes: u64,
    /// Packs without a sound table of their writer, which were scanned.
    pub packs_recovered: u64,
    /// About how many chunks and map nodes there are.
    pub records: u64,
    /// Writable overlays, whose recovery sessions are in the daemon's state folder.
    pub overlays: u64,
    /// What is hurt, as sentences. Empty means that nothing was found; `verify` looks closer.
    pub complaints: Vec<String>,
}

impl AdoptReport {
    /// Whether nothing hurt was found.
    pub fn is_sound(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl Repository {
    /// Checks and takes over the repository in `root`: the index is made again from the packs, packs that were open are
    /// sealed, and every map is entered. Nothing that is stored is changed.
    ///
    /// # Errors
    /// If there is no repository, another process has it open, its secret is missing, or the storage fails. Damage is
    /// no error: it stands in the report.
    pub fn adopt(
        root: &Path,
        options: &OpenOptions,
        progress: PackProgress,
    ) -> Result<AdoptReport, RepoError> {
        forget_index(root)?;
        let options = OpenOptions {
            on_pack: Some(progress.into()),
            ..options.clone()
        };
        let repository = Self::open(root, &options)?;
        let report = repository.look_over()?;
        repository.close()?;
        Ok(report)
    }

    fn look_over(&self) -> Result<AdoptReport, RepoError> {
        let mut complaints = self.damaged_manifests();
        let packs = self.store().packs().summaries();
        for (number, _) in &packs {
            if self.store().index().coverage(*number)?.is_none() {
                let pack = self.store().packs().describe(*number);
                complaints.push(format!("{pack} cannot be used; the log says why"));
            }
        }
        let points = self.points(None);
        for point in &points {
            self.enter_maps(point, &mut complaints);
        }
        let overlays = self.overlays()?;
        for overlay in &overlays {
            if let Err(error) = self.point(&overlay.point) {
                complaints.push(format!("overlay {}: {error}", overlay.id));
            }
        }
        let statistics = self.statistics()?;
        Ok(AdoptReport {
            repository: self.uuid(),
            workloads: statistics.workloads,
            points: statistics.points,
            packs: statistics.packs,
            pack_bytes: statistics.stored_bytes,
            packs_recovered: packs.iter().filter(|(_, pack)| pack.recovered).count() as u64,
            records: statistics.index_entries,
            overlays: overlays.len() as u64,
            complaints,
        })
    }

    /// Reads the root of every map of a point.
    fn enter_maps(&self, point: &Point, complaints: &mut Vec<String>) {
        for image in &point.images {
            let level = depth_for(image.size_bytes) - 1;
            if image.root.id.is_zero() {
                continue;
            }
            if let Err(error) = self.store().node(image.root.id, image.root.place, level) {
                complaints.push(format!("{} disk {}: {error}", point.name, image.name));
            }
        }
        for stream in &point.streams {
            let mut reader =
                StreamReader::new(self.store(), stream.root, stream.depth, stream.size_bytes);
            if let Err(error) = reader.next_chunk() {
                complaints.push(format!("{} stream {}: {error}", point.name, stream.name));
            }
        }
    }
}

/// Removes the index, which may be half copied. It is made again at the next opening.
fn forget_index(root: &Path) -> Result<(), RepoError> {
    let disk = SystemDisk::new(root);
    Superblock::open(&disk, root)?;
    let _lock = crate::repository::take_lock(&disk, root)?;
    match disk.remove_directory(Path::new("index")) {
        Err(error) if !error.is_missing() => Err(error.into()),
        _ => Ok(()),
    }
}
