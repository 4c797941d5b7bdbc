//! Restore points.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use repo::{Point, PointKind, Repository, WorkloadName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::recovery::resolve;

use super::marks::LockView;
use super::problem::Problem;

/// A restore point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PointView {
    /// `WORKLOAD@SEQUENCE`.
    pub point: String,
    /// The workload.
    pub workload: String,
    /// Its number within the workload.
    pub sequence: u64,
    /// `full`, `incremental` or `sealed`: what was sent for it. Every point is complete.
    pub kind: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The point it was made over.
    pub parent: Option<String>,
    /// Capacity of all its disks.
    pub size_bytes: u64,
    /// Bytes that the source sent.
    pub sent_bytes: u64,
    /// Bytes of packs that it took.
    pub stored_bytes: u64,
    /// Bytes of packs that no other point needs: what expiring this one alone would free. Only in the view of one point,
    /// and not while the account of space is made.
    #[serde(default)]
    pub exclusive_bytes: Option<u64>,
    /// Its disks.
    pub disks: Vec<PointImageView>,
    /// Whether it is kept until the star is taken off.
    pub starred: bool,
    /// Locks that hold.
    pub locks: Vec<LockView>,
    /// A mark that cannot be read, for which the point counts as locked.
    pub damaged_mark: Option<String>,
    /// What the source said of the machine.
    pub configuration: serde_json::Value,
    /// When all that it needs was last proven, RFC 3339; only where one point is shown.
    #[serde(default)]
    pub proven: Option<String>,
}

/// A disk of a restore point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PointImageView {
    /// Its number.
    pub disk: usize,
    /// Its name.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Bytes that the source sent.
    pub sent_bytes: u64,
    /// Bytes of packs that it took.
    pub stored_bytes: u64,
    /// Bytes of chunks that were new to the repository, before compression.
    pub new_bytes: u64,
    /// Bytes of chunks that differ from the point before.
    pub changed_bytes: u64,
    /// Bytes that the backup left out, as free space; they read as zeroes.
    #[serde(default)]
    pub excluded_bytes: u64,
    /// Name of the map's root: equal for equal disks.
    pub root_id: String,
}

/// Which points to list.
#[derive(Debug, Deserialize)]
pub(super) struct PointFilter {
    /// Only those of this workload.
    workload: Option<String>,
}

impl PointView {
    /// The view of a point.
    pub fn new(repository: &Repository, point: &Point) -> Self {
        let marks = repository.marks(&point.name);
        let disks = point
            .images
            .iter()
            .enumerate()
            .map(|(disk, image)| PointImageView {
                disk,
                name: image.name.clone(),
                size_bytes: image.size_bytes,
                sent_bytes: image.sent_bytes,
                stored_bytes: image.stored_bytes,
                new_bytes: image.new_chunks * repo::CHUNK_BYTES as u64,
                changed_bytes: image.changed_chunks * repo::CHUNK_BYTES as u64,
                excluded_bytes: image
                    .excluded
                    .as_ref()
                    .map_or(0, |excluded| excluded.total_bytes),
                root_id: image.root_id.clone(),
            });
        let kind = match point.kind {
            PointKind::Full => "full",
            PointKind::Incremental => "incremental",
            PointKind::Sealed => "sealed",
        };
        Self {
            point: point.name.to_string(),
            workload: point.name.workload.to_string(),
            sequence: point.name.sequence,
            kind: kind.to_owned(),
            created: point.created.to_string(),
            parent: point.parent.as_ref().map(ToString::to_string),
            size_bytes: point
                .images
                .iter()
                .fold(0, |sum, image| sum.saturating_add(image.size_bytes)),
            sent_bytes: point
                .images
                .iter()
                .fold(0, |sum, image| sum.saturating_add(image.sent_bytes)),
            stored_bytes: point
                .images
                .iter()
                .fold(0, |sum, image| sum.saturating_add(image.stored_bytes)),
            exclusive_bytes: None,
            disks: disks.collect(),
            starred: marks.starred,
            locks: marks.locks.iter().map(LockView::from).collect(),
            damaged_mark: marks.damaged,
            configuration: point.configuration.clone(),
            proven: None,
        }
    }
}

/// Lists restore points by workload and number.
#[utoipa::path(get, path = "/v1/points", tag = "points", params(("workload" = Option<String>, Query, description = "Only those of this workload")),
    responses((status = 200, body = Vec<PointView>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Query(filter): Query<PointFilter>,
) -> Result<Json<Vec<PointView>>, Problem> {
    let workload = filter
        .workload
        .map(|name| WorkloadName::parse(&name))
        .transpose()?;
    let points = core.repository.points(workload.as_ref());
    match workload {
        Some(workload) if points.is_empty() => Err(Problem::not_found(format!(
            "there is no workload {workload}; see `holdfast workload list`"
        ))),
        _ => Ok(Json(
            points
                .iter()
                .map(|point| PointView::new(&core.repository, point))
                .collect(),
        )),
    }
}

/// Shows a restore point: `WORKLOAD@SEQUENCE` or `WORKLOAD@latest`.
#[utoipa::path(get, path = "/v1/points/{point}", tag = "points", params(("point" = String, Path)),
    responses((status = 200, body = PointView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
) -> Result<Json<PointView>, Problem> {
    core.run(move |core| {
        let point = resolve(&core.repository, &point)?;
        let alone = core
            .repository
            .space_of(std::slice::from_ref(&point.name))
            .ok();
        let mut view = PointView::new(&core.repository, &point);
        view.exclusive_bytes = alone.map(|alone| alone.bytes);
        let proven = core.repository.proven(&point);
        view.proven = proven.map(|proven| proven.to_string());
        Ok(Json(view))
    })
    .await
}

/// Drops a restore point. Points that share data with it stay whole.
#[utoipa::path(delete, path = "/v1/points/{point}", tag = "points", params(("point" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn expire(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
) -> Result<StatusCode, Problem> {
    core.run(move |core| -> Result<(), Problem> {
        let point = resolve(&core.repository, &point)?;
        if let Some(session) = core.sessions.user_of(&point.name.to_string()) {
            let detail = format!(
                "restore point {} is in use by recovery session {session}; discard that first",
                point.name
            );
            return Err(Problem::new(StatusCode::CONFLICT, "in-use", detail));
        }
        core.repository.expire(&point.name)?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
