//! One SCSI target device: its units, and everybody who is connected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use export::BlockExport;
use parking_lot::Mutex;

use crate::copy::Tokens;
use crate::error::ScsiError;
use crate::lun::{LUN_MAX, LunMask};
use crate::nexus::{Nexus, NexusName, NexusState};
use crate::sense::code;
use crate::table::Operation;
use crate::unit::{LogicalUnit, UnitOptions};

/// Who the target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetIdentity {
    /// SCSI target device name: the iSCSI name.
    pub name: String,
    /// Its ports, all in one target port group. None: a transport that does not know through which port a command came,
    /// and then nothing is told of ports or of the target; whoever has the ports tells of them.
    pub ports: Vec<TargetPort>,
}

/// A target port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPort {
    /// RELATIVE TARGET PORT IDENTIFIER, from 1.
    pub relative_id: u16,
    /// SCSI target port name, in iSCSI `NAME,t,0xTAG`.
    pub name: String,
}

/// A SCSI target device.
#[derive(Debug)]
pub struct Target {
    identity: TargetIdentity,
    /// Units and connected initiators, under one lock: who connects sees a unit at once or is told of it.
    members: Mutex<Members>,
    next_nexus: AtomicU64,
    pub(crate) tokens: Tokens,
}

#[derive(Debug, Default)]
struct Members {
    units: BTreeMap<u16, Arc<LogicalUnit>>,
    nexuses: Vec<Weak<NexusState>>,
}

impl Target {
    /// Makes a target without units.
    pub fn new(identity: TargetIdentity) -> Arc<Self> {
        Arc::new(Self {
            identity,
            members: Mutex::new(Members::default()),
            next_nexus: AtomicU64::new(1),
            tokens: Tokens::default(),
        })
    }

    /// Who the target is.
    pub fn identity(&self) -> &TargetIdentity {
        &self.identity
    }

    /// Makes `export` logical unit `lun`. Initiators that may see it are told that the list of units has changed.
    pub fn attach(
        &self,
        lun: u16,
        export: Arc<dyn BlockExport>,
        options: UnitOptions,
    ) -> Result<(), ScsiError> {
        if lun > LUN_MAX {
            return Err(ScsiError::LunTooLarge { lun });
        }
        let unit = Arc::new(LogicalUnit::new(lun, export, options)?);
        let mut members = self.members.lock();
        if members.units.contains_key(&lun) {
            return Err(ScsiError::LunTaken { lun });
        }
        members.units.insert(lun, Arc::clone(&unit));
        for nexus in members.viewers(lun) {
            nexus.raise(code::REPORTED_LUNS_DATA_HAS_CHANGED);
            nexus.add(&unit);
        }
        Ok(())
    }

    /// Takes logical unit `lun` away. Commands that are being executed end as they would have.
    pub fn detach(&self, lun: u16) -> Result<(), ScsiError> {
        let mut members = self.members.lock();
        if members.units.remove(&lun).is_none() {
            return Err(ScsiError::NoSuchLun { lun });
        }
        for nexus in members.viewers(lun) {
            nexus.remove(lun);
            nexus.raise(code::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
        Ok(())
    }

    /// Tells who sees logical unit `lun` that its storage is filling up (THIN PROVISIONING SOFT THRESHOLD REACHED).
    pub fn thin_threshold_reached(&self, lun: u16) -> Result<(), ScsiError> {
        let members = self.members.lock();
        let unit = members.units.get(&lun);
        let unit = unit.ok_or(ScsiError::NoSuchLun { lun })?;
        unit.raise(code::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED, None);
        Ok(())
    }

    /// Whether the target knows its ports.
    pub(crate) fn has_ports(&self) -> bool {
        !self.identity.ports.is_empty()
    }

    /// Whether a command is there at all, at `unit`.
    pub(crate) fn offers(&self, unit: &LogicalUnit, operation: Operation) -> bool {
        unit.offers(operation) && (self.has_ports() || operation != Operation::ReportPortGroups)
    }

    /// The numbers of the units that are there.
    pub fn luns(&self) -> Vec<u16> {
        self.members.lock().units.keys().copied().collect()
    }

    /// Connects an initiator port to a target port. It sees the units that `mask` shows.
    pub fn nexus(self: &Arc<Self>, name: NexusName, mask: LunMask) -> Nexus {
        let id = self.next_nexus.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(NexusState::new(id, name, mask));
        let mut members = self.members.lock();
        for unit in members.units.values() {
            if state.mask.shows(unit.number) {
                state.add(unit);
            }
        }
        members.nexuses.retain(|nexus| nexus.strong_count() > 0);
        members.nexuses.push(Arc::downgrade(&state));
        drop(members);
        Nexus::new(Arc::clone(self), state)
    }
}

impl Members {
    /// Everybody connected who may see `lun`.
    fn viewers(&self, lun: u16) -> Vec<Arc<NexusState>> {
        self.nexuses
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|nexus| nexus.mask.shows(lun))
            .collect()
    }
}
