//! Alerts: what a person must know.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use crate::Core;
use crate::alerts::Alert;

use super::problem::Problem;

/// Lists all alerts that nobody dismissed, the oldest first.
#[utoipa::path(get, path = "/v1/alerts", tag = "alerts", responses((status = 200, body = Vec<Alert>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<Vec<Alert>> {
    Json(core.alerts.list())
}

/// Drops all alerts.
#[utoipa::path(delete, path = "/v1/alerts", tag = "alerts", responses((status = 204)))]
pub(super) async fn dismiss_all(State(core): State<Arc<Core>>) -> StatusCode {
    core.run(|core| core.alerts.dismiss_all()).await;
    StatusCode::NO_CONTENT
}

/// Drops an alert.
#[utoipa::path(delete, path = "/v1/alerts/{alert}", tag = "alerts", params(("alert" = u64, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn dismiss(
    State(core): State<Arc<Core>>,
    Path(alert): Path<u64>,
) -> Result<StatusCode, Problem> {
    if core.run(move |core| core.alerts.dismiss(alert)).await {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found(format!(
        "there is no alert {alert}; see `holdfast alert list`"
    )))
}
