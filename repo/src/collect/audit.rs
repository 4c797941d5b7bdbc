//! A look at maps that owes nothing to the account: is all that they lead to counted, and there?

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::{CollectPhase, CollectProgress, step};
use crate::account::Standing;
use crate::catalog::Point;
use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepoError;
use crate::image::{ImageNode, Pointer, depth_for};
use crate::repository::Repository;
use crate::stream::StreamReader;

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Points whose maps were walked.
    pub points: u64,
    /// References that were looked up.
    pub references: u64,
    /// Those that the account does not know, as sentences; up to 100.
    pub uncounted: Vec<String>,
    /// How many there are.
    pub uncounted_total: u64,
}

impl AuditReport {
    /// Whether the account knows everything that is needed.
    pub fn is_sound(&self) -> bool {
        self.uncounted_total == 0
    }

    fn note(&mut self, point: &Point, part: &str, id: ChunkId) {
        self.uncounted_total += 1;
        if self.uncounted.len() < LISTED_MAX {
            self.uncounted
                .push(format!("record {id} of {part} of {}", point.name));
        }
    }
}

impl Repository {
    /// Walks the maps of all points and looks up everything that they lead to in the account. If something is not
    /// there, the account is thrown away and made again by the next collection.
    ///
    /// # Errors
    /// If it was stopped or the storage fails.
    pub fn audit(
        &self,
        progress: &mut dyn FnMut(CollectProgress) -> ControlFlow<()>,
    ) -> Result<AuditReport, RepoError> {
        let standing = {
            let mut account = self.account().lock();
            account.settle(self.catalog(), &mut || Ok(()))?;
            account.standing()
        };
        let mut audit = Audit {
            repository: self,
            report: AuditReport::default(),
            seen: HashSet::new(),
        };
        let total = standing.points.len() as u64;
        for (done, point) in (0_u64..).zip(&standing.points) {
            step(progress, CollectPhase::Accounting, done, total)?;
            let Ok(_reading) = self.read_point(&point.name) else {
                continue;
            };
            audit.point(point, &mut || {
                step(progress, CollectPhase::Accounting, done, total)
            })?;
        }
        let report = audit.report;
        self.check_kept(&standing)?;
        if !report.is_sound() {
            tracing::error!(
                uncounted = report.uncounted_total,
                "the account of space misses what points need: it is made again"
            );
            self.account().lock().clear()?;
        }
        Ok(report)
    }

    /// Fails if the account was thrown away since: what it does not have says nothing then.
    pub(super) fn check_kept(&self, standing: &Standing) -> Result<(), RepoError> {
        match self.account().has_kept(standing) {
            true => Ok(()),
            false => Err(RepoError::Inexact {
                detail: "it was thrown away while it was in use".to_owned(),
            }),
        }
    }

    /// Follows the maps of some points to some chunks, and fails if the account misses anything on the way. Points that
    /// came since it was brought in step are not asked about: they rely on nothing that is due.
    pub(super) fn check_samples(
        &self,
        standing: &Standing,
        samples: u32,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let mut random = blake3::Hasher::new();
        random.update(uuid::Uuid::new_v4().as_bytes());
        let mut random = random.finalize_xof();
        let mut audit = Audit {
            repository: self,
            report: AuditReport::default(),
            seen: HashSet::new(),
        };
        for _ in 0..samples {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            let drawn = u128::from_le_bytes(bytes);
            let Some(point) = choose(&standing.points, drawn) else {
                break;
            };
            let Ok(_reading) = self.read_point(&point.name) else {
                continue;
            };
            go_on()?;
            audit.sample(point, drawn >> 64)?;
        }
        self.check_kept(standing)?;
        match audit.report.uncounted.pop() {
            None => Ok(()),
            Some(what) => {
                tracing::error!(
                    what,
                    "the account of space misses what a point needs: nothing is removed, and it is made again"
                );
                self.account().lock().clear()?;
                Err(RepoError::Inexact {
                    detail: format!("it misses {what}"),
                })
            }
        }
    }
}

fn choose<T>(items: &[T], drawn: u128) -> Option<&T> {
    let count = u128::try_from(items.len())
        .ok()
        .filter(|count| *count > 0)?;
    items.get(usize::try_from(drawn % count).ok()?)
}

struct Audit<'a> {
    repository: &'a Repository,
    report: AuditReport,
    /// Nodes below which everything was looked up; forgotten when there are too many.
    seen: HashSet<ChunkId>,
}

impl Audit<'_> {
    fn point(
        &mut self,
        point: &Arc<Point>,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        self.report.points += 1;
        for image in &point.images {
            self.look_up(point, &image.name, &[image.root])?;
            let level = depth_for(image.size_bytes) - 1;
            self.below(point, &image.name, image.root, level, go_on)?;
        }
        for stream in &point.streams {
            let store = self.repository.store();
            let mut reader = StreamReader::new(store, stream.root, stream.depth, stream.size_bytes);
            while let Some(pointer) = ignore_damage(reader.next_pointer())?.flatten() {
                self.look_up(point, &stream.name, &[pointer])?;
                go_on()?;
            }
        }
        Ok(())
    }

    fn below(
        &mut self,
        point: &Arc<Point>,
        disk: &str,
        pointer: Pointer,
        level: u8,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        if pointer.id.is_zero() || self.seen.contains(&pointer.id) {
            return Ok(());
        }
        go_on()?;
        // What cannot be read leads nowhere; `verify` tells of it.
        let store = self.repository.store();
        let node = ignore_damage(store.node(pointer.id, pointer.place, level))?;
        let Some(node) = node else { return Ok(()) };
        self.look_up(point, disk, node.pointers())?;
        if let Some(level) = level.checked_sub(1) {
            for child in node.pointers() {
                self.below(point, disk, *child, level, go_on)?;
            }
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(pointer.id);
        Ok(())
    }

    /// Follows one disk of a point from its root to one chunk.
    fn sample(&mut self, point: &Arc<Point>, drawn: u128) -> Result<(), RepoError> {
        let Some(image) = choose(&point.images, drawn) else {
            return Ok(());
        };
        let chunks = u128::from(image.size_bytes.div_ceil(CHUNK_BYTES as u64));
        let mut rest = (drawn / 7) % chunks.max(1);
        let mut pointer = image.root;
        let mut level = depth_for(image.size_bytes);
        loop {
            self.look_up(point, &image.name, &[pointer])?;
            let Some(below) = level.checked_sub(1) else {
                return Ok(());
            };
            if pointer.id.is_zero() {
                return Ok(());
            }
            let store = self.repository.store();
            let Some(node) = ignore_damage(store.node(pointer.id, pointer.place, below))? else {
                return Ok(());
            };
            level = below;
            let span = 1_u128 << (u32::from(level) * FAN_OUT_BITS);
            pointer = node.pointer(usize::try_from(rest / span).unwrap_or(0));
            rest %= span;
        }
    }

    fn look_up(
        &mut self,
        point: &Point,
        part: &str,
        pointers: &[Pointer],
    ) -> Result<(), RepoError> {
        let mut ids: Vec<_> = pointers.iter().map(|pointer| pointer.id).collect();
        ids.retain(|id| !id.is_zero());
        self.report.references += ids.len() as u64;
        let entries = self.repository.account().entries(&ids)?;
        for (id, entry) in ids.iter().zip(entries) {
            if entry.is_none() {
                self.report.note(point, part, *id);
            }
        }
        Ok(())
    }
}

fn ignore_damage<T>(result: Result<T, RepoError>) -> Result<Option<T>, RepoError> {
    match result {
        Err(error) if error.is_corrupt() => Ok(None),
        other => other.map(Some),
    }
}

const FAN_OUT_BITS: u32 = ImageNode::FAN_OUT.trailing_zeros();
const LISTED_MAX: usize = 100;

/// Nodes that are remembered: about 128 MiB.
const SEEN_MAX: usize = 2 << 20;
