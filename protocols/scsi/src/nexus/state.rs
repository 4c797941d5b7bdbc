//! What is kept for a nexus, and for each unit that it sees.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::attention::{Attention, Attentions};
use crate::copy::Records;
use crate::lun::LunMask;
use crate::reservations::Barred;
use crate::response::Ending;
use crate::sense::code;
use crate::unit::LogicalUnit;

/// Who is connected to what. Persistent reservations go by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NexusName {
    /// SCSI initiator port name, in iSCSI `NAME,i,0xISID`.
    pub initiator_port: String,
    /// RELATIVE TARGET PORT IDENTIFIER of the target's side.
    pub target_port: u16,
}

/// A nexus, as the rest of the device sees it.
pub(crate) struct NexusState {
    /// Number that no other nexus of the target ever has.
    pub(crate) id: u64,
    pub(crate) name: NexusName,
    pub(crate) mask: LunMask,
    /// By number, in order. Written only when units come and go.
    units: RwLock<Vec<(u16, Arc<ItlNexus>)>>,
    pub(crate) tasks: SharedTasks,
    /// What became of the copies that it asked for.
    pub(crate) copies: Mutex<Records>,
}

/// One nexus at one unit.
pub(crate) struct ItlNexus {
    pub(crate) nexus_id: u64,
    pub(crate) name: NexusName,
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) attentions: Attentions,
    /// Whether this nexus prevents the medium from being taken out.
    pub(crate) prevents: AtomicBool,
    /// What the reservations of others deny it.
    barred: AtomicU8,
    tasks: SharedTasks,
}

/// The tasks of a nexus, of which only its transport knows.
pub trait TaskSet: Send + Sync {
    /// Aborts every task at logical unit `lun`, because somebody else reset the unit or preempted this nexus. Called
    /// while a command of that other nexus is executed: it must not wait for that.
    fn abort_all(&self, lun: u16);
}

type SharedTasks = Arc<Mutex<Option<Arc<dyn TaskSet>>>>;

impl NexusState {
    pub(crate) fn new(id: u64, name: NexusName, mask: LunMask) -> Self {
        Self {
            id,
            name,
            mask,
            units: RwLock::new(Vec::new()),
            tasks: SharedTasks::default(),
            copies: Mutex::default(),
        }
    }

    /// Shows `unit` to the initiator, which has to be told that it is new.
    pub(crate) fn add(&self, unit: &Arc<LogicalUnit>) {
        let itl = Arc::new(ItlNexus {
            nexus_id: self.id,
            name: self.name.clone(),
            unit: Arc::clone(unit),
            attentions: Attentions::default(),
            prevents: AtomicBool::new(false),
            barred: AtomicU8::new(0),
            tasks: Arc::clone(&self.tasks),
        });
        itl.attentions.raise(code::POWER_ON_OR_RESET);
        unit.add_nexus(&itl);
        let mut units = self.units.write();
        let at = units.partition_point(|(number, _)| *number < unit.number);
        units.insert(at, (unit.number, itl));
    }

    pub(crate) fn remove(&self, lun: u16) {
        self.units.write().retain(|(number, _)| *number != lun);
    }

    pub(crate) fn unit(&self, lun: u16) -> Option<Arc<ItlNexus>> {
        let units = self.units.read();
        let at = units
            .binary_search_by_key(&lun, |(number, _)| *number)
            .ok()?;
        units.get(at).map(|(_, itl)| Arc::clone(itl))
    }

    /// All units that the initiator sees.
    pub(crate) fn units(&self) -> Vec<Arc<ItlNexus>> {
        let units = self.units.read();
        units.iter().map(|(_, itl)| Arc::clone(itl)).collect()
    }

    /// Raises `attention` at every unit.
    pub(crate) fn raise(&self, attention: Attention) {
        for itl in self.units() {
            itl.attentions.raise(attention);
        }
    }
}

impl ItlNexus {
    /// What the nexus may not do here: one load for every command.
    pub(crate) fn barred(&self) -> Barred {
        self.barred.load(Ordering::Acquire)
    }

    pub(crate) fn set_barred(&self, barred: Barred) {
        self.barred.store(barred, Ordering::Release);
    }

    pub(crate) fn abort_tasks(&self) {
        let tasks = self.tasks.lock().clone();
        if let Some(tasks) = tasks {
            tasks.abort_all(self.unit.number);
        }
    }

    /// Ends the command with the oldest attention, if any waits.
    pub(crate) fn tell_attention(&self) -> Result<(), Ending> {
        match self.attentions.take() {
            Some(sense) => Err(sense.into()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for NexusState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NexusState")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ItlNexus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ItlNexus")
            .field("name", &self.name)
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}
