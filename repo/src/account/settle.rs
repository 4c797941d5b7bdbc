//! Keeping the account in step with the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::deltas::Direction;
use super::operation::Operation;
use super::{Freed, OpenAccount, State};
use crate::catalog::{Catalog, Point};
use crate::error::RepoError;

impl OpenAccount<'_> {
    /// Ends what a crash cut off and brings every point of the catalog in, those that were expired and may still be
    /// brought back included. `go_on` is asked now and then whether to go on.
    pub(crate) fn settle(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        self.or_anew(|account| account.try_settle(catalog, go_on))
    }

    /// Ends what a crash cut off, without bringing new points in.
    pub(crate) fn open(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        self.or_anew(|account| account.try_open(catalog, go_on))
    }

    /// Does `work`; if the account turns out to be wrong, empties it and does it once more.
    fn or_anew(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        match work(self) {
            Err(error @ RepoError::Inexact { .. }) => {
                tracing::warn!(%error, "the account of space is made again");
                self.clear()?;
                work(self)
            }
            other => other,
        }
    }

    fn try_settle(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        self.try_open(catalog, go_on)?;
        // In the order of their numbers, so that each is the newest of its workload when it comes in.
        for point in self.unaccounted(catalog) {
            go_on()?;
            let operation = Operation::new(point.name.clone(), Direction::Add);
            self.carry_out(operation, &point, go_on)
                .inspect_err(|_| self.forget())?;
        }
        Ok(())
    }

    fn try_open(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        if self.state.is_some() {
            return Ok(());
        }
        self.load(catalog)?;
        self.resume(catalog, go_on)
    }

    /// Takes a point out. Its manifest must not be needed any more to bring it back.
    pub(crate) fn take_out(
        &mut self,
        point: &Arc<Point>,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<Freed, RepoError> {
        if !self.has(&point.name) {
            return Ok(Freed::default());
        }
        let operation = Operation::new(point.name.clone(), Direction::Remove);
        self.carry_out(operation, point, go_on)
            .inspect_err(|_| self.forget())
    }

    /// What is in memory may be ahead of the store after a failure: it is read again.
    fn forget(&mut self) {
        *self.state = None;
    }

    fn load(&mut self, catalog: &Catalog) -> Result<(), RepoError> {
        let store = &self.account.store;
        let mut points = BTreeMap::new();
        for name in store.points()? {
            match catalog.accountable(&name) {
                Some(point) => drop(points.insert(name, point)),
                None if catalog.was_expired(&name)? => {
                    return Err(RepoError::Inexact {
                        detail: format!("it counts {name}, which is gone"),
                    });
                }
                None => return Err(RepoError::Vanished(name)),
            }
        }
        *self.state = Some(State {
            points,
            alive: store.alive()?,
        });
        Ok(())
    }

    fn resume(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let resumed = self.try_resume(catalog, go_on);
        resumed.inspect_err(|_| self.forget())
    }

    fn try_resume(
        &mut self,
        catalog: &Catalog,
        go_on: &mut dyn FnMut() -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let Some(bytes) = self.account.store.operation()? else {
            return Ok(());
        };
        let operation = Operation::decode(&bytes)?;
        let Some(point) = catalog.accountable(&operation.point) else {
            return Err(RepoError::Inexact {
                detail: format!("{} was half in or out and is gone", operation.point),
            });
        };
        self.carry_out(operation, &point, go_on).map(drop)
    }
}
