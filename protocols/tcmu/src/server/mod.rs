//! Backstores of the kernel, and the threads that serve them.

mod configfs;
mod doorbell;
mod serving;
mod uio;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use export::{BlockExport, BlockingPool};
use scsi::UnitOptions;

use crate::error::{KernelError, ServeError};
use crate::metrics::Metrics;
use crate::session::Unit;
use crate::wire::SharedMemory;

pub use configfs::{Backstore, Kernel, UnitSpec};
pub use doorbell::Doorbell;
pub use serving::ServedUnit;

/// Serves disks through the kernel's target.
pub struct Server {
    kernel: Kernel,
    config: ServerConfig,
    pool: Arc<BlockingPool>,
    metrics: Metrics,
}

/// What may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// Memory of the kernel for data under way, for each disk, in MiB. Commands beyond that wait in the kernel.
    pub data_area_mebibytes: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data_area_mebibytes: 64,
        }
    }
}

impl Server {
    /// A server that serves nothing yet. Calls that may wait for a disk are made on `pool`.
    pub fn new(
        kernel: Kernel,
        config: ServerConfig,
        pool: Arc<BlockingPool>,
        metrics: Metrics,
    ) -> Self {
        Self {
            kernel,
            config,
            pool,
            metrics,
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Serves `export` as the backstore `name`: one that an earlier process left is taken over, with what waits in it;
    /// else one is made. A size of blocks that initiators know already stays.
    ///
    /// # Errors
    /// If the kernel has no target, or the backstore is somebody else's, or the disk does not fit.
    pub fn serve(
        &self,
        name: &str,
        export: Arc<dyn BlockExport>,
        mut options: UnitOptions,
    ) -> Result<ServedUnit, ServeError> {
        let properties = export.properties();
        let spec = UnitSpec {
            name: name.to_owned(),
            identity: properties.identity,
            size_bytes: properties.size_bytes,
            block_bytes: options.logical_block_bytes,
            data_area_mebibytes: self.config.data_area_mebibytes,
        };
        let backstore = self.kernel.find_or_make(&spec)?;
        options.logical_block_bytes = self.kernel.block_bytes(&backstore)?;
        let device = self.kernel.open_device(&backstore)?;
        // New commands are answered with BUSY meanwhile. Those that an earlier process has not answered are given back to
        // their initiators as BUSY, and come again: what of the ring is answered cannot be told from what is not.
        let pause = self.kernel.pause(&backstore)?;
        self.kernel.reset_ring(&backstore)?;
        let map = |source| ServeError::Map {
            path: device.path.clone(),
            source,
        };
        let memory =
            SharedMemory::map(Arc::clone(&device.file), device.length_bytes).map_err(map)?;
        let unit = Unit::new(
            Arc::new(memory),
            export,
            options,
            self.pool.payloads().clone(),
            self.metrics.clone(),
        )
        .map_err(|error| error.at(&device.path))?;
        let served = ServedUnit::start(
            name,
            backstore.path.clone(),
            unit,
            Doorbell::new(device.file),
            Arc::clone(&self.pool),
            &self.metrics,
        )
        .map_err(ServeError::Thread)?;
        pause.end()?;
        tracing::info!(
            backstore = name,
            path = %backstore.path.display(),
            "a disk is served through the kernel's target"
        );
        Ok(served)
    }

    /// Where initiators see the backstore `name` of the disk `identity`: the LUNs of the kernel's fabrics.
    ///
    /// # Errors
    /// If the kernel's files cannot be read.
    pub fn luns(&self, name: &str, identity: [u8; 16]) -> Result<Vec<PathBuf>, KernelError> {
        match self.kernel.find_own(name, identity)? {
            Some(backstore) => self.kernel.luns(&backstore),
            None => Ok(Vec::new()),
        }
    }

    /// Removes the backstore `name` of the disk `identity`, which is not served any more. That there is none, or that it is
    /// somebody else's, is no fault.
    ///
    /// # Errors
    /// [`KernelError::InUse`] while initiators see it.
    pub fn remove(&self, name: &str, identity: [u8; 16]) -> Result<(), KernelError> {
        match self.kernel.find_own(name, identity)? {
            Some(backstore) => self.kernel.remove(&backstore),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("kernel", &self.kernel)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
