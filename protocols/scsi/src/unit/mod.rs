//! One logical unit: a disk with all that initiators may set on it.

mod stripes;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use export::{BlockExport, Durability};
use parking_lot::Mutex;

use crate::attention::Attention;
use crate::block::BlockRange;
use crate::copy::UnitTokens;
use crate::error::ScsiError;
use crate::modes::Modes;
use crate::nexus::ItlNexus;
use crate::reservations::{Effects, Kept, ReservationStore, Reservations};
use crate::table::Operation;

pub(crate) use stripes::{PairGuards, Patience, Stripes};

/// What the host decides about a unit.
#[derive(Clone)]
pub struct UnitOptions {
    /// T10 VENDOR IDENTIFICATION, up to 8 characters.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION, up to 16 characters.
    pub product: String,
    /// PRODUCT REVISION LEVEL, up to 4 characters.
    pub revision: String,
    /// Size of a logical block: 512 or 4096.
    pub logical_block_bytes: u32,
    /// Size of a physical block to tell, a multiple of a logical one; `None` tells what costs the disk least, up to 4096.
    /// Hypervisors that take none but 512 want to hear that.
    pub physical_block_bytes: Option<u32>,
    /// Whether the medium can be taken out (RMB). Hypervisors refuse such disks; some tests ask for one.
    pub removable: bool,
    /// Whether SANITIZE is there. Its promise is that nothing can be brought back: a host that keeps older states of the
    /// disk must not give it.
    pub sanitize: bool,
    /// Where persistent reservations are kept through power loss (APTPL); without one that is refused.
    pub reservations: Option<Arc<dyn ReservationStore>>,
}

/// A logical unit.
pub(crate) struct LogicalUnit {
    pub(crate) number: u16,
    pub(crate) export: Arc<dyn BlockExport>,
    pub(crate) geometry: Geometry,
    pub(crate) options: UnitOptions,
    pub(crate) stripes: Stripes,
    pub(crate) modes: Modes,
    pub(crate) identity: [u8; 16],
    pub(crate) reservations: Reservations,
    pub(crate) tokens: UnitTokens,
    /// What makes commands look closer; zero on the usual way.
    guards: AtomicU32,
    nexuses: Mutex<Vec<Weak<ItlNexus>>>,
}

/// The blocks of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Size of a logical block.
    pub(crate) block_bytes: u32,
    /// Number of logical blocks.
    pub(crate) blocks: u64,
    /// Logical blocks in a physical one, as a power of two.
    pub(crate) physical_exponent: u8,
    /// Logical blocks of a transfer that costs least.
    pub(crate) preferred_blocks: u32,
    /// Whether writes are refused for good.
    pub(crate) read_only: bool,
}

/// A reason to look closer before a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Guard {
    /// The software write protection of the control mode page.
    WriteProtected = 1,
    /// The medium was taken out.
    MediumAbsent = 2,
    /// A SANITIZE is under way.
    Sanitizing = 4,
    /// Tokens stand for some of its blocks.
    Tokens = 8,
}

impl LogicalUnit {
    pub(crate) fn new(
        number: u16,
        export: Arc<dyn BlockExport>,
        options: UnitOptions,
    ) -> Result<Self, ScsiError> {
        let properties = export.properties();
        let block_bytes = options.logical_block_bytes;
        let blocks = properties.size_bytes / u64::from(block_bytes.max(1));
        let fits = matches!(block_bytes, 512 | 4096)
            && block_bytes.is_multiple_of(properties.block_size_bytes)
            && blocks > 0;
        if !fits {
            return Err(ScsiError::BlockSize {
                logical_bytes: block_bytes,
                export_bytes: properties.block_size_bytes,
                size_bytes: properties.size_bytes,
            });
        }
        let store = options.reservations.clone();
        let reservations = Reservations::open(store)
            .map_err(|what| ScsiError::Reservations { lun: number, what })?;
        let preferred = properties.preferred_size_bytes;
        let physical = options
            .physical_block_bytes
            .unwrap_or(preferred.min(PHYSICAL_BYTES_MAX));
        let per_physical = (physical / block_bytes).max(1);
        let geometry = Geometry {
            block_bytes,
            blocks,
            physical_exponent: u8::try_from(per_physical.ilog2().min(15)).unwrap_or(0),
            preferred_blocks: (preferred / block_bytes).max(1),
            read_only: properties.read_only,
        };
        Ok(Self {
            number,
            geometry,
            options,
            stripes: Stripes::new(),
            modes: Modes::new(),
            identity: properties.identity,
            reservations,
            tokens: UnitTokens::default(),
            guards: AtomicU32::new(0),
            nexuses: Mutex::new(Vec::new()),
            export,
        })
    }

    /// Whether any guard is up: one load for every command.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guards.load(Ordering::Acquire) != 0
    }

    pub(crate) fn guarded_by(&self, guard: Guard) -> bool {
        self.guards.load(Ordering::Acquire) & guard as u32 != 0
    }

    pub(crate) fn set_guard(&self, guard: Guard, up: bool) {
        if up {
            self.guards.fetch_or(guard as u32, Ordering::AcqRel);
        } else {
            self.guards.fetch_and(!(guard as u32), Ordering::AcqRel);
        }
    }

    /// Raises a guard; `false` if it was up.
    pub(crate) fn begin(&self, guard: Guard) -> bool {
        self.guards.fetch_or(guard as u32, Ordering::AcqRel) & guard as u32 == 0
    }

    /// Whether the unit has the command at all.
    pub(crate) fn offers(&self, operation: Operation) -> bool {
        self.options.sanitize || !operation.is_sanitize()
    }

    /// Says that a range is about to change; the caller shares or holds it. Tokens for what was there are worth nothing
    /// from then on.
    pub(crate) fn touch(&self, offset: u64, length: u64) {
        if !self.guarded_by(Guard::Tokens) {
            return;
        }
        let block = u64::from(self.geometry.block_bytes);
        let range = BlockRange {
            lba: offset / block,
            blocks: length.div_ceil(block),
        };
        if !self.tokens.touch(range) {
            // No token is made now: who makes one holds all of the unit.
            self.set_guard(Guard::Tokens, false);
        }
    }

    /// How safe an ordinary write must be before it is answered, with and without FUA.
    pub(crate) fn durability(&self, fua: bool) -> Durability {
        if fua || !self.modes.write_cache() {
            Durability::Stable
        } else {
            Durability::Unstable
        }
    }

    pub(crate) fn add_nexus(&self, nexus: &Arc<ItlNexus>) {
        let mut nexuses = self.nexuses.lock();
        nexuses.retain(|nexus| nexus.strong_count() > 0);
        nexuses.push(Arc::downgrade(nexus));
        drop(nexuses);
        self.reservations
            .look(|kept| nexus.set_barred(kept.barred(&nexus.name, nexus.nexus_id)));
    }

    /// Forgets what a nexus held without being registered.
    pub(crate) fn lose_nexus(&self, id: u64) {
        self.reservations
            .clear_reserve(Some(id), |kept| self.access_changed(kept));
    }

    /// Tells every nexus what it may do from now on.
    pub(crate) fn access_changed(&self, kept: &Kept) {
        for nexus in self.connected() {
            nexus.set_barred(kept.barred(&nexus.name, nexus.nexus_id));
        }
    }

    /// Like [`access_changed`](Self::access_changed), with attentions; `aborts` ends the tasks of those who were
    /// preempted.
    pub(crate) fn reservations_changed(&self, kept: &Kept, effects: &Effects, aborts: bool) {
        self.access_changed(kept);
        for nexus in self.connected() {
            for attention in effects.attentions_for(&nexus.name) {
                nexus.attentions.raise(attention);
            }
            if aborts && effects.preempted.contains(&nexus.name) {
                nexus.abort_tasks();
            }
        }
    }

    fn connected(&self) -> Vec<Arc<ItlNexus>> {
        let nexuses = self.nexuses.lock();
        nexuses.iter().filter_map(Weak::upgrade).collect()
    }

    /// Raises `attention` for every nexus but the one called `except`.
    pub(crate) fn raise(&self, attention: Attention, except: Option<u64>) {
        for nexus in self.connected() {
            if except != Some(nexus.nexus_id) {
                nexus.attentions.raise(attention);
            }
        }
    }

    /// Whether any nexus prevents the medium from being taken out.
    pub(crate) fn removal_is_prevented(&self) -> bool {
        self.connected()
            .iter()
            .any(|nexus| nexus.prevents.load(Ordering::Acquire))
    }

    /// The effects of a reset on what initiators have set. The tasks of the one who asks are its transport's to end.
    pub(crate) fn reset(&self, attention: Attention, by: u64) {
        self.modes.reset();
        self.set_guard(Guard::WriteProtected, false);
        self.reservations
            .clear_reserve(None, |kept| self.access_changed(kept));
        for nexus in self.connected() {
            nexus.prevents.store(false, Ordering::Release);
            if nexus.nexus_id != by {
                nexus.abort_tasks();
            }
        }
        // The one who asked is told, too: it may not be the only one behind its port.
        self.raise(attention, None);
    }
}

/// Hypervisors know disks of 512 and of 4096, and refuse others.
const PHYSICAL_BYTES_MAX: u32 = 4096;

impl Geometry {
    /// Where block `lba` begins.
    pub(crate) fn offset(&self, lba: u64) -> u64 {
        lba * u64::from(self.block_bytes)
    }

    /// Bytes of `blocks`.
    pub(crate) fn bytes(&self, blocks: u64) -> u64 {
        blocks * u64::from(self.block_bytes)
    }
}

impl Default for UnitOptions {
    fn default() -> Self {
        Self {
            vendor: "HOLDFAST".into(),
            product: "DISK".into(),
            revision: "1".into(),
            logical_block_bytes: 512,
            physical_block_bytes: None,
            removable: false,
            sanitize: false,
            reservations: None,
        }
    }
}

impl std::fmt::Debug for UnitOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UnitOptions")
            .field("vendor", &self.vendor)
            .field("product", &self.product)
            .field("revision", &self.revision)
            .field("logical_block_bytes", &self.logical_block_bytes)
            .field("physical_block_bytes", &self.physical_block_bytes)
            .field("removable", &self.removable)
            .field("sanitize", &self.sanitize)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LogicalUnit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LogicalUnit")
            .field("number", &self.number)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}
