//! What a process finds on the disks once, and another one after it must find again.

use std::sync::Arc;

use export::ExportError;
use parking_lot::Mutex;

use crate::reader::Refusal;
use crate::wire::{Request, Wire};

use super::connection::Connection;
use super::{Outcome, take};

/// What was found first, and in which connection it was last seen to be so.
pub(super) struct Finding<T>(Mutex<Option<(u64, Arc<T>)>>);

impl<T> Default for Finding<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Wire + PartialEq> Finding<T> {
    pub(super) fn known(&self) -> Option<Arc<T>> {
        let known = self.0.lock();
        known.as_ref().map(|(_, found)| Arc::clone(found))
    }

    /// Asks for it. What was found first stays what it is.
    pub(super) fn find(
        &self,
        connection: &Arc<Connection>,
        request: Request,
    ) -> Result<Arc<T>, Outcome> {
        let found: T = take(connection.ask(request)?, |_| Ok(()))?;
        let mut known = self.0.lock();
        let found = match known.as_ref() {
            None => Arc::new(found),
            Some((_, first)) if **first == found => Arc::clone(first),
            Some(_) => {
                return Err(Outcome::Refused(Refusal::new(
                    "what lies on the disks has changed since it was looked at",
                    ExportError::Stale,
                )));
            }
        };
        *known = Some((connection.number(), Arc::clone(&found)));
        Ok(found)
    }

    /// Has a process find it that did not yet.
    pub(super) fn check(
        &self,
        connection: &Arc<Connection>,
        request: Request,
    ) -> Result<(), Outcome> {
        let seen = self.0.lock().as_ref().map(|(number, _)| *number);
        match seen == Some(connection.number()) {
            true => Ok(()),
            false => self.find(connection, request).map(drop),
        }
    }
}
