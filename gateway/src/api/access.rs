//! Who may come in: holders of a token over TLS, and the daemon's own user or root over the control socket.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::Core;

use super::problem::Problem;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// Over TLS.
    Remote,
    /// Over the control socket, let in by its user number.
    Local,
}

/// Lets a request in or not. `/v1/health` says no more than that the daemon runs and needs no token; `/metrics` names
/// no workload and needs none unless the configuration says so.
pub(super) async fn admit(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let open = match request.uri().path() {
        "/v1/health" => true,
        "/metrics" => core.config.api.metrics_without_token,
        _ => false,
    };
    let local = matches!(request.extensions().get::<Peer>(), Some(Peer::Local));
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = token
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    if open || local || token.and_then(|token| core.tokens.owner(token)).is_some() {
        return next.run(request).await;
    }
    core.metrics.api_unauthorized.inc();
    let detail = match token {
        None => {
            "a token is missing; send the header `Authorization: Bearer TOKEN` (the command line reads --token-file)"
        }
        Some(_) => {
            "the token is wrong; use the one in the file `token` of the daemon's state folder"
        }
    };
    let mut response =
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    response
}
