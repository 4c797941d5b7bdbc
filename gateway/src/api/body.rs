//! Bodies in and out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bytes::Bytes;
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::Core;

use super::problem::Problem;

/// A JSON body within the configured limits.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Core>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, core: &Arc<Core>) -> Result<Self, Problem> {
        let limit = core.config.api.body_limit;
        let wait = core.config.api.read_timeout.duration();
        let bytes = usize::try_from(limit.bytes()).unwrap_or(usize::MAX);
        let read = axum::body::to_bytes(request.into_body(), bytes);
        let body = tokio::time::timeout(wait, read)
            .await
            .map_err(|_| {
                Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    "the body did not come in time",
                )
            })?
            .map_err(|_| {
                let detail =
                    format!("the body is longer than {limit} (api.body_limit), or was cut");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
            })?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            Problem::bad_request(format!(
                "the body is not the JSON that is expected: {error}"
            ))
        })
    }
}

/// A body that somebody writes piece by piece. An error cuts it, which the framing inside shows to the client.
pub(super) struct Piped {
    pieces: mpsc::Receiver<Result<Bytes, std::io::Error>>,
}

/// The writing end.
pub(super) type Pipe = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// A pipe that holds a few pieces.
pub(super) fn pipe() -> (Pipe, Body) {
    let (sender, pieces) = mpsc::channel(4);
    (sender, Body::new(Piped { pieces }))
}

impl hyper::body::Body for Piped {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
