//! One logical unit: a disk with all that initiators may set on it.

mod stripes;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use export::{BlockExport, Durability};
use parking_lot::Mutex;

use crate::attention::Attention;
use crate::error::ScsiError;
use crate::modes::Modes;
use crate::nexus::ItlNexus;

pub(crate) use stripes::{Patience, Stripes};

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
    /// Whether the medium can be taken out (RMB). Hypervisors refuse such disks; some tests ask for one.
    pub removable: bool,
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
    /// Whether writes are refused for good.
    pub(crate) read_only: bool,
}

/// A reason to look closer before a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Guard {
    /// The software write protection of the control mode page.
    WriteProtected = 1,
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
        let per_physical = (properties.preferred_size_bytes / block_bytes).max(1);
        let geometry = Geometry {
            block_bytes,
            blocks,
            physical_exponent: u8::try_from(per_physical.ilog2().min(15)).unwrap_or(0),
            read_only: properties.read_only,
        };
        Ok(Self {
            number,
            geometry,
            options,
            stripes: Stripes::new(),
            modes: Modes::new(),
            identity: properties.identity,
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
    }

    /// Raises `attention` for every nexus but the one called `except`.
    pub(crate) fn raise(&self, attention: Attention, except: Option<u64>) {
        for nexus in self.nexuses.lock().iter().filter_map(Weak::upgrade) {
            if except != Some(nexus.nexus_id) {
                nexus.attentions.raise(attention);
            }
        }
    }

    /// The effects of a reset on what initiators have set.
    pub(crate) fn reset(&self, attention: Attention, by: u64) {
        self.modes.reset();
        self.set_guard(Guard::WriteProtected, false);
        self.raise(attention, Some(by));
    }
}

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
            removable: false,
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
            .field("removable", &self.removable)
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
