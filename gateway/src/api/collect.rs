//! Giving space back, and what would be given back.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use repo::{PointName, RepoError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::jobs::{CollectError, CollectMode, Collection, JobState};
use crate::recovery::resolve;

use super::body::Json;
use super::points::PointView;
use super::problem::Problem;

/// A collection to start.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectBody {
    /// `collect`, `now` (without a time of grace) or `audit` (compare only).
    pub mode: CollectMode,
}

/// The collection under way, or the last one since the daemon started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CollectView {
    /// What it does.
    pub mode: CollectMode,
    /// When it began, RFC 3339.
    pub started: String,
    /// How it stands.
    pub state: JobState,
    /// `accounting`, `releasing`, `compacting` or `removing`.
    pub phase: Option<String>,
    /// Points or packs done in this phase.
    pub done: u64,
    /// Of how many.
    pub total: u64,
    /// Whether all is well; only once it is done.
    pub sound: Option<bool>,
    /// What was done; only once it is done.
    pub report: Option<serde_json::Value>,
    /// Why it could not go on.
    pub error: Option<String>,
}

/// Points whose space is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpaceBody {
    /// `WORKLOAD@SEQUENCE` or `WORKLOAD@latest`.
    pub points: Vec<String>,
}

/// What expiring some points would free.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SpaceView {
    /// The points.
    pub points: Vec<String>,
    /// Bytes of packs that no other point needs.
    pub freed_bytes: u64,
    /// Chunks and map nodes that no other point needs.
    pub freed_records: u64,
}

/// An expired point whose space was not given back yet.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExpiredView {
    /// `WORKLOAD@SEQUENCE`.
    pub point: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Whether `unexpire` still brings it back.
    pub can_be_brought_back: bool,
}

/// An expired point to bring back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnexpireBody {
    /// `WORKLOAD@SEQUENCE`.
    pub point: String,
}

/// How the space of packs is used.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsedSpaceView {
    /// Bytes of records that points need.
    pub alive_bytes: u64,
    /// Bytes of packs that nobody needs, or only backups under way.
    pub dead_bytes: u64,
    /// Packs that wait to be removed.
    pub condemned_packs: u64,
    /// Their bytes, which count as dead.
    pub condemned_bytes: u64,
    /// Expired points whose space was not given back yet, and counts as alive.
    pub expired_points: u64,
    /// Points that are not in these figures yet.
    pub unaccounted_points: u64,
}

/// Starts a collection. One runs at a time.
#[utoipa::path(post, path = "/v1/collect", tag = "space", request_body = CollectBody,
    responses((status = 202, body = CollectView), (status = 409, body = Problem)))]
pub(super) async fn start(
    State(core): State<Arc<Core>>,
    Json(body): Json<CollectBody>,
) -> Result<(StatusCode, Reply<CollectView>), Problem> {
    match core.collections.start(body.mode) {
        Err(error @ CollectError::UnderWay) => {
            let detail = error.to_string();
            return Err(Problem::new(StatusCode::CONFLICT, "busy", detail));
        }
        Err(error) => return Err(Problem::internal(&error)),
        Ok(()) => {}
    }
    Ok((StatusCode::ACCEPTED, current(&core)?))
}

/// Shows the collection under way, or the last one.
#[utoipa::path(get, path = "/v1/collect", tag = "space",
    responses((status = 200, body = CollectView), (status = 404, body = Problem)))]
pub(super) async fn show(State(core): State<Arc<Core>>) -> Result<Reply<CollectView>, Problem> {
    current(&core)
}

/// Stops the collection under way. The next one takes its work up.
#[utoipa::path(delete, path = "/v1/collect", tag = "space",
    responses((status = 200, body = CollectView), (status = 404, body = Problem)))]
pub(super) async fn stop(State(core): State<Arc<Core>>) -> Result<Reply<CollectView>, Problem> {
    core.run(|core| core.collections.stop()).await;
    current(&core)
}

/// Says exactly what expiring all of these points would free.
#[utoipa::path(post, path = "/v1/space", tag = "space", request_body = SpaceBody,
    responses((status = 200, body = SpaceView), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn estimate(
    State(core): State<Arc<Core>>,
    Json(body): Json<SpaceBody>,
) -> Result<Reply<SpaceView>, Problem> {
    core.run(move |core| {
        let names = body
            .points
            .iter()
            .map(|point| Ok(resolve(&core.repository, point)?.name.clone()))
            .collect::<Result<Vec<PointName>, Problem>>()?;
        let estimate = core.repository.space_of(&names).map_err(busy)?;
        Ok(Reply(SpaceView {
            points: names.iter().map(ToString::to_string).collect(),
            freed_bytes: estimate.bytes,
            freed_records: estimate.records,
        }))
    })
    .await
}

/// How the space of packs is used, unless the account of it is being made.
pub(super) fn used(core: &Core) -> Option<UsedSpaceView> {
    let found = core.repository.space_statistics().ok()?;
    Some(UsedSpaceView {
        alive_bytes: found.alive_bytes,
        dead_bytes: found.dead_bytes,
        condemned_packs: found.condemned_packs,
        condemned_bytes: found.condemned_bytes,
        expired_points: found.expired_points,
        unaccounted_points: found.unaccounted_points,
    })
}

/// Lists expired points whose space was not given back yet.
#[utoipa::path(get, path = "/v1/expired", tag = "space", responses((status = 200, body = Vec<ExpiredView>)))]
pub(super) async fn expired(State(core): State<Arc<Core>>) -> Reply<Vec<ExpiredView>> {
    let expired = core.repository.expired().into_iter();
    Reply(
        expired
            .map(|expired| ExpiredView {
                point: expired.name.to_string(),
                created: expired.created.to_string(),
                can_be_brought_back: expired.can_be_brought_back,
            })
            .collect(),
    )
}

/// Brings an expired point back.
#[utoipa::path(post, path = "/v1/unexpire", tag = "space", request_body = UnexpireBody,
    responses((status = 200, body = PointView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn unexpire(
    State(core): State<Arc<Core>>,
    Json(body): Json<UnexpireBody>,
) -> Result<Reply<PointView>, Problem> {
    let name: PointName = body.point.parse()?;
    core.run(move |core| match core.repository.unexpire(&name) {
        Err(error @ RepoError::GivenBack(_)) => Err(Problem::new(
            StatusCode::CONFLICT,
            "given-back",
            error.to_string(),
        )),
        other => Ok(Reply(PointView::new(&core.repository, &*other?))),
    })
    .await
}

/// A question that comes while the account is made again is no fault of the daemon.
fn busy(error: RepoError) -> Problem {
    match error {
        RepoError::AccountBusy => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            RepoError::AccountBusy.to_string(),
        ),
        other => other.into(),
    }
}

fn current(core: &Core) -> Result<Reply<CollectView>, Problem> {
    let current = core.collections.current().ok_or_else(|| {
        Problem::not_found(
            "there was no collection since the daemon started; start one with `holdfast collect`",
        )
    })?;
    Ok(Reply(view(current)))
}

fn view(current: Collection) -> CollectView {
    let phase = current.progress.map(|progress| progress.phase);
    let phase = phase.and_then(|phase| serde_json::to_value(phase).ok());
    CollectView {
        mode: current.mode,
        started: current.started.to_string(),
        state: current.state,
        phase: phase.and_then(|phase| phase.as_str().map(ToOwned::to_owned)),
        done: current.progress.map_or(0, |progress| progress.done),
        total: current.progress.map_or(0, |progress| progress.total),
        sound: current.sound,
        report: current.report,
        error: current.error,
    }
}
