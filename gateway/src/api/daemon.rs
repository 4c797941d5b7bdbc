//! The daemon itself: health, addresses, statistics, metrics, doctor.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::doctor::{self, Finding};
use crate::state::Addresses;

use super::collect::{self, UsedSpaceView};
use super::problem::Problem;

/// That the daemon runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
}

/// What the repository holds.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatisticsView {
    /// Its folder.
    pub repository: String,
    /// Its own name.
    pub uuid: String,
    /// Whether it can be read with a passphrase or key only.
    pub encrypted: bool,
    /// Workloads with at least one point.
    pub workloads: u64,
    /// Restore points.
    pub points: u64,
    /// Capacity of all disks of all points, as if each was whole.
    pub logical_bytes: u64,
    /// Bytes of the packs that hold them.
    pub stored_bytes: u64,
    /// `logical_bytes` by `stored_bytes`.
    pub ratio: f64,
    /// Pack files.
    pub packs: u64,
    /// About how many records the index knows.
    pub index_entries: u64,
    /// Writable overlays.
    pub overlays: u64,
    /// Manifests that were found damaged.
    pub damaged_manifests: u64,
    /// Space left on the storage.
    pub free_bytes: u64,
    /// All space of the storage.
    pub total_bytes: u64,
    /// Bytes that backups brought since the daemon started.
    pub ingested_bytes: u64,
    /// Chunks that were new since the daemon started.
    pub new_chunks: u64,
    /// Chunks that were there already since the daemon started.
    pub deduplicated_chunks: u64,
    /// How the space of packs is used; none while the account of space is made.
    #[serde(default)]
    pub space: Option<UsedSpaceView>,
    /// Alerts that nobody dismissed.
    #[serde(default)]
    pub alerts: u64,
    /// When packs were last proven.
    pub proofs: ProofsView,
}

/// When packs were last proven.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProofsView {
    /// The oldest proof there is of a pack, RFC 3339.
    pub oldest: Option<String>,
    /// Packs that were never proven, as far as is remembered.
    pub never: u64,
    /// Records that were found lost and may not have been stored again since.
    pub lost_records: u64,
    /// Packs that wait to be mended, or for parity.
    pub waiting: u64,
}

/// Says that the daemon runs. Needs no token.
#[utoipa::path(get, path = "/v1/health", tag = "daemon", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Says where the daemon listens.
#[utoipa::path(get, path = "/v1/addresses", tag = "daemon", responses((status = 200, body = Addresses)))]
pub(super) async fn addresses(State(core): State<Arc<Core>>) -> Json<Addresses> {
    Json(core.addresses.clone())
}

/// Says what the repository holds.
#[utoipa::path(get, path = "/v1/stats", tag = "daemon", responses((status = 200, body = StatisticsView)))]
pub(super) async fn statistics(
    State(core): State<Arc<Core>>,
) -> Result<Json<StatisticsView>, Problem> {
    let (found, space) = core
        .run(|core| (core.repository.statistics(), collect::used(core)))
        .await;
    let found = found?;
    let proofs = core.run(|core| core.repository.proofs()).await;
    let counters = core.repository.counters();
    let value =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Json(StatisticsView {
        repository: core.repository.root().display().to_string(),
        uuid: core.repository.uuid().to_string(),
        encrypted: core.repository.key_slots().is_some(),
        workloads: found.workloads,
        points: found.points,
        logical_bytes: found.logical_bytes,
        stored_bytes: found.stored_bytes,
        ratio: ratio(found.logical_bytes, found.stored_bytes),
        packs: found.packs,
        index_entries: found.index_entries,
        overlays: found.overlays,
        damaged_manifests: found.damaged_manifests,
        free_bytes: found.free_bytes,
        total_bytes: found.total_bytes,
        ingested_bytes: value(&counters.ingested_bytes),
        new_chunks: value(&counters.stored_chunks),
        deduplicated_chunks: value(&counters.deduplicated_chunks),
        space,
        alerts: core.alerts.list().len() as u64,
        proofs: ProofsView {
            oldest: proofs.oldest_known.map(|proof| proof.to_string()),
            never: proofs.never,
            lost_records: proofs.lost_records,
            waiting: core.repository.care_count(),
        },
    }))
}

/// Checks the machine and the configuration.
#[utoipa::path(get, path = "/v1/doctor", tag = "daemon", responses((status = 200, body = Vec<Finding>)))]
pub(super) async fn doctor(State(core): State<Arc<Core>>) -> Json<Vec<Finding>> {
    Json(core.run(doctor::examine_running).await)
}

/// Counters for Prometheus.
pub(super) async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], core.metrics.text()).into_response()
}

fn ratio(logical_bytes: u64, stored_bytes: u64) -> f64 {
    if stored_bytes == 0 {
        0.0
    } else {
        (logical_bytes as f64 / stored_bytes as f64 * 100.0).round() / 100.0
    }
}
