//! Long work with progress.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Core;
use repo::{Repair, VerifyOptions, VerifyScope};

use crate::jobs::{Job, JobState, Outcome, VerifyResult};
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
        /// Only so many packs, those proven longest ago.
        #[serde(default)]
        packs: Option<u64>,
        /// Only one pack in so many, those proven longest ago.
        #[serde(default)]
        one_in: Option<u64>,
        /// Bytes to read in a second at most.
        #[serde(default)]
        rate_bytes: Option<u64>,
        /// Mend what is damaged, and make parity that is missing.
        #[serde(default)]
        repair: bool,
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
    /// What is verified, in words.
    pub scope: String,
    /// Whether damage is mended.
    pub repair: bool,
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
    Json(body): Json<JobBody>,
) -> Result<(StatusCode, Reply<JobView>), Problem> {
    let JobBody::Verify {
        point,
        packs,
        one_in,
        rate_bytes,
        repair,
    } = body;
    let scope = match (point, packs, one_in) {
        (None, None, None) => VerifyScope::All,
        (Some(point), None, None) => {
            VerifyScope::Point(resolve(&core.repository, &point)?.name.clone())
        }
        (None, Some(packs), None) => VerifyScope::Oldest { packs },
        (None, None, Some(parts)) if parts > 0 => VerifyScope::OneIn { parts },
        _ => {
            return Err(Problem::bad_request(
                "give one of `point`, `packs` and `one_in`, and none of them 0",
            ));
        }
    };
    let options = VerifyOptions {
        scope,
        rate: rate_bytes,
        repair: match repair {
            true => Repair::Yes,
            false => Repair::No,
        },
    };
    let job = core
        .jobs
        .verify(options)
        .map_err(|error| Problem::internal(&error))?;
    Ok((StatusCode::CREATED, Reply(view(&job))))
}

/// Shows what the last verification found that came to its end, of this daemon or one before it.
#[utoipa::path(get, path = "/v1/verify", tag = "jobs",
    responses((status = 200, body = VerifyResult), (status = 404, body = Problem)))]
pub(super) async fn last_verify(
    State(core): State<Arc<Core>>,
) -> Result<Reply<VerifyResult>, Problem> {
    let found = core.run(|core| core.jobs.last_result()).await;
    let found = found.map_err(|error| Problem::internal(&error))?;
    found.map(Reply).ok_or_else(|| {
        Problem::not_found("nothing was verified yet; run `holdfast verify`".to_owned())
    })
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
        point: match &job.options.scope {
            VerifyScope::Point(point) => Some(point.to_string()),
            _ => None,
        },
        scope: job.scope(),
        repair: job.options.repair == Repair::Yes,
        started: job.started.to_string(),
        state: outcome.state(),
        done_bytes,
        total_bytes,
        sound,
        report,
        error,
    }
}
