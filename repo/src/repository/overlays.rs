//! The writable overlays of a repository.

use std::sync::{Arc, Weak};

use uuid::Uuid;

use super::Repository;
use crate::catalog::Point;
use crate::error::RepoError;
use crate::overlay::{Overlay, OverlayRecord};

impl Repository {
    /// Makes a writable overlay over a disk of a point. The point is not touched by it.
    ///
    /// # Errors
    /// If the point has no such disk or the storage fails.
    pub fn create_overlay(&self, point: &Point, disk: usize) -> Result<Arc<Overlay>, RepoError> {
        let image = self.image(point, disk)?;
        let mut overlays = self.inner.overlays.lock();
        self.inner.catalog.point(&point.name)?;
        let record = OverlayRecord {
            id: Uuid::new_v4(),
            point: point.name.clone(),
            disk,
            created: self.inner.clock.now(),
            size_bytes: image.size_bytes(),
        };
        let id = record.id;
        let overlay = Overlay::create(
            Arc::clone(&self.inner.disk),
            &self.inner.overlay_keys,
            Arc::clone(&self.inner.clock),
            Arc::clone(&self.inner.pages),
            Arc::new(image),
            self.inner.options.overlay.clone(),
            record,
        )?;
        let overlay = Arc::new(overlay);
        overlays.insert(id, Arc::downgrade(&overlay));
        Ok(overlay)
    }

    /// An overlay that was made before: the one in use, or from its journal.
    ///
    /// # Errors
    /// If there is none, its point is gone, or its journal is damaged.
    pub fn open_overlay(&self, id: Uuid) -> Result<Arc<Overlay>, RepoError> {
        let mut overlays = self.inner.overlays.lock();
        if let Some(overlay) = overlays.get(&id).and_then(Weak::upgrade) {
            return Ok(overlay);
        }
        let record = crate::overlay::find(self.inner.disk.as_ref(), &self.inner.overlay_keys, id)?;
        let image = self.image(&*self.point(&record.point)?, record.disk)?;
        let overlay = Overlay::open(
            Arc::clone(&self.inner.disk),
            &self.inner.overlay_keys,
            Arc::clone(&self.inner.clock),
            Arc::clone(&self.inner.pages),
            Arc::new(image),
            self.inner.options.overlay.clone(),
            id,
        )?;
        let overlay = Arc::new(overlay);
        overlays.insert(id, Arc::downgrade(&overlay));
        Ok(overlay)
    }

    /// All overlays, in use or not.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn overlays(&self) -> Result<Vec<OverlayRecord>, RepoError> {
        crate::overlay::overlays(self.inner.disk.as_ref(), &self.inner.overlay_keys)
    }

    /// Drops an overlay and all that was written to it. Whoever still has it open gets errors.
    ///
    /// # Errors
    /// If there is none or the storage fails.
    pub fn discard_overlay(&self, id: Uuid) -> Result<(), RepoError> {
        let mut overlays = self.inner.overlays.lock();
        if let Some(overlay) = overlays.remove(&id).and_then(|overlay| overlay.upgrade()) {
            // One whose storage failed cannot be frozen, and may be dropped all the same.
            if let Err(error) = overlay.freeze() {
                tracing::info!(overlay = %id, %error, "an overlay is discarded as it is");
            }
        }
        crate::overlay::discard(
            self.inner.disk.as_ref(),
            &self.inner.overlay_keys,
            self.inner.pages.as_ref(),
            id,
        )
    }
}
