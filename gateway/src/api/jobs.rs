//! Long work with progress.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Core;
use crate::jobs::{Job, JobState, Outcome};
use crate::recovery::resolve;

use super::backups::parse_id;
use super::body::Json;
use super::problem::Problem;

/// Work to start.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum JobBody {
    /// Re-read and compare.
    Verify {
        /// Only what this restore point needs.
        #[serde(default)]
        point: Option<String>,
    },
}

/// Work that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its name.
    #[schema(value_type = String)]
    pub job: Uuid,
    /// `verify`.
    pub kind: String,
    /// The restore point, if only one.
    pub point: Option<String>,
    /// When it began, RFC 3339.
    pub started: String,
    /// How it stands.
    pub state: JobState,
    /// Bytes done.
    pub done_bytes: u64,
    /// Of how many, as far as is known.
    pub total_bytes: u64,
    /// Whether all that was read is sound; only once it is done.
    pub sound: Option<bool>,
    /// What was found; only once it is done.
    pub report: Option<serde_json::Value>,
    /// Why it could not go on.
    pub error: Option<String>,
}

/// Lists jobs since the daemon started, the oldest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", responses((status = 200, body = Vec<JobView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Reply<Vec<JobView>> {
    Reply(core.jobs.list().iter().map(|job| view(job)).collect())
}

/// Starts a job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobBody,
    responses((status = 201, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn start(
    State(core): State<Arc<Core>>,
    Json(JobBody::Verify { point }): Json<JobBody>,
) -> Result<(StatusCode, Reply<JobView>), Problem> {
    let point = point
        .map(|point| resolve(&core.repository, &point))
        .transpose()?;
    let job = core
        .jobs
        .verify(point.map(|point| point.name.clone()))
        .map_err(|error| Problem::internal(&error))?;
    Ok((StatusCode::CREATED, Reply(view(&job))))
}

/// Shows a job.
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Path(job): Path<String>,
) -> Result<Reply<JobView>, Problem> {
    Ok(Reply(view(&*find(&core, &job)?)))
}

/// Stops a job.
#[utoipa::path(delete, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = JobView), (status = 404, body = Problem)))]
pub(super) async fn stop(
    State(core): State<Arc<Core>>,
    Path(job): Path<String>,
) -> Result<Reply<JobView>, Problem> {
    let job = find(&core, &job)?;
    job.stop();
    job.wait().await;
    Ok(Reply(view(&job)))
}

fn find(core: &Core, id: &str) -> Result<Arc<Job>, Problem> {
    let id = parse_id(id)?;
    core.jobs.find(id).ok_or_else(|| {
        Problem::not_found(format!(
            "there is no job {id}; jobs are forgotten at a restart"
        ))
    })
}

fn view(job: &Job) -> JobView {
    let outcome = job.outcome();
    let (done_bytes, total_bytes) = job.progress();
    let (sound, report, error) = match &outcome {
        Outcome::Done(report) => (
            Some(report.is_sound()),
            serde_json::to_value(report).ok(),
            None,
        ),
        Outcome::Failed(error) => (None, None, Some(error.clone())),
        Outcome::Running | Outcome::Stopped => (None, None, None),
    };
    JobView {
        job: job.id,
        kind: "verify".to_owned(),
        point: job.point.as_ref().map(ToString::to_string),
        started: job.started.to_string(),
        state: outcome.state(),
        done_bytes,
        total_bytes,
        sound,
        report,
        error,
    }
}
