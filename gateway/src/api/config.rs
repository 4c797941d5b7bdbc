//! The daemon's configuration as a document.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::transfer::{Document, Effort, Step};

use super::body::Json;
use super::problem::Problem;

/// A document to take over.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// What `GET /v1/config` gave.
    pub document: Document,
    /// Whether it is only said what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Gives the daemon's configuration, without any secret.
#[utoipa::path(get, path = "/v1/config", tag = "config", responses((status = 200, body = Document)))]
pub(super) async fn export(State(core): State<Arc<Core>>) -> Reply<Document> {
    Reply(core.run(Document::export).await)
}

/// Makes the tokens and sessions of a document that are not there, and says which settings differ. Nothing that is
/// there is changed.
#[utoipa::path(post, path = "/v1/config", tag = "config", request_body = ImportBody,
    responses((status = 200, body = Vec<Step>), (status = 400, body = Problem)))]
pub(super) async fn import(
    State(core): State<Arc<Core>>,
    Json(body): Json<ImportBody>,
) -> Result<Reply<Vec<Step>>, Problem> {
    body.document
        .check()
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let effort = if body.dry_run {
        Effort::DryRun
    } else {
        core.metrics.configuration_imports.inc();
        Effort::Real
    };
    let done = core
        .run_long(move |core| body.document.import(core, effort))
        .await;
    Ok(Reply(done.map_err(|error| Problem::internal(&error))?))
}
