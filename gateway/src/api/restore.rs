//! Reading whole disks of restore points.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use repo::{Image, RepoError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Core;
use crate::exports::chain;
use crate::framing::{DATA_BYTES_MAX, Encoder};
use crate::recovery::resolve;

use super::backups::{no_descriptor, parse_number};
use super::body::{Json, Pipe, pipe};
use super::problem::Problem;

/// A file that the daemon shall write.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// The name under which the open file was handed over. It must be empty, so that holes stay holes.
    #[schema(value_type = String)]
    pub descriptor: Uuid,
}

/// Gives one disk as a stream of extents (docs/api/framing.md). What is not sent is zero.
#[utoipa::path(get, path = "/v1/points/{point}/images/{image}/extents", tag = "points",
    params(("point" = String, Path), ("image" = usize, Path)),
    responses((status = 200, content_type = "application/vnd.holdfast.extents", body = Vec<u8>), (status = 404, body = Problem)))]
pub(super) async fn extents(
    State(core): State<Arc<Core>>,
    Path((point, image)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let image = find(&core, &point, &image)?;
    let (sender, body) = pipe();
    let started = std::thread::Builder::new()
        .name("restore".to_owned())
        .spawn(move || {
            if let Err(error) = send(&image, &sender) {
                tracing::error!(error = chain(&error), "a restore was cut");
                drop(sender.blocking_send(Err(std::io::Error::other("the disk cannot be read"))));
            }
        });
    started.map_err(|error| Problem::internal(&error))?;
    Ok((
        [(header::CONTENT_TYPE, "application/vnd.holdfast.extents")],
        body,
    )
        .into_response())
}

/// Writes one disk to a file that was handed over through the control socket.
#[utoipa::path(post, path = "/v1/points/{point}/images/{image}/file", tag = "points",
    params(("point" = String, Path), ("image" = usize, Path)), request_body = RestoreBody,
    responses((status = 200, body = RestoredView), (status = 404, body = Problem)))]
pub(super) async fn file(
    State(core): State<Arc<Core>>,
    Path((point, image)): Path<(String, String)>,
    Json(body): Json<RestoreBody>,
) -> Result<(StatusCode, Reply<RestoredView>), Problem> {
    let image = find(&core, &point, &image)?;
    let file = core
        .descriptors
        .find(body.descriptor)
        .ok_or_else(no_descriptor)?;
    let size_bytes = image.size_bytes();
    let done = core.run_long(move |_| image.restore_to_file(&file)).await;
    done.map_err(|error| Problem::internal(&error))??;
    Ok((StatusCode::OK, Reply(RestoredView { size_bytes })))
}

/// A disk that was restored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoredView {
    /// Capacity.
    pub size_bytes: u64,
}

fn find(core: &Core, point: &str, image: &str) -> Result<Image, Problem> {
    let number = parse_number(image)?;
    let point = resolve(&core.repository, point)?;
    Ok(core.repository.image(&point, number)?)
}

/// Sends data in records; stretches of zeroes between them are left out.
fn send(image: &Image, sender: &Pipe) -> Result<(), RepoError> {
    let mut encoder = Encoder::default();
    let mut head = Vec::new();
    Encoder::start(&mut head);
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let mut target = |offset: u64, data: &[u8]| -> std::io::Result<()> {
        let mut at = offset;
        for piece in data.chunks(DATA_BYTES_MAX as usize) {
            let length = u32::try_from(piece.len()).expect("a record is short");
            encoder.data(at, length, &mut head);
            at += u64::from(length);
            head.extend_from_slice(piece);
            sender
                .blocking_send(Ok(std::mem::take(&mut head).into()))
                .map_err(|_| gone())?;
        }
        Ok(())
    };
    let restored = image.restore(0..image.size_bytes(), &mut target);
    if sender.is_closed() {
        return Ok(());
    }
    restored?;
    encoder.end(&mut head);
    // A client that has gone away does not want the rest.
    drop(sender.blocking_send(Ok(head.into())));
    Ok(())
}
