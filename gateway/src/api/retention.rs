//! Retention rules.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use repo::WorkloadName;
use repo::retention::{RetentionRules, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::jobs::Applied;

use super::body::Json;
use super::problem::Problem;

/// Rules to set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionBody {
    /// The workload; none: the default.
    pub workload: Option<String>,
    /// The rules: `last`, `days`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`; of the last five each is
    /// `{"count": N}` or `{"days": N}`. None: the workload follows the default.
    #[schema(value_type = Option<Object>)]
    pub rules: Option<RetentionRules>,
}

/// All rules.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RetentionView {
    /// For workloads that have none of their own.
    #[schema(value_type = Object)]
    pub default: RetentionRules,
    /// Those that have.
    pub workloads: Vec<WorkloadRulesView>,
}

/// The rules of one workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadRulesView {
    /// The workload.
    pub workload: String,
    /// Its rules.
    #[schema(value_type = Object)]
    pub rules: RetentionRules,
}

/// What rules say of a point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerdictView {
    /// The point.
    pub point: String,
    /// When the daemon received it, RFC 3339.
    pub created: String,
    /// What keeps it; empty: it goes.
    pub kept_by: Vec<String>,
    /// Why it cannot go although nothing keeps it.
    pub refused: Option<String>,
}

/// What becomes of the points of a workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppliedView {
    /// The workload.
    pub workload: String,
    /// Whether the points that go were expired.
    pub applied: bool,
    /// All points, the newest first.
    pub points: Vec<VerdictView>,
    /// Bytes of packs that only the points which go need.
    pub freed_bytes: Option<u64>,
}

/// Shows all rules.
#[utoipa::path(get, path = "/v1/retention", tag = "retention", responses((status = 200, body = RetentionView)))]
pub(super) async fn show(State(core): State<Arc<Core>>) -> Reply<RetentionView> {
    Reply(book(&core))
}

fn book(core: &Core) -> RetentionView {
    let rules = core.retention.rules();
    let workloads = rules.workloads.into_iter();
    RetentionView {
        default: rules.default,
        workloads: workloads
            .map(|(workload, rules)| WorkloadRulesView {
                workload: workload.to_string(),
                rules,
            })
            .collect(),
    }
}

/// Sets the rules of a workload, or the default.
#[utoipa::path(put, path = "/v1/retention", tag = "retention", request_body = RetentionBody,
    responses((status = 200, body = RetentionView)))]
pub(super) async fn set(
    State(core): State<Arc<Core>>,
    Json(body): Json<RetentionBody>,
) -> Result<Reply<RetentionView>, Problem> {
    let workload = body
        .workload
        .map(|name| WorkloadName::parse(&name))
        .transpose()?;
    core.run(move |core| core.retention.set(workload.as_ref(), body.rules))
        .await
        .map_err(|error| Problem::internal(&error))?;
    Ok(Reply(book(&core)))
}

/// Says what the rules would do to a workload's points now.
#[utoipa::path(get, path = "/v1/retention/{workload}", tag = "retention", params(("workload" = String, Path)),
    responses((status = 200, body = AppliedView), (status = 404, body = Problem)))]
pub(super) async fn judge(
    State(core): State<Arc<Core>>,
    Path(workload): Path<String>,
) -> Result<Reply<AppliedView>, Problem> {
    let workload = known(&core, &workload)?;
    core.run(move |core| {
        let verdicts = core.retention.judge(&workload);
        let going: Vec<_> = verdicts
            .iter()
            .filter(|verdict| verdict.goes())
            .map(|verdict| verdict.point.clone())
            .collect();
        let freed = core.repository.space_of(&going).ok();
        Ok(Reply(AppliedView {
            workload: workload.to_string(),
            applied: false,
            points: verdicts.iter().map(|verdict| view(verdict, None)).collect(),
            freed_bytes: freed.map(|freed| freed.bytes),
        }))
    })
    .await
}

/// Expires what the rules do not keep.
#[utoipa::path(post, path = "/v1/retention/{workload}", tag = "retention", params(("workload" = String, Path)),
    responses((status = 200, body = AppliedView), (status = 404, body = Problem)))]
pub(super) async fn apply(
    State(core): State<Arc<Core>>,
    Path(workload): Path<String>,
) -> Result<Reply<AppliedView>, Problem> {
    let workload = known(&core, &workload)?;
    core.run(move |core| {
        let applied = core
            .retention
            .apply(&workload, &|point| core.may_expire(point))?;
        core.metrics
            .retention_points_expired
            .inc_by(applied.expired);
        let Applied {
            verdicts, refused, ..
        } = applied;
        let reason = |verdict: &Verdict| {
            let found = refused.iter().find(|(point, _)| *point == verdict.point);
            found.map(|(_, reason)| reason.clone())
        };
        Ok(Reply(AppliedView {
            workload: workload.to_string(),
            applied: true,
            points: verdicts
                .iter()
                .map(|verdict| view(verdict, reason(verdict)))
                .collect(),
            freed_bytes: None,
        }))
    })
    .await
}

fn known(core: &Core, workload: &str) -> Result<WorkloadName, Problem> {
    let workload = WorkloadName::parse(workload)?;
    match core.repository.latest(&workload) {
        Some(_) => Ok(workload),
        None => Err(Problem::not_found(format!(
            "there is no workload {workload}; see `holdfast workload list`"
        ))),
    }
}

fn view(verdict: &Verdict, refused: Option<String>) -> VerdictView {
    let word = |keeper: &repo::retention::Keeper| {
        let value = serde_json::to_value(keeper).unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    };
    VerdictView {
        point: verdict.point.to_string(),
        created: verdict.created.to_string(),
        kept_by: verdict.kept_by.iter().map(word).collect(),
        refused,
    }
}
