//! What stands around every request: its number, its log line, its time limit, and the form of errors.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::Core;
use crate::state::{hexadecimal, random};

use super::access::Peer;
use super::problem::{CONTENT_TYPE, Problem};

/// Numbers the request, writes the body of errors, counts and logs.
pub(super) async fn finish(
    State(core): State<Arc<Core>>,
    request: Request,
    next: Next,
) -> Response {
    let id = hexadecimal(&random::<8>());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let peer = request.extensions().get::<Peer>().copied();
    let mut response = next.run(request).await;
    let status = response.status();
    tracing::debug!(request = id, ?peer, %method, path, status = status.as_u16(), "answered a request");
    if status.is_success() {
        core.metrics.api_answered.inc();
    } else {
        core.metrics.api_refused.inc();
        let problem = response.extensions_mut().remove::<Problem>();
        // What the framework refuses itself has a text and no problem.
        let mut problem = problem.unwrap_or_else(|| {
            Problem::new(status, "refused", "the request could not be understood")
        });
        problem.request_id.clone_from(&id);
        *response.body_mut() =
            Body::from(serde_json::to_vec(&problem).expect("a problem is plain text"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// Ends a request that takes too long.
pub(super) async fn limit_time(
    State(core): State<Arc<Core>>,
    request: Request,
    next: Next,
) -> Response {
    let limit = core.config.api.request_timeout.duration();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("the request took longer than {limit:?} (api.request_timeout); try again");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response()
        }
    }
}

pub(super) async fn no_such_path(request: Request) -> Problem {
    Problem::not_found(format!(
        "there is no {}; see /v1/openapi.json",
        request.uri().path()
    ))
}

pub(super) async fn no_such_method(request: Request) -> Problem {
    let detail = format!(
        "{} does not take {}; see /v1/openapi.json",
        request.uri().path(),
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}
