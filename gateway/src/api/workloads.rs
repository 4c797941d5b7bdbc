//! Workloads: what is protected.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;

/// A workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// Its name.
    pub workload: String,
    /// How many restore points it has.
    pub points: u64,
    /// The newest one.
    pub latest: String,
    /// When that was made, RFC 3339.
    pub latest_created: String,
    /// Disks of the newest one.
    pub disks: u64,
    /// Capacity of these.
    pub size_bytes: u64,
    /// Bytes of packs that all its points took when they were made.
    pub stored_bytes: u64,
}

/// Lists all workloads by name.
#[utoipa::path(get, path = "/v1/workloads", tag = "workloads", responses((status = 200, body = Vec<WorkloadView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<Vec<WorkloadView>> {
    let views = core
        .repository
        .workloads()
        .into_iter()
        .filter_map(|workload| {
            let points = core.repository.points(Some(&workload));
            let latest = points.last()?;
            let stored = points
                .iter()
                .flat_map(|point| &point.images)
                .map(|image| image.stored_bytes)
                .sum();
            Some(WorkloadView {
                workload: workload.to_string(),
                points: points.len() as u64,
                latest: latest.name.to_string(),
                latest_created: latest.created.to_string(),
                disks: latest.images.len() as u64,
                size_bytes: latest
                    .images
                    .iter()
                    .fold(0, |sum, image| sum.saturating_add(image.size_bytes)),
                stored_bytes: stored,
            })
        });
    Json(views.collect())
}
