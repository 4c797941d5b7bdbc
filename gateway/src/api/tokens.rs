//! Tokens: who may use the HTTP interface.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use repo::WorkloadName;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::config::Span;
use crate::state::{NewToken, Role, TokenRecord};

use super::body::Json;
use super::problem::Problem;

/// A token, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Who has it.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// The one workload that it is for, if it is for one.
    #[serde(default)]
    pub workload: Option<String>,
    /// When it was made, RFC 3339; none: before that was noted.
    pub created: Option<String>,
    /// When it ends, RFC 3339; none: never.
    pub expires: Option<String>,
    /// Whether it has ended.
    pub expired: bool,
}

/// A new token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// What is kept of it.
    #[serde(flatten)]
    pub view: TokenView,
    /// The secret. Nobody can show it again.
    pub token: String,
}

/// A token to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Who gets it.
    pub name: String,
    /// What for.
    pub role: Role,
    /// Only for this workload, with the role `backup` (not even to look) or `streams`.
    #[serde(default)]
    pub workload: Option<String>,
    /// How long it is good for, such as `90d`; none: for ever.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expires_in: Option<Span>,
}

impl TokenView {
    pub(crate) fn new(record: &TokenRecord) -> Self {
        let text = |time: u64| UnixNanoseconds(time).to_string();
        Self {
            name: record.name.clone(),
            role: record.role,
            workload: record.workload.as_ref().map(ToString::to_string),
            created: (record.created > 0).then(|| text(record.created)),
            expires: record.expires.map(text),
            expired: record
                .expires
                .is_some_and(|expires| expires <= SystemClock.now().0),
        }
    }
}

/// Lists all tokens by name.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, body = Vec<TokenView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Reply<Vec<TokenView>> {
    Reply(core.tokens.list().iter().map(TokenView::new).collect())
}

/// Makes a token. The answer is the only place that ever shows it.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenBody,
    responses((status = 201, body = TokenMade), (status = 409, body = Problem)))]
pub(super) async fn add(
    State(core): State<Arc<Core>>,
    Json(body): Json<TokenBody>,
) -> Result<(StatusCode, Reply<TokenMade>), Problem> {
    let expires = body.expires_in.map(|span| {
        let nanoseconds = u64::try_from(span.duration().as_nanos()).unwrap_or(u64::MAX);
        UnixNanoseconds(SystemClock.now().0.saturating_add(nanoseconds))
    });
    let workload = body.workload.as_deref().map(WorkloadName::parse);
    let workload = workload.transpose()?;
    let (record, token) = core
        .run(move |core| {
            core.tokens.add(NewToken {
                name: &body.name,
                role: body.role,
                workload,
                expires,
            })
        })
        .await?;
    tracing::info!(
        name = record.name,
        role = record.role.word(),
        "made a token"
    );
    let view = TokenView::new(&record);
    Ok((StatusCode::CREATED, Reply(TokenMade { view, token })))
}

/// Ends a token at once.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(core): State<Arc<Core>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let revoked = name.clone();
    core.run(move |core| core.tokens.revoke(&name)).await?;
    tracing::info!(name = revoked, "revoked a token");
    Ok(StatusCode::NO_CONTENT)
}
