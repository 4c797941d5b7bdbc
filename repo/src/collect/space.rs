//! What takes up space, and what would be free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::account::{OpenAccount, SpaceEstimate};
use crate::catalog::{Point, PointName};
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::repository::Repository;

/// An expired point whose space was not given back yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExpiredPoint {
    /// Its name.
    pub name: PointName,
    /// When it was made.
    pub created: UnixNanoseconds,
    /// Whether it can still be brought back.
    pub can_be_brought_back: bool,
}

/// How the space of packs is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SpaceStatistics {
    /// Bytes of records that points need.
    pub alive_bytes: u64,
    /// Bytes of packs that nobody needs, or nobody yet: backups under way are not told apart.
    pub dead_bytes: u64,
    /// Condemned packs.
    pub condemned_packs: u64,
    /// Their bytes, which count as dead.
    pub condemned_bytes: u64,
    /// Expired points whose space was not given back yet, and counts as alive.
    pub expired_points: u64,
    /// Points that are not in these figures yet.
    pub unaccounted_points: u64,
}

impl Repository {
    /// Brings an expired point back.
    ///
    /// # Errors
    /// If it is not expired, its space is being given back, or the storage fails.
    pub fn unexpire(&self, name: &PointName) -> Result<Arc<Point>, RepoError> {
        self.with_reserve(|| self.catalog().unexpire(name))
    }

    /// Expired points whose space was not given back yet.
    pub fn expired(&self) -> Vec<ExpiredPoint> {
        let expired = self.catalog().expired().into_iter();
        expired
            .map(|expired| ExpiredPoint {
                name: expired.point.name.clone(),
                created: expired.point.created,
                can_be_brought_back: !expired.released,
            })
            .collect()
    }

    /// What expiring all of these points would free, in bytes of packs: what they hold and no other point needs.
    /// Exact, and costs what the points differ from their neighbours.
    ///
    /// # Errors
    /// If there is no such point, the account is being brought up to date, or the storage fails.
    pub fn space_of(&self, names: &[PointName]) -> Result<SpaceEstimate, RepoError> {
        let points = names
            .iter()
            .map(|name| self.point(name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut readings = Vec::new();
        for point in &points {
            readings.push(self.read_point(&point.name)?);
        }
        let expired: Vec<_> = self.catalog().expired().into_iter().collect();
        let expired: Vec<_> = expired.into_iter().map(|expired| expired.point).collect();
        self.settled_account()?.estimate(&expired, &points)
    }

    /// How the space of packs is used, as far as is accounted for.
    ///
    /// # Errors
    /// If the account is being brought up to date.
    pub fn space_statistics(&self) -> Result<SpaceStatistics, RepoError> {
        let packs = self.store().packs();
        let account = self
            .account()
            .try_lock(PATIENCE)
            .ok_or(RepoError::AccountBusy)?;
        let alive_bytes = account.alive_bytes();
        let condemned = packs.all_condemned();
        let condemned_bytes = condemned
            .iter()
            .filter_map(|(number, _)| packs.summary(*number))
            .map(|summary| summary.length_bytes)
            .sum();
        Ok(SpaceStatistics {
            alive_bytes,
            dead_bytes: packs.stored_bytes().saturating_sub(alive_bytes),
            condemned_packs: condemned.len() as u64,
            condemned_bytes,
            expired_points: self.catalog().expired().len() as u64,
            unaccounted_points: account.unaccounted(self.catalog()).len() as u64,
        })
    }

    /// Brings the account in step with the catalog. `go_on` is asked now and then whether to go on.
    ///
    /// # Errors
    /// If it was stopped, or the storage fails.
    pub fn settle_account(&self, go_on: &mut dyn FnMut() -> bool) -> Result<(), RepoError> {
        self.account()
            .lock()
            .settle(self.catalog(), &mut || match go_on() {
                true => Ok(()),
                false => Err(RepoError::Stopped),
            })
    }

    /// Whether the account has a point that has neither manifest nor tombstone.
    pub(crate) fn has_vanished(&self, name: &PointName) -> bool {
        let settled = self.settle_account(&mut || true);
        matches!(settled, Err(RepoError::Vanished(vanished)) if vanished == *name)
    }

    fn settled_account(&self) -> Result<OpenAccount<'_>, RepoError> {
        let mut account = self
            .account()
            .try_lock(PATIENCE)
            .ok_or(RepoError::AccountBusy)?;
        let started = Instant::now();
        account.settle(self.catalog(), &mut || match started.elapsed() {
            taken if taken < SETTLE_PATIENCE => Ok(()),
            // Whoever keeps the account in step unasked goes on with it.
            _ => Err(RepoError::AccountBusy),
        })?;
        Ok(account)
    }
}

/// How long a question waits for an account that is in use.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a question brings the account in step before it gives up: a first backup of terabytes takes minutes.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
