//! Sessions' disks as backstores of the kernel's target. Its fabrics, which show them to initiators, are the
//! administrator's; so a session that is still shown is not taken away under them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use export::BlockExport;
use parking_lot::Mutex;
use tcmu::{KernelError, ServedUnit};

use super::RecoveryError;
use super::record::SessionRecord;
use super::targets::unit_options;

/// What is served through the kernel's target.
pub struct Backstores {
    server: tcmu::Server,
    block_bytes: u32,
    /// By session: each disk's number and unit.
    served: Mutex<BTreeMap<String, Vec<(usize, ServedUnit)>>>,
}

/// A disk as the kernel knows it.
pub(super) struct KernelDisk {
    /// The name of its backstore.
    pub(super) name: String,
    /// Which disk it is, for ever.
    pub(super) identity: [u8; 16],
}

/// The name of a disk's backstore, which no other disk of any session has.
pub(super) fn backstore_name(session: &str, disk: usize) -> String {
    format!("{session}-disk-{disk}")
}

impl Backstores {
    /// Nothing is served yet. New backstores have logical blocks of `block_bytes`.
    pub fn new(server: tcmu::Server, block_bytes: u32) -> Self {
        Self {
            server,
            block_bytes,
            served: Mutex::default(),
        }
    }

    /// Whether the kernel has what it takes.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        self.server.kernel().check()
    }

    /// Serves a session's disks. Backstores that are there already are taken over.
    pub(super) fn serve(
        &self,
        record: &SessionRecord,
        disks: &[(usize, Arc<dyn BlockExport>)],
    ) -> Result<(), RecoveryError> {
        let mut units = Vec::new();
        for (number, disk) in disks {
            let options = unit_options(&**disk, self.block_bytes);
            let name = backstore_name(&record.name, *number);
            let unit = self
                .server
                .serve(&name, Arc::clone(disk), options)
                .map_err(|error| match error {
                    tcmu::ServeError::Kernel(error) => RecoveryError::Kernel(error),
                    source => RecoveryError::Backstore {
                        session: record.name.clone(),
                        source,
                    },
                })?;
            units.push((*number, unit));
        }
        self.served.lock().insert(record.name.clone(), units);
        Ok(())
    }

    /// Refuses if an initiator may still see any of these disks.
    pub(super) fn check_unused(&self, disks: &[KernelDisk]) -> Result<(), RecoveryError> {
        for KernelDisk { name, identity } in disks {
            let luns = self.server.luns(name, *identity)?;
            if !luns.is_empty() {
                let name = name.clone();
                return Err(KernelError::InUse { name, luns }.into());
            }
        }
        Ok(())
    }

    /// Ends serving a session and removes the backstores of its disks.
    pub(super) fn remove(&self, session: &str, disks: &[KernelDisk]) -> Result<(), RecoveryError> {
        self.leave(session);
        for KernelDisk { name, identity } in disks {
            self.server.remove(name, *identity)?;
        }
        Ok(())
    }

    /// Ends serving a session; its backstores stay, and initiators wait.
    pub(super) fn leave(&self, session: &str) {
        let units = self.served.lock().remove(session);
        drop(units);
    }

    /// Ends serving everything, as [`leave`](Self::leave).
    pub(super) fn leave_all(&self) {
        let units = std::mem::take(&mut *self.served.lock());
        // All at once: each may have a slow disk to wait for.
        for (_, unit) in units.values().flatten() {
            unit.tell_to_end();
        }
        drop(units);
    }

    /// Where the kernel has a session's disks, by number.
    pub(super) fn of(&self, session: &str) -> Vec<(usize, PathBuf)> {
        let served = self.served.lock();
        let units = served.get(session).into_iter().flatten();
        units
            .map(|(number, unit)| (*number, unit.path().to_owned()))
            .collect()
    }
}

impl fmt::Debug for Backstores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Backstores")
            .field("served", &self.served)
            .finish_non_exhaustive()
    }
}
