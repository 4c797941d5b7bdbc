//! The table of clusters, and what lies together without it.

use std::sync::Arc;

use super::ExFat;
use super::entry::Stream;
use crate::bytes::View;
use crate::extents::Extents;
use crate::{GuestError, Place};

impl ExFat {
    /// The clusters of something, as many as its length needs.
    pub(super) fn extents(&self, stream: &Stream) -> Result<Arc<Extents>, GuestError> {
        let clusters = stream.length_bytes.div_ceil(self.geometry.cluster_bytes);
        if clusters == 0 {
            return Ok(Arc::default());
        }
        if clusters > self.geometry.clusters.into() {
            return Err(self.damage(stream.cluster, "it is longer than the filesystem"));
        }
        if stream.is_contiguous {
            return self.contiguous(stream.cluster, clusters).map(Arc::new);
        }
        let chain = self.chain(stream.cluster)?;
        if chain.length_bytes() < clusters * self.geometry.cluster_bytes {
            return Err(self.damage(stream.cluster, "it ends before its file does"));
        }
        Ok(chain)
    }

    fn contiguous(&self, first: u32, clusters: u64) -> Result<Extents, GuestError> {
        let last = u64::from(first) + clusters - 1;
        let last = u32::try_from(last).ok();
        let fits = last.is_some_and(|last| self.geometry.place(last).is_some());
        match self.geometry.place(first) {
            Some(at) if fits => Ok(Extents::one(at, clusters * self.geometry.cluster_bytes)),
            _ => Err(self.damage(first, "it leads to a cluster that there is not")),
        }
    }

    /// A chain from its first cluster to its end.
    pub(super) fn chain(&self, first: u32) -> Result<Arc<Extents>, GuestError> {
        if let Some(chain) = self.chains.get(&first) {
            return Ok(chain);
        }
        let chain = Arc::new(self.follow(first)?);
        self.chains.insert(first, Arc::clone(&chain));
        Ok(chain)
    }

    fn follow(&self, first: u32) -> Result<Extents, GuestError> {
        let mut extents = Extents::default();
        let mut cluster = first;
        for _ in 0..self.geometry.clusters {
            let Some(at) = self.geometry.place(cluster) else {
                return Err(self.damage(first, "it leads to a cluster that there is not"));
            };
            extents.push(at, self.geometry.cluster_bytes)?;
            match self.next(cluster)? {
                END if extents.overlaps_itself() => break,
                END => return Ok(extents),
                BAD => {
                    return Err(self.damage(first, "it leads to a cluster that is marked as bad"));
                }
                next => cluster = next,
            }
        }
        Err(self.damage(first, "it goes in circles"))
    }

    /// What the table says of a cluster that there is.
    pub(super) fn next(&self, cluster: u32) -> Result<u32, GuestError> {
        let at = self.geometry.table_at + u64::from(cluster) * 4;
        View::new(&self.pages.read(at, 4)?, Place::Chain { cluster }).u32(0)
    }

    fn damage(&self, cluster: u32, detail: &'static str) -> GuestError {
        GuestError::corrupt(Place::Chain { cluster }, detail)
    }
}

const BAD: u32 = 0xFFFF_FFF7;
const END: u32 = 0xFFFF_FFFF;
