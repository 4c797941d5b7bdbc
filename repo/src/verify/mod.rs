//! Reads everything back and compares it with its names.
//!
//! Packs are read one after the other as they lie, every record proven, with two threads; then each map is walked,
//! each node once, to see that all it points to is there. What is hurt is named with the points, disks and extents
//! that suffer.

mod packs;
mod walk;

use std::collections::HashSet;
use std::ops::ControlFlow;

use serde::Serialize;

use crate::catalog::PointName;
use crate::error::RepoError;
use crate::repository::Repository;

/// What to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyScope {
    /// Every pack and every point.
    All,
    /// What one point needs.
    Point(PointName),
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifyProgress {
    /// Bytes of packs read.
    pub read_bytes: u64,
    /// Bytes of packs to read, as far as is known.
    pub total_bytes: u64,
    /// Points whose maps were walked.
    pub points: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Points whose maps were walked.
    pub points: u64,
    /// Disks of these.
    pub images: u64,
    /// Streams of these.
    pub streams: u64,
    /// Packs read.
    pub packs: u64,
    /// Records proven.
    pub records: u64,
    /// Bytes of packs read.
    pub read_bytes: u64,
    /// What is hurt. Empty means that everything is sound.
    pub damaged: Vec<Damage>,
    /// Damage was found beyond what is listed.
    pub more_damage: bool,
}

/// One hurt thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What is hurt and how that shows.
    pub what: String,
    /// The point that suffers, if one does.
    pub point: Option<PointName>,
    /// Its disk or stream.
    pub part: Option<String>,
    /// Where on it the hurt stretch starts.
    pub offset: Option<u64>,
    /// How long it is.
    pub length: Option<u64>,
}

impl VerifyReport {
    /// Whether nothing is hurt.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }

    fn note(&mut self, damage: Damage) {
        if self.damaged.len() < DAMAGES_MAX {
            self.damaged.push(damage);
        } else {
            self.more_damage = true;
        }
    }
}

impl Repository {
    /// Proves what is stored. `progress` is called now and then and may stop the work.
    ///
    /// # Errors
    /// If it was stopped, the point is not there, or the storage cannot be used at all. Damage is no error: it stands
    /// in the report.
    pub fn verify(
        &self,
        scope: &VerifyScope,
        progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, RepoError> {
        let mut report = VerifyReport::default();
        self.store().packs().sync_all()?;
        let (points, hurt) = match scope {
            VerifyScope::All => {
                for what in self.damaged_manifests() {
                    report.note(Damage {
                        what,
                        point: None,
                        part: None,
                        offset: None,
                        length: None,
                    });
                }
                (
                    self.points(None),
                    packs::prove_packs(self.store(), &mut report, progress)?,
                )
            }
            VerifyScope::Point(name) => (vec![self.point(name)?], HashSet::new()),
        };
        let reading = match scope {
            VerifyScope::All => walk::Reading::MapsOnly { hurt: &hurt },
            VerifyScope::Point(_) => walk::Reading::Everything,
        };
        let mut walk = walk::Walk::new(self.store(), reading);
        for point in points {
            walk.point(&point, &mut report)?;
            report.points += 1;
            step(progress, &report, 0)?;
        }
        Ok(report)
    }
}

fn step(
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    report: &VerifyReport,
    total_bytes: u64,
) -> Result<(), RepoError> {
    let now = VerifyProgress {
        read_bytes: report.read_bytes,
        total_bytes,
        points: report.points,
    };
    match progress(now) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RepoError::Stopped),
    }
}

/// Damages listed one by one.
const DAMAGES_MAX: usize = 10_000;
