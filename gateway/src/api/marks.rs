//! Stars and locks of restore points, and the authority that lifts locks.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use repo::disk::Protection;
use repo::{AuthorityAge, Lock, LockMode, UnixNanoseconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::alerts;
use crate::recovery::resolve;
use crate::state::AuthorityError;

use super::body::Json;
use super::points::PointView;
use super::problem::Problem;

/// How long a point is locked, and how hard.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LockBody {
    /// Until when, RFC 3339.
    pub until: String,
    /// `governance` (an administrator can lift it with a one-time code) or `compliance` (nobody can).
    #[serde(default)]
    pub mode: LockModeChoice,
}

/// Who may lift a lock before its time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LockModeChoice {
    /// An administrator, with a one-time code
    #[default]
    Governance,
    /// Nobody
    Compliance,
}

/// A lock of a point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LockView {
    /// Who may lift it.
    pub mode: LockModeChoice,
    /// Until when it holds, by the repository's trusted time, RFC 3339.
    pub until: String,
}

/// A point that was locked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LockedView {
    /// The point.
    pub point: PointView,
    /// Packs that it needs.
    pub packs: u64,
    /// Packs among them that a backup under way still appends to.
    pub packs_open: u64,
    /// Whether the file system holds the files, too: `done`, `unsupported` or `not-permitted`.
    pub files: String,
}

/// A code of the lock authority.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeBody {
    /// Six digits; may be left out when a first authority is made.
    #[serde(default)]
    pub code: Option<String>,
}

/// The secret of a new lock authority. It is told once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuthorityView {
    /// In base 32, for an authenticator app.
    pub secret: String,
    /// The same as an `otpauth://` address.
    pub address: String,
}

impl From<&Lock> for LockView {
    fn from(lock: &Lock) -> Self {
        Self {
            mode: match lock.mode {
                LockMode::Governance => LockModeChoice::Governance,
                LockMode::Compliance => LockModeChoice::Compliance,
            },
            until: lock.until.to_string(),
        }
    }
}

/// Keeps a restore point until the star is taken off.
#[utoipa::path(put, path = "/v1/points/{point}/star", tag = "points", params(("point" = String, Path)),
    responses((status = 200, body = PointView), (status = 404, body = Problem)))]
pub(super) async fn star(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
) -> Result<Reply<PointView>, Problem> {
    core.run(move |core| -> Result<_, Problem> {
        let point = resolve(&core.repository, &point)?;
        core.repository.star(&point.name)?;
        Ok(Reply(PointView::new(&core.repository, &point)))
    })
    .await
}

/// Takes a star off.
#[utoipa::path(delete, path = "/v1/points/{point}/star", tag = "points", params(("point" = String, Path)),
    responses((status = 200, body = PointView), (status = 404, body = Problem)))]
pub(super) async fn unstar(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
) -> Result<Reply<PointView>, Problem> {
    core.run(move |core| -> Result<_, Problem> {
        let point = resolve(&core.repository, &point)?;
        core.repository.unstar(&point.name)?;
        Ok(Reply(PointView::new(&core.repository, &point)))
    })
    .await
}

/// Locks a restore point, or makes its lock longer or stronger.
#[utoipa::path(put, path = "/v1/points/{point}/lock", tag = "points", params(("point" = String, Path)), request_body = LockBody,
    responses((status = 200, body = LockedView), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn lock(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Json(body): Json<LockBody>,
) -> Result<Reply<LockedView>, Problem> {
    let lock = Lock {
        mode: match body.mode {
            LockModeChoice::Governance => LockMode::Governance,
            LockModeChoice::Compliance => LockMode::Compliance,
        },
        until: parse_time(&body.until)?,
    };
    let done = core.run_long(move |core| -> Result<_, Problem> {
        let point = resolve(&core.repository, &point)?;
        let report = core.repository.lock(&point.name, lock)?;
        tracing::info!(restore_point = %point.name, until = %lock.until, mode = ?lock.mode, "a restore point is locked");
        Ok(Reply(LockedView {
            point: PointView::new(&core.repository, &point),
            packs: report.packs,
            packs_open: report.packs_open,
            files: match report.files {
                Protection::Done => "done",
                Protection::Unsupported => "unsupported",
                Protection::NotPermitted => "not-permitted",
            }
            .to_owned(),
        }))
    });
    done.await.map_err(|error| Problem::internal(&error))?
}

/// Lifts the governance locks of a restore point before their time, confirmed by a one-time code.
#[utoipa::path(post, path = "/v1/points/{point}/unlock", tag = "points", params(("point" = String, Path)), request_body = CodeBody,
    responses((status = 200, body = PointView), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn unlock(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Json(body): Json<CodeBody>,
) -> Result<Reply<PointView>, Problem> {
    core.run(move |core| -> Result<_, Problem> {
        let point = resolve(&core.repository, &point)?;
        // A code is not used up by a request that would be refused all the same.
        let age = core.authority.age()?;
        core.repository.check_liftable(&point.name, age)?;
        let authority = confirm(core, body.code.as_deref())?;
        core.repository.lift_lock(&point.name, authority)?;
        tracing::warn!(restore_point = %point.name, "a lock was lifted with a one-time code");
        core.metrics.locks_lifted.inc();
        core.alerts.raise(vec![alerts::lock_lifted(&point.name)]);
        Ok(Reply(PointView::new(&core.repository, &point)))
    })
    .await
}

/// Makes the lock authority, or another one in its place. Its secret is told once.
#[utoipa::path(post, path = "/v1/lock-authority", tag = "daemon", request_body = CodeBody,
    responses((status = 201, body = AuthorityView), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn init_authority(
    State(core): State<Arc<Core>>,
    Json(body): Json<CodeBody>,
) -> Result<(StatusCode, Reply<AuthorityView>), Problem> {
    core.run(move |core| -> Result<_, Problem> {
        let label = core.repository.uuid().to_string();
        let age = core.repository.authority_age();
        let made = core.authority.init(body.code.as_deref(), &label, age);
        let new = note_wrong(core, made)?;
        tracing::warn!("the lock authority was made anew");
        core.alerts.raise(vec![alerts::authority_made()]);
        let view = AuthorityView {
            secret: new.secret,
            address: new.address,
        };
        Ok((StatusCode::CREATED, Reply(view)))
    })
    .await
}

/// Has the lock authority take a code, and says how old it is. Wrong codes are told to a person.
pub(super) fn confirm(core: &Core, code: Option<&str>) -> Result<AuthorityAge, Problem> {
    let taken = core.authority.confirm(code.unwrap_or_default());
    Ok(note_wrong(core, taken)?)
}

fn note_wrong<T>(core: &Core, answer: Result<T, AuthorityError>) -> Result<T, AuthorityError> {
    let counter = match &answer {
        Err(AuthorityError::Wrong) => &core.metrics.lock_codes_wrong,
        Err(AuthorityError::TooMany { .. }) => &core.metrics.lock_codes_refused,
        _ => return answer,
    };
    counter.inc();
    core.alerts.raise(vec![alerts::wrong_code()]);
    answer
}

/// A time with date alone means the start of that day, UTC.
fn parse_time(text: &str) -> Result<UnixNanoseconds, Problem> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    let time: Option<jiff::Timestamp> = whole.parse().ok();
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .map(UnixNanoseconds)
        .ok_or_else(|| {
            Problem::bad_request(format!(
                "{text:?} is no time; write 2027-12-31 or 2027-12-31T12:00:00Z"
            ))
        })
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        let detail = error.to_string();
        match error {
            AuthorityError::None | AuthorityError::Wrong => {
                Self::new(StatusCode::FORBIDDEN, "not-confirmed", detail)
            }
            AuthorityError::Exists => Self::new(StatusCode::CONFLICT, "exists", detail),
            AuthorityError::TooMany { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail)
            }
            AuthorityError::State(error) => Self::internal(&error),
        }
    }
}
